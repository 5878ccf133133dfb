"""Dictionaries' files both ways: what each library saves is loaded here, what is saved here is loaded there, and both
answer the same rows. `python bench/formats.py [--peers FOLDER]`; no times, since there is nothing to race for.

A library runs in an environment of its own, `FOLDER/NAME/bin/python` (default `runs/bench`). One that is not there is
named as not compared, with exit status 3.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from _sides import NOT_COMPARED, ROOT

FORMATS = {"clt-training": "sparsify"}
"""The layout's name where it is not the library's."""
CLOSE = 1e-6
"""Of the largest number in the library's answer."""
QUIET = {"HF_HUB_OFFLINE": "1", "SPARSIFY_NO_COMPILE": "1", "SPARSIFY_DISABLE_TRITON": "1"}
ENVIRONMENTS = {
    "sae-lens": "sae-lens",
    "sparsify": "eai-sparsify",
    "clt-training": "clt-training",
    "dictionary-learning": "dictionary-learning",
    "crosslayer-coding": "crosslayer-coding",
}


@dataclass(frozen=True)
class Case:
    """One kind of dictionary of one library: the largest difference each way, relative to the largest number."""

    library: str
    name: str
    identical: bool
    """Whether our save of what we loaded has the library's files to the byte."""
    theirs_here: float
    ours_there: float | None
    """None where our parts cannot be written in the layout once they are no longer the library's own files."""
    why_not: str = ""


def compare(library: str, python: Path) -> list[Case]:
    """All kinds of one library. Raises `RuntimeError` with what the library said."""
    from safetensors.torch import load_file, save_file

    from thoughtscope.core.errors import DictionaryMismatch
    from thoughtscope.dictionaries import Card, load_dictionary, save_dictionary
    from thoughtscope.dictionaries.conversion import answers

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_file(_rows(), folder / "rows.safetensors")
        (folder / "theirs").mkdir()
        (folder / "ours").mkdir()
        _ask(python, library, "make", folder)
        rows = load_file(folder / "rows.safetensors")
        kinds = sorted(path.name for path in (folder / "theirs").iterdir())
        found: dict[str, dict[str, Any]] = {kind: {} for kind in kinds}
        for kind in kinds:
            source = folder / "theirs" / kind
            dictionary = load_dictionary(source)
            theirs = load_file(folder / f"make, {kind}.safetensors")
            found[kind]["theirs_here"] = _distance(answers(dictionary, _sites(rows)), theirs)
            save_dictionary(dictionary, folder / "again" / kind, format=FORMATS.get(library, library))
            found[kind]["identical"] = _same(source, folder / "again" / kind)
            try:  # as any dictionary, not as files that were kept
                own = _without_files(dictionary, Card())
                save_dictionary(own, folder / "ours" / kind, format=FORMATS.get(library, library))
            except DictionaryMismatch as error:
                found[kind] |= {"ours_there": None, "why_not": str(error)}
        _ask(python, library, "read", folder)
        for kind in sorted(path.name for path in (folder / "ours").iterdir()):
            theirs = load_file(folder / f"read, {kind}.safetensors")
            mine = answers(load_dictionary(folder / "theirs" / kind), _sites(rows))
            found[kind]["ours_there"] = _distance(mine, theirs)
    return [Case(library, kind, **values) for kind, values in found.items()]


def _without_files(dictionary: Any, card: Any) -> Any:
    from dataclasses import replace

    return replace(dictionary, card=card)


def _rows() -> dict[str, Any]:
    import torch

    from bench.layouts.theirs import LAYERS, ROWS, D

    generator = torch.Generator().manual_seed(0)
    kinds = ("resid_post", "mlp_in", "mlp_raw", "mlp_out")
    return {
        f"{kind}.{layer}": torch.randn(ROWS, D, generator=generator, dtype=torch.float64)
        for kind in kinds
        for layer in range(LAYERS)
    }


def _sites(rows: Mapping[str, Any]) -> dict[Any, Any]:
    from thoughtscope.core.site import Site

    return {Site.parse(name): value for name, value in rows.items()}


def _distance(mine: Mapping[Any, Any], theirs: Mapping[str, Any]) -> float:
    named = {str(site): value for site, value in mine.items()}
    if named.keys() != theirs.keys():
        raise RuntimeError(f"sites differ: {sorted(named)} here, {sorted(theirs)} there")
    return max(float((named[name] - y).abs().max() / y.abs().max()) for name, y in theirs.items())


def _same(a: Path, b: Path) -> bool:
    names = {path.relative_to(a) for path in a.rglob("*") if path.is_file()}
    return names == {path.relative_to(b) for path in b.rglob("*") if path.is_file()} and all(
        (a / name).read_bytes() == (b / name).read_bytes() for name in names
    )


def _ask(python: Path, library: str, verb: str, folder: Path) -> None:
    script = ROOT / "bench" / "layouts" / "theirs.py"
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [str(python), str(script), library, verb, str(folder)]
    done = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment | QUIET,
    )
    if done.returncode:
        raise RuntimeError(f"{library} could not {verb}:\n{done.stdout[-3000:]}")


def show(case: Case) -> str:
    """A line for people."""
    there = "      —" if case.ours_there is None else f"{case.ours_there:.1e}"
    files = "the same files" if case.identical else "OTHER FILES"
    return f"{case.library:20s} {case.name:32s} here {case.theirs_here:.1e}  there {there}  {files}  {case.why_not}"


def wrong(case: Case) -> bool:
    """Whether a case fails what is promised."""
    return not case.identical or case.theirs_here > CLOSE or (case.ours_there or 0.0) > CLOSE


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--peers", type=Path, default=ROOT / "runs" / "bench", help="the libraries' environments"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object a case")
    chosen, _ = parser.parse_known_args()  # what is for benchmarks with times is for them
    missing, cases = [], []
    for library, name in ENVIRONMENTS.items():
        python = chosen.peers / name / "bin" / "python"
        if not python.is_file():
            missing.append(library)
            continue
        for case in compare(library, python):
            print(json.dumps(vars(case)) if chosen.json else show(case), flush=True)
            cases.append(case)
    for library in missing:
        print(f"{library}: not compared, there is no {chosen.peers / ENVIRONMENTS[library]}", file=sys.stderr)
    if any(map(wrong, cases)):
        sys.exit(1)
    sys.exit(NOT_COMPARED if missing else 0)


if __name__ == "__main__":
    main()
