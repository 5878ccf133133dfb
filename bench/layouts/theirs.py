"""Runs in a library's own environment: `python theirs.py LIBRARY make|read FOLDER`.

`make` lets the library build its kinds of dictionary with random weights, save each into `FOLDER/theirs/CASE`, and
answer rows with it. `read` lets it load what lies in `FOLDER/ours/CASE`, and answer the same rows. Rows and answers are
safetensors files, arithmetic is in float64.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

D, F, K, LAYERS, ROWS = 16, 64, 6, 3, 48
Answer = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]
"""From what sites hold to what sites are given, by thoughtscope's names of them."""


def shake(module: torch.nn.Module) -> None:
    """Random weights everywhere: libraries begin with zeros in places."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator) * 0.3
            parameter.copy_(noise.abs() if name.endswith("threshold") else noise)


# --- SAELens ---------------------------------------------------------------------------------------------------------

ARCHITECTURES: dict[str, dict[str, Any]] = {
    "standard": {}, "gated": {}, "jumprelu": {}, "topk": {"k": K}, "abstopk": {"k": K}, "transcoder": {},
    "skip_transcoder": {}, "jumprelu_transcoder": {}, "jumprelu_skip_transcoder": {},
    "topk rescaled": {"k": K, "rescale_acts_by_decoder_norm": True},
    "standard layer_norm": {"normalize_activations": "layer_norm"},
    "jumprelu constant_norm_rescale": {"normalize_activations": "constant_norm_rescale"},
}  # fmt: skip
TRAINED: dict[str, dict[str, Any]] = {
    "batchtopk": {"k": float(K)},
    "matryoshka_batchtopk": {"k": float(K), "matryoshka_widths": [16, 64]},
    "topk": {"k": K},
    "gated": {},
    "jumprelu": {},
    "standard": {},
}
HOOKS = "blocks.1.hook_resid_post", "blocks.1.mlp.hook_in", "blocks.1.hook_mlp_out"


def sae_lens_make(folder: Path) -> dict[str, Answer]:
    from sae_lens.registry import get_sae_class, get_sae_training_class
    from sae_lens.saes.sae import SAEMetadata

    made: dict[str, Answer] = {}
    for name, settings in ARCHITECTURES.items():
        architecture = name.split()[0]
        transcoder = "transcoder" in architecture
        make, config = get_sae_class(architecture)
        metadata = {"hook_name": HOOKS[transcoder], "model_name": "tiny"}
        if transcoder:
            settings = settings | {"d_out": D, "apply_b_dec_to_input": False}
            metadata["hook_name_out"] = HOOKS[2]
        sae = make(config(d_in=D, d_sae=F, metadata=SAEMetadata(**metadata), **settings))
        shake(sae)
        sae.save_model(folder / name)
        made[name] = sae_lens_answer(sae)
    for architecture, settings in TRAINED.items():
        make, config = get_sae_training_class(architecture)
        sae = make(
            config(d_in=D, d_sae=F, metadata=SAEMetadata(hook_name=HOOKS[0], model_name="tiny"), **settings)
        )
        shake(sae)
        if "batch" in architecture:
            sae.topk_threshold.fill_(0.5)
        name = f"{architecture} trained"
        sae.save_inference_model(folder / name)
        made[name] = sae_lens_read(folder / name)
        if (
            "batch" in architecture
        ):  # a checkpoint from before the end of training, which is read as what it becomes
            sae.save_model(folder / f"{architecture} checkpoint")
            made[f"{architecture} checkpoint"] = made[name]
    return made


def sae_lens_read(folder: Path) -> Answer:
    from sae_lens import SAE

    return sae_lens_answer(SAE.load_from_disk(folder))


def sae_lens_answer(sae: Any) -> Answer:
    transcoder = "transcoder" in sae.cfg.architecture()
    read, written = ("mlp_in.1", "mlp_out.1") if transcoder else ("resid_post.1", "resid_post.1")
    sae = sae.to(dtype=torch.float64)
    return lambda x: {written: sae(x[read])}


# --- sparsify --------------------------------------------------------------------------------------------------------


def sparsify_make(folder: Path) -> dict[str, Answer]:
    from sparsify import SparseCoder, SparseCoderConfig

    made: dict[str, Answer] = {}
    for activation in ("topk", "groupmax"):
        for transcode, skip in ((False, False), (True, False), (True, True)):
            k = 8 if activation == "groupmax" else K
            config = SparseCoderConfig(
                activation=activation, k=k, num_latents=F, transcode=transcode, skip_connection=skip
            )
            coder = SparseCoder(D, config)
            shake(coder)
            name = f"{activation}{' transcoder' if transcode else ''}{' skip' if skip else ''}"
            coder.save_to_disk(folder / name / "layers.1.mlp")
            made[name] = sparsify_answer(coder)
    return made


def sparsify_read(folder: Path) -> Answer:
    from sparsify import SparseCoder

    (inside,) = [path for path in folder.iterdir() if path.is_dir()]
    return sparsify_answer(SparseCoder.load_from_disk(inside))


def sparsify_answer(coder: Any) -> Answer:
    coder = coder.double()
    read = "mlp_in.1" if coder.cfg.transcode else "mlp_raw.1"

    def answer(x: Mapping[str, Tensor]) -> dict[str, Tensor]:
        acts, index, _ = coder.encode(x[read])
        out = coder.decode(acts, index)
        return {"mlp_raw.1": out if coder.W_skip is None else out + x[read] @ coder.W_skip.mT}

    return answer


# --- clt-training ----------------------------------------------------------------------------------------------------

CROSS: dict[str, dict[str, Any]] = {
    "tied to the target": {"coalesce_topk": "concat", "post_encoder_scale": True},
    "tied to the target, normalised": {"coalesce_topk": "concat", "normalize_io": True},
    "a decoder each at the target": {"coalesce_topk": "per-layer"},
    "groupmax": {"coalesce_topk": "concat", "activation": "groupmax", "k": 8},
}


def clt_training_make(folder: Path) -> dict[str, Answer]:
    """Its way of sources with decoders of their own cannot run at this commit, so it is not here."""
    from sparsify import SparseCoder, SparseCoderConfig

    made: dict[str, Answer] = {}
    for name, settings in CROSS.items():
        for layer in range(LAYERS):
            config = SparseCoderConfig(**{"k": K} | settings, num_latents=F, transcode=True, skip_connection=True,
                                       n_targets=LAYERS - layer, n_sources=layer + 1)  # fmt: skip
            coder = SparseCoder(D, config)
            shake(coder)
            if config.normalize_io:
                coder.in_norm.fill_(3.0 + layer)
                coder.out_norm.fill_(5.0 - layer)
            coder.save_to_disk(folder / name / f"layers.{layer}.mlp")
        made[name] = clt_training_read(folder / name)
    return made


def clt_training_read(folder: Path) -> Answer:
    from sparsify import SparseCoder, sparse_coder
    from sparsify.runner import CrossLayerRunner
    from torch.nn.functional import embedding_bag

    # The sum that its kernel for GPUs takes.
    sparse_coder.decoder_impl = lambda index, acts, W: embedding_bag(
        index, W, per_sample_weights=acts, mode="sum"
    )
    names = [f"layers.{layer}.mlp" for layer in range(LAYERS)]
    coders = {name: SparseCoder.load_from_disk(folder / name).double() for name in names}

    def answer(x: Mapping[str, Tensor]) -> dict[str, Tensor]:
        runner, out = CrossLayerRunner(), {}
        for layer, name in enumerate(names):
            given = x[f"mlp_in.{layer}"]
            out[f"mlp_raw.{layer}"] = runner(given, torch.zeros_like(given), coders[name], name).sae_out
        return out

    return answer


# --- dictionary_learning ---------------------------------------------------------------------------------------------

CLASSES = ("AutoEncoder", "AutoEncoderNew", "GatedAutoEncoder", "AutoEncoderTopK", "BatchTopKSAE",
           "JumpReluAutoEncoder", "MatryoshkaBatchTopKSAE")  # fmt: skip


def dictionary_learning_make(folder: Path) -> dict[str, Answer]:
    from dictionary_learning import dictionary
    from dictionary_learning.trainers import batch_top_k, matryoshka_batch_top_k, top_k

    made: dict[str, Answer] = {}
    for name in CLASSES:
        arguments: dict[str, Any] = {"k": K} if "TopK" in name else {}
        if name.startswith("Matryoshka"):
            arguments["group_sizes"] = [16, 48]
        places = (dictionary, batch_top_k, matryoshka_batch_top_k, top_k)
        make = next(getattr(place, name) for place in places if hasattr(place, name))
        coder = make(D, F, **arguments)
        shake(coder)
        if "TopK" in name:
            coder.threshold.fill_(0.5)
        inside = folder / name
        inside.mkdir(parents=True)
        torch.save({key: value.cpu() for key, value in coder.state_dict().items()}, inside / "ae.pt")
        trainer = {"dict_class": name, "activation_dim": D, "dict_size": F, "k": K, "layer": 1, "lm_name": "tiny",
                   "submodule_name": "resid_post_layer_1"}  # fmt: skip
        (inside / "config.json").write_text(
            json.dumps({"trainer": trainer, "buffer": {"io": "out"}}, indent=4)
        )
        made[name] = dictionary_learning_answer(coder)
    return made


def dictionary_learning_read(folder: Path) -> Answer:
    from dictionary_learning.utils import load_dictionary

    return dictionary_learning_answer(load_dictionary(str(folder), "cpu")[0])


def dictionary_learning_answer(coder: Any) -> Answer:
    coder = coder.double()
    return lambda x: {"resid_post.1": coder(x["resid_post.1"])}


# --- crosslayer-coding -----------------------------------------------------------------------------------------------


def crosslayer_make(folder: Path) -> dict[str, Answer]:
    from clt.config import CLTConfig
    from clt.models.clt import CrossLayerTranscoder

    made: dict[str, Answer] = {}
    for tying in ("none", "per_source", "per_target"):
        for activation in ("relu", "jumprelu"):
            tied = tying != "none"
            config = CLTConfig(
                num_features=F, num_layers=LAYERS, d_model=D, model_name="tiny", activation_fn=activation,
                mlp_input_template="model.layers.{}.mlp.input", mlp_output_template="model.layers.{}.mlp.output",
                decoder_tying=tying, skip_connection=tied, enable_feature_offset=tied, enable_feature_scale=tied,
            )  # fmt: skip
            model = CrossLayerTranscoder(config, None, device=torch.device("cpu"))
            shake(model)
            name = f"{tying} {activation}"
            (folder / name).mkdir(parents=True)
            save_file(model.state_dict(), folder / name / "clt_checkpoint_latest.safetensors")
            config.to_json(str(folder / name / "cfg.json"))
            made[name] = crosslayer_answer(model)
    return made


def crosslayer_read(folder: Path) -> Answer:
    from clt.config import CLTConfig
    from clt.models.clt import CrossLayerTranscoder

    model = CrossLayerTranscoder(
        CLTConfig.from_json(str(folder / "cfg.json")), None, device=torch.device("cpu")
    )
    model.load_state_dict(load_file(folder / "clt_checkpoint_latest.safetensors"))
    return crosslayer_answer(model)


def crosslayer_answer(model: Any) -> Answer:
    model = model.double()
    for module in (model, model.encoder_module, model.decoder_module, model.theta_manager):
        module.dtype = torch.float64

    def answer(x: Mapping[str, Tensor]) -> dict[str, Tensor]:
        out = model({layer: x[f"mlp_in.{layer}"] for layer in range(LAYERS)})
        return {f"mlp_raw.{layer}": out[layer] for layer in range(LAYERS)}

    return answer


# --- both ways -------------------------------------------------------------------------------------------------------

LIBRARIES: dict[str, tuple[Callable[[Path], dict[str, Answer]], Callable[[Path], Answer]]] = {
    "sae-lens": (sae_lens_make, sae_lens_read),
    "sparsify": (sparsify_make, sparsify_read),
    "clt-training": (clt_training_make, clt_training_read),
    "dictionary-learning": (dictionary_learning_make, dictionary_learning_read),
    "crosslayer-coding": (crosslayer_make, crosslayer_read),
}


def main() -> None:
    library, verb, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    make, read = LIBRARIES[library]
    torch.manual_seed(0)
    rows = load_file(folder / "rows.safetensors")
    if verb == "make":
        answers = make(folder / "theirs")
    else:
        answers = {path.name: read(path) for path in sorted((folder / "ours").iterdir())}
    for name, answer in answers.items():
        with torch.no_grad():
            found = {site: y.contiguous() for site, y in answer(rows).items()}
        save_file(found, folder / f"{verb}, {name}.safetensors")


if __name__ == "__main__":
    main()
