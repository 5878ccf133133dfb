"""Layouts of dictionaries on disk, ours and published ones. Each loads and saves; loading and saving again gives the
same tensors under the same keys, bit for bit.

    native                ours: one artefact (manifest with hashes, one file per layer's encoder and decoder)
    circuit-tracer        `config.yaml` with `layer_{i}.safetensors`, or `W_enc_{i}` and `W_dec_{i}.safetensors`
    crosslayer-coding     `cfg.json` with `clt_checkpoint_latest.safetensors`, and `norm_stats.json` where it is needed
    dictionary-learning   `config.json` with `ae.pt`
    gemma-scope           one folder per layer with `params.npz`
    gemma-scope-2         one folder per layer with `config.json` and `params.safetensors`
    llama-scope           `hyperparams.json` with `checkpoints/final.safetensors`, and what came after
    openai                `LOCATION/autoencoders/LAYER.pt`
    sae-lens              `cfg.json` with `sae_weights.safetensors`
    sparsify              one folder per module with `cfg.json` and `sae.safetensors`; clt-training's too
"""

from thoughtscope.dictionaries.formats import (  # noqa: F401
    circuit_tracer,
    crosslayer_coding,
    dictionary_learning,
    gemma_scope,
    llama_scope,
    native,
    openai,
    sae_lens,
    sparsify,
)
from thoughtscope.dictionaries.formats.base import FORMATS as FORMATS
from thoughtscope.dictionaries.formats.base import Format as Format
from thoughtscope.dictionaries.formats.base import detect as detect
