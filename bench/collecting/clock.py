"""What all child processes do alike: they run with clocks on what they call, and write what was found."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from bench.peer.child import measured


class Clock:
    """Adds up the seconds that a function of an object takes; whatever ends it early is counted too."""

    def __init__(self, owner: Any, name: str = "forward") -> None:
        self.seconds = 0.0
        call = getattr(owner, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return call(*args, **kwargs)
            finally:
                self.seconds += time.perf_counter() - start

        setattr(owner, name, timed)


def collected(
    clocks: Mapping[str, Clock],
    collect: Callable[[], Any],
    table: Callable[[Any], dict[str, Any]],
    count: Callable[[Any], int],
    save: str | None,
) -> dict[str, Any]:
    """One collection: its seconds, those of each clock within, and how many examples were written. `save` names a file
    for the table of the strongest: `feature`, `place` and `value`, strongest first."""
    import numpy as np

    for clock in clocks.values():
        clock.seconds = 0.0
    found, cost = measured(collect)
    if save is not None:
        np.savez(save, **table(found))
    within = {f"{name}_seconds": clock.seconds for name, clock in clocks.items()}
    return {**cost, **within, "examples": count(found)}
