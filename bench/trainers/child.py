"""What every child process is: `python -m bench.trainers.child`, with the interpreter of the side's own environment."""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Mapping
from importlib import import_module
from typing import Any

import torch

from bench.trainers.problem import opened
from bench.trainers.source import Done, Source


def main() -> None:
    """Trains as the first line of the input says, until it ends. What libraries print goes to the error stream."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def send(answer: Mapping[str, Any]) -> None:
        print(json.dumps(answer), file=answers, flush=True)

    asked = json.loads(sys.stdin.readline())
    torch.set_num_threads(asked["threads"])
    problem = opened(asked["folder"])
    try:
        side = import_module(f"bench.trainers.{asked['module']}")
        side.train(problem, Source(problem, send, asked["options"]))
        raise RuntimeError("the trainer ended by itself")
    except Done:
        pass
    except Exception as error:
        traceback.print_exc()
        send({"error": f"{type(error).__name__}: {error}"})


if __name__ == "__main__":
    main()
