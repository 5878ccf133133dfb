"""Damage that somebody once did on purpose, by name: each must be refused at once, or do no harm."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np

from tests.fuzz.judge import Case
from tests.fuzz.targets import TARGETS

OURS = "graph, ours"
UPLOAD = "POST /api/graphs"


@cache
def cases() -> dict[str, Case]:
    """Every attack by its name."""
    found: dict[str, Case] = {}
    for name, target, file, data, sealed in (
        *_graphs(),
        *_requests(),
        *_dictionaries(),
        *_checkpoints(),
        *_kept(),
    ):
        found[name] = Case(target=target, file=file, data=data, sealed=sealed)
    return found


Row = tuple[str, str, str, bytes, bool]


def _file(target: str, ending: str) -> tuple[str, bytes]:
    return next((name, data) for name, data in TARGETS[target].files().items() if name.endswith(ending))


def _graph(**changes: Any) -> bytes:
    file = json.loads(_file(OURS, "graph.json")[1])
    for path, value in changes.items():
        holder, *steps = file, *path.split("__")
        for step in steps[:-1]:
            holder = holder[int(step) if step.isdecimal() else step]
        holder[steps[-1]] = value
    return json.dumps(file).encode()


def _with_text(old: bytes, new: bytes) -> bytes:
    data = _graph(metadata__prompt="PROMPT", nodes__0__value=7654321)
    assert old in data
    return data.replace(old, new)


def chain(n: int) -> bytes:
    """A graph file of one path through `n` features of 26 layers."""
    layer = lambda i: i % 26
    nodes = [{"node_id": f"{layer(i)}_{i}_0", "feature": i, "layer": str(layer(i)), "ctx_idx": 0, "feature_type": "transcoder",
              "jsNodeId": f"{i}-0", "clerp": ""} for i in range(n)]  # fmt: skip
    links = [{"source": a["node_id"], "target": b["node_id"], "weight": 1} for a, b in pairwise(nodes)]
    metadata = {"slug": "a", "scan": "b", "prompt": "c", "prompt_tokens": ["c"]}
    return json.dumps({"metadata": metadata, "qParams": {}, "nodes": nodes, "links": links}).encode()


def _graphs() -> Iterator[Row]:
    bodies = {
        "60 MB of empty lists": b"[" + b"[]," * 20_000_000 + b"[]]",
        "empty lists in a graph": _graph(extra=[[]] * 3_000_000),
        "a chain of 20,000 nodes": chain(20_000),
        "nested 951 deep": _with_text(b"7654321", b"[" * 951 + b"]" * 951),
        "nested 100,000 deep": b"[" * 100_000,
        "an object 5,000 deep": b'{"a":' * 5000 + b"1" + b"}" * 5000,
        "an escaped half of a pair": _with_text(b"PROMPT", b"\\ud800"),
        "a raw half of a pair": _with_text(b"PROMPT", b"\xed\xa0\x80"),
        "a half behind a whole pair": _with_text(b"PROMPT", b"\\ud83d\\ude00\\ude00"),
        "1e999": _with_text(b"7654321", b"1e999"),
        "-1e999 as a weight": _graph(links__0__weight=0.125).replace(b"0.125", b"-1e999"),
        "1e39 as a weight": _graph(links__0__weight=1e39),
        "NaN": _with_text(b"7654321", b"NaN"),
        "5,000 digits": _with_text(b"7654321", b"9" * 5000),
        "a key twice": _with_text(b'"prompt": "PROMPT"', b'"prompt": "PROMPT", "prompt": "x"'),
        "a label of 100,000 quotes": _graph(nodes__0__clerp='"' * 100_000),
        "a layer of a million digits": _graph(nodes__0__layer="9" * 1_000_000),
        "a million layers": _graph(metadata__thoughtscope__n_layers=1_000_000),
        "UTF-16": _graph().decode().encode("utf-16"),
        "supernodes as a deep text": _graph(qParams__supernodes="[" * 100_000),
        "warnings that are none": _graph(metadata__thoughtscope__provenance={"warnings": [3, None]}),
    }  # fmt: skip
    for name, data in bodies.items():
        yield f"graph: {name}", OURS, "graph.json", data, False
        yield f"upload: {name}", "server", UPLOAD, data, False


def _requests() -> Iterator[Row]:
    asked = {
        "a long address that ends on .js": ("GET /" + "a" * 3000 + ".js", b""),
        "a number of 400 digits in the address": ("GET /api/features/0/" + "9" * 400, b""),
        "a half of a pair as a label": ("PUT /api/labels/0/1", b'{"label": "\\ud800"}'),
        "a half of a pair as a prompt": ("POST /api/trace", b'{"prompt": "\\ud800"}'),
        "1e999 as a place": ("PUT /api/graphs/kept/layout", b'{"layout": {"a": [1e999, 0]}}'),
        "NaN as a value": ("POST /api/intervene", b'{"slug": "kept", "edits": [{"nodes": ["a"], "op": "add", "value": NaN}]}'),
        "deep groups in a text": ("POST /save_graph/kept", json.dumps({"qParams": {"supernodes": "[" * 50_000}}).encode()),
        "a deep body": ("PATCH /api/graphs/kept", b'{"title": ' + b"[" * 100_000),
        "a million pins": ("PUT /api/graphs/kept/pins", json.dumps({"pins": ["a"] * 100_000}).encode()),
    }  # fmt: skip
    for name, (file, data) in asked.items():
        yield f"request: {name}", "server", file, data, False


YAML = """model_kind: transcoder_set
feature_input_hook: ln2.hook_normalized
feature_output_hook: hook_mlp_out
"""
LAUGHS = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "\n".join(
    f"{b}: &{b} [{','.join([f'*{a}'] * 10)}]" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)


def _dictionaries() -> Iterator[Row]:
    plain = "circuit-tracer"
    texts = {
        "aliases in scan": f"{LAUGHS}\n{YAML}scan: *i\n",
        "aliases in transcoders": f"{LAUGHS}\n{YAML}transcoders: *i\n",
        "an alias of itself": f"{YAML}scan: &a [*a]\n",
        "5,000 digits": f"{YAML}k: {'9' * 5000}\n",
        "a date that is none": f"{YAML}scan: 2001-99-99\n",
        "a half of a pair": f'{YAML}scan: "\\ud800"\n',
        "a key twice": f"{YAML}scan: a\nscan: b\n",
        "nested 10,000 deep": f"{YAML}scan: {'[' * 10_000}\n",
        "a megabyte": YAML + "#" * 2**20,
        "a name to run": f"{YAML}scan: !!python/object/apply:os.system [true]\n",
        "transcoders of another type": f"{YAML}transcoders: 7\n",
        "a list as scan": f"{YAML}scan: [1, 2]\n",
        "a NaN as k": f"{YAML}activation: topk\nk: .nan\n",
    }
    for name, text in texts.items():
        yield f"yaml: {name}", plain, "config.yaml", text.encode("utf-8", "surrogatepass"), False
    file, data = _file(plain, "layer_1.safetensors")
    length = int.from_bytes(data[:8], "little")
    header, body = json.loads(data[8 : 8 + length]), data[8 + length :]

    def packed(text: str) -> bytes:
        return len(text.encode()).to_bytes(8, "little") + text.encode() + body

    first, second = [name for name in header if name != "__metadata__"][:2]
    changed = lambda name, **entry: packed(json.dumps({**header, name: {**header[name], **entry}}))
    files = {
        "a name twice": packed(json.dumps(header)[:-1] + f', "{first}": {json.dumps(header[first])}}}'),
        "a name that climbs": packed(json.dumps(header).replace(first, "../../x")),
        "tensors on one another": changed(first, data_offsets=header[second]["data_offsets"]),
        "a shape of 2^70": changed(first, shape=[2**35, 2**35]),
        "a negative shape": changed(first, shape=[-1, -24]),
        "another rank": changed(first, shape=[int(np.prod(header[first]["shape"]))]),
        "whole numbers": changed(first, dtype="I32"),
        "a header of 2^63 bytes": (2**63).to_bytes(8, "little") + data[8:],
        "a deep header": packed("[" * 50_000),
        "NaN": data[:-4] + b"\x00\x00\xc0\x7f",
        "infinity": data[:-4] + b"\x00\x00\x80\x7f",
        "nothing": b"",
    }
    for name, damaged in files.items():
        yield f"safetensors: {name}", plain, file, damaged, False
    yield from _archives()


def _archives() -> Iterator[Row]:
    target = "gemma-scope"
    file, data = _file(target, "params.npz")

    def arrays(method: int = zipfile.ZIP_STORED, **changes: bytes) -> bytes:
        buffer = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(buffer, "w", method) as new:
            for entry in old.infolist():
                name = entry.filename.removesuffix(".npy")
                new.writestr(entry.filename, changes.get(name, old.read(entry)))
        return buffer.getvalue()

    def array(value: Any) -> bytes:
        buffer = io.BytesIO()
        np.save(buffer, value, allow_pickle=True)
        return buffer.getvalue()

    def shaped(shape: str) -> bytes:
        return array(np.zeros((3, 4), np.float32)).replace(b"(3, 4)", shape.encode())

    encrypted = bytearray(arrays(zipfile.ZIP_DEFLATED))
    at = encrypted.rfind(b"PK\x01\x02")
    encrypted[at + 8] |= 1
    broken = bytearray(arrays(zipfile.ZIP_DEFLATED))
    broken[60:90] = b"\xff" * 30
    archives = {
        "200 MB of zeros": arrays(zipfile.ZIP_DEFLATED, W_enc=array(np.zeros((50_000, 1000), np.float32))),
        "a shape of 2^70": arrays(W_enc=shaped("(1180591620717411303424, 4)")),
        "a shape of 2^70, packed": arrays(zipfile.ZIP_DEFLATED, W_enc=shaped("(1180591620717411303424, 4)")),
        "a negative shape": arrays(W_enc=shaped("(-3, -4)")),
        "another rank": arrays(W_enc=array(np.zeros(12, np.float32))),
        "Python objects": arrays(W_enc=array(np.array([{}], dtype=object))),
        "complex numbers": arrays(W_enc=array(np.zeros((4, 6), np.complex64))),
        "big-endian numbers": arrays(W_enc=array(np.zeros((4, 6), ">f4"))),
        "NaN": arrays(b_enc=array(np.full(6, np.nan, np.float32))),
        "encrypted": bytes(encrypted),
        "broken deflate": bytes(broken),
        "no header": arrays(W_enc=b"\x93NUMPY\x01\x00"),
        "cut": data[: len(data) // 2],
    }
    for name, damaged in archives.items():
        yield f"npz: {name}", target, file, damaged, False
    two, text = _file("gemma-scope-2", "config.json")
    for name, value in {
        "a list as l0": [1],
        "a number as a hook": 3,
        "NaN as l0": float("nan"),
        "1e999": 10**400,
    }.items():
        key = "hf_hook_point_in" if "hook" in name else "l0"
        yield (
            f"gemma scope 2: {name}",
            "gemma-scope-2",
            two,
            json.dumps({**json.loads(text), key: value}).encode(),
            False,
        )


def _checkpoints() -> Iterator[Row]:
    target = "checkpoint"
    config = json.loads(_file(target, "config.json")[1])
    fields: dict[str, Any] = {
        "num_hidden_layers": 10**9, "hidden_size": "16", "vocab_size": 10**30, "intermediate_size": -1, "num_attention_heads": 0,
        "max_position_embeddings": 2**31 + 1, "architectures": "LlamaForCausalLM", "hidden_act": 5, "rope_parameters": [1],
        "model_type": None, "layer_types": 7, "rms_norm_eps": 10**400, "quantization_config": {"quant_method": "x"},
    }  # fmt: skip
    for field, value in fields.items():
        yield f"config: {field}", target, "config.json", json.dumps(config | {field: value}).encode(), True
    name, weights = _file(target, "model.safetensors")
    yield "checkpoint: NaN in a row", target, name, weights[:-4] + b"\x00\x00\xc0\x7f", True
    yield (
        "checkpoint: a flipped bit",
        target,
        name,
        weights[:-4] + bytes([weights[-4] ^ 1]) + weights[-3:],
        False,
    )
    yield "checkpoint: a tokenizer of lists", target, "tokenizer.json", b"[]", True
    yield "checkpoint: a deep tokenizer", target, "tokenizer.json", b"[" * 100_000, True
    for title, text in {
        "no hash": b"x  config.json\n",
        "no text": b"\xff\xfe",
        "a path": b"0" * 64 + b"  ../../etc/passwd\n",
    }.items():
        yield f"sums: {title}", target, "SHA256SUMS", text, False


def _kept() -> Iterator[Row]:
    labels = {"a half of a pair": b'{"a": "\\ud800"}', "a key twice": b'{"a": "x", "a": "y"}', "a list": b"[]", "deep": b"[" * 10_000,
              "a number": b'{"a": 1}'}  # fmt: skip
    for name, data in labels.items():
        yield f"labels: {name}", "labels", "labels.json", data, False
    outcome = json.loads(_file("outcome", "1.json")[1])
    for name, change in {
        "a text for KL": {"kl": "x"},
        "no plan": {"plan": None},
        "a list before": {"before": []},
    }.items():
        yield f"outcome: {name}", "outcome", "1.json", json.dumps(outcome | change).encode(), False
    yield (
        "outcome: 1e999",
        "outcome",
        "1.json",
        json.dumps(outcome | {"kl": 0.125}).encode().replace(b"0.125", b"1e999"),
        False,
    )
    odd_part = {"feature_changes": [{"part": "1e39", "position": 0, "index": 0, "before": 0, "after": 1}]}
    said = {
        "changes": [{"text": "a", "vocab_id": outcome["answer_id"], "change": "x"}],
        "edited": 1,
        "outside": 0,
    }
    for name, change in {
        "a part of no layer": odd_part,
        "a text predicted": {"plan": {**outcome["plan"], "prediction": said}},
    }.items():
        yield f"outcome: {name}", "outcome", "1.json", json.dumps(outcome | change).encode(), False
    manifest = json.loads(_file("bank", "manifest.json")[1])
    for name, meta in {
        "pieces of lists": {"pieces": []},
        "a wide window": {"window": [10**9, 10**9]},
        "no groups": {"groups": []},
    }.items():
        damaged = json.dumps({**manifest, "meta": {**manifest["meta"], **meta}}).encode()
        yield f"bank: {name}", "bank", "b/manifest.json", damaged, True
    for target, ending in (("bank", "-"), ("concepts", "-")):
        for name, data in TARGETS[target].files().items():
            if name.endswith(".safetensors") and ending in name:
                for number, odd in enumerate((b"\xff\xff\xff\x7f", b"\x00\x00\xc0\x7f")):
                    damaged = data[: len(data) // 8 * 4] + odd + data[len(data) // 8 * 4 + 4 :]
                    yield f"{target}: {name[:20]} {number}", target, name, damaged, True
