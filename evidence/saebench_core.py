"""SAEBench's core figures, ours against the library's own code, on the same autoencoder and the same tokens.

Two autoencoders on the specimen's residual stream: the specimen's principal axes, each in both directions (it explains
most), and random directions. Control: the same comparison with first positions counted on our side.
"""

from __future__ import annotations

import json
import math
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from _claim import ROOT, Measured, Unavailable, main
from _specimen import ASSETS, specimen

PEER = ROOT / "runs" / "bench" / "sae-bench" / "bin" / "python"
LAYER, BATCHES, PROMPTS, CONTEXT = 3, 6, 4, 32
BEGIN = 0
"""The id that starts every row, which the library leaves out."""


def measure(seed: int) -> Measured:
    """The largest relative difference over all figures."""
    if not PEER.exists():
        raise Unavailable(f"SAEBench is not installed; {PEER.relative_to(ROOT)} is missing")
    tokens = rows(seed)
    details: dict[str, Any] = {}
    worst, n, control = 0.0, 0, 0.0
    for kind in ("principal", "random"):
        dictionary = autoencoder(kind, seed, tokens)
        for exclude in (False, True):
            ours, theirs = both(dictionary, tokens, exclude)
            found = differences(ours, theirs)
            worst, n = max(worst, max(found.values())), n + sum(1 for _ in pairs(ours, theirs))
            details[f"{kind}, special tokens {'kept' if exclude else 'replaced'}"] = {
                "metrics": theirs["metrics"], "largest": max(found, key=lambda name: found[name]),
                "differences": {name: float(f"{value:.2g}") for name, value in found.items()},
            }  # fmt: skip
        wrong = figures(dictionary, tokens, exclude=False, special=())[1]
        control = max(control, max(differences(wrong, theirs).values()))
    return Measured(value=float(f"{worst:.3g}"), n=n, control=float(f"{control:.3g}"), details=details)


def rows(seed: int) -> Any:
    """Documents one after another, in rows of `CONTEXT` that begin with the begin token; (batch, prompt, pos)."""
    import torch

    from specimens.corpus import sample_documents
    from thoughtscope import tokenize

    ids: list[int] = []
    wanted = BATCHES * PROMPTS * (CONTEXT - 1)
    for text in sample_documents(4_000_037 + seed, 5000):
        ids += tokenize(specimen(), text).ids[0, 1:].tolist()
        if len(ids) >= wanted:
            break
    body = torch.tensor(ids[:wanted]).view(BATCHES, PROMPTS, CONTEXT - 1)
    return torch.cat([torch.full((BATCHES, PROMPTS, 1), BEGIN), body], dim=2)


def autoencoder(kind: str, seed: int, tokens: Any) -> Any:
    """A JumpReLU autoencoder of `resid_post.LAYER`."""
    import torch

    from thoughtscope import Site, capture
    from thoughtscope.dictionaries import Activation, Dictionary, Part
    from thoughtscope.models import tokens_from_ids

    site, model = Site("resid_post", LAYER), specimen()
    x = capture(model, tokens_from_ids(model, tokens.flatten(0, 1).tolist()), [site])[site][:, 1:].flatten(
        0, 1
    )
    random = torch.Generator().manual_seed(seed)
    if kind == "principal":
        axes = torch.linalg.svd(x - x.mean(0), full_matrices=False).Vh
        directions = torch.cat([axes, -axes])
    else:
        directions = torch.nn.functional.normalize(torch.randn(400, model.d_model, generator=random))
    threshold = (0.05 + 0.5 * torch.rand(len(directions), generator=random)) * x.std()
    part = Part(
        name=str(site), activation=Activation(kind="jumprelu"), W_enc={site: directions}, W_dec={site: directions},
        b_enc=-directions @ x.mean(0), b_dec={site: x.mean(0)}, threshold=threshold,
    )  # fmt: skip
    return Dictionary(name=f"{kind}/axes", scan=kind, model_name=model.name, parts=(part,), skip_first=False)


def both(dictionary: Any, tokens: Any, exclude: bool) -> tuple[Any, Any]:
    """Our figures and the library's, which also reads our file."""
    from safetensors.torch import save_file

    (part,) = dictionary.parts
    (site,) = part.reads
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path, ours = figures(dictionary, tokens, exclude=exclude, special=(BEGIN,), folder=folder)
        path.rename(folder / "ours.json")
        (folder / "model").symlink_to(ASSETS)
        weights = {
            "W_enc": part.W_enc[site].T,
            "W_dec": part.W_dec[site],
            "b_enc": part.b_enc,
            "b_dec": part.b_dec[site],
        }
        save_file(
            {k: v.contiguous() for k, v in (weights | {"threshold": part.threshold}).items()},
            folder / "sae.safetensors",
        )
        job = {"layer": LAYER, "batches": tokens.tolist(), "special": [BEGIN], "exclude_special": exclude}
        (folder / "job.json").write_text(json.dumps(job))
        script = Path(__file__).with_name("_saebench.py")
        done = subprocess.run([str(PEER), str(script), str(folder)], capture_output=True, text=True)
        if done.returncode:
            raise Unavailable(f"SAEBench failed: {done.stderr.strip().splitlines()[-1]}")
        return ours, json.loads(done.stdout.strip().splitlines()[-1])


def figures(
    dictionary: Any, tokens: Any, *, exclude: bool, special: tuple[int, ...], folder: Path | None = None
) -> tuple[Path, Any]:
    """Our file, and its figures in the library's shape."""
    from thoughtscope.evaluation import saebench_core, save_saebench_core
    from thoughtscope.models import tokens_from_ids

    model = specimen()
    batches = [tokens_from_ids(model, batch.tolist()) for batch in tokens]
    half = len(batches) // 2
    result = saebench_core(
        model,
        dictionary,
        reconstruction=batches[:half],
        variance=batches[half:],
        special=special,
        exclude_special=exclude,
    )
    with tempfile.TemporaryDirectory() as name:
        path = save_saebench_core(result, folder or name, model, dictionary)
        data = json.loads(path.read_text())
    features = {key: [row[key] for row in data["eval_result_details"]] for key in result.features}
    return path, {"metrics": data["eval_result_metrics"], "features": features}


def pairs(ours: Any, theirs: Any) -> Any:
    """(name, our value, the library's), for each figure of each group and of each feature."""
    for group, values in theirs["metrics"].items():
        yield from (
            (f"{group}.{name}", ours["metrics"][group][name], value) for name, value in values.items()
        )
    for name, values in theirs["features"].items():
        yield from ((name, mine, value) for mine, value in zip(ours["features"][name], values, strict=True))


def differences(ours: Any, theirs: Any) -> dict[str, float]:
    """By name, the largest difference relative to the value, or to one hundredth where it is smaller."""
    found: dict[str, float] = {}
    for name, mine, value in pairs(ours, theirs):
        gap = abs(mine - value) / max(abs(value), 0.01)
        found[name] = max(found.get(name, 0.0), math.inf if math.isnan(gap) else gap)
    return found


if __name__ == "__main__":
    main(
        measure,
        claim="SAEBench's core figures computed here equal those of the library's own code on the same autoencoder and "
        "tokens (largest relative difference; control: first positions counted).",
    )
