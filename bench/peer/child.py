"""What both child processes are: they do what a line of JSON asks for, one thing at a time, and answer with a line."""

from __future__ import annotations

import gc
import json
import os
import resource
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def serve(verbs: Mapping[str, Callable[..., Any]]) -> None:
    """Answers until its input ends. What libraries print goes to the error stream."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = verbs[request.pop("do")](**request)
        except Exception as error:
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


def measured(call: Callable[[], Any]) -> tuple[Any, dict[str, Any]]:
    """What `call` returns; its wall seconds, the seconds of all cores, and the peak of resident memory, in bytes."""
    gc.collect()
    fresh = reset_peak()
    cpu, start = time.process_time(), time.perf_counter()
    result = call()
    spent = {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - cpu}
    return result, {**spent, "peak": peak(), "peak_of": "call" if fresh else "process"}


def reset_peak() -> bool:
    """Linux forgets a process's peak when asked; elsewhere it counts from the process's start."""
    try:
        _CLEAR.write_text("5")
    except OSError:
        return False
    return True


def peak() -> int:
    """The most memory that was resident since the last reset, in bytes."""
    if _STATUS.is_file():
        line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM"))
        return 1024 * int(line.split()[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
