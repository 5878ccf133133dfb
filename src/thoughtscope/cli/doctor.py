"""`thoughtscope doctor`: what this machine has, what will fit on it, and whether the specimen works."""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from importlib import metadata
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from thoughtscope.cli.console import emit, printable
from thoughtscope.cli.options import DictionaryName, Json
from thoughtscope.core.errors import ThoughtscopeError
from thoughtscope.core.memory import free_memory

if TYPE_CHECKING:
    from thoughtscope.core.registry import Registry

Verdict = Literal["ok", "warning", "failed"]
MARKS: dict[str, str] = {"ok": "ok  ", "warning": "WARN", "failed": "FAIL"}

CAVEATS: list[tuple[str, tuple[int, ...], tuple[int, ...], str]] = [
    (
        "torch",
        (0,),
        (2, 10),
        "loading foreign .pt files can run code despite weights_only (CVE-2026-24747); update to 2.10",
    ),
    (
        "transformers",
        (0,),
        (5,),
        "block outputs are tuples for some families before 5.0; update to 5.4 or later",
    ),
    ("transformers", (5,), (5, 4), "untested version; 5.4 or later is"),
]
"""Package, first and first-not-affected version, and what is wrong with those between."""
MODELS = {
    "GPT-2 small": 0.124,
    "Pythia 410M": 0.41,
    "Llama 3.2 1B": 1.24,
    "Gemma 2 2B": 2.6,
    "Qwen3 4B": 4.0,
    "Llama 3.1 8B": 8.0,
}
"""Billions of parameters of some usual models."""


@dataclass(frozen=True, kw_only=True)
class Check:
    name: str
    verdict: Verdict
    text: str


def doctor(
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Also check this model with --dictionary.")
    ] = None,
    dictionary: DictionaryName = None,
    as_json: Json = False,
) -> None:
    """Runs every check, prints the table, and exits with 1 if one failed."""
    started = time.perf_counter()
    wanted = [python_check, package_check, device_check, memory_check, plugin_check, specimen_check]
    checks = [guarded(check) for check in wanted]
    if model is not None or dictionary is not None:
        checks.append(guarded(partial(dictionary_check, model or "specimen", dictionary), "dictionary"))
    seconds = round(time.perf_counter() - started, 2)
    healthy = all(check.verdict != "failed" for check in checks)
    if as_json:
        emit({"healthy": healthy, "seconds": seconds, "checks": [asdict(check) for check in checks]})
    else:
        for check in checks:
            first, *rest = printable_lines(check.text)
            print(f"{MARKS[check.verdict]}  {check.name:<10} {first}")
            for line in rest:
                print(f"                 {line}")
        print(
            f"\n{'All well' if healthy else 'Something is wrong'} ({seconds:.1f} s).  Next: thoughtscope demo"
        )
    if not healthy:
        raise SystemExit(1)


def guarded(check: Callable[[], Check], name: str | None = None) -> Check:
    """A check that breaks is a finding, not the end; what it says is told plainly if it is a user's mistake."""
    try:
        return check()
    except Exception as error:
        said = str(error) if isinstance(error, ThoughtscopeError) else f"{type(error).__name__}: {error}"
        return Check(name=name or check.__name__.removesuffix("_check"), verdict="failed", text=said)


def printable_lines(text: str) -> list[str]:
    return [printable(line) for line in text.splitlines()] or [""]


def python_check() -> Check:
    import thoughtscope

    good = sys.version_info >= (3, 11)
    system = f"Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    text = f"thoughtscope {thoughtscope.__version__}, {system}"
    return Check(
        name="python",
        verdict="ok" if good else "failed",
        text=text if good else f"{text}\nPython 3.11 or later is needed",
    )


def package_check() -> Check:
    names = (
        "torch",
        "transformers",
        "tokenizers",
        "safetensors",
        "numpy",
        "scipy",
        "pydantic",
        "fastapi",
        "uvicorn",
        "typer",
    )
    found = {name: _version(name) for name in names}
    missing = [name for name, version in found.items() if version is None]
    if missing:
        return Check(
            name="packages", verdict="failed", text=f"missing: {', '.join(missing)}. Reinstall thoughtscope."
        )
    lines = [", ".join(f"{name} {version}" for name, version in found.items())]
    warnings = caveats({name: version for name, version in found.items() if version})
    return Check(name="packages", verdict="warning" if warnings else "ok", text="\n".join(lines + warnings))


