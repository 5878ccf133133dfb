"""What is attacked: for every format, real files made on the spot, how the package reads them, and how one would naively."""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

SAMPLE = 4_000
"""Of each thing that came in, how many values are looked at for being finite; weights are looked at whole."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """One format: its files by name, and what reads a folder of them."""

    name: str
    files: Callable[[], Mapping[str, bytes]]
    read: Callable[[Path], Any]
    """Gives what came in: nouns, tensors, arrays and plain values."""
    naive: Callable[[Path], Any] | None = None
    """A reader without any check, as a control."""
    seal: Callable[[Path], None] | None = None
    """Makes checksums agree again, so that damage behind them is seen too."""
    weight: int = 4


def folder_of(make: Callable[[Path], Any]) -> dict[str, bytes]:
    """The files that `make` writes, by their path."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        make(root)
        return {
            str(path.relative_to(root)): path.read_bytes()
            for path in sorted(root.rglob("*"))
            if path.is_file()
        }


# --- what is read ----------------------------------------------------------------------------------------------------


def not_finite(value: Any) -> str | None:
    """Where a number that is not finite came in; None if nowhere. Texts must be writable too."""
    return next(_odd(value, "", [0]), None)


def _odd(value: Any, where: str, seen: list[int]) -> Iterator[str]:
    import numpy as np
    import torch

    seen[0] += 1
    if seen[0] > SAMPLE:
        return
    if isinstance(value, float) and not math.isfinite(value):
        yield where
    elif isinstance(value, str) and any("\ud800" <= character <= "\udfff" for character in value[:100_000]):
        yield f"{where} (half of a surrogate pair)"
    elif isinstance(value, torch.Tensor):
        if value.is_floating_point() and not bool(value.float().isfinite().all()):
            yield where
    elif isinstance(value, np.ndarray):
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            yield where
    elif isinstance(value, Mapping):
        for key, each in value.items():
            yield from _odd(key, f"{where}.key", seen)
            yield from _odd(each, f"{where}.{key}"[:200], seen)
    elif isinstance(value, list | tuple):
        for number, each in enumerate(value):
            yield from _odd(each, f"{where}[{number}]", seen)


def graph_file(folder: Path) -> Any:
    from thoughtscope.graphs.json_read import read_both
    from thoughtscope.reports.payload import for_page

    file, graph = read_both(folder / "graph.json")
    page = for_page(file)
    json.dumps(page, allow_nan=False).encode()
    value = graph.value[~__import__("numpy").isnan(graph.value)]  # missing where a file states none
    return [file, value, graph.edges.data, graph.bias, graph.absent, graph.influence, page]


def naive_graph(folder: Path) -> Any:
    import numpy as np

    file = json.loads((folder / "graph.json").read_bytes())
    place = {node["node_id"]: number for number, node in enumerate(file["nodes"])}
    weights = np.zeros((len(place), len(place)))
    for link in file["links"]:
        weights[place[link["target"]], place[link["source"]]] = link["weight"]
    return [file, weights]


def dictionary(folder: Path) -> Any:
    import torch

    from thoughtscope.dictionaries import load_dictionary

    found = load_dictionary(folder)
    index = torch.arange(min(4, found.parts[0].n_features))
    rows = [part.decoder_rows(index[: part.n_features]) for part in found.parts]
    weights = [
        [*part.W_enc.values(), part.b_enc, *part.b_dec.values(), part.threshold, part.W_skip]
        for part in found.parts
    ]
    return [found.name, found.model_name, dict(found.card.declared), rows, weights]


def naive_dictionary(folder: Path) -> Any:
    import numpy as np
    import yaml
    from safetensors.torch import load_file

    found: list[Any] = []
    for path in sorted(folder.rglob("*")):
        if path.suffix == ".npz":
            found += list(np.load(path).values())
        elif path.suffix == ".safetensors":
            found += list(load_file(path).values())
        elif path.suffix == ".yaml":
            found.append(yaml.safe_load(path.read_text())["model_kind"])
        elif path.suffix == ".json":
            found.append(json.loads(path.read_bytes()))
    return found


