"""What was acknowledged is there: writers of one work folder, and savers of dictionaries, killed at random moments.

Two processes of four threads write graphs (all want the same names), labels, pins, groups, titles, card positions and
outcomes by the functions that the server calls; two servers on the same folder do the same for four clients. In turn
one of the four processes is killed and started anew. Then dictionaries are saved over older versions of themselves, in
every layout, by a process that is killed: what loads before and after is one version, none older than acknowledged.
"""

from __future__ import annotations

import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

from _claim import Measured, main
from _hammering import Acknowledge, acknowledged, acknowledger, fork, kill, missing, no_lock, over_http, race

ENOUGH = 5_000
"""Acknowledgements in the work folder."""
KILLS = 40
"""Of savers of a dictionary, for each layout."""
LAYOUTS = (
    ("native", True),
    ("circuit-tracer", False),
    ("circuit-tracer", True),
    ("gemma-scope", False),
    ("gemma-scope-2", False),
    ("gemma-scope-2", True),
)
"""Formats, each with whether the dictionary is cross-layer."""


def measure(seed: int) -> Measured:
    """Acknowledged changes that are gone, and saves after which something else than one whole version loads."""
    import torch

    torch.set_num_threads(1)
    kept, kills, lost = raced(ENOUGH, seed=seed, servers=True)
    with no_lock():
        kept_without, _, lost_without = raced(ENOUGH // 10, seed=seed)
    saved, mixed = saved_and_killed(LAYOUTS, KILLS, seed=seed)
    with in_place():
        published = [layout for layout in LAYOUTS if layout[0] in ("circuit-tracer", "gemma-scope-2")]
        _, mixed_in_place = saved_and_killed(published, KILLS // 2, seed=seed)
    return Measured(
        value=sum(lost.values()) + sum(mixed.values()),
        n=sum(kept.values()) + saved,
        control=sum(lost_without.values()) + sum(mixed_in_place.values()),
        details={
            "acknowledged": dict(sorted(kept.items())),
            "lost": dict(sorted(lost.items())),
            "kills of writers and servers": kills,
            "dictionaries saved": saved,
            "kills of savers, each with a load before and after": KILLS * len(LAYOUTS),
            "not one whole version": dict(mixed),
            "control": "the same without the lock, and with layouts that are written in place",
            "control acknowledged": sum(kept_without.values()),
            "control lost": dict(sorted(lost_without.items())),
            "control kills of savers": KILLS // 2 * len(published),
            "control not one whole version": dict(mixed_in_place),
        },
    )


def raced(enough: int, *, seed: int, servers: bool = False) -> tuple[Counter[str], int, Counter[str]]:
    """By store, what was acknowledged; the kills; by store, what of it is gone, of which some is told on stderr."""
    with tempfile.TemporaryDirectory() as place:
        root, log = Path(place, "work"), Path(place, "log")
        kills = race(root, log, enough=enough, seed=seed, servers=servers)
        found = acknowledged(log)
        gone = missing(root, log)
    for store, cases in gone.items():
        for case in cases[:5]:
            print(f"lost from {store}: {case}", file=sys.stderr)
    refused = Counter(f"{key}: {why}" for store, key, why in found if store == "refused")
    for why, times in refused.most_common(5):
        print(f"refused {times} times: {why}", file=sys.stderr)
    kept = Counter(
        f"{store} over HTTP" if over_http(key, value) else store
        for store, key, value in found
        if store != "refused"
    )
    return kept, kills, Counter({store: len(cases) for store, cases in gone.items() if cases})


# --- dictionaries ----------------------------------------------------------------------------------------------------


def version(number: int, *, cross_layer: bool, read: str) -> Any:
    """A dictionary all of whose weights are `number`, of two or three layers."""
    import torch

    from thoughtscope.dictionaries import Activation, LayerWeights, transcoders

    n_layers, n_features, d = 2 + number % 2, 32, 16

    def full(*shape: int) -> Any:
        return torch.full(shape, float(number))

    layers = tuple(
        LayerWeights(
            W_enc=full(n_features, d),
            b_enc=full(n_features),
            decoder=full(n_features, n_layers - layer if cross_layer else 1, d),
            b_dec=full(d),
            threshold=full(n_features),
        )
        for layer in range(n_layers)
    )
    return transcoders(
        name="a/dictionary",
        scan="a-dictionary",
        model_name="a/model",
        read=read,
        activation=Activation(kind="jumprelu"),
        layers=layers,
    )


def whole(folder: Path, format: str, *, at_least: int) -> bool:
    """Whether what loads is one version, and none older than the one whose save was acknowledged."""
    from thoughtscope.core.errors import ThoughtscopeError
    from thoughtscope.dictionaries import load_dictionary

    try:
        parts = load_dictionary(folder, format=format).parts
        tensors = [
            tensor for part in parts for tensor in (*part.W_enc.values(), part.b_enc, *part.W_dec.values())
        ]
        numbers = {value for tensor in tensors for value in tensor.unique().tolist()}
    except ThoughtscopeError as error:
        print(f"{format}: {error}", file=sys.stderr)
        return False
    number = int(min(numbers))
    return len(numbers) == 1 and number >= at_least and len(parts) == 2 + number % 2


def saved_and_killed(layouts: Any, kills: int, *, seed: int) -> tuple[int, Counter[str]]:
    """How many saves were acknowledged, and by layout after how many kills something else than one version loaded."""
    draw, saved, mixed = random.Random(seed), 0, Counter[str]()
    for format, cross_layer in layouts:
        name = f"{format}, {'cross-layer' if cross_layer else 'per layer'}"
        with tempfile.TemporaryDirectory() as place:
            folder, log = Path(place, "dictionary"), Path(place, "log")
            acknowledge = acknowledger(log)
            latest = -1
            for _ in range(kills):
                child = fork(partial(save_on, folder, format, cross_layer, latest + 1, acknowledge))
                while (now := _last(log)) == latest:
                    time.sleep(0.005)
                time.sleep(draw.uniform(0.0, 0.08))
                mixed[f"{name}, while saving"] += not whole(folder, format, at_least=latest + 1)
                time.sleep(draw.uniform(0.0, 0.02))
                kill(child)
                now = _last(log)
                saved, latest = saved + now - latest, now
                mixed[name] += not whole(folder, format, at_least=latest)
            strays = (
                len(list(Path(place).iterdir())) - 3
            )  # the dictionary, the log, and one of the last killed saver
            mixed[f"{name}, strays"] += max(0, strays)
        print(f"{name}: {saved} saved, {mixed[name]} of {kills} not whole", file=sys.stderr)
    return saved, +mixed


def save_on(folder: Path, format: str, cross_layer: bool, start: int, acknowledge: Acknowledge) -> None:
    """Saves one version over the other until it is killed."""
    from thoughtscope.dictionaries import save_dictionary

    read = "mlp_norm" if format == "gemma-scope" else "mlp_in"
    for number in count(start):
        save_dictionary(version(number, cross_layer=cross_layer, read=read), folder, format=format)
        acknowledge("saved", format, number)


def _last(log: Path) -> int:
    return max((number for _, _, number in acknowledged(log)), default=-1)


@contextmanager
def in_place() -> Iterator[None]:
    """The control: layouts are written file by file into the folder itself, each file as a whole."""
    from thoughtscope.core.files import atomic_write_bytes
    from thoughtscope.dictionaries.formats import base, circuit_tracer, gemma_scope

    @contextmanager
    def same_folder(path: Path, **_: Any) -> Iterator[Path]:
        path.mkdir(parents=True, exist_ok=True)
        yield path

    def overwrite(path: Path, chunks: Any) -> None:
        atomic_write_bytes(path, b"".join(map(bytes, chunks)))

    patches: list[tuple[Any, str, Any]] = [
        (circuit_tracer, "replaced_folder", same_folder),
        (gemma_scope, "replaced_folder", same_folder),
        (base, "write_new", overwrite),
    ]
    before = [getattr(home, name) for home, name, _ in patches]
    for home, name, instead in patches:
        setattr(home, name, instead)
    try:
        yield
    finally:
        for (home, name, _), original in zip(patches, before, strict=True):
            setattr(home, name, original)


if __name__ == "__main__":
    main(
        measure,
        claim="Acknowledged changes that are gone after kills, and dictionaries of two versions (count).",
    )
