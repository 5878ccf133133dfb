"""Collecting examples of features: thoughtscope beside delphi's cache and SAEDashboard.

Every side runs in an environment of its own that the first call makes under `runs/`, on the same model, dictionary and
token ids; they take turns, and their strongest examples must be equal before any time is printed. Where a peer cannot
be installed this says so and exits with status 3.
"""

from __future__ import annotations

import json
import sys

from _sides import NOT_COMPARED, arguments


def main() -> None:
    """Command line."""
    from bench.collecting.cases import CASES
    from bench.collecting.contest import results, shown
    from bench.peer.environment import NoPeer

    cases = {"nargs": "*", "choices": list(CASES), "default": list(CASES), "help": "which (default all)"}
    chosen = arguments(__doc__ or "", {"cases": cases})
    try:
        for found in results(chosen.cases, rounds=chosen.rounds, threads=chosen.threads):
            print(json.dumps(found) if chosen.json else shown(found), flush=True)
    except NoPeer as reason:
        print(f"not compared: {reason}", file=sys.stderr)
        sys.exit(NOT_COMPARED)


if __name__ == "__main__":
    main()
