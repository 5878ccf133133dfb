"""What all child processes do alike: they run with a clock on the model's forward pass, and write what was found."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from bench.peer.child import measured


class ForwardClock:
    """Adds up the seconds that a module spends in its forward pass; whatever ends it early is counted too."""

    def __init__(self, module: Any) -> None:
        self.seconds = 0.0
        forward = module.forward

        def timed(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return forward(*args, **kwargs)
            finally:
                self.seconds += time.perf_counter() - start

        module.forward = timed


def collected(
    clock: ForwardClock,
    collect: Callable[[], Any],
    table: Callable[[Any], dict[str, Any]],
    count: Callable[[Any], int],
    save: str | None,
) -> dict[str, Any]:
    """One collection: its seconds, those of the model within, and how many examples were written. `save` names a file
    for the table of the strongest: `feature`, `place` and `value`, strongest first."""
    import numpy as np

    clock.seconds = 0.0
    found, cost = measured(collect)
    if save is not None:
        np.savez(save, **table(found))
    return {**cost, "forward_seconds": clock.seconds, "examples": count(found)}
