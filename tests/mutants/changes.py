"""The table of small wrong changes: what a slip of the hand could have written instead, found in a file's syntax tree."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

EXEMPT = {
    "_TINY": "only keeps a division by zero from raising",
    "BATCH": "how often an order is renewed; more or less often costs time alone",
    "GROWTH": "how often an order is renewed; more or less often costs time alone",
    "CHUNK_BYTES": "how much is held at once; the result is the same",
    "SMALL_CHUNK": "how much is held at once; the result is the same",
    "_AT_ONCE": "how much is held at once; the result is the same",
    "_CELLS": "how much is held at once; the result is the same",
    "room": "how much is held at once; the result is the same",
    "rows_at_once": "how much is held at once; the result is the same",
    "PLAIN": "sizes of random models; others do as well",
    "checkpoint_minutes": "how often a state is saved",
    "__all__": "names, not behaviour",
}
"""Names whose value no test has to know, each with the reason."""

KEYWORDS = frozenset(
    {"strict", "stacklevel", "encoding", "indent", "timeout", "check", "capture_output", "dtype", "allow_nan",
     "ensure_ascii", "verbose", "daemon", "fused", "set_to_none", "sorted", "tiny"}
)  # fmt: skip
"""Arguments that guard what cannot happen, say how something looks, cost time alone, or size a random model."""

SMALLEST = 1e-9
"""A number up to this is a floor under a division or a logarithm, or a slack for rounding: twice as much is the same."""

SPOKEN = ("warnings.", "logging.", "logger.", "log.", "report", "progress", "print")
"""Calls that tell a person how it goes."""

COMPARISONS = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
}  # fmt: skip
ARITHMETIC = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv, ast.Pow: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
    ast.LShift: ast.RShift, ast.RShift: ast.LShift,
}  # fmt: skip
EITHER_WAY = frozenset({"max", "min", "maximum", "minimum"})
"""Functions that do not mind the order of their arguments."""

KINDS = frozenset({"isinstance", "issubclass", "getattr", "setattr", "hasattr"})
"""Functions that fail at once when it is wrong: a change that teaches nothing."""

OPPOSITES = {
    "max": "min",
    "amax": "amin",
    "argmax": "argmin",
    "maximum": "minimum",
    "any": "all",
    "sum": "mean",
}
OPPOSITES |= {other: name for name, other in OPPOSITES.items()}


@dataclass(frozen=True, kw_only=True)
class Change:
    """One wrong change: the bytes `start` to `end` of a file become `after`."""

    path: str
    line: int
    operator: str
    start: int
    end: int
    before: str
    after: str
    reach: tuple[int, int]
    """The lines of which one at least runs whenever the changed code does; (1, 0) for the whole file."""

    def apply(self, source: bytes) -> bytes:
        """The file with the change made, on as many lines as before."""
        lines = source[self.start : self.end].count(b"\n")
        return source[: self.start] + self.after.encode() + b"\n" * lines + source[self.end :]

    def __str__(self) -> str:
        return f"{self.path}:{self.line}  {self.operator}: {self.before} → {self.after}"


def find_changes(path: Path, root: Path) -> list[Change]:
    """Every change of the table in one file, in the order of its lines."""
    source = path.read_bytes()
    starts = [0]
    for text in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(text))
    found = []
    for operator, node, replacement, reach in _walk(ast.parse(source), (1, 0), inside=False):
        start = starts[node.lineno - 1] + node.col_offset
        end = starts[node.end_lineno - 1] + node.end_col_offset
        after = ast.unparse(replacement)
        before = ast.unparse(node)
        if isinstance(node, ast.expr):
            # The parentheses keep the change in its place among the operators around it.
            after = f"({after})"
        change = Change(
            path=str(path.relative_to(root)), line=node.lineno, operator=operator, start=start, end=end,
            before=before, after=after, reach=reach,
        )  # fmt: skip
        found.append(change)
    return sorted(found, key=lambda change: (change.start, change.operator))


Found = tuple[str, ast.stmt | ast.expr, ast.AST, tuple[int, int]]


def _walk(node: ast.AST, reach: tuple[int, int], *, inside: bool) -> Iterator[Found]:
    """The changes at a node and below it. `inside`: of a function, where a statement's own lines say when it runs."""
    if _left_out(node):
        return
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        inside, reach = True, (node.body[0].lineno, node.end_lineno or node.lineno)
    elif isinstance(node, ast.stmt) and inside:
        reach = (node.lineno, _last_line_of_its_own(node))
    for operator, changed, replacement in _changes_at(node):
        yield operator, changed, replacement, reach
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list", "type_params") or isinstance(node, ast.Raise):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield from _walk(child, reach, inside=inside)


