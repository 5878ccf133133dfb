"""An independent way to the edges of an attribution graph: the model's own forward pass, differentiated by autograd.

Nothing here uses the facts that a family states. Queries and keys are detached where the module makes them, so that
patterns carry no gradient; each norm is turned into the linear map that it is at this input (`out / in`, detached);
what MLPs write is put in as the dictionary's features, bias, skip path and error, each behind a gate of 1 whose
derivative is the edge. Everything runs in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from copy import deepcopy
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor, nn

from thoughtscope.core.site import Site
from thoughtscope.dictionaries import Dictionary, Features, LayerWeights, layer_weights, transcoders
from thoughtscope.dictionaries.activation import Activation
from thoughtscope.models import Model, Tokens

VARIANTS = ("unfrozen norms", "unfrozen patterns", "no post-norm")
"Wrong oracles: a comparison that does not notice them is worth nothing."


@dataclass
class Modules:
    """Where a Hugging Face module keeps what the oracle has to touch."""

    blocks: list[nn.Module]
    final_norm: nn.Module
    unembed: nn.Module
    attn_norms: list[nn.Module]
    mlp_norms: list[nn.Module]
    post_norms: list[nn.Module]
    mlp_post_norms: list[nn.Module | None]
    mlps: list[nn.Module]


def find_modules(module: nn.Module) -> Modules:
    inner = (
        module.transformer
        if hasattr(module, "transformer")
        else getattr(module, "gpt_neox", None) or module.model
    )
    blocks = list(inner.h if hasattr(inner, "h") else inner.layers)
    after = hasattr(
        blocks[0], "post_feedforward_layernorm"
    )  # Gemma and OLMo 2 have norms after each sublayer
    before = hasattr(blocks[0], "ln_1") or hasattr(
        blocks[0], "input_layernorm"
    )  # all but OLMo 2 have them before
    attn_norm = "ln_1" if hasattr(blocks[0], "ln_1") else "input_layernorm"
    mlp_norm = (
        "ln_2"
        if attn_norm == "ln_1"
        else "pre_feedforward_layernorm"
        if after
        else "post_attention_layernorm"
    )
    final = next(
        getattr(inner, name) for name in ("ln_f", "final_layer_norm", "norm") if hasattr(inner, name)
    )
    return Modules(
        blocks=blocks,
        final_norm=final,
        unembed=getattr(module, "embed_out", None) or module.lm_head,
        attn_norms=[getattr(block, attn_norm) for block in blocks if before],
        mlp_norms=[getattr(block, mlp_norm) for block in blocks if before],
        post_norms=[
            n for b in blocks if after for n in (b.post_attention_layernorm, b.post_feedforward_layernorm)
        ],
        mlp_post_norms=[block.post_feedforward_layernorm if after else None for block in blocks],
        mlps=[block.mlp for block in blocks],
    )


def edges_by_autograd(
    model: Model,
    dictionary: Dictionary,
    features: Features,
    tokens: Tokens,
    logits: list[tuple[int, Tensor]],
    *,
    reads: Sequence[tuple[Mapping[str, Tensor], float, int]] = (),
    note: Callable[[nn.Module, dict[str, Tensor]], AbstractContextManager[None]] | None = None,
    wrong: str | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Edges (features, then logits, then reads, by features, errors and tokens) and each target's value.

    `logits` are (position, vector over the vocabulary) pairs; `reads` are vectors by site with a bias and a position,
    of sites that `note(module, seen)` keeps as (pos, width).
    """
    module = deepcopy(model.module).double()
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    parts = find_modules(module)
    n_active, n_layers, n_pos = len(features), len(dictionary.parts), tokens.ids.shape[1]
    gates = torch.ones(n_active + (n_layers + 1) * n_pos, dtype=torch.float64, requires_grad=True)
    seen: dict[str, Tensor] = {}
    noting = nullcontext() if note is None else note(module, seen)
    with frozen(module, parts, wrong), replaced(parts, dictionary, features, gates, seen, wrong), noting:
        out = module(input_ids=tokens.ids, use_cache=False)
    assert out.logits is not None
    targets = []
    for number in range(n_active):
        layer, position, index = (int(t[number]) for t in (features.part, features.position, features.index))
        weights = layer_weights(dictionary)[layer]
        row = weights.W_enc[index].double()
        targets.append(row @ seen[f"read.{layer}"][position] + weights.b_enc[index].double())
    final = seen["final"]
    bias = parts.unembed.bias
    for position, over_vocab in logits:
        scores = parts.unembed.weight @ final[position] + (0 if bias is None else bias)
        targets.append(over_vocab.double() @ scores)
    for vectors, constant, position in reads:
        targets.append(constant + sum(w.double() @ seen[site][position] for site, w in vectors.items()))
    values = torch.stack(targets)
    (edges,) = torch.autograd.grad(
        values, gates, torch.eye(len(values), dtype=values.dtype), is_grads_batched=True
    )
    return edges.numpy(), values.detach().numpy()


