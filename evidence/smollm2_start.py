"""How long `load_model("smollm2")` takes in a new process, the first time and from then on.

The model must have been fetched before (`thoughtscope fetch smollm2`): nothing here asks a network. The first start is
measured on a copy of its file in a folder of its own.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from _claim import ROOT, Measured, Unavailable, main

RUNS = 3
START = """
import json, sys, time
start = time.perf_counter()
from thoughtscope import load_model
imported = time.perf_counter()
model = load_model("smollm2")
print(json.dumps({"seconds": time.perf_counter() - start, "import": imported - start, "cpu": time.process_time(),
                  "revision": model.revision}))
"""


def measure(seed: int) -> Measured:
    """Median seconds from the first import to a proved model, where the copy is there. Nothing is drawn at random."""
    from thoughtscope.models.downloads import fetched

    file = fetched("smollm2")
    if file is None:
        raise Unavailable("smollm2 is not on this machine (thoughtscope fetch smollm2)")
    with tempfile.TemporaryDirectory() as home:
        place = Path(home) / "thoughtscope" / "models" / "smollm2"
        place.mkdir(parents=True)
        shutil.copy(file, place)
        first = start(home)
        kept = sum(
            path.stat().st_size for path in place.rglob("*") if path.suffix != ".gguf" and path.is_file()
        )
        later = [start(home) for _ in range(RUNS)]
    seconds = [run["seconds"] for run in later]
    details = {
        "first": first,
        "later": later,
        "slowest": max(seconds),
        "bytes_kept": kept,
        "bytes_of_file": file.stat().st_size,
        "cores": len(os.sched_getaffinity(0)),
    }
    return Measured(value=statistics.median(seconds), n=RUNS, details=details)


def start(home: str) -> dict[str, Any]:
    """One process that loads the model, with no network to ask."""
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "XDG_DATA_HOME": home, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", START], env=environment, capture_output=True, text=True, timeout=1800
    )
    if done.returncode != 0:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.strip().splitlines()[-1])


if __name__ == "__main__":
    main(
        measure,
        claim='Seconds from the first import to a model that is ready, `load_model("smollm2")` in a new process, after '
        "the first time (median).",
    )