def checkpoint(folder: Path) -> Any:
    from thoughtscope.models import load_model

    model = load_model(str(folder))
    return list(model.module.state_dict().values())


def gguf(folder: Path) -> Any:
    from thoughtscope.models import load_model

    model = load_model(str(folder / "m.gguf"))
    return list(model.module.state_dict().values())


def naive_checkpoint(folder: Path) -> Any:
    from safetensors.torch import load_file

    return [
        json.loads((folder / "config.json").read_bytes())["hidden_size"] * 1.0,
        *load_file(folder / "model.safetensors").values(),
    ]


def bank(folder: Path) -> Any:
    from thoughtscope.atlas import FeatureBank

    found = FeatureBank.load(folder)
    return [found.detail(0, 0), found.auto_label(0, 1)]


def feature_map(folder: Path) -> Any:
    from thoughtscope.atlas import FeatureMap

    found = FeatureMap.load(folder)
    return [found.near.cosine, found.cluster, found.near.index]


def concepts(folder: Path) -> Any:
    from thoughtscope.atlas import load_concepts

    return [
        [concept.strength, concept.counts.chance, concept.counts.evidence, vars(concept.check)]
        for concept in load_concepts(folder)
    ]


def labels(folder: Path) -> Any:
    """A damaged file is gone without, and said: that counts as refused."""
    from thoughtscope.core.errors import CorruptArtefact
    from thoughtscope.core.labels import LabelStore

    store = LabelStore(folder / "labels.json")
    if store.problem is not None:
        raise CorruptArtefact(store.problem.why)
    return store.all()


def outcome(folder: Path) -> Any:
    from thoughtscope.core.parsing import strict_json
    from thoughtscope.interventions import Outcome
    from thoughtscope.reports.payload import outcome_json

    content = strict_json((folder / "1.json").read_bytes(), "1.json")
    found = Outcome.from_json(content)
    return [found.to_json(), found.verdict, outcome_json(found)]


def naive_json(folder: Path) -> Any:
    return [json.loads(path.read_bytes()) for path in folder.rglob("*.json")]


# --- real files ------------------------------------------------------------------------------------------------------


@cache
def graph_files(viewer: str) -> dict[str, bytes]:
    from dataclasses import replace

    from tests.random_graphs import random_graph
    from thoughtscope.graphs import graph_to_json, group

    graph = random_graph(seed=3, n_layers=2, length=3, per_place=2)
    nodes = graph.node_ids()
    graph = group(replace(graph, labels={str(nodes[0]): "a capital"}), {"both": [nodes[0], nodes[3]]})
    file = graph_to_json(graph, extras=viewer == "ours")
    if viewer == "circuit-tracer":
        file["metadata"]["schema_version"] = 1
        for node in file["nodes"]:
            if "error" in node["feature_type"]:
                old = node["node_id"]
                node["node_id"] = f"0_{node['layer']}_{node['ctx_idx']}"
                for link in file["links"]:
                    link["source"] = node["node_id"] if link["source"] == old else link["source"]
        file["qParams"] = {"pinnedIds": "", "supernodes": "[]", "linkType": None}
    return {"graph.json": json.dumps(file).encode()}


@cache
def dictionary_files(layout: str) -> dict[str, bytes]:
    from thoughtscope.dictionaries import save_dictionary

    return folder_of(
        lambda root: save_dictionary(small_dictionary(layout), root, format=layout.partition(",")[0])
    )


@cache
def foreign_files(name: str) -> dict[str, bytes]:
    """A dictionary as another library writes it."""
    import torch

    from tests.foreign_layers import CASES

    torch.manual_seed(0)
    return folder_of(lambda root: CASES[name](root / "b", torch.float32))


