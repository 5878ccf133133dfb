"""Attention patterns and scores, read and written through a registered attention function.

The module keeps the attention implementation that it was loaded with. While a pattern or a score is wanted, its
configuration points to a function registered here, which calls that same implementation with the same arguments and
returns its output: reading changes no bit of any logit, whatever the implementation. Under eager attention the pattern
is the one that the module's own function returns; under sdpa, which returns none, it is the softmax of the scores of
the same queries, keys and mask. Only a write replaces the output, row by row where the written pattern differs, by
`pattern @ values`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, AttentionInterface

from thoughtscope.core.errors import UnsupportedModel, describe_choices

_PREFIX = "thoughtscope:"
_READABLE = ("eager", "sdpa")


@dataclass(frozen=True, kw_only=True)
class Tap:
    """What is wanted of one attention module. Each function takes the tensor; a write returns its replacement."""

    write_scores: Callable[[Tensor], Tensor] | None = None
    read_scores: Callable[[Tensor], None] | None = None
    write_pattern: Callable[[Tensor], Tensor] | None = None
    read_pattern: Callable[[Tensor], None] | None = None


def wanted_implementation(config: Any) -> str | None:
    """`"eager"` for a model whose attention scores are capped; None, the library's default, for any other.

    Older versions of transformers choose sdpa for Gemma 2, which leaves the cap out and says nothing.
    """
    return "eager" if getattr(config, "attn_logit_softcapping", None) else None


_TAPS: WeakKeyDictionary[nn.Module, list[Tap]] = WeakKeyDictionary()


@contextmanager
def tapped(config: Any, taps: Mapping[nn.Module, Tap]) -> Iterator[None]:
    """Routes the attention of the modules that share `config` through their taps, and restores it on exit.

    Raises `UnsupportedModel` when the model runs an implementation whose mask cannot be read (flash, flex).
    """
    if not taps:
        yield
        return
    before = config._attn_implementation
    original = before.removeprefix(_PREFIX)
    if original not in _READABLE:
        raise UnsupportedModel(
            describe_choices(original, _READABLE, what="readable attention implementation")
            + ' Load the model with attn_implementation="sdpa".'
        )
    _register(original)
    for module, tap in taps.items():
        _TAPS.setdefault(module, []).append(tap)
    try:
        config._attn_implementation = _PREFIX + original
        yield
    finally:
        config._attn_implementation = before
        for module, tap in taps.items():
            remaining = [other for other in _TAPS[module] if other is not tap]
            if remaining:
                _TAPS[module] = remaining
            else:
                del _TAPS[module]


def _register(original: str) -> None:
    name = _PREFIX + original
    if name in ALL_ATTENTION_FUNCTIONS:
        return

    def attend(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **kwargs: Any
    ) -> Any:
        return _attend(original, module, query, key, value, mask, **kwargs)

    AttentionMaskInterface.register(name, ALL_MASK_ATTENTION_FUNCTIONS[original])
    AttentionInterface.register(name, attend)


def _attend(
    original: str,
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """The original attention, with the module's taps applied.

    `query` (batch, head, query, d_head) and `key`, `value` (batch, kv_head, key, d_head) come after QK-norm and
    rotation, keys and values with those of the cache before them. The output is (batch, query, head, d_head).
    """
    output, pattern = _original(original, module)(module, query, key, value, mask, **kwargs)
    taps = _TAPS.get(module)
    if not taps:
        return output, pattern
    # S = cap(Q Kᵀ * scaling) + mask and P = softmax(S), both (batch, head, query, key), for the taps alone: what the
    # implementation returned flows on.
    scores = _scores(query, key, _additive(mask, query, key), **kwargs)
    pattern = _softmax(scores) if pattern is None else pattern
    written = pattern
    # First the scores, whose softmax is the pattern that the pattern's own writes then see.
    for tap in taps:
        if tap.write_scores is not None:
            before, scores = scores, tap.write_scores(scores)
            written = _where_changed(before, scores, written, _softmax(scores))
        if tap.read_scores is not None:
            tap.read_scores(scores)
    for tap in taps:
        written = written if tap.write_pattern is None else tap.write_pattern(written).to(pattern.dtype)
        if tap.read_pattern is not None:
            tap.read_pattern(written)
    if written is not pattern:
        fresh = written @ _repeat(value, query)  # z = P V: (batch, head, query, d_head)
        output = _where_changed(pattern, written, output.transpose(1, 2), fresh).transpose(1, 2).contiguous()
    return output, written


def _where_changed(before: Tensor, after: Tensor, kept: Tensor, fresh: Tensor) -> Tensor:
    """`fresh` in the rows where `after` differs from `before`; the others keep the implementation's own bits.

    Not under autograd: a frozen pattern with equal values must still cut the gradient through the softmax.
    """
    if torch.is_grad_enabled():
        return fresh
    return torch.where((after != before).any(-1, keepdim=True), fresh, kept)


def _original(implementation: str, module: nn.Module) -> Callable[..., Any]:
    """The function that the module itself would call under this implementation."""
    if implementation != "eager":
        return ALL_ATTENTION_FUNCTIONS[implementation]
    if getattr(module, "reorder_and_upcast_attn", False):
        upcast: Any = module._upcast_and_reordered_attn
        return lambda _, query, key, value, mask, **kwargs: upcast(query, key, value, mask)
    return sys.modules[type(module).__module__].eager_attention_forward


def _scores(
    query: Tensor,
    key: Tensor,
    mask: Tensor,
    scaling: float | None = None,
    softcap: float | None = None,
    **_: Any,
) -> Float[Tensor, "batch head query key"]:
    """Scores after scaling, soft cap and additive mask: what the softmax is taken of."""
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    scores = query @ _repeat(key, query).transpose(2, 3) * scaling
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    return scores + mask


def _softmax(scores: Tensor) -> Tensor:
    """Over the keys, in float32 or better, in the dtype of the scores."""
    wide = scores.float() if scores.dtype in (torch.float16, torch.bfloat16) else scores
    return wide.softmax(-1).to(scores.dtype)


def _repeat(kv: Tensor, query: Tensor) -> Tensor:
    """Key or value heads repeated over their query groups."""
    group = query.shape[1] // kv.shape[1]
    return kv if group == 1 else kv.repeat_interleave(group, dim=1)


def _additive(mask: Tensor | None, query: Tensor, key: Tensor) -> Tensor:
    """The mask as eager attention takes it: 0 where a key is visible, the dtype's lowest value elsewhere.

    `None` means plainly causal: query rows are the last rows of the key axis.
    """
    if mask is not None and mask.dtype != torch.bool:
        return mask
    if mask is None:
        rows, columns = query.shape[2], key.shape[2]
        mask = torch.ones(rows, columns, dtype=torch.bool, device=query.device).tril(columns - rows)[
            None, None
        ]
    zero = torch.zeros((), dtype=query.dtype, device=query.device)
    return torch.where(mask, zero, torch.finfo(query.dtype).min)
