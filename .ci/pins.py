"""`python .ci/pins.py`: rewrites constraints.txt with the hashes of each pinned version's files, as the index has them.

    python .ci/pins.py INDEX                the versions stay, their hashes are asked for anew
    python .ci/pins.py INDEX rich==15.0.1   one version changes

`INDEX` is the address of a package index's simple pages, without a slash at its end.

PyTorch alone has none: some machines keep a build of their own of the same version.
"""

from __future__ import annotations

import re
import sys
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from html.parser import HTMLParser
from pathlib import Path

USABLE = re.compile(
    r"(\.tar\.gz|\.zip|-(py3|py2\.py3|cp31[1-9]|cp3\d+-abi3)[^-]*-.*(any|linux|macosx).*\.whl)$"
)
"""Files that Linux and macOS with Python 3.11 or newer could install."""
FILE = Path(__file__).resolve().parents[1] / "constraints.txt"
UNHASHED = frozenset({"torch"})
HEADER = """\
# The exact versions that this checkout is tested with, each with the SHA-256 of its files, so that nothing else can be
# installed; pyproject.toml has the ranges that the package accepts. Written by `make pins`.
"""


def main(index: str, *changes: str) -> None:
    pins = {**read_pins(FILE.read_text()), **read_pins("\n".join(changes))}
    with ThreadPoolExecutor(8) as pool:
        found = dict(zip(pins, pool.map(lambda name: hashes(index, name, pins[name]), pins), strict=True))
    missing = [f"{name}=={pins[name]}" for name in pins if name not in UNHASHED and not found[name]]
    if missing:
        raise SystemExit(f"{index} has no file of {', '.join(missing)}.")
    lines = [line for name in sorted(pins, key=str.lower) for line in entry(name, pins[name], found[name])]
    FILE.write_text(HEADER + "\n".join(lines) + "\n")
    print(f"{len(pins)} versions, {sum(map(len, found.values()))} hashes: {FILE.name}")


def read_pins(text: str) -> dict[str, str]:
    """Name and version of each line that pins one."""
    return dict(re.findall(r"^([A-Za-z0-9._-]+)==([^\s\\;]+)", text, flags=re.MULTILINE))


def entry(name: str, version: str, digests: list[str]) -> list[str]:
    if name in UNHASHED:
        return [f"{name}=={version}"]
    return [" \\\n".join([f"{name}=={version}", *(f"    --hash=sha256:{digest}" for digest in digests)])]


def hashes(index: str, name: str, version: str) -> list[str]:
    """The hashes of one version's files."""
    if name in UNHASHED:
        return []
    page = urllib.request.urlopen(f"{index}/{_plain(name)}/", timeout=60).read().decode()
    links = _Links()
    links.feed(page)
    stem = re.compile(
        rf"{_plain(name).replace('-', '[-_.]+')}-{re.escape(version)}(-|\.tar\.gz|\.zip)", re.IGNORECASE
    )
    return sorted({digest for file, digest in links.found if stem.match(file) and USABLE.search(file)})


class _Links(HTMLParser):
    """File names and hashes of a page of the index."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        match = re.search(r"/([^/#]+)#sha256=([0-9a-f]{64})$", dict(attrs).get("href") or "")
        if tag == "a" and match:
            self.found.append((match[1], match[2]))


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    main(*sys.argv[1:])
