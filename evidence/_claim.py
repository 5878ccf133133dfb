"""The one shape of a measured claim: each `evidence/<name>.py` measures something and prints it in this form.

    def measure(seed: int) -> Measured: ...

    if __name__ == "__main__":
        main(measure, claim="What is claimed, in one sentence.", paper="0.61 (Ameisen et al. 2025)")

`python evidence/<name>.py` prints a line for people, `--json` one JSON object. Thresholds do not belong here.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).resolve().parents[1]
# The scripts run from a checkout: the package may be installed or not, `specimens` never is.
sys.path[:0] = [str(ROOT / "src"), str(ROOT)]
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

UNAVAILABLE = 3
"""Exit status of a measurement that needs something this machine lacks."""


class Unavailable(Exception):
    """Raised by a measurement that needs a peer, an accelerator or a file that is not here; says which."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a measurement found."""

    value: float
    """The headline figure: a share unless the claim says otherwise."""
    n: int
    """How many cases the value rests on."""
    control: float | Mapping[str, Any] | None = None
    """The same figure where the effect should be absent; None where no control applies."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """Everything else, JSON-able."""


def told(row: Any) -> Any:
    """The same row, said on the way: long measurements are followed on stderr."""
    print(json.dumps(row, ensure_ascii=False, default=str), file=sys.stderr, flush=True)
    return row


def main(
    measure: Callable[[int], Measured],
    *,
    claim: str,
    paper: str | float | Mapping[str, Any] | None = None,
    seed: int = 0,
) -> None:
    """Runs `measure(seed)` and prints one object: the claim, what was found, seed, seconds and commit."""
    from thoughtscope.core.provenance import commit

    name = Path(sys.argv[0]).stem
    parser = argparse.ArgumentParser(description=claim)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--seed", type=int, default=seed, help=f"random seed (default {seed})")
    chosen = parser.parse_args()
    start, made_with = time.perf_counter(), commit()
    try:
        found = measure(chosen.seed)
    except Unavailable as reason:
        _leave(name, claim, str(reason), as_json=chosen.json)
    result = {"claim": claim} | asdict(found)
    result |= {"paper": paper, "seed": chosen.seed, "seconds": round(time.perf_counter() - start, 2)}
    result |= {"commit": made_with}
    result["details"] = result.pop("details")
    if chosen.json:
        print(json.dumps(result, ensure_ascii=False, allow_nan=False))
    else:
        print(
            f"{name}: {claim}\n  value {found.value:.6g}   n {found.n:,}   control {found.control}   paper {paper}"
        )
        print("  " + json.dumps(result["details"], ensure_ascii=False))
        print(f"  seed {chosen.seed}, {result['seconds']} s")


def _leave(name: str, claim: str, reason: str, *, as_json: bool) -> NoReturn:
    if as_json:
        print(json.dumps({"claim": claim, "unavailable": reason}, ensure_ascii=False))
    else:
        print(f"{name}: unavailable: {reason}")
    sys.exit(UNAVAILABLE)
