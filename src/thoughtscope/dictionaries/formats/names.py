"""What other tools call the sites of a model, and the parts of a dictionary after their sites.

Three ways of naming: hooks (`blocks.3.hook_mlp_out`), modules (`model.layers.3.mlp`, with an input and an output), and
the words that training scripts give (`resid_post_layer_3`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from thoughtscope.core.errors import CorruptArtefact, DictionaryMismatch, UnknownSite
from thoughtscope.core.site import Site, hook_of_site_kind

_HOOK_ALIASES = {"hook_mlp_in": "resid_mid"}
"""TransformerLens' copy of the residual stream in front of the MLP's norm."""
_BLOCK = re.compile(r"(?:[\w.]*\.)?(?:layers|h|blocks)\.(\d+)(?:\.(.+))?")
_MODULES = {
    # of a block: what its input is, what its output is
    None: ("resid_pre", "resid_post"),
    "mlp": ("mlp_in", "mlp_raw"),
    "feed_forward": ("mlp_in", "mlp_raw"),
    "self_attn": ("attn_in", "attn_raw"),
    "attention": ("attn_in", "attn_raw"),
    "attn": ("attn_in", "attn_raw"),
    "post_feedforward_layernorm": ("mlp_raw", "mlp_out"),
    "pre_feedforward_layernorm": ("resid_mid", "mlp_in"),
    "ln_2": ("resid_mid", "mlp_in"),
    "ln_1": ("resid_pre", "attn_in"),
    "mlp.down_proj": ("mlp_act", "mlp_raw"),
    "mlp.c_proj": ("mlp_act", "mlp_raw"),
    "mlp.dense_4h_to_h": ("mlp_act", "mlp_raw"),
    "self_attn.o_proj": ("z", "attn_raw"),
    "attn.c_proj": ("z", "attn_raw"),
    "attention.dense": ("z", "attn_raw"),
}
_EMBEDDINGS = ("embed_tokens", "wte", "embed_in")
_WORDS = {
    "resid_post": "resid_post", "resid": "resid_post", "residual": "resid_post", "resid_pre": "resid_pre",
    "resid_mid": "resid_mid", "mlp_in": "mlp_in", "mlp_out": "mlp_out", "mlp": "mlp_out", "attn_out": "attn_out",
    "attn": "attn_out", "attention_out": "attn_out", "attention": "attn_out", "mlp_act": "mlp_act",
}  # fmt: skip
_WRITTEN_AS = {"mlp_out": "mlp_raw", "attn_out": "attn_raw"}
"""Equal but in families with a norm behind the module, where the module's output is the raw one."""


def site_of_hook(hook: object, path: Path) -> Site:
    """The site of a TransformerLens name, or at the output of a module. Raises `CorruptArtefact` naming the file."""
    if not isinstance(hook, str):
        raise CorruptArtefact(
            f"{path} names no hook: {hook!r:.60}. Write for example blocks.3.hook_resid_post."
        )
    match = re.fullmatch(r"blocks\.(\d+)\.(\w+)", hook)
    if match and match[2] in _HOOK_ALIASES:
        return Site(_HOOK_ALIASES[match[2]], int(match[1]))
    module = _BLOCK.fullmatch(hook)
    if module and module[2] in _MODULES:  # what Hugging Face calls it: the module's output
        return site_of_module(hook, output=True, path=path)
    try:
        return Site.parse(hook)
    except UnknownSite as error:
        raise CorruptArtefact(f"{path}: {error}") from None


def hook_of_site(site: Site) -> str:
    """The TransformerLens name of a site. Raises `DictionaryMismatch` where it has none."""
    if site == Site("embed"):
        return "hook_embed"
    try:
        return f"blocks.{site.layer}.{hook_of_site_kind(site.kind)}"
    except UnknownSite as error:
        raise DictionaryMismatch(f"TransformerLens has no name for {site}: {error}") from None


def site_of_module(name: str, *, output: bool, path: Path) -> Site:
    """The site at the input or the output of a module, by its path in the model. Raises `CorruptArtefact`."""
    match = _BLOCK.fullmatch(name)
    if match and match[2] in _MODULES:
        return Site(_MODULES[match[2]][output], int(match[1]))
    if name.rpartition(".")[2] in _EMBEDDINGS and output:
        return Site("embed")
    known = ", ".join("layers.N" + (f".{part}" if part else "") for part in _MODULES)
    raise CorruptArtefact(
        f'{path} belongs to the module "{name:.80}", which names no known site. Known: {known}.'
    )


def module_of_site(site: Site, *, output: bool) -> str:
    """A module at whose input or output a site is, as Llama-like models name it. Raises `DictionaryMismatch`."""
    kind = _WRITTEN_AS.get(site.kind, site.kind)
    for part, kinds in _MODULES.items():
        if kinds[output] == kind:
            return f"layers.{site.layer}" + (f".{part}" if part else "")
    if site == Site("embed") and output:
        return "embed_tokens"
    raise DictionaryMismatch(f"No module has {site} as its {'output' if output else 'input'}.")


def site_of_words(words: object, layer: object, path: Path) -> Site:
    """The site that a training script's name for a submodule means, as `resid_post_layer_3`. Raises `CorruptArtefact`.

    The layer may stand in the name or beside it; the two must agree.
    """
    fix = 'Write for example "submodule_name": "resid_post_layer_3" and "layer": 3.'
    match = re.fullmatch(r"([a-z_]+?)(?:_?layer)?_?(\d+)?", words) if isinstance(words, str) else None
    if match is None or match[1] not in _WORDS:
        raise CorruptArtefact(f"{path}: submodule_name {words!r:.60} names no known site. {fix}")
    found = {int(str(number)) for number in (match[2], layer) if re.fullmatch(r"\d{1,4}", str(number))}
    if len(found) != 1:
        raise CorruptArtefact(
            f"{path}: submodule_name {words!r:.60} and layer {layer!r:.20} name no one layer. {fix}"
        )
    return Site(_WORDS[match[1]], found.pop())


def words_of_site(site: Site) -> str:
    """The inverse of `site_of_words`. Raises `DictionaryMismatch`."""
    kind = {"mlp_raw": "mlp_out", "attn_raw": "attn_out"}.get(site.kind, site.kind)
    if kind not in _WORDS:
        raise DictionaryMismatch(f"There is no common name for a submodule at {site}.")
    return f"{kind}_layer_{site.layer}"


def part_names(sites: Sequence[tuple[Site, Site]]) -> list[str]:
    """Names for parts by what they read and write: the site for an autoencoder, the layer's number for a transcoder,
    and a number behind it where that is not unique."""
    plain = [str(read) if read == write else str(read.layer or 0) for read, write in sites]
    often, seen = Counter(plain), Counter[str]()
    names = []
    for name in plain:
        seen[name] += 1
        names.append(name if often[name] == 1 else f"{name}#{seen[name]}")
    return names


def in_order(names: Iterable[str]) -> list[str]:
    """Names sorted as people count: `layers.2` before `layers.10`."""
    return sorted(
        names, key=lambda name: [(not each.isdigit(), each.zfill(12)) for each in re.split(r"(\d+)", name)]
    )