@contextmanager
def frozen(module: nn.Module, parts: Modules, wrong: str | None) -> Iterator[None]:
    """Norms become the linear maps that they are at this input; queries and keys carry no gradient."""
    handles = []
    norms = [*parts.attn_norms, *parts.mlp_norms, *parts.post_norms, parts.final_norm]
    if wrong != "unfrozen norms":
        handles += [norm.register_forward_hook(_freeze_norm) for norm in norms]
    if wrong != "unfrozen patterns":
        for name, part in module.named_modules():
            last = name.rsplit(".", 1)[-1]
            if last in ("q_proj", "k_proj"):
                handles.append(part.register_forward_hook(lambda m, args, out: out.detach()))
            elif last == "c_attn":
                handles.append(part.register_forward_hook(_detach_gpt2))
            elif last == "query_key_value":
                heads = module.config.num_attention_heads
                handles.append(
                    part.register_forward_hook(lambda m, a, out, heads=heads: _detach_neox(out, heads))
                )
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _freeze_norm(norm: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> Tensor:
    (x,) = args
    bias = getattr(norm, "bias", None)
    if isinstance(norm, nn.LayerNorm):
        x = x - x.mean(-1, keepdim=True)
    bias = 0 if bias is None else bias
    return x * ((out - bias) / x).detach() + bias


def _detach_gpt2(module: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> Tensor:
    query, key, value = out.chunk(3, dim=-1)
    return torch.cat([query.detach(), key.detach(), value], dim=-1)


def _detach_neox(out: Tensor, heads: int) -> Tensor:
    by_head = out.view(*out.shape[:-1], heads, -1)
    query, key, value = by_head.chunk(3, dim=-1)
    return torch.cat([query.detach(), key.detach(), value], dim=-1).reshape(out.shape)


@contextmanager
def replaced(
    parts: Modules,
    dictionary: Dictionary,
    features: Features,
    gates: Tensor,
    seen: dict[str, Tensor],
    wrong: str | None,
) -> Iterator[None]:
    """MLPs write what the dictionary says, each part behind its gate; read sites and the final norm are noted."""
    n_active, n_layers, n_pos = len(features), len(dictionary.parts), features.n_positions
    handles = []

    def note(key: str, x: Tensor) -> None:
        seen[key] = x[0]

    def embed(module, args, kwargs):  # type: ignore[no-untyped-def]
        gate = gates[n_active + n_layers * n_pos :]
        if args:
            return (args[0] * gate[None, :, None], *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": kwargs["hidden_states"] * gate[None, :, None]}

    handles.append(parts.blocks[0].register_forward_pre_hook(embed, with_kwargs=True))
    for layer in range(n_layers):
        handles.append(_note_read(parts, dictionary.reads[layer], f"read.{layer}", note))

        def write(module, args, out, layer=layer):  # type: ignore[no-untyped-def]
            return _written(dictionary, features, gates, seen, layer)[None]

        post = parts.mlp_post_norms[layer]
        inside = dictionary.writes[layer].kind == "mlp_raw" and not (
            wrong == "no post-norm" and post is not None
        )
        # Registered after the freezing hook, so for a post-norm this replaces its output.
        handles.append((parts.mlps[layer] if inside or post is None else post).register_forward_hook(write))
    handles.append(parts.final_norm.register_forward_hook(lambda m, args, out: note("final", out)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _note_read(parts: Modules, site: Site, key: str, note):  # type: ignore[no-untyped-def]
    layer = site.layer or 0
    if site.kind == "resid_pre":
        return parts.blocks[layer].register_forward_pre_hook(lambda m, args: note(key, args[0]))
    if site.kind == "resid_mid":
        return parts.mlp_norms[layer].register_forward_pre_hook(lambda m, args: note(key, args[0]))
    if site.kind == "mlp_in" and not parts.mlp_norms:
        return parts.mlps[layer].register_forward_pre_hook(lambda m, args: note(key, args[0]))
    norm = (parts.mlp_norms if site.kind.startswith("mlp") else parts.attn_norms)[layer]
    if site.kind.endswith("_in"):
        return norm.register_forward_hook(lambda m, args, out: note(key, out))

    def normalised(module, args, out):  # type: ignore[no-untyped-def]
        (x,) = args
        eps = getattr(module, "eps", None) or module.variance_epsilon
        x = x - x.mean(-1, keepdim=True) if isinstance(module, nn.LayerNorm) else x
        note(key, x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt().detach())

    return norm.register_forward_hook(normalised)


def _written(
    dictionary: Dictionary, features: Features, gates: Tensor, seen: dict[str, Tensor], layer: int
) -> Tensor:
    """Features, bias, skip path and error of one layer, as the dictionary's definition says."""
    n_active, n_pos = len(features), features.n_positions
    layers, missed = layer_weights(dictionary), features.error[dictionary.writes[layer]]
    weights = layers[layer]
    rows = []
    error_gate = gates[n_active + layer * n_pos : n_active + (layer + 1) * n_pos]
    for position in range(n_pos):
        total = weights.b_dec.double() + error_gate[position] * missed[position].double()
        if weights.W_skip is not None:
            total = total + weights.W_skip.double() @ seen[f"read.{layer}"][position]
        for number in (features.position == position).nonzero()[:, 0].tolist():
            source = int(features.part[number])
            target = layer - source
            decoder = layers[source].decoder
            if 0 <= target < decoder.shape[1]:
                row = decoder[int(features.index[number]), target].double()
                total = total + gates[number] * features.value[number].double() * row
        rows.append(total)
    return torch.stack(rows)


def random_dictionary(
    model: Model,
    *,
    n_features: int = 20,
    cross_layer: bool = False,
    skip: bool = False,
    read: str = "mlp_in",
    write: str = "mlp_out",
    activation: str = "topk",
    seed: int = 0,
) -> Dictionary:
    """A dictionary of random weights and biases; a few features are active at each position.

    On a family without a norm there, one that would read `mlp_norm` reads `mlp_in`.
    """
    read = "mlp_in" if read in model.family.missing else read
    generator = torch.Generator().manual_seed(seed)
    d, n_layers = model.d_model, model.n_layers

    def draw(*shape: int, size: float) -> Tensor:
        return torch.randn(*shape, generator=generator) * size

    layers = tuple(
        LayerWeights(
            W_enc=draw(n_features, d, size=d**-0.5),
            b_enc=draw(n_features, size=0.2),
            decoder=draw(n_features, n_layers - layer if cross_layer else 1, d, size=d**-0.5),
            b_dec=draw(d, size=0.3),
            threshold=draw(n_features, size=0.3).abs() if activation == "jumprelu" else None,
            W_skip=draw(d, d, size=0.5 * d**-0.5) if skip else None,
        )
        for layer in range(n_layers)
    )
    return transcoders(
        name="random",
        scan="random/dictionary",
        model_name=model.name,
        read=read,
        write=write,
        activation=Activation(kind=activation, k=3 if activation == "topk" else None),
        layers=layers,
    )


def relayered(dictionary: Dictionary, layers: Sequence[LayerWeights], **sites: str) -> Dictionary:
    """The same transcoders with other weights, or at other sites (`read`, `write`)."""
    first = dictionary.parts[0]
    same = {"read": first.reads[0].kind, "write": first.writes[0].kind} | sites
    about = {name: getattr(dictionary, name) for name in ("name", "scan", "model_name", "skip_first", "card")}
    return transcoders(**about, **same, activation=first.activation, layers=layers)


def activations_at(dictionary: Dictionary, layer: int, x: Tensor) -> Tensor:
    """The features of a layer's transcoder for what it reads."""
    part = dictionary.parts[layer]
    return part.activations({part.reads[0]: x})


def same_parts(one: Dictionary, two: Dictionary) -> bool:
    """Whether two dictionaries have the same parts, to the bit and with the same number types."""

    def tensors(dictionary: Dictionary) -> dict[str, Tensor]:
        found = {}
        for part in dictionary.parts:
            for field in fields(part):
                value = getattr(part, field.name)
                named = value.items() if isinstance(value, Mapping) else [("", value)]
                found |= {f"{part.name} {field.name} {site}": x for site, x in named if isinstance(x, Tensor)}
        return found

    a, b = tensors(one), tensors(two)
    activations = [[part.activation for part in each.parts] for each in (one, two)]
    equal = (a[name].dtype == b[name].dtype and torch.equal(a[name], b[name]) for name in a if name in b)
    return list(a) == list(b) and all(equal) and activations[0] == activations[1]