def _left_out(node: ast.AST) -> bool:
    """What is no behaviour, or no test's business."""
    match node:
        case ast.JoinedStr() | ast.Assert() | ast.Import() | ast.ImportFrom() | ast.pattern():
            return True
        case ast.FunctionDef(name="__repr__" | "__str__"):
            return True
        case ast.FunctionDef(name=name) if name.startswith("_tiny"):
            return True  # sizes of random models
        case ast.Constant(value=float(value)) | ast.BinOp(right=ast.Constant(value=float(value))):
            return 0 < abs(value) <= SMALLEST
        case ast.If(test=ast.Name(id="TYPE_CHECKING")):
            return True
        case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
            return name in EXEMPT
        case ast.keyword(arg=name):
            return name in KEYWORDS
        case ast.Call(func=function):
            return ast.unparse(function).startswith(SPOKEN)
    return False


def _last_line_of_its_own(node: ast.stmt) -> int:
    """Where a statement ends; for one that holds others, where its head does."""
    body = getattr(node, "body", None) or getattr(node, "cases", None)
    if not body:
        return node.end_lineno or node.lineno
    first = body[0].pattern.lineno if isinstance(body[0], ast.match_case) else body[0].lineno
    return max(node.lineno, first - 1)


def _changes_at(node: ast.AST) -> Iterator[tuple[str, ast.stmt | ast.expr, ast.AST]]:
    """The wrong changes of one node: the name of each, what is replaced, and by what."""
    match node:
        case ast.Compare(left=left, ops=ops, comparators=right):
            for number, op in enumerate(ops):
                changed = [*ops[:number], COMPARISONS[type(op)](), *ops[number + 1 :]]
                yield "comparison", node, ast.Compare(left=left, ops=changed, comparators=right)
        case ast.BinOp(left=left, op=ast.MatMult(), right=right):
            yield "swapped sides", node, ast.BinOp(left=right, op=ast.MatMult(), right=left)
        case ast.BinOp(left=left, op=op, right=right) if not _is_text(left) and not _is_text(right):
            yield "arithmetic", node, ast.BinOp(left=left, op=ARITHMETIC[type(op)](), right=right)
        case ast.BoolOp(op=op, values=values):
            other = ast.Or() if isinstance(op, ast.And) else ast.And()
            yield "and/or", node, ast.BoolOp(op=other, values=values)
        case ast.UnaryOp(op=ast.Not() | ast.USub() | ast.Invert(), operand=operand):
            yield "sign or not", node, operand
        case ast.Constant(value=bool(value)):
            yield "constant", node, ast.Constant(not value)
        case ast.Constant(value=int(value)):
            yield "constant", node, ast.Constant(value + 1)
        case ast.Constant(value=float(value)):
            yield "constant", node, ast.Constant(value * 2 if value else 1.0)
        case ast.Slice(lower=lower, upper=upper):
            for bound in (lower, upper):
                if bound is not None:
                    yield "slice", bound, ast.BinOp(left=bound, op=ast.Add(), right=ast.Constant(1))
        case ast.Call():
            yield from _changes_of_call(node)
        case ast.AugAssign(target=target, value=value):
            yield "dropped statement", node, ast.Pass()
            yield "= for +=", node, ast.Assign(targets=[target], value=value, lineno=node.lineno)
        case (
            ast.Assign(targets=[ast.Subscript() | ast.Attribute()])
            | ast.Raise()
            | ast.Continue()
            | ast.Break()
        ):
            yield "dropped statement", node, ast.Pass()
        case ast.Expr(value=ast.Call() as call) if not _left_out(call):
            yield "dropped statement", node, ast.Pass()
    conditions = [node.test] if isinstance(node, ast.If | ast.While | ast.IfExp) else getattr(node, "ifs", [])
    for condition in conditions:
        match condition:
            case (
                ast.UnaryOp(op=ast.Not())
                | ast.Compare(ops=[ast.Eq() | ast.Is() | ast.IsNot() | ast.In() | ast.NotIn()])
            ):
                pass  # already negated by another line of the table
            case _:
                yield "negated condition", condition, ast.UnaryOp(op=ast.Not(), operand=condition)


def _changes_of_call(node: ast.Call) -> Iterator[tuple[str, ast.expr, ast.AST]]:
    again = lambda function, arguments: ast.Call(func=function, args=arguments, keywords=node.keywords)
    match node:
        case ast.Call(func=ast.Name(id="abs"), args=[value]):
            yield "removed abs", node, value
        case ast.Call(func=ast.Attribute(value=value, attr="abs"), args=[]):
            yield "removed abs", node, value
        case ast.Call(func=ast.Name(id=name)) if name in OPPOSITES and name not in ("sum", "mean"):
            yield "reduction", node, again(ast.Name(OPPOSITES[name]), node.args)
        case ast.Call(func=ast.Attribute(value=value, attr=name)) if name in OPPOSITES:
            yield "reduction", node, again(ast.Attribute(value, OPPOSITES[name]), node.args)
    if len(node.args) > 1 and not any(isinstance(one, ast.Starred) for one in node.args[:2]):
        first, second, *rest = node.args
        if ast.unparse(node.func).split(".")[-1] not in EITHER_WAY | KINDS:
            yield "swapped arguments", node, again(node.func, [second, first, *rest])


def _is_text(node: ast.expr) -> bool:
    text = isinstance(node, ast.Constant) and isinstance(node.value, str | bytes)
    return text or isinstance(node, ast.JoinedStr | ast.List | ast.Tuple)