def caveats(versions: dict[str, str]) -> list[str]:
    """The known troubles of these versions."""
    return [
        f"{name} {versions[name]}: {text}"
        for name, first, fixed, text in CAVEATS
        if name in versions and first <= version_tuple(versions[name]) < fixed
    ]


def version_tuple(version: str) -> tuple[int, ...]:
    """`"2.13.0+cpu"` → `(2, 13, 0)`; what is not a number ends it."""
    numbers = []
    for part in version.split("+")[0].split("."):
        digits = "".join(character for character in part if character.isdigit())
        if not digits:
            break
        numbers.append(int(digits))
    return tuple(numbers)


def device_check() -> Check:
    import torch

    threads = f"{os.cpu_count()} cores, {torch.get_num_threads()} threads"
    if torch.cuda.is_available():
        name = torch.cuda.get_device_name(0)
        free, total = torch.cuda.mem_get_info(0)
        more = f", {torch.cuda.device_count()} devices" if torch.cuda.device_count() > 1 else ""
        return Check(
            name="device",
            verdict="ok",
            text=f"{name}: {free / 2**30:.0f} of {total / 2**30:.0f} GiB free{more}; {threads}",
        )
    if torch.backends.mps.is_available():
        return Check(name="device", verdict="ok", text=f"Apple GPU (mps); {threads}")
    return Check(name="device", verdict="ok", text=f"CPU only; {threads}")


def memory_check() -> Check:
    """Free memory, and which usual models it holds."""
    free = free_memory()
    if free is None:
        return Check(name="memory", verdict="warning", text="cannot be measured on this system")
    lines = [f"{free / 2**30:.1f} GiB free"]
    for name, size in (("float32", 4), ("bfloat16", 2)):
        fitting = fits(float(free), size)
        lines.append(f"will fit in {name}: specimen" + "".join(f", {model}" for model in fitting))
    return Check(name="memory", verdict="ok" if free > 2**30 else "warning", text="\n".join(lines))


def fits(free: float, bytes_per_weight: int) -> list[str]:
    """The usual models that `free` bytes hold: weights, half as much again for a dictionary, and 1 GB."""
    return [name for name, billions in MODELS.items() if billions * 1e9 * bytes_per_weight * 1.5 + 1e9 < free]


def specimen_check() -> Check:
    """Loads the specimen and asks it one question."""
    import thoughtscope

    started = time.perf_counter()
    model = thoughtscope.load_model("specimen")
    dictionary = thoughtscope.load_dictionary("specimen/clt", model, preflight=False)
    tokens = thoughtscope.tokenize(model, "Fact: the capital of the state containing Dallas is")
    answer = _next_token(model, tokens)
    size = f"{dictionary.n_features:,} features in {len(dictionary.parts)} parts"
    text = f'answers "{answer}" for the capital of Dallas\' state; {size}'
    verdict: Verdict = "ok" if answer.strip() == "Austin" else "warning"
    return Check(name="specimen", verdict=verdict, text=f"{text}; {time.perf_counter() - started:.1f} s")


def plugin_check() -> Check:
    """What installed packages add, and whether it loads."""
    from thoughtscope.dictionaries.formats import FORMATS
    from thoughtscope.graphs.formats import GRAPH_FORMATS
    from thoughtscope.models.families import FAMILIES

    registries: list[Registry[Any]] = [FAMILIES, FORMATS, GRAPH_FORMATS]
    broken = [sentence for registry in registries for sentence in registry.broken()]
    added = [name for registry in registries for name in registry.installed()]
    text = ", ".join(added) or "none installed"
    return Check(name="plugins", verdict="warning" if broken else "ok", text="\n".join([text, *broken]))


def dictionary_check(model: str, dictionary: str | None) -> Check:
    """Loads both and looks at a few hundred tokens; a dictionary that does not fit fails with its figures."""
    from thoughtscope.dictionaries.preflight import look
    from thoughtscope.microscope import open_microscope

    opened = open_microscope(model, dictionary)
    seen = look(opened.model, opened.dictionary)
    figures = f"FVU {seen.fvu:.3f}, {seen.l0:.1f} features a token on {seen.n_tokens} tokens"
    return Check(
        name="dictionary", verdict="ok", text=f"{opened.dictionary.name} fits {opened.model.name}: {figures}"
    )


def _next_token(model: Any, tokens: Any) -> str:
    import thoughtscope

    (logits,) = thoughtscope.capture(model, tokens, sites=["logits"]).values()
    return model.tokenizer.decode([int(logits[0, -1].argmax())])


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
