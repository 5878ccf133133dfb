"""The models, dictionaries and texts that all sides are given, as files in the layouts that they publish.

model/          the checkpoint, with its tokenizer
sae-lens/       the dictionary as SAELens publishes it: SAEDashboard and thoughtscope load this one
params.npz      the same weights as Gemma Scope publishes them: delphi loads this one
ids.npy         (row, pos): the text, cut into rows of equal length
case.json
"""

from __future__ import annotations

import json
import sysconfig
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

DELPHI, DASHBOARD = "delphi", "SAEDashboard"
TOP, QUARTER = 20, 15
"""Of each feature, so many of its strongest examples and of each quarter: 80. SAEDashboard keeps 70 by default, delphi
90."""
GRAM = 15
"""No two stretches of so many tokens are equal: who leaves out repeated texts has none to leave out."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A model, an autoencoder on its residual stream, and how much text is looked at."""

    name: str
    about: str
    model: str
    """By the name under which `load_model` knows it."""
    dictionary: str
    """A dictionary by its name; "" for one whose encoders are rows of the model's activations."""
    site: str
    rows: int
    context: int = 128
    batch: int = 32
    """Rows that go through the model together."""
    n_features: int = 8192
    active: int = 32
    """Of a dictionary that is made of rows: how many features are active on a token, on average."""
    dtype: str = "float32"
    """In which every side runs the model; encoders are in float32."""
    peers: tuple[str, ...] = (DELPHI, DASHBOARD)


CASES = {
    case.name: case
    for case in (
        Case(
            name="smollm2",
            about="SmolLM2-135M-Instruct, its shipped autoencoder of 8,192 features after layer 12",
            model="smollm2",
            dictionary="smollm2/sae",
            site="resid_post.12",
            rows=256,
        ),
        Case(
            name="smollm2-bf16",
            about="the same, the model in bfloat16, in which SmolLM2 is published",
            model="smollm2",
            dictionary="smollm2/sae",
            site="resid_post.12",
            rows=256,
            dtype="bfloat16",
            # In bfloat16, two ways through the model are no longer equal: only who runs the same one is compared.
            peers=(DELPHI,),
        ),
        Case(
            name="specimen",
            about="the shipped specimen, an autoencoder of 4,096 features after layer 3",
            model="specimen",
            dictionary="",
            site="resid_post.3",
            rows=512,
            n_features=4096,
        ),
    )
}


def build(case: Case, folder: Path, seed: int) -> dict[str, Any]:
    """Writes a case's files; what a side has to know to open them."""
    import torch

    from thoughtscope import load_model
    from thoughtscope.dictionaries import Dictionary, load_dictionary, save_dictionary

    torch.manual_seed(seed)
    model = load_model(case.model)
    ids = np.stack([*_rows(model.tokenizer, case.rows, case.context)])
    np.save(folder / "ids.npy", ids)
    _save_model(model, folder / "model")
    if case.dictionary:
        whole = load_dictionary(case.dictionary, model, preflight=False)
        part = _unit(whole.part(case.site))
    else:
        part = _of_rows(model, ids, case, seed)
    alone = Dictionary(name="bench/sae", scan="bench", model_name=case.model, parts=(part,))
    save_dictionary(alone, folder / "sae-lens", format="sae-lens", store="float32")
    _save_params(part, folder / "params.npz")
    told = {**asdict(case), "folder": str(folder), "top": TOP, "quarter": QUARTER}
    (folder / "case.json").write_text(json.dumps(told))
    return told


def _unit(part: Any) -> Any:
    """The same autoencoder with decoders of norm 1, as SAEDashboard makes every one; activations take the norm."""
    (site,) = part.reads
    W_dec = part.W_dec[site].float()
    norm = W_dec.norm(dim=-1).clamp(min=1e-6)
    return replace(
        part,
        W_enc={site: part.W_enc[site].float() * norm[:, None]},
        b_enc=part.b_enc.float() * norm,
        threshold=part.threshold.float() * norm,
        W_dec={site: W_dec / norm[:, None]},
    )


def _rows(tokenizer: Any, n: int, context: int) -> Iterator[np.ndarray]:
    """Rows of the standard library's sources, which every machine has; none that repeats `GRAM` tokens of another."""
    seen: set[bytes] = set()
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        ids = np.array(tokenizer.encode(path.read_text("utf-8"), add_special_tokens=False), np.int64)
        for start in range(0, len(ids) - context + 1, context):
            row = ids[start : start + context]
            grams = [row[at : at + GRAM].tobytes() for at in range(context - GRAM + 1)]
            if len({*grams}) < len(grams) or not seen.isdisjoint(grams):
                continue
            seen.update(grams)
            yield row
            n -= 1
            if n == 0:
                return
    raise ValueError("the standard library has too little text that does not repeat itself")


def _save_model(model: Any, folder: Path) -> None:
    from transformers.utils import logging

    logging.disable_progress_bar()
    model.module.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)
    # Versions of transformers before 5 look for the base of the rotary embedding beside the other settings.
    path = folder / "config.json"
    config = json.loads(path.read_text())
    rope = config.get("rope_parameters") or {}
    path.write_text(json.dumps(config | {name: rope[name] for name in ("rope_theta",) if name in rope}))
    # Their names of the same tokenizer's class are older, too.
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"tokenizer_class": "PreTrainedTokenizerFast"}))


def _of_rows(model: Any, ids: np.ndarray, case: Case, seed: int) -> Any:
    """An autoencoder whose features are directions from the mean to activations drawn by chance; each fires equally
    often, as its threshold stands where the wanted share of tokens lies above."""
    import torch

    from thoughtscope.core.site import Site
    from thoughtscope.dictionaries import Activation, Part
    from thoughtscope.models import capture, tokens_from_ids

    site = Site.parse(case.site)
    found = [
        capture(model, tokens_from_ids(model, batch.tolist()), [site])[site][:, 1:].flatten(0, 1)
        for batch in np.array_split(ids, max(1, len(ids) // case.batch))
    ]
    x = torch.cat(found)
    mean = x.mean(0)
    draw = torch.Generator().manual_seed(seed)
    W = torch.nn.functional.normalize(
        x[torch.randperm(len(x), generator=draw)[: case.n_features]] - mean, dim=-1
    )
    share = case.active / case.n_features
    above = (x - mean) @ W.T
    kept = max(1, round(share * len(x)))
    ranked = above.topk(kept + 1, dim=0).values  # (kept + 1, feature)
    return Part(
        name=case.site,
        activation=Activation(kind="jumprelu"),
        W_enc={site: W},
        b_enc=-(W @ mean),
        threshold=ranked[-2:].mean(0).clamp(min=1e-3),
        W_dec={site: W},
        b_dec={site: mean},
    )


def _save_params(part: Any, path: Path) -> None:
    """Gemma Scope's file of one layer. Raises `ValueError` for a dictionary that it cannot hold."""
    (site,) = part.reads
    if part.threshold is None or part.normalise is not None or part.W_skip is not None:
        raise ValueError(f"{part.name} is no plain JumpReLU autoencoder")
    weights = {
        "W_enc": part.W_enc[site].float().T, "b_enc": part.b_enc.float(), "threshold": part.threshold.float(),
        "W_dec": part.W_dec[site].float(), "b_dec": part.b_dec[site].float(),
    }  # fmt: skip
    np.savez(path, **{name: weight.contiguous().numpy() for name, weight in weights.items()})
