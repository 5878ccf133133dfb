"""`hooked` and `forward`: the one primitive beneath capture, edits and interventions.

A write takes a site's tensor and returns its replacement; a read sees what flows on, after the writes of its own and
of enclosing contexts. A write that hands an element back unchanged leaves the model's own bits there, so an empty plan
changes no logit. Under autograd that shortcut is off: a frozen value must cut the gradient even where it is equal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from thoughtscope.core.errors import ThoughtscopeError, UnknownSite
from thoughtscope.core.site import Site
from thoughtscope.models.attention import Tap, tapped
from thoughtscope.models.families.facts import BlockFacts, HeadProjection, NormFacts
from thoughtscope.models.model import Model
from thoughtscope.models.tokens import Tokens, positions_of


@dataclass(frozen=True, kw_only=True)
class Step:
    """Which columns of the sequence one forward pass computes."""

    positions: Int[Tensor, "batch pos"]
    "Absolute position of each column; -1 for padding."
    start: int = 0
    "Column of the first one: 0 in a prefill, the cache's length in a decode step."


Read = Callable[[Tensor, Step], None]
Write = Callable[[Tensor, Step], Tensor]


def reading(found: dict[Site, Tensor], site: Site) -> Read:
    """A read that keeps what `site` holds in `found`."""

    def read(x: Tensor, step: Step) -> None:
        found[site] = x

    return read


def in_turn(*writes: Write) -> Write:
    """Several writes as one, each acting on the result of those before it."""

    def write(x: Tensor, step: Step) -> Tensor:
        for each in writes:
            x = each(x, step)
        return x

    return write


class _Stopped(Exception):
    """Raised inside the module to end a forward pass after the last wanted layer."""


@contextmanager
def hooked(
    model: Model,
    *,
    reads: Mapping[Site, Read] | None = None,
    writes: Mapping[Site, Write] | None = None,
    norm_scales: Mapping[Site, Tensor] | None = None,
) -> Iterator[None]:
    """While open, every forward pass of the module calls the reads and applies the writes.

    `norm_scales` maps the site that a norm makes to a frozen scale (batch, pos, 1): `attn_norm`, `mlp_norm` and
    `final_norm` for the usual norms, `attn_out` and `mlp_out` for Gemma's post-norms. Columns beyond the frozen ones
    use their own scale. Works in any forward of the module, cached or not, also inside transformers' `generate`.
    Every hook is removed on exit, whatever happens; contexts nest, and other threads wait.
    Raises `UnknownSite` for a site that the model lacks.
    """
    hooks = _Hooks(model, reads or {}, writes or {}, norm_scales or {})
    with model.lock, ExitStack() as stack:
        hooks.attach(stack)
        yield


def forward(
    model: Model,
    tokens: Tokens,
    *,
    reads: Mapping[Site, Read] | None = None,
    writes: Mapping[Site, Write] | None = None,
    norm_scales: Mapping[Site, Tensor] | None = None,
    last_layer: int | None = None,
) -> Float[Tensor, "batch pos vocab"] | None:
    """One forward pass over a prompt; the logits, or None when stopped after block `last_layer`.

    Gradients follow the caller's grad mode. Raises `UnknownSite` for a site that the model lacks.
    """
    with hooked(model, reads=reads, writes=writes, norm_scales=norm_scales):
        return run(model, tokens.ids, tokens.mask, last_layer=last_layer)


def run(
    model: Model,
    ids: Int[Tensor, "batch pos"],
    mask: Tensor,
    *,
    cache: Any = None,
    last_layer: int | None = None,
) -> Float[Tensor, "batch pos vocab"] | None:
    """Calls the module on `ids`, the newest columns of a sequence whose padding mask is `mask` (batch, all columns).

    Position ids are always explicit: with left padding a module's own default would be wrong. Whether a prompt alone
    fills a cache is left to the module, whose bits can depend on it (cached keys are laid out anew).
    Raises `ThoughtscopeError` where the library itself would return NaN.
    """
    positions = positions_of(mask)[:, -ids.shape[1] :]
    if (
        model.dtype == torch.float64
        and model.family.config._attn_implementation == "eager"
        and not bool(mask.all())
    ):
        raise ThoughtscopeError(
            "Padding in float64 under eager attention gives NaN: the library's mask overflows in its float32 softmax. "
            "Give prompts of equal length, or one at a time, or load the model in float32."
        )
    with model.lock, ExitStack() as stack:
        if last_layer is not None:
            block = model.family.blocks[last_layer].module
            stack.callback(block.register_forward_hook(_stop).remove)
        try:
            output = model.module(
                input_ids=ids.to(model.device),
                attention_mask=mask.to(model.device),
                position_ids=positions.clamp(min=0).to(model.device),
                **({} if cache is None else {"past_key_values": cache, "use_cache": True}),
            )
        except _Stopped:
            return None
    return output.logits


def hold(value: Tensor) -> Write:
    """A write that keeps a captured value, for the columns that it covers; later columns stay as they are.

    For sites (batch, pos, ...). Patterns and scores: see `hold_pattern`.
    """

    def write(x: Tensor, step: Step) -> Tensor:
        return _cover(x, value.to(x.device, x.dtype), step, axis=1)

    return write


def hold_pattern(value: Float[Tensor, "batch head query key"]) -> Write:
    """A write that keeps captured attention patterns (or scores) for the query rows that they cover.

    Rows keep their captured weights on the captured keys; keys that came later get nothing, as causality demands.
    """

    def write(x: Tensor, step: Step) -> Tensor:
        extra = x.shape[-1] - value.shape[-1]
        if step.start >= value.shape[2] or extra < 0:
            return x
        frozen = nn.functional.pad(value.to(x.device, x.dtype), (0, extra))
        return _cover(x, frozen, step, axis=2)

    return write


def _cover(x: Tensor, value: Tensor, step: Step, *, axis: int) -> Tensor:
    """`x` with the columns that `value` covers along `axis` replaced; `value` counts from column 0."""
    end = min(step.start + x.shape[axis], value.shape[axis])
    if end <= step.start:
        return x
    covered = value.narrow(axis, step.start, end - step.start)
    rest = x.narrow(axis, end - step.start, x.shape[axis] - (end - step.start))
    return torch.cat([covered.expand(*rest.shape[:axis], -1, *rest.shape[axis + 1 :]), rest], dim=axis)


def _stop(*_: Any) -> None:
    raise _Stopped


class _Hooks:
    """The reads, writes and frozen scales of one `hooked` context, as hooks on the module."""

    def __init__(
        self,
        model: Model,
        reads: Mapping[Site, Read],
        writes: Mapping[Site, Write],
        scales: Mapping[Site, Tensor],
    ) -> None:
        self.model = model
        self.reads = {model.site(site): read for site, read in reads.items()}
        self.writes = {model.site(site): write for site, write in writes.items()}
        self.scales = dict(scales)
        for site in self.scales:
            self._check_norm(model.site(site))
        self.wanted = {*self.reads, *self.writes, *self.scales}
        self.step = Step(positions=torch.zeros(0, 0, dtype=torch.long))

    def _check_norm(self, site: Site) -> None:
        norms = self.model.family.norms
        if site not in norms:
            raise UnknownSite(
                f'"{site}" is not made by a norm of {self.model.name}, so it has no scale to freeze. '
                f"Allowed: {', '.join(sorted({each.kind for each in norms}))}."
            )

    def attach(self, stack: ExitStack) -> None:
        """Registers every hook that the wanted sites need; `stack` removes them."""
        if not self.wanted:
            return
        self.stack = stack
        module = self.model.module
        stack.callback(module.register_forward_pre_hook(self._note_step, with_kwargs=True).remove)
        taps: dict[nn.Module, Tap] = {}
        for layer in sorted({site.layer for site in self.wanted if site.layer is not None} | {0}):
            block = self.model.family.blocks[layer]
            self._attach_residual_in(block, layer)
            self._attach_reading(block.attn, block.attn_norm, "attn", layer)
            self._attach_heads(block, layer)
            self._attach_sublayer(block.attn, block.attn_post_norm, "attn", layer)
            self._attach_residual_mid(block, layer)
            if block.mlp is not None:
                self._attach_reading(block.mlp, block.mlp_norm, "mlp", layer)
                self._attach_neurons(block, layer)
                self._attach_sublayer(block.mlp, block.mlp_post_norm, "mlp", layer)
            self._on_output(block.module, [Site("resid_post", layer)])
            tap = self._tap(layer)
            if tap is not None:
                taps[block.attn] = tap
        if (final := self.model.family.final_norm) is not None:
            self._attach_norm(final, None, scale=Site("final_norm"), then=[Site("final_norm")])
        self._on_output(module, [Site("logits")])
        stack.enter_context(tapped(self.model.family.config, taps))

    def apply(self, site: Site, x: Tensor) -> Tensor:
        """The site's write, then its read; the tensor that flows on."""
        if site in self.writes:
            written = self.writes[site](x, self.step)
            if written.shape != x.shape:
                raise UnknownSite(
                    f'The write to "{site}" returned shape {tuple(written.shape)}, not {tuple(x.shape)}.'
                )
            x = written.to(x.dtype)
        if site in self.reads:
            self.reads[site](x, self.step)
        return x

    def _note_step(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Finds the absolute positions of this forward's columns from the module's own arguments."""
        ids = kwargs.get("input_ids", args[0] if args else None)
        ids = kwargs["inputs_embeds"] if ids is None else ids
        cache, mask, explicit = (
            kwargs.get(key) for key in ("past_key_values", "attention_mask", "position_ids")
        )
        start = 0 if cache is None else int(cache.get_seq_length())
        if isinstance(mask, Tensor) and mask.ndim == 2:
            positions = positions_of(mask)[:, start : start + ids.shape[1]]
        elif explicit is not None:
            positions = explicit.expand(ids.shape[0], -1)
        else:
            positions = torch.arange(start, start + ids.shape[1], device=ids.device).expand(ids.shape[0], -1)
        self.step = Step(positions=positions, start=start)

    def _on_output(self, module: nn.Module, sites: list[Site]) -> None:
        """Applies the sites, in order, to what the module returns (a tensor, a tuple's first, or `.logits`)."""
        wanted = [site for site in sites if site in self.wanted]
        if not wanted:
            return

        def hook(_: nn.Module, args: Any, output: Any) -> Any:
            before = after = _main(output)
            for site in wanted:
                after = self.apply(site, after)
            return None if after is before else _with_main(output, after)

        self.stack.callback(module.register_forward_hook(hook).remove)

    def _on_input(self, module: nn.Module, sites: list[Site]) -> None:
        """Applies the sites, in order, to the tensor that the module is called with."""
        wanted = [site for site in sites if site in self.wanted]
        if not wanted:
            return

        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            x = args[0] if args else kwargs["hidden_states"]
            for site in wanted:
                x = self.apply(site, x)
            return ((x, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": x})

        self.stack.callback(module.register_forward_pre_hook(hook, with_kwargs=True).remove)

    def _attach_residual_in(self, block: BlockFacts, layer: int) -> None:
        self._on_input(block.module, [Site("embed")] * (layer == 0) + [Site("resid_pre", layer)])

    def _attach_reading(self, module: nn.Module, norm: NormFacts | None, part: str, layer: int) -> None:
        """What a sublayer reads: the norm before it and the norm's output, or the residual stream as it is."""
        inside = Site(f"{part}_in", layer)
        if norm is None:
            self._on_input(module, [inside])
        else:
            self._attach_norm(norm, Site(f"{part}_norm", layer), then=[inside])

    def _attach_norm(
        self, norm: NormFacts, normed: Site | None, *, scale: Site | None = None, then: list[Site]
    ) -> None:
        """A norm's frozen scale, the site before its weight and bias, then the sites of its output."""
        frozen = next((self.scales[site] for site in (scale, normed) if site in self.scales), None)
        if frozen is not None or (normed is not None and normed in self.wanted):

            def hook(_: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
                # y = weight * n + bias with n = centre(x) / scale; a frozen scale (batch, pos, 1) makes it linear in x
                x = args[0]
                used = norm.scale(x)
                if frozen is not None:
                    used = _cover(used, frozen.to(used.device, used.dtype), self.step, axis=1)
                    output = norm.apply(x, used)
                if normed is not None and normed in self.wanted:
                    # n itself is no tensor of the module: it is made here, and what is written there is weighed again
                    before = norm.normalise(x, used)
                    after = self.apply(normed, before)
                    output = output if after is before else _merge(before, after, output, norm.weigh(after))
                return output

            self.stack.callback(norm.module.register_forward_hook(hook).remove)
        self._on_output(norm.module, then)

    def _attach_sublayer(self, module: nn.Module, post: NormFacts | None, part: str, layer: int) -> None:
        """The output of attention or MLP, and its contribution after a post-norm."""
        raw, out = Site(f"{part}_raw", layer), Site(f"{part}_out", layer)
        if post is None:
            self._on_output(module, [raw, out])
        else:
            self._on_output(module, [raw])
            self._attach_norm(post, None, scale=out, then=[out])

    def _attach_residual_mid(self, block: BlockFacts, layer: int) -> None:
        """A write to `resid_mid` changes attention's contribution, so that the residual becomes the new value."""
        site = Site("resid_mid", layer)
        if site not in self.wanted:
            return
        last = block.attn if block.attn_post_norm is None else block.attn_post_norm.module
        if site in self.writes:
            entering: list[Tensor] = []

            def note(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
                entering[:] = [args[0] if args else kwargs["hidden_states"]]

            def hook(_: nn.Module, args: Any, output: Any) -> Any:
                # what is to stand in the stream, less what entered the block, is what attention must add
                contribution = _main(output)
                before = entering[0] + contribution
                after = self.writes[site](before, self.step).to(before.dtype)
                return _with_main(output, _merge(before, after, contribution, after - entering[0]))

            self.stack.callback(block.module.register_forward_pre_hook(note, with_kwargs=True).remove)
            self.stack.callback(last.register_forward_hook(hook).remove)
        if site in self.reads:

            def read(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
                self.reads[site](args[0] if args else kwargs["hidden_states"], self.step)

            # Whatever reads the stream next gets it as its input. The hook goes first: where no norm stands between,
            # that input is also `mlp_in`, and what is written there is no longer the stream.
            reader = block.mlp if block.mlp_norm is None else block.mlp_norm.module
            assert reader is not None  # a block without an MLP has no resid_mid
            handle = reader.register_forward_pre_hook(read, with_kwargs=True, prepend=True)
            self.stack.callback(handle.remove)

    def _attach_heads(self, block: BlockFacts, layer: int) -> None:
        """Queries, keys and values, on their projections (so that a cache keeps what is written), and `z`."""
        self._on_projection(block.queries, Site("q", layer))
        self._on_projection(block.keys, Site("k", layer))
        self._on_projection(block.values, Site("v", layer))
        z = Site("z", layer)
        if z in self.wanted:

            def on_z(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
                heads = args[0].unflatten(-1, block.W_O.shape[:2])  # (batch, pos, head, d_head)
                return (self.apply(z, heads).flatten(-2), *args[1:])

            self.stack.callback(block.o_module.register_forward_pre_hook(on_z).remove)

    def _on_projection(self, projection: HeadProjection, site: Site) -> None:
        """Applies a site to its part of what a projection returns; the rest of a fused output stays as it is."""
        if site not in self.wanted:
            return

        def hook(_: nn.Module, args: Any, output: Tensor) -> Tensor | None:
            before = projection.view(output)  # (batch, pos, head, d_head)
            after = self.apply(site, before)
            if after is before:
                return None
            output = output.clone()
            projection.view(output).copy_(after)
            return output

        self.stack.callback(projection.module.register_forward_hook(hook).remove)

    def _attach_neurons(self, block: BlockFacts, layer: int) -> None:
        if block.neurons is not None:
            self._on_input(block.neurons.out_module, [Site("mlp_act", layer)])

    def _tap(self, layer: int) -> Tap | None:
        scores, pattern = Site("scores", layer), Site("pattern", layer)
        if not {scores, pattern} & self.wanted:
            return None

        def bound(call: Callable[[Tensor, Step], Any] | None) -> Callable[[Tensor], Any] | None:
            return None if call is None else lambda x: call(x, self.step)

        return Tap(
            write_scores=bound(self.writes.get(scores)),
            read_scores=bound(self.reads.get(scores)),
            write_pattern=bound(self.writes.get(pattern)),
            read_pattern=bound(self.reads.get(pattern)),
        )


def _merge(before: Tensor, after: Tensor, output: Tensor, recomputed: Tensor) -> Tensor:
    """Recomputed elements where the written tensor differs, the module's own bits elsewhere (not under autograd)."""
    if torch.is_grad_enabled():
        return recomputed
    return torch.where(after != before, recomputed, output)


def _main(output: Any) -> Tensor:
    """The tensor in a module's output, whatever wraps it."""
    if isinstance(output, Tensor):
        return output
    return output.logits if hasattr(output, "logits") else output[0]


def _with_main(output: Any, value: Tensor) -> Any:
    """The same wrapping around another tensor."""
    if isinstance(output, Tensor):
        return value
    if hasattr(output, "logits"):
        output.logits = value
        return output
    return (value, *output[1:])
