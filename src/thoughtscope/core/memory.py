"""Memory: how much of it is free, which errors are its allocators', and what to do when they refuse."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from thoughtscope.core.errors import OutOfMemory

# What torch says in a plain RuntimeError: its allocators for the CPU, for CUDA and its libraries, and for Apple's GPU.
_REFUSED = re.compile(
    r"can't allocate memory|cannot allocate memory|not enough memory|out of memory|alloc_failed|bad_alloc",
    flags=re.IGNORECASE,
)


Items = TypeVar("Items")
"""What has a length and can be cut by slices: a list, an array, a tensor."""
Result = TypeVar("Result")


def is_allocation_failure(error: BaseException) -> bool:
    """Whether an error says that there was no memory: Python's, NumPy's, torch's on any device, or the system's."""
    if isinstance(error, MemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and _REFUSED.search(str(error)) is not None


@contextmanager
def memory_told(what: str, fix: str) -> Iterator[None]:
    """Turns an allocator's failure inside into `OutOfMemory`, which says what was being done and what would help."""
    try:
        yield
    except Exception as error:
        if not is_allocation_failure(error):
            raise
        raise OutOfMemory(f"{what} needs more memory than there is. {fix}") from None


def in_halves(items: Items, work: Callable[[Items], Result]) -> Iterator[Result]:
    """`work` on all items at once; where memory does not suffice, on one half after the other, and so on.

    `work` must change nothing outside before it can no longer fail. What fails on a single item is raised as it is.
    """
    waiting: list[Any] = [items]
    while waiting:
        part = waiting.pop()
        result = _tried(part, work, may_fail=len(part) > 1)
        if result is None:
            # Outside of the handler: what the failed call held is free by now.
            middle = len(part) // 2
            waiting += [part[middle:], part[:middle]]
        else:
            yield result[0]


def _tried(part: Items, work: Callable[[Items], Result], *, may_fail: bool) -> tuple[Result] | None:
    try:
        return (work(part),)
    except Exception as error:
        if not may_fail or not is_allocation_failure(error):
            raise
        return None


def free_memory(device: str = "cpu") -> int | None:
    """Bytes that can still be had on a device; None where nothing tells.

    For the CPU the least of what the system, its control groups and the process's own limit leave. Apple's GPU shares
    the system's memory.
    """
    if device.startswith("cuda"):
        import torch

        return int(torch.cuda.mem_get_info(torch.device(device))[0])
    known = [bytes_ for bytes_ in (_system(), _process_limit(), *_control_groups()) if bytes_ is not None]
    return max(min(known), 0) if known else None


def _system() -> int | None:
    if sys.platform == "darwin":
        return _mac()
    available = _field(Path("/proc/meminfo"), "MemAvailable:")
    if available is not None:
        return available * 1024
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return None


def _mac() -> int | None:
    """The share of all memory that the system calls free, by sysctl."""
    command = ["/usr/sbin/sysctl", "-n", "hw.memsize", "kern.memorystatus_level"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout
        total, percent = map(int, said.split())
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
    return total * percent // 100


def _process_limit() -> int | None:
    """What `ulimit -v` leaves of the address space."""
    try:
        import resource

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    except (ImportError, OSError, ValueError):
        return None
    used = _field(Path("/proc/self/status"), "VmSize:")
    return None if limit == resource.RLIM_INFINITY or used is None else limit - used * 1024


def _control_groups() -> Iterator[int]:
    """What is left under the limit of each control group around this process, of either version.

    A group's use counts files in the page cache, which the kernel gives up when asked; they are no use here.
    """
    root = Path("/sys/fs/cgroup")
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, place = line.split(":", 2)
        if controllers == "":
            base, limit, used, cached = root, "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            base = root / "memory"
            limit, used, cached = "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"
        else:
            continue
        inner = base / place.lstrip("/")
        for folder in (inner, *inner.parents):
            try:
                left = int((folder / limit).read_text()) - int((folder / used).read_text())
                yield left + (_field(folder / "memory.stat", cached) or 0)
            except (OSError, ValueError):
                pass  # "max", or a group of another place that is not to be seen from here
            if folder == base:
                break


def _field(path: Path, name: str) -> int | None:
    """The number behind a name at the start of a line."""
    try:
        with path.open() as file:
            for line in file:
                if line.startswith(name):
                    return int(line.split()[1])
    except (OSError, ValueError, IndexError):
        pass
    return None
