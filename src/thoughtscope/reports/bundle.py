"""The page's modules as one classic script, because browsers refuse ES modules to a file opened from disk.

Each module becomes a function that returns its exports; an import becomes a look-up in what an earlier one returned.
This needs no parser, since the page keeps to a plain dialect: imports and exports stand at the start of a line (in
vendored, minified files anywhere between statements), exported bindings are never reassigned, and no import cycles.
"""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass
from pathlib import Path

from thoughtscope.core.errors import ThoughtscopeError

_NAME = r"[A-Za-z_$][\w$]*"
_START = r"(?:(?<=^)|(?<=[;}\n]))[ \t]*"
_IMPORT = re.compile(
    _START
    + rf"import\s*(?:(?P<default>{_NAME})\s*,?\s*)?(?:\{{(?P<names>[^{{}}]*)\}}|\*\s*as\s+(?P<space>{_NAME}))?"
    r"\s*(?:from\s*)?(?P<quote>[\"'])(?P<path>[^\"'\n]+)(?P=quote)[ \t]*;?"
)
_EXPORT_LIST = re.compile(
    _START
    + r"export\s*\{(?P<names>[^{}]*)\}(?:\s*from\s*(?P<quote>[\"'])(?P<path>[^\"'\n]+)(?P=quote))?[ \t]*;?"
)
_EXPORT_STAR = re.compile(_START + r"export\s*\*")
_EXPORT_DEFAULT = re.compile(_START + r"export\s+default\s+")
_EXPORT_DECLARATION = re.compile(
    _START
    + rf"export\s+(?P<declaration>(?:async\s+)?(?:function\s*\*?|class|const|let|var)\s*(?P<name>{_NAME}))"
)
_LEFT_OVER = re.compile(r"^[ \t]*(?:import\s*[\w${*\"']|export\s+[\w${*])", flags=re.MULTILINE)


class BundleError(ThoughtscopeError):
    """A module of the page that the bundler cannot read; a defect of the package, not of the user."""

    code = "bundle"


@dataclass(frozen=True, kw_only=True)
class _Module:
    body: str
    imports: tuple[str, ...]


def bundle(root: Path, entry: str, *, aliases: dict[str, str] | None = None) -> str:
    """The module `entry` and everything it imports, as one classic script in strict mode.

    `aliases` maps bare names (`preact`) to files below `root`. Raises `BundleError` for a missing file, a cycle, or an
    import or export form that is not understood.
    """
    modules: dict[str, _Module] = {}
    _collect(root.resolve(), entry, aliases or {}, modules, trail=())
    numbers = {path: number for number, path in enumerate(modules)}
    parts = ['"use strict";', "(() => {", "const modules = [];"]
    for path, module in modules.items():
        body = module.body
        for target in module.imports:
            body = body.replace(_placeholder(target), f"modules[{numbers[target]}]")
        parts.append(f"// {path}\nmodules[{numbers[path]}] = (() => {{\n{body}\n}})();")
    parts.append("})();\n")
    return "\n".join(parts)


def _placeholder(path: str) -> str:
    return f"\x00{path}\x00"


def _collect(
    root: Path, path: str, aliases: dict[str, str], modules: dict[str, _Module], trail: tuple[str, ...]
) -> None:
    """Adds `path` after everything that it imports, so that each module finds its imports already run."""
    if path in modules:
        return
    if path in trail:
        raise BundleError(f"The page's modules import one another in a circle: {' → '.join((*trail, path))}.")
    file = (root / path).resolve()
    if not file.is_relative_to(root) or not file.is_file():
        raise BundleError(
            f"{path}, imported by {trail[-1] if trail else 'the page'}, is not a file of the page."
        )
    module = _translate(path, file.read_text(encoding="utf-8"), aliases)
    for target in module.imports:
        _collect(root, target, aliases, modules, (*trail, path))
    modules[path] = module


def _translate(path: str, source: str, aliases: dict[str, str]) -> _Module:
    """Replaces the import and export statements of one module; `\\x00path\\x00` stands for another module's exports."""
    imports: list[str] = []
    exports: dict[str, str] = {}

    def resolve(target: str) -> str:
        found = aliases.get(target) or posixpath.normpath(posixpath.join(posixpath.dirname(path), target))
        imports.append(found)
        return _placeholder(found)

    def take_import(match: re.Match[str]) -> str:
        module = resolve(match["path"])
        lines = []
        if match["default"]:
            lines.append(f"const {match['default']} = {module}.default;")
        if match["space"]:
            lines.append(f"const {match['space']} = {module};")
        if match["names"] is not None:
            pairs = [
                f"{ours}: {theirs}" if ours != theirs else ours for ours, theirs in _pairs(match["names"])
            ]
            lines.append(f"const {{ {', '.join(pairs)} }} = {module};")
        return " ".join(lines)

    def take_list(match: re.Match[str]) -> str:
        prefix = f"{resolve(match['path'])}." if match["path"] else ""
        exports.update({theirs: prefix + ours for ours, theirs in _pairs(match["names"])})
        return ""

    def take_declaration(match: re.Match[str]) -> str:
        exports[match["name"]] = match["name"]
        return match["declaration"]

    if _EXPORT_STAR.search(source):
        raise BundleError(f"{path} uses `export *`; name what it exports.")
    body = _IMPORT.sub(take_import, source)
    body = _EXPORT_LIST.sub(take_list, body)
    body = _EXPORT_DECLARATION.sub(take_declaration, body)
    if _EXPORT_DEFAULT.search(body):
        body = _EXPORT_DEFAULT.sub("const __default = ", body, count=1)
        exports["default"] = "__default"
    left = _LEFT_OVER.search(body)
    if left:
        line = body[left.start() :].splitlines()[0][:80]
        raise BundleError(f"{path} has an import or export that the report cannot carry: {line.strip()}")
    returned = ", ".join(name if name == value else f"{name}: {value}" for name, value in exports.items())
    return _Module(body=f"{body.rstrip()}\nreturn {{ {returned} }};", imports=tuple(dict.fromkeys(imports)))


def _pairs(names: str) -> list[tuple[str, str]]:
    """`a, b as c` → `[("a", "a"), ("b", "c")]`; comments inside the braces are dropped."""
    plain = re.sub(r"/\*.*?\*/|//[^\n]*", "", names, flags=re.DOTALL)
    entries = [entry.split() for entry in plain.split(",") if entry.strip()]
    for entry in entries:
        if len(entry) not in (1, 3) or (len(entry) == 3 and entry[1] != "as"):
            raise BundleError(f"cannot read the import or export list {{{names.strip()}}}")
    return [(entry[0], entry[-1]) for entry in entries]
