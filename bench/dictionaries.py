"""Training dictionaries: thoughtscope beside SAELens, dictionary_learning, sparsify and crosslayer-coding.

Every side trains with its own loop, in an environment of its own that the first call makes under `runs/`, on the same
rows in the same order from the same weights; they take turns, and their losses must agree before any time is printed.
Where a peer cannot be installed this says so and exits with status 3.
"""

from __future__ import annotations

import json
import sys

from _sides import NOT_COMPARED, arguments


def main() -> None:
    """Command line."""
    from bench.peer.environment import NoPeer
    from bench.trainers.contest import PROBLEMS, results
    from bench.trainers.shown import table

    problems = {
        "nargs": "*",
        "choices": list(PROBLEMS),
        "default": list(PROBLEMS),
        "help": "which (default all)",
    }
    chosen = arguments(__doc__ or "", {"problems": problems})
    try:
        for found in results(chosen.problems, rounds=chosen.rounds, threads=chosen.threads):
            print(json.dumps(found) if chosen.json else table(found), flush=True)
    except NoPeer as reason:
        print(f"not compared: {reason}", file=sys.stderr)
        sys.exit(NOT_COMPARED)


if __name__ == "__main__":
    main()