def small_dictionary(layout: str) -> Any:
    import torch

    from thoughtscope.dictionaries import Activation, LayerWeights, transcoders

    random = torch.Generator().manual_seed(0)
    d, n, layers, cross = 4, 6, 2, "cross" in layout
    draw = lambda *shape: torch.randn(*shape, generator=random)
    jump = "gemma" in layout or "jump" in layout
    weights = [
        LayerWeights(
            W_enc=draw(n, d), b_enc=draw(n), decoder=draw(n, layers - layer if cross else 1, d), b_dec=draw(d),
            threshold=draw(n).abs() if jump else None,
        )
        for layer in range(layers)
    ]  # fmt: skip
    read = "mlp_norm" if layout == "gemma-scope" else "resid_mid" if layout != "gemma-scope-2" else "mlp_in"
    return transcoders(
        name="small", model_name="a/model", read=read, write="mlp_out",
        activation=Activation(kind="jumprelu" if jump else "relu"), layers=weights,
    )  # fmt: skip


@cache
def checkpoint_files() -> dict[str, bytes]:
    import hashlib

    from tests.tiny_models import tiny_model

    def make(root: Path) -> None:
        model = tiny_model("llama", layers=1, max_position_embeddings=64, eos_token_id=257, pad_token_id=258)
        model.module.save_pretrained(root)
        model.tokenizer.save_pretrained(root)
        lines = [
            f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}" for path in sorted(root.glob("*"))
        ]
        (root / "SHA256SUMS").write_text("\n".join(lines) + "\n")

    return folder_of(make)


@cache
def gguf_files(kind: str) -> dict[str, bytes]:
    from tests.gguf_files import tiny, write_gguf

    return folder_of(lambda root: write_gguf(tiny("llama", layers=1), root / "m.gguf", kind))


@cache
def atlas_files(kind: str) -> dict[str, bytes]:
    import numpy as np

    from tests.tiny_microscope import random_dictionary, shared_model
    from thoughtscope.atlas import ConceptTable, Occurrence, collect_examples, learn_concept, save_concepts
    from thoughtscope.atlas import feature_map as map_of

    model = shared_model()
    if kind == "bank":
        texts = ["We saw the cat and the dog", "We saw the red fox by the sea"]
        return folder_of(
            lambda root: collect_examples(model, random_dictionary(model), texts).save(root / "b")
        )
    if kind == "map":
        return folder_of(
            lambda root: map_of(random_dictionary(model), alive=np.arange(72) < 4).save(root / "b")
        )
    tokens = [Occurrence(text=f"We saw the {word}", position=len(word) + 8, value=value)
              for value, words in {"animal": ("cat", "dog"), "colour": ("red", "tan")}.items() for word in words]  # fmt: skip
    tokens += [Occurrence(text="We saw the cat", position=2, value=None)]
    learnt = learn_concept(
        model, random_dictionary(model), ConceptTable(name="thing", tokens=tuple(tokens), says={})
    )
    return folder_of(lambda root: save_concepts([learnt], root / "b"))


@cache
def outcome_files() -> dict[str, bytes]:
    from tests.tiny_microscope import tiny_microscope
    from thoughtscope.microscope import Change, intervene, trace

    opened = tiny_microscope()
    graph = trace(opened, "Hi you")
    node = str(graph.node_id(int(graph.rows("feature")[0])))
    found = intervene(opened, graph, [Change(nodes=[node], op="scale", value=-1.0)])
    return {"1.json": json.dumps(found.to_json()).encode()}


def label_files() -> dict[str, bytes]:
    return {"labels.json": json.dumps({"a/b/0/1": "Texas", "a/b/1/7": "say “é”"}).encode()}


def completion_files() -> dict[str, bytes]:
    top = [{"token": "a", "logprob": -0.1}, {"token": "é", "logprob": -3.5}]
    choice = {
        "finish_reason": "stop",
        "message": {"role": "assistant", "content": "a cat", "refusal": None},
        "logprobs": {"content": [{"token": "a", "logprob": -0.1, "top_logprobs": top}]},
    }
    usage = {"prompt_tokens": 11, "completion_tokens": 3}
    return {"body.json": json.dumps({"id": "1", "choices": [choice], "usage": usage}).encode()}


