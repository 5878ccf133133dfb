"""How the command line speaks: results on stdout, progress and one-line errors on stderr, `--json` for programs."""

from __future__ import annotations

import json
import shlex
import sys
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thoughtscope.core.errors import ThoughtscopeError
from thoughtscope.core.memory import is_allocation_failure
from thoughtscope.core.progress import Progress, silent

if TYPE_CHECKING:
    from thoughtscope.graphs import Price

USER_MISTAKE = 2
_KEPT_FORMAT_CHARACTERS = "\u200c\u200d"  # joiners: parts of ordinary words in several scripts


def printable(text: str) -> str:
    """`text` for a terminal: control characters and direction overrides from models or files become visible escapes."""

    def shown(character: str) -> str:
        hidden = unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")
        if not hidden or character in _KEPT_FORMAT_CHARACTERS:
            return character
        return {"\n": "⏎", "\t": "⇥"}.get(character, f"<U+{ord(character):04X}>")

    return "".join(shown(character) for character in text)


def quoted(text: str) -> str:
    """A token between quotes, so that its spaces show."""
    return f"“{printable(text)}”"


def shell_quoted(text: str) -> str:
    """`text` as one word for a shell, safe to print: what a terminal would obey is written as an escape of `$'…'`."""
    if printable(text) == text:
        return shlex.quote(text)
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    parts = (c if printable(c) == c else "".join(f"\\x{byte:02x}" for byte in c.encode()) for c in escaped)
    return f"$'{''.join(parts)}'"


def emit(data: dict[str, Any]) -> None:
    """One JSON object on one line of stdout."""
    print(json.dumps(data, ensure_ascii=False, allow_nan=False), flush=True)


@contextmanager
def reporting(as_json: bool) -> Iterator[None]:
    """Turns every user mistake into one line on stderr, or one object on stdout, and exit code 2."""
    try:
        yield
    except Exception as error:
        if not isinstance(error, ThoughtscopeError | OSError) and not is_allocation_failure(error):
            raise
        code, message = code_of(error), message_of(error)
        if as_json:
            emit({"error": {"code": code, "message": message}})
        else:
            print(f"thoughtscope: {printable(' '.join(message.split()))}", file=sys.stderr)
        raise SystemExit(USER_MISTAKE) from None


def warn(said: Sequence[str], *, as_json: bool) -> None:
    """Each warning as one line on stderr; with `--json` they stand in the object on stdout, and nowhere else."""
    if not as_json:
        for text in dict.fromkeys(said):
            print(f"thoughtscope: warning: {printable(' '.join(text.split()))}", file=sys.stderr)


def tell_price(price: Price, *, as_json: bool) -> None:
    """Says on stderr what a large trace will take; asks nothing. With `--json` the price stands in the object."""
    if price.is_large and not as_json:
        print(f"thoughtscope: a large trace: {price}", file=sys.stderr)


def make_folder(path: Path) -> Path | None:
    """Makes the folder for a file that is to be written, before any work is done; the folder, if it was not there."""
    folder = path.absolute().parent
    if folder.is_dir():
        return None
    folder.mkdir(parents=True)
    return folder


def written(path: Path, made: Path | None) -> str:
    """`Written: PATH`, and which folder was made for it."""
    return f"Written: {printable(str(path))}" + (f" (made the folder {printable(str(made))})" if made else "")


def code_of(error: BaseException) -> str:
    if is_allocation_failure(error):
        return "out_of_memory"
    return getattr(error, "code", "file") if isinstance(error, ThoughtscopeError) else "file"


def message_of(error: BaseException) -> str:
    if is_allocation_failure(error):
        return "This needs more memory than there is. Use a shorter prompt or --max-nodes."
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or 'The file system'}: {error.strerror}."
    return str(error)


@contextmanager
def progress_bar(quiet: bool = False) -> Iterator[Progress]:
    """A bar on stderr when that is a terminal; otherwise silence. Figures stand beside it."""
    if quiet or not sys.stderr.isatty():
        yield silent
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[figures]}"),
    )
    with Bars(*columns, console=Console(stderr=True), transient=True) as bars:
        tasks: dict[str, Any] = {}

        def report(stage: str, done: int, total: int | None, **figures: float) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total, figures="")
            told = "  ".join(f"{name} {value:.3g}" for name, value in figures.items())
            bars.update(tasks[stage], completed=done, total=total, figures=told)

        yield report
