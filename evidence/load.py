"""How long /health takes while a hundred traces run, a thousand connections hang and hostile files are uploaded."""

from __future__ import annotations

import asyncio
import statistics
import sys
import tempfile
from collections import Counter
from typing import Any

from _claim import Measured, main
from _load import (
    blocked_command,
    half_open,
    hostile,
    meter,
    more_files,
    process,
    ready,
    traced,
    uploaded,
)

TRACES, HALF_OPEN, BODY = 100, 1_000, 60_000_000
FILES = 256
"""Files that the server may open: fewer than there are connections, and no way to raise it."""
BLOCKED = 2.0


def measure(seed: int) -> Measured:
    """The slowest /health under all of it at once. Nothing is drawn at random."""
    more_files()
    return under_load(traces=TRACES, connections=HALF_OPEN, size=BODY)


def under_load(*, traces: int, connections: int, size: int) -> Measured:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "thoughtscope", "serve", "--no-browser", "--json", "--port", "0"]
        with process([*command, "--folder", folder], files=FILES) as server:
            ready(server)
            before = server.peak_memory()
            with meter(server) as found:
                ends = asyncio.run(
                    attack(server, traces=traces, connections=connections, bodies=hostile(size))
                )
            peak = server.peak_memory()
    seconds = sorted(found["seconds"])
    details = {
        **ends,
        "health_failed": found["failed"],
        "health_median": round(statistics.median(seconds), 4),
        "health_99": round(seconds[int(0.99 * len(seconds))], 4),
        "memory_before": before,
        "memory_peak": peak,
    }
    return Measured(value=round(seconds[-1], 3), n=len(seconds), control=control(), details=details)


async def attack(server: Any, *, traces: int, connections: int, bodies: dict[str, bytes]) -> dict[str, Any]:
    """Everything at once, until the traces and the uploads have their answers; how each ended."""
    over = asyncio.Event()
    hanging = [asyncio.create_task(half_open(server, number, over)) for number in range(connections)]
    uploads = {name: asyncio.create_task(uploaded(server, body)) for name, body in bodies.items()}
    ends = Counter(await asyncio.gather(*(traced(server, number) for number in range(traces))))
    print(f"traces: {dict(ends)}", file=sys.stderr)
    await asyncio.gather(*uploads.values())
    over.set()
    hung = Counter(await asyncio.gather(*hanging))
    done, refused = ends.pop("done", 0), ends.pop("refused", 0)
    return {
        "traces": {"done": done, "refused": refused, "otherwise": dict(ends)},
        "half_open": dict(sorted(hung.items())),
        "bodies": {name: task.result() for name, task in uploads.items()},
    }


def control() -> float:
    """The slowest /health of a server whose event loop is blocked on purpose: what the meter has to see."""

    async def block(server: Any) -> None:
        reader, writer = await asyncio.open_connection(server.host, server.port)
        writer.write(server.request("POST", "/block"))
        await reader.readline()
        writer.close()

    with process(blocked_command(BLOCKED), files=FILES) as server, meter(server) as found:
        asyncio.run(block(server))
    return round(max(found["seconds"]), 3)


if __name__ == "__main__":
    main(
        measure,
        claim="Slowest answer of /health, in seconds, while the served specimen has 100 traces, 1,000 half-open "
        "connections and four hostile graph files of 60 MB at once, with 256 file descriptors (control: a handler "
        f"that blocks the event loop for {BLOCKED:.0f} s).",
    )
