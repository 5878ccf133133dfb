"""Layouts of dictionaries on disk, ours and published ones. Each loads and saves; loading and saving again gives the
same tensors under the same keys, bit for bit.

    native                ours: one artefact (manifest with hashes, one file per layer's encoder and decoder)
    circuit-tracer        `config.yaml` with `layer_{i}.safetensors`, or `W_enc_{i}` and `W_dec_{i}.safetensors`
    gemma-scope           one folder per layer with `params.npz`
    gemma-scope-2         one folder per layer with `config.json` and `params.safetensors`
"""

from thoughtscope.dictionaries.formats import circuit_tracer, gemma_scope, native  # noqa: F401
from thoughtscope.dictionaries.formats.base import FORMATS as FORMATS
from thoughtscope.dictionaries.formats.base import Format as Format
from thoughtscope.dictionaries.formats.base import detect as detect