def completion(folder: Path) -> Any:
    from dataclasses import asdict

    from thoughtscope.assistants.endpoint import _read

    answer = _read((folder / "body.json").read_bytes())
    json.dumps(answer.to_json(), allow_nan=False).encode()  # what is read can be kept
    return asdict(answer)


@cache
def activation_files() -> dict[str, bytes]:
    from tests.tiny_models import tiny_model
    from thoughtscope.training.data import harvest_to

    texts = ["We saw the cat and the dog", "We saw the red fox by the sea"]
    sites = ["resid_post.0", "z.1"]
    return folder_of(lambda root: harvest_to(root / "b", tiny_model("llama"), texts, sites, lanes=2))


def activations(folder: Path) -> Any:
    from itertools import islice

    from thoughtscope.training.data import StoreStream, load_store

    store = load_store(folder)
    stream = StoreStream(store, batch=5, without_outliers=True)
    return [store, [store.tokens(shard) for shard in store.shards], list(islice(stream.batches(), 12))]


def within(read: Callable[[Path], Any]) -> Callable[[Path], Any]:
    return lambda folder: read(folder / "b")


# --- checksums -------------------------------------------------------------------------------------------------------


def seal_artefacts(folder: Path) -> None:
    """Manifests that state what lies there now, as somebody would who changes an artefact on purpose."""
    import hashlib

    from thoughtscope.core.store import _manifest_digest

    for path in folder.rglob("manifest.json"):
        try:
            manifest = json.loads(path.read_bytes())
            for name, entry in manifest["files"].items():
                data = (path.parent / entry["path"]).read_bytes()
                digest = hashlib.sha256(data).hexdigest()
                new = f"{name}-{digest[:12]}.safetensors"
                os.rename(path.parent / entry["path"], path.parent / new)
                manifest["files"][name] = {"path": new, "size": len(data), "sha256": digest}
            manifest["sha256"] = _manifest_digest(manifest)
            path.write_text(json.dumps(manifest))
        except Exception:
            continue  # so damaged that nobody can make it agree


def without_sums(folder: Path) -> None:
    (folder / "SHA256SUMS").unlink(missing_ok=True)


TARGETS: dict[str, Target] = {
    target.name: target
    for target in [
        *(Target(name=f"graph, {viewer}", files=lambda viewer=viewer: graph_files(viewer), read=graph_file,
                 naive=naive_graph, weight=8) for viewer in ("ours", "neuronpedia", "circuit-tracer")),
        *(Target(name=layout, files=lambda layout=layout: dictionary_files(layout), read=dictionary,
                 naive=naive_dictionary, seal=seal_artefacts if "native" in layout else None)
          for layout in ("native", "circuit-tracer", "circuit-tracer, cross jump", "gemma-scope", "gemma-scope-2")),
        *(Target(name=name, files=lambda name=name: foreign_files(name), read=within(dictionary), weight=2)
          for name in ("sae-lens gated", "sae-lens before 6", "sparsify skip transcoder",
                       "clt-training, tied to the target", "dictionary-learning BatchTopKSAE", "openai TopK",
                       "crosslayer-coding mean_std", "llama-scope", "llama-scope later")),
        Target(name="checkpoint", files=checkpoint_files, read=checkpoint, naive=naive_checkpoint, seal=without_sums, weight=2),
        *(Target(name=f"gguf, {kind}", files=lambda kind=kind: gguf_files(kind), read=gguf, weight=2)
          for kind in ("Q4_1", "F16")),
        Target(name="bank", files=lambda: atlas_files("bank"), read=within(bank), seal=seal_artefacts),
        Target(name="map", files=lambda: atlas_files("map"), read=within(feature_map), seal=seal_artefacts),
        Target(name="concepts", files=lambda: atlas_files("concepts"), read=within(concepts), seal=seal_artefacts),
        Target(name="activations", files=activation_files, read=within(activations), seal=seal_artefacts),
        Target(name="labels", files=label_files, read=labels, naive=naive_json),
        Target(name="completion", files=completion_files, read=completion),
        Target(name="outcome", files=outcome_files, read=outcome, naive=naive_json),
    ]
}  # fmt: skip
