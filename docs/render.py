"""Writes what the pages take from the code: `docs/cli.md` from the commands, `docs/api.md` from the docstrings, and
the figures from `docs/evidence.json`.

`python docs/render.py` writes; `--check` only says what is out of date, and exits with 1 if anything is.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "evidence")]

from _figures import fill, pages, results  # noqa: E402

API_PAGE = ROOT / "docs" / "api.md"
CLI_PAGE = ROOT / "docs" / "cli.md"
INTRODUCTION = """# The command line

Written by `make docs` from the commands themselves. Every command takes `--json`: one JSON object on stdout, and
`{"error": {"code", "message"}}` instead when something is wrong. Exit codes: 0 done, 1 a defect of the program, 2 a
mistake in what was asked, 130 interrupted.
"""


API_INTRODUCTION = """# The functions of the main path

Written by `make docs` from the docstrings. All of them are in `thoughtscope`; the nouns that they take and return are
in [architecture.md](architecture.md)."""


def cli_page() -> str:
    """The page of all commands: what each does, its examples, its arguments and options."""
    from thoughtscope.cli.app import every_command

    commands = [section(name, command) for name, command in sorted(every_command().items())]
    return INTRODUCTION + "\n" + "\n".join(commands)


def section(name: str, command: Any) -> str:
    """One command."""
    summary, _, examples = command.help.partition("\n\n\b\nExamples:\n")
    lines = [f"## thoughtscope {name}", "", summary.strip(), ""]
    if examples:
        lines += ["```sh", *(line.strip() for line in examples.strip().splitlines()), "```", ""]
    lines += ["| argument or option | meaning | default |", "|---|---|---|"]
    for parameter in command.params:
        if parameter.name != "help":
            lines.append(row(parameter))
    return "\n".join(lines) + "\n"


def row(parameter: Any) -> str:
    """One argument or option."""
    if parameter.param_type_name == "argument":
        shown = (parameter.metavar or parameter.name).upper().strip("[]")
    else:
        shown = ", ".join(sorted(parameter.opts, key=len))
    default = parameter.default
    plain = (
        default is None or default is ... or callable(default) or isinstance(default, bool) or default == []
    )
    written = "required" if parameter.required else "" if plain else f"`{default}`"
    meaning = (parameter.help or "").replace("|", "\\|")
    return f"| `{shown.replace('|', chr(92) + '|')}` | {meaning} | {written} |"


def api_page() -> str:
    """The page of the main path: each function's signature and docstring, in the order of the path."""
    import thoughtscope

    parts = [API_INTRODUCTION]
    for name in thoughtscope.__all__:
        function = getattr(thoughtscope, name)
        if inspect.isclass(function):
            continue  # the nouns are in architecture.md
        parts += [f"## {name}", f"```python\n{signature(function)}\n```", inspect.getdoc(function) or ""]
    return "\n\n".join(parts) + "\n"


def signature(function: Any) -> str:
    """`def name(…) -> …: ...` as written in the source, one argument a line."""
    module = ast.parse(Path(inspect.getfile(inspect.unwrap(function))).read_text(encoding="utf-8"))
    node = next(
        one for one in module.body if isinstance(one, ast.FunctionDef) and one.name == function.__name__
    )
    lines = [f"    {argument}," for argument in arguments(node.args)]
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    return "\n".join([f"def {node.name}(", *lines, f"){returns}: ..."])


def arguments(node: ast.arguments) -> list[str]:
    """The arguments one by one, as the formatter would write them."""
    # Unparsed one at a time, because a comma may also stand inside a type.
    plain = [
        (one, default) for one, default in zip(node.args, padded(node.defaults, len(node.args)), strict=True)
    ]
    keyword = list(zip(node.kwonlyargs, node.kw_defaults, strict=True))
    shown = [
        ast.unparse(one) + (f" = {ast.unparse(default)}" if default is not None else "")
        for one, default in [*plain, *keyword]
    ]
    return [*shown[: len(plain)], *(["*"] if keyword else []), *shown[len(plain) :]]


def padded(defaults: list[ast.expr], length: int) -> list[ast.expr | None]:
    return [None] * (length - len(defaults)) + defaults


def path_block(text: str) -> str | None:
    """The fenced block with the main path, if the page has one."""
    found = re.search(r"```python\nfrom thoughtscope import \(load_model.*?```", text, flags=re.DOTALL)
    return found[0] if found else None


def rendered() -> dict[Path, str]:
    """Every page as it should be: figures as measured, the main path as in README.md."""
    measured = results()
    written = {CLI_PAGE: cli_page, API_PAGE: api_page}
    path = path_block((ROOT / "README.md").read_text(encoding="utf-8"))
    wanted = {}
    for page in pages():
        text = page.read_text(encoding="utf-8")
        block = path_block(text)
        wanted[page] = fill(text.replace(block, path) if block and path else text, measured)
    return wanted | {page: write() for page, write in written.items()}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit with 1 if a page is out of date"
    )
    check = parser.parse_args().check
    wanted = rendered()
    stale = [
        page for page, text in wanted.items() if not page.exists() or page.read_text(encoding="utf-8") != text
    ]
    for page in stale:
        print(f"{'out of date' if check else 'written'}: {page.relative_to(ROOT)}")
        if not check:
            page.write_text(wanted[page], encoding="utf-8")
    sys.exit(bool(stale) if check else 0)


if __name__ == "__main__":
    main()
