"""SAEDashboard's child process: `python -m bench.collecting.dashboard`, with the interpreter of its own environment.

Its `SaeVisRunner` over all features, with the panels of its default layout. It runs the model anew for every batch of
features unless it may keep what the model did in files, so it may; `features` is how many it looks at together.
"""

from __future__ import annotations

import json
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bench.collecting.clock import Clock, collected
from bench.peer.child import serve

BUFFER = 5
"""Tokens shown on either side of an example's token, by default; who lies nearer to an end is no example."""
opened: dict[str, Any] = {}


def open_case(folder: str, threads: int, rows: int | None = None) -> dict[str, Any]:
    """Loads a case's files; nothing of this is measured."""
    import numpy as np
    import torch
    from sae_lens import SAE, HookedSAETransformer
    from transformer_lens import loading_from_pretrained as loading
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(threads)
    place = Path(folder)
    case = json.loads((place / "case.json").read_text())
    path = str(place / "model")
    module = AutoModelForCausalLM.from_pretrained(path, local_files_only=True, torch_dtype=torch.float32)
    config = loading.get_pretrained_model_config(path, device="cpu", dtype=torch.float32)
    # From a folder, it takes the usual base of the rotary embedding and not the model's.
    config.rotary_base = int(module.config.rope_theta)
    tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
    model = HookedSAETransformer(config, tokenizer)
    weights = loading.get_pretrained_state_dict(path, config, module, dtype=torch.float32)
    report = model.load_state_dict(weights, strict=False)
    # Biases that the checkpoint does not have are not converted, and stay at 0.
    wanted = {name for name, _ in model.named_parameters() if ".b_" not in name}
    lost = sorted(wanted & {*report.missing_keys}) + list(report.unexpected_keys)
    if lost:
        raise RuntimeError(f"weights that do not match: {', '.join(lost[:5])}")
    opened.update(
        case=case, model=model.eval(), encoder=SAE.load_from_disk(str(place / "sae-lens"), device="cpu"),
        clocks={"forward": Clock(model)}, ids=torch.from_numpy(np.load(place / "ids.npy")[:rows]),
    )  # fmt: skip
    return {name: version(name) for name in ("sae-dashboard", "sae-lens", "transformer-lens", "torch")}


def run(features: int, only: int | None = None, save: str | None = None) -> dict[str, Any]:
    """One collection, of all features or of the first `only`."""
    return collected(opened["clocks"], lambda: collect(features, only), table, count, save)


def collect(together: int, only: int | None) -> Any:
    """What its page of features is made of."""
    from sae_dashboard.components_config import SequencesConfig
    from sae_dashboard.sae_vis_data import SaeVisConfig
    from sae_dashboard.sae_vis_runner import SaeVisRunner

    case, encoder = opened["case"], opened["encoder"]
    with tempfile.TemporaryDirectory() as folder:
        settings = SaeVisConfig(
            hook_point=encoder.cfg.metadata.hook_name, features=list(range(only or encoder.cfg.d_sae)),
            minibatch_size_features=together, minibatch_size_tokens=case["batch"], ignore_positions=[0],
            cache_dir=Path(folder),
        )  # fmt: skip
        sequences = settings.feature_centric_layout.seq_cfg
        assert isinstance(sequences, SequencesConfig)
        sequences.n_quantiles, sequences.quantile_group_size = 4, case["quarter"]
        sequences.top_acts_group_size, sequences.buffer = case["top"], (BUFFER, BUFFER)
        sequences.__post_init__()
        return SaeVisRunner(settings).run(encoder=encoder, model=opened["model"], tokens=opened["ids"])


def _groups(data: Any) -> Any:
    for feature, found in data.feature_data_dict.items():
        yield feature, found.sequence_data.seq_group_data


def count(data: Any) -> int:
    """Examples at whose token the feature is active; where it seldom is, its groups are filled with others."""
    return sum(
        each.feat_acts[BUFFER] > 0
        for _, groups in _groups(data)
        for group in groups
        for each in group.seq_data
    )


def table(data: Any) -> dict[str, Any]:
    """The strongest examples of every feature."""
    import numpy as np

    context = opened["ids"].shape[1]
    rows = [
        (feature, each.original_index * context + each.qualifying_token_index, each.feat_acts[BUFFER])
        for feature, groups in _groups(data)
        for each in groups[0].seq_data
        if each.feat_acts[BUFFER] > 0
    ]
    feature, place, value = zip(*rows, strict=True)
    return {"feature": np.array(feature), "place": np.array(place), "value": np.array(value, float)}


if __name__ == "__main__":
    serve({"open": open_case, "run": run})
