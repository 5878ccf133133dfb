"""One layer of a sparse dictionary under autograd: the cost grows with the active features, not with all of them.

The forward product is `embedding_bag` over the pairs (token, feature) sorted by token. Both weight gradients are the
same operation over the pairs sorted by feature: row f of dW_dec is Σ value · g over the tokens at which f is active.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import embedding_bag


class SparseLayer(torch.autograd.Function):
    """`y = Σ_active a_f · W_dec[f]` with `a_f = W_enc[f] · x + b_enc[f]` known at the active pairs.

    Arguments: x (pos d_in); W_enc (feature d_in); b_enc (feature); W_dec (feature d_out); then the pairs, sorted by
    token: token (active), feature (active), value (active). Gradients flow to the three weights, not to x.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Float[Tensor, "pos d_in"],
        W_enc: Float[Tensor, "feature d_in"],
        b_enc: Float[Tensor, " feature"],
        W_dec: Float[Tensor, "feature d_out"],
        token: Int[Tensor, " active"],
        feature: Int[Tensor, " active"],
        value: Float[Tensor, " active"],
    ) -> Float[Tensor, "pos d_out"]:
        ctx.save_for_backward(x, W_dec, token, feature, value)
        if not len(value):
            return x.new_zeros(x.shape[0], W_dec.shape[1])
        return embedding_bag(
            feature,
            W_dec,
            _offsets(token, x.shape[0]),
            mode="sum",
            per_sample_weights=value,
            include_last_offset=True,
        )

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, W_dec, token, feature, value = ctx.saved_tensors
        n_features = W_dec.shape[0]
        if not len(value):
            zero = x.new_zeros(n_features, x.shape[1])
            return None, zero, zero[:, 0].clone(), torch.zeros_like(W_dec), None, None, None
        grad = grad.contiguous()
        # d loss / d value of each pair: the dot product of its token's gradient with its feature's decoder.
        grad_value = torch.ops.aten._embedding_bag_per_sample_weights_backward(
            grad, W_dec, feature, _offsets(token, x.shape[0]), token, 0, -1
        )
        order = torch.argsort(feature.int())
        rows, offsets = token[order], _offsets(feature[order], n_features)

        def gather(matrix: Tensor, weights: Tensor) -> Tensor:
            return embedding_bag(
                rows, matrix, offsets, mode="sum", per_sample_weights=weights[order], include_last_offset=True
            )

        grad_bias = torch.zeros(n_features, dtype=x.dtype).index_add_(0, feature, grad_value)
        return None, gather(x, grad_value), grad_bias, gather(grad, value), None, None, None


def _offsets(sorted_index: Int[Tensor, " active"], n: int) -> Int[Tensor, " _"]:
    """Where each of 0..n-1 starts in a sorted list; the last entry is the list's length."""
    counts = torch.bincount(sorted_index, minlength=n)
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)])
