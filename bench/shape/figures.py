"""The shape of the code at given commits, side by side: `python bench/shape/figures.py e4ac13e HEAD [--json]`.

Sizes leave docstrings out. Complexity is McCabe's: one, and one more for each branch, loop, handler, comprehension,
condition of a comprehension, and each `and` or `or`. The walk counts the files of the package in which at least one
function runs during `thoughtscope trace PROMPT --open`, until the page has been asked for. No thresholds.
"""

from __future__ import annotations

import argparse
import ast
import io
import json
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
import tokenize
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROMPT = "Fact: the capital of the state containing Dallas is"
BRANCHES = (
    ast.If,
    ast.IfExp,
    ast.For,
    ast.AsyncFor,
    ast.While,
    ast.ExceptHandler,
    ast.comprehension,
    ast.match_case,
)
Function = ast.FunctionDef | ast.AsyncFunctionDef

WALK = """
import html, os, re, signal, sys, threading, urllib.parse, urllib.request, webbrowser
package = os.path.join(sys.argv[1], "src", "thoughtscope") + os.sep
seen = set()

def watch(frame, event, _):
    code = frame.f_code
    if event == "call" and code.co_flags & 1 and code.co_filename.startswith(package):  # 1: a function's own code
        seen.add(code.co_filename)

def visit(link):
    if link.startswith("file:"):  # a page that leads to the address
        text = open(urllib.parse.urlsplit(link).path).read()
        link = html.unescape(re.search('href="([^"]+)"', text)[1])
    base, _, token = link.split("#")[0].partition("?token=")
    for address in (base, base + "api/session"):
        request = urllib.request.Request(address, headers={"Authorization": "Bearer " + token})
        urllib.request.urlopen(request).read()
    os.kill(os.getpid(), signal.SIGINT)

webbrowser.open = visit
sys.argv = ["thoughtscope", "trace", sys.argv[2], "--open", "--port", "0", "--folder", os.getcwd()]
from thoughtscope.cli import main
threading.setprofile(watch)
sys.setprofile(watch)
try:
    main()
except (SystemExit, KeyboardInterrupt):
    pass
sys.setprofile(None)
print("passed", len(seen))
"""


def figures(checkout: Path) -> dict[str, float | None]:
    """All figures of one checkout of the repository."""
    paths = sorted((checkout / "src" / "thoughtscope").rglob("*.py"))
    texts = [path.read_text(encoding="utf-8") for path in paths]
    trees = [ast.parse(text) for text in texts]
    functions = [node for tree in trees for node in ast.walk(tree) if isinstance(node, Function)]
    lengths, complexities = [length(one) for one in functions], [complexity(one) for one in functions]
    files = [len(text.splitlines()) for text in texts]
    comments, code = (sum(counted) for counted in zip(*map(line_kinds, texts), strict=True))
    parameters = [count_parameters(one) for one in functions]
    return {
        "files": len(files),
        "file lines, median": statistics.median(files),
        "file lines, max": max(files),
        "functions": len(functions),
        "function lines, median": statistics.median(lengths),
        "function lines, p90": percentile(lengths, 0.9),
        "function lines, max": max(lengths),
        "complexity, p90": percentile(complexities, 0.9),
        "complexity, max": max(complexities),
        "complexity above 10": sum(value > 10 for value in complexities),
        "comment lines per code line": round(comments / code, 4),
        "Any": sum(
            isinstance(node, ast.Name) and node.id == "Any" for tree in trees for node in ast.walk(tree)
        ),
        "functions of more than 6 parameters": sum(value > 6 for value in parameters),
        "parameters, max": max(parameters),
        "files passed by trace --open": walk(checkout),
    }


def length(function: Function) -> int:
    """Lines from the signature to the end, less the docstring's."""
    total = (function.end_lineno or 0) - function.lineno + 1
    if ast.get_docstring(function) is not None:
        total -= (function.body[0].end_lineno or 0) - function.body[0].lineno + 1
    return total


def complexity(function: Function) -> int:
    return 1 + sum(
        len(node.values) - 1 if isinstance(node, ast.BoolOp)
        else 1 + len(node.ifs) if isinstance(node, ast.comprehension)
        else isinstance(node, BRANCHES)
        for node in within(function)
    )  # fmt: skip


def within(function: Function) -> Iterator[ast.AST]:
    """The nodes of a function that belong to no function inside it."""
    waiting: list[ast.AST] = list(function.body)
    while waiting:
        node = waiting.pop()
        if not isinstance(node, Function):
            yield node
            waiting.extend(ast.iter_child_nodes(node))


def count_parameters(function: Function) -> int:
    """Without `self` and `cls`."""
    given = function.args
    names = [one.arg for one in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
    return (
        len(names)
        - (names[:1] in (["self"], ["cls"]))
        + (given.vararg is not None)
        + (given.kwarg is not None)
    )


def line_kinds(text: str) -> tuple[int, int]:
    """How many lines hold a comment, and how many hold code (docstrings and other bare strings are neither)."""
    quiet = {
        line
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }
    comments, code = set(), set()
    layout = (tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            comments.add(token.start[0])
        elif token.type not in layout:
            code |= set(range(token.start[0], token.end[0] + 1))
    return len(comments), len(code - quiet)


def percentile(values: Iterable[int], share: float) -> int:
    """The smallest value that at least `share` of all do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -(-int(share * 1000) * len(ordered) // 1000) - 1)]


def walk(checkout: Path) -> int | None:
    """Files with a function that runs during one `trace --open`; None where that does not work."""
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"PYTHONPATH": str(checkout / "src"), "HF_HUB_OFFLINE": "1"}
        done = subprocess.run(
            [sys.executable, "-c", WALK, str(checkout), PROMPT],
            cwd=folder, env=environment, capture_output=True, text=True, timeout=300,
        )  # fmt: skip
    last = (done.stdout.strip().splitlines() or [""])[-1]
    if not last.startswith("passed "):
        print(f"the walk failed: {(done.stderr or done.stdout).strip()[-500:]}", file=sys.stderr)
        return None
    return int(last.split()[1])


def at(revision: str) -> dict[str, float | None]:
    """The figures of a commit, taken from an archive of it; of the working tree for `.`"""
    if revision == ".":
        return figures(ROOT)
    with tempfile.TemporaryDirectory() as folder:
        archive = subprocess.run(
            ["git", "archive", revision, "src"], cwd=ROOT, capture_output=True, check=True
        ).stdout
        tarfile.open(fileobj=io.BytesIO(archive)).extractall(folder, filter="data")
        return figures(Path(folder))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("revision", nargs="+", help="commits to compare; . is the working tree")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    given = parser.parse_args()
    columns = {revision: at(revision) for revision in given.revision}
    if given.json:
        print(json.dumps(columns))
        return
    print(f"{'':38}" + "".join(f"{name[:12]:>14}" for name in columns))
    for name in next(iter(columns.values())):
        print(
            f"{name:38}"
            + "".join(f"{'–' if (value := one[name]) is None else value:>14}" for one in columns.values())
        )


if __name__ == "__main__":
    main()
