"""How the command line speaks: results on stdout, progress and one-line errors on stderr, `--json` for programs."""

from __future__ import annotations

import io
import json
import os
import shlex
import stat
import sys
import time
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thoughtscope.core.errors import OutOfMemory, ThoughtscopeError
from thoughtscope.core.memory import is_allocation_failure
from thoughtscope.core.progress import Progress, silent

if TYPE_CHECKING:
    from thoughtscope.graphs import Price

USER_MISTAKE = 2
_KEPT_FORMAT_CHARACTERS = "\u200c\u200d"  # joiners: parts of ordinary words in several scripts


def printable(text: str) -> str:
    """`text` for a terminal: control characters and direction overrides from models or files become visible escapes."""

    def shown(character: str) -> str:
        if not _is_hidden(character):
            return character
        return {"\n": "⏎", "\t": "⇥"}.get(character, f"<U+{ord(character):04X}>")

    return "".join(map(shown, text))


def _is_hidden(character: str) -> bool:
    hidden = unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")
    return hidden and character not in _KEPT_FORMAT_CHARACTERS


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
    """One JSON object on one line of stdout; what a terminal would obey, or cannot show, as JSON's own escapes."""

    def shown(character: str) -> str:
        return json.dumps(character)[1:-1] if _is_hidden(character) else character

    text = "".join(map(shown, json.dumps(data, ensure_ascii=False, allow_nan=False)))
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(data, allow_nan=False)
    print(text, flush=True)


def show_what_can_be_shown() -> None:
    """Lets a terminal without Unicode show a question mark for what it lacks, in place of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


@contextmanager
def reporting(as_json: bool) -> Iterator[None]:
    """Turns every user mistake into one line on stderr, or one object on stdout, and exit code 2."""
    try:
        yield
    except Exception as error:
        if not isinstance(error, ThoughtscopeError | OSError | UnicodeError) and not is_allocation_failure(
            error
        ):
            raise
        code, message = code_of(error), message_of(error)
        if as_json:
            emit({"error": {"code": code, "message": message}})
        else:
            print(f"thoughtscope: {printable(' '.join(message.split()))}", file=sys.stderr)
        raise SystemExit(USER_MISTAKE) from None


def untold(error: OSError) -> int:
    """Says that what was printed could not be written, and drops the rest, on which Python would fail as it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    print(f"thoughtscope: what was printed could not be written: {error.strerror}.", file=sys.stderr)
    return USER_MISTAKE


def warn(said: Sequence[str], *, as_json: bool) -> None:
    """Each warning as one line on stderr; with `--json` they stand in the object on stdout, and nowhere else."""
    if not as_json:
        for text in dict.fromkeys(said):
            print(f"thoughtscope: warning: {printable(' '.join(text.split()))}", file=sys.stderr)


LONG_SECONDS = 5.0


def tell_price(price: Price, *, as_json: bool, device: str = "cpu") -> None:
    """Says on stderr what a trace that takes a while will take, and of what is free; asks nothing. With `--json` the
    price stands in the object."""
    if as_json or not (price.is_large or price.seconds > LONG_SECONDS):
        return
    share, kind = price.share_of_free(device), "a large trace" if price.is_large else "this trace"
    free = "" if share is None else f" ({share:.0%} of the memory that is free)"
    print(f"thoughtscope: {kind}: {price}{free}", file=sys.stderr)


def make_folder(path: Path) -> Path | None:
    """Makes the folder for a file that is to be written, before any work is done; the folder, if it was not there.

    Raises `ThoughtscopeError` where no file can be written under that name; see `check_out`.
    """
    check_out(path)
    folder = path.absolute().parent
    if folder.is_dir():
        return None
    folder.mkdir(parents=True)
    return folder


def require_text(text: str | None, option: str) -> None:
    """Refuses half characters before any work is done: no file can hold them."""
    try:
        (text or "").encode()
    except UnicodeEncodeError as error:
        raise ThoughtscopeError(f"{option}: {message_of(error)}") from None


def check_out(path: Path) -> None:
    """Refuses a name under which something else than a regular file stands: a device, a pipe, a folder, or a link to
    one. Also one where the file system lets nobody write."""
    name = printable(str(path))
    try:
        kind = path.stat().st_mode
    except FileNotFoundError:
        if path.is_symlink():
            raise ThoughtscopeError(f'"{name}" is a link to nothing. Name a file to write.') from None
    else:
        if not stat.S_ISREG(kind):
            raise ThoughtscopeError(f'"{name}" is {_kind_of_file(kind)}. Name a file to write.')
    folder = next(each for each in path.absolute().parents if each.exists())
    if not os.access(folder, os.W_OK) and not path.exists():
        raise ThoughtscopeError(f'"{name}" cannot be written: {printable(str(folder))} is closed to you.')


def _kind_of_file(mode: int) -> str:
    if stat.S_ISDIR(mode):
        return "a folder"
    if stat.S_ISFIFO(mode):
        return "a pipe"
    if stat.S_ISSOCK(mode):
        return "a socket"
    return "a device"


def written(path: Path, made: Path | None) -> str:
    """`Written: PATH`, and which folder was made for it."""
    return f"Written: {printable(str(path))}" + (f" (made the folder {printable(str(made))})" if made else "")


def code_of(error: BaseException) -> str:
    if is_allocation_failure(error):
        return OutOfMemory.code
    if isinstance(error, UnicodeError):
        return ThoughtscopeError.code
    return error.code if isinstance(error, ThoughtscopeError) else "file"


def message_of(error: BaseException) -> str:
    if is_allocation_failure(error):
        return "This needs more memory than there is. Use a shorter prompt or --max-nodes."
    if isinstance(error, UnicodeEncodeError):
        bad = printable(error.object[error.start : error.start + 1])
        return f"Text with {bad}, half of a character, cannot be written. Give well-formed Unicode."
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or 'The file system'}: {error.strerror}."
    return str(error)


_FIGURES = {
    "loss": ("loss", ".4g"),
    "bound": ("still to come, at most", ".1%"),
    "fvu": ("FVU", ".4f"),
    "l0": ("L0", ".1f"),
    "dead": ("dead", ".1%"),
    "tokens_per_second": ("tokens/s", ",.0f"),
    "rows_per_second": ("rows/s", ",.0f"),
    "gigabytes": ("GB", ".2f"),
}


def figures_told(figures: Mapping[str, float]) -> str:
    """Running figures beside a bar, in the order of the table above, then the others."""
    ordered = [name for name in _FIGURES if name in figures] + [n for n in figures if n not in _FIGURES]
    shown = ((*_FIGURES.get(name, (name, ".3g")), figures[name]) for name in ordered)
    return "  ".join(f"{name} {value:{form}}" for name, form, value in shown)


@contextmanager
def progress_lines(quiet: bool = False, every: float = 60.0) -> Iterator[Progress]:
    """`progress_bar`; and where stderr is no terminal (a job's log), a line there every minute."""
    if quiet or sys.stderr.isatty():
        with progress_bar(quiet) as bar:
            yield bar
        return
    said = time.monotonic()

    def report(stage: str, done: int, total: int | None, **figures: float) -> None:
        nonlocal said
        if time.monotonic() - said >= every:
            said = time.monotonic()
            of = f" of {total:,}" if total else ""
            print(f"{stage} {done:,}{of}  {figures_told(figures)}", file=sys.stderr, flush=True)

    yield report


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
            bars.update(tasks[stage], completed=done, total=total, figures=figures_told(figures))

        yield report
