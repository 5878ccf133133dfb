"""`Recipe`: everything that decides what a training makes, as one typed and frozen configuration.

A recipe is written in Python, as a function that returns one (`recipes.py` has the published ones). Unknown names and
values out of range are refused when it is made. It lies in every checkpoint, and beside the dictionary that it made.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from thoughtscope.core.errors import ThoughtscopeError
from thoughtscope.core.site import Site
from thoughtscope.training.data.order import LANES

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]


C = TypeVar("C", bound="_Config")


class _Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @classmethod
    def of(cls: type[C], **values: Any) -> C:
        """A recipe, or a part of one, of these values. Raises `ThoughtscopeError` with every problem, one a line."""
        try:
            return cls(**values)
        except ValidationError as error:
            problems = [_told(each) for each in error.errors()]
            raise ThoughtscopeError("This is no recipe:\n  " + "\n  ".join(problems)) from None


class ReLU(_Config):
    """a = max(pre, 0), made sparse by a penalty on u = a · ‖decoder‖ / √width, a feature's share of a typical target.

    - l1:   Σ u                (Bricken et al. 2023; weighted by decoder norms as in Templeton et al. 2024)
    - tanh: Σ tanh(steepness · u)     (Ameisen et al. 2025, appendix on training)
    """

    kind: Literal["relu"] = "relu"
    penalty: Literal["l1", "tanh"] = "l1"
    coefficient: NotNegative = 0.2
    steepness: Positive = 4.0
    start_l0: Positive | None = None
    """Active features a token to begin with: biases start where each feature fires as often as the others
    (Conerly et al. 2025). Without it they start at 0, with half of all features active."""


class TopK(_Config):
    """The k largest pre-activations of a token, where positive (Gao et al. 2024)."""

    kind: Literal["topk"] = "topk"
    k: Count = 32


class BatchTopK(_Config):
    """The k · tokens largest of a batch (Bussmann et al. 2024); a running threshold makes it JumpReLU afterwards.

    `shared` lets all parts of the dictionary compete for k · parts places, so that each takes the share it needs. With
    `prefixes`, growing shares of the features that end in 1, the first ones of every size reconstruct by themselves
    (Matryoshka, Bussmann et al. 2025).
    """

    kind: Literal["batchtopk"] = "batchtopk"
    k: Positive = 32.0
    shared: bool = True
    prefixes: tuple[Annotated[float, Field(gt=0, le=1)], ...] = (1.0,)

    @model_validator(mode="after")
    def _growing(self) -> BatchTopK:
        if list(self.prefixes) != sorted(set(self.prefixes)) or self.prefixes[-1] != 1:
            raise ValueError(f"prefixes grow and end in 1, for example (0.25, 0.5, 1.0); got {self.prefixes}")
        return self


class JumpReLU(_Config):
    """a = pre where pre > θ, with θ = exp(log_threshold) learned through a window of width `bandwidth` about it.

    The penalty counts active features (`l0`, Rajamanoharan et al. 2024) or sums tanh(steepness · u) (`tanh`, Conerly et
    al. 2025). With `target_l0` it is coefficient · (L0 / target − 1)², which settles at the target.
    """

    kind: Literal["jumprelu"] = "jumprelu"
    penalty: Literal["l0", "tanh"] = "l0"
    coefficient: NotNegative = 0.01
    target_l0: Positive | None = None
    threshold: Positive = 0.1
    bandwidth: Positive = 0.1
    steepness: Positive = 4.0
    start_l0: Positive | None = None
    """Active features a token to begin with: thresholds start where each feature fires as often as the others
    (Conerly et al. 2025). Without it they start at `threshold`."""

    @model_validator(mode="after")
    def _one_aim(self) -> JumpReLU:
        if self.target_l0 is not None and self.penalty != "l0":
            raise ValueError('target_l0 goes with penalty="l0"')
        return self


class Gated(_Config):
    """A gate decides which features are active, a magnitude how much; both share the encoder's directions.

    a = [W x + b_enc > 0] · max(e^r · W x + b_mag, 0), an L1 penalty on the gate, and a reconstruction by the gate alone
    through frozen decoders, which trains it (Rajamanoharan et al. 2024, Gated).
    """

    kind: Literal["gated"] = "gated"
    coefficient: NotNegative = 0.2
    start_l0: Positive | None = None
    """Active features a token to begin with: gates' biases start where each feature fires as often as the others
    (Conerly et al. 2025). Without it they start at 0, with half of all features active."""


Activation = Annotated[ReLU | TopK | BatchTopK | JumpReLU | Gated, Field(discriminator="kind")]


class Auxiliary(_Config):
    """Dead features explain what the others leave: the `k` largest of a token's (AuxK, Gao et al. 2024, A.2)."""

    kind: Literal["auxiliary"] = "auxiliary"
    coefficient: Positive = 1 / 32
    k: Count = 64


class PreActivation(_Config):
    """Dead features are drawn to their threshold: Σ max(θ − pre, 0) · ‖decoder‖ (Conerly et al. 2025)."""

    kind: Literal["pre-activation"] = "pre-activation"
    coefficient: Positive = 3e-3


class Resampling(_Config):
    """Dead features start anew as inputs that are explained badly, optimiser state included (Bricken et al. 2023)."""

    kind: Literal["resampling"] = "resampling"
    at: tuple[Share, ...] = (0.2, 0.4, 0.6)
    """At these shares of the training."""


Remedy = Annotated[Auxiliary | PreActivation | Resampling, Field(discriminator="kind")]


class PartSites(_Config):
    """A part of the dictionary: the sites that its encoder reads and its decoders write, in order."""

    name: Annotated[str, Field(pattern=r"^[^/]{1,100}$")]
    reads: tuple[str, ...]
    writes: tuple[str, ...]

    @model_validator(mode="after")
    def _sites(self) -> PartSites:
        for sites in (self.reads, self.writes):
            if not sites or len(set(sites)) < len(sites):
                raise ValueError(f"part {self.name} needs sites to read and to write, each once; got {sites}")
        for site in (*self.reads, *self.writes):
            Site.parse(site)
        return self


class Schedule(_Config):
    """The course of a training. Shares are of all its steps."""

    n_tokens: Count = 3_000_000
    batch: Count = 4096
    learning_rate: Positive = 1e-3
    warm_up: Share = 0.02
    """Over this share the learning rate rises; over the last `decay` it falls to 0."""
    decay: Share = 0.5
    betas: tuple[Share, Share] = (0.9, 0.99)
    epsilon: Positive = 1e-8
    sparsity_warm_up: Share = 0.2
    """Over this share a penalty rises from 0, and k falls from `k_start` times its value."""
    k_start: Positive = 2.0
    dead_after: Count = 50_000
    """Tokens without firing after which a feature counts as dead."""

    @property
    def n_steps(self) -> int:
        return max(1, self.n_tokens // self.batch)


class Data(_Config):
    """How text becomes batches: documents are cut to `context` tokens, their rows mixed in a buffer."""

    context: Annotated[int, Field(ge=2)] = 128
    buffer_tokens: Count = 3 * 2**17
    passes: Count = 1
    """How often each row is used."""
    lanes: Count = LANES
    """Shares into which documents are dealt: at least as many as processes. It decides what is mixed with what."""
    rows: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    """Type in which activations wait for their turn."""
    skip_first: bool = True
    """Leaves out each text's first token, whose residual stream is huge and always the same in most models."""


class Recipe(_Config):
    """What to train and how. `Recipe.of` refuses anything unknown or out of range."""

    parts: Annotated[tuple[PartSites, ...], Field(min_length=1)]
    n_features: Count
    """Of each part."""
    activation: Activation
    skip: bool = False
    """A linear path from the only site read to the first one written (skip transcoder, Paulo et al. 2025)."""
    dead: Remedy | None = Auxiliary()
    centre: bool = True
    """Inputs and targets are taken about their means, and in units of their root mean square if `scale`: means and
    scales are folded into the finished weights."""
    scale: bool = True
    outliers: Annotated[float, Field(ge=1)] | None = 5.0
    """A target row that is longer than so many times the typical one weighs as much as one of that length: a few tokens
    of a language model have activations a hundred times as long as the others', and nothing else would be learned.
    None for squares as they are."""
    decoder: Literal["free", "unit"] = "free"
    """Decoder rows are free, with penalties and scores weighted by their norms, or kept at norm 1."""
    norm: Literal["joint", "by site"] = "joint"
    """Which norm of a decoder that writes to several sites counts in penalties: of all together, or the sites' sum
    (crosscoders, Lindsey et al. 2024)."""
    tied_start: bool = False
    """Encoders start as the transposed decoders, which only makes sense where a part reads what it writes."""
    schedule: Schedule = Schedule()
    data: Data = Data()
    precision: Literal["float32", "bfloat16"] = "bfloat16"
    """Type of the encoder's products; weights, other products and optimiser stay in float32."""
    saved: Literal["float32", "bfloat16", "float16"] = "float32"
    seed: int = 0
    checkpoint_minutes: Positive = 3.0

    @model_validator(mode="after")
    def _fits(self) -> Recipe:
        names = [part.name for part in self.parts]
        if len(set(names)) < len(names):
            raise ValueError(f"parts need different names; got {names}")
        k = getattr(self.activation, "k", None)
        if k is not None and k >= self.n_features:
            raise ValueError(f"k = {k} of n_features = {self.n_features} is not sparse")
        if self.skip and any(len(part.reads) > 1 for part in self.parts):
            raise ValueError("a skip connection starts at one site, and a part here reads several")
        if self.tied_start and any(part.reads != part.writes for part in self.parts):
            raise ValueError("tied_start is for parts that write the sites that they read")
        if self.decoder == "unit" and self.norm == "by site":
            raise ValueError("unit decoders have one norm; norm is joint")
        return self

    @property
    def sites(self) -> tuple[Site, ...]:
        """Every site read or written, once each."""
        names = [site for part in self.parts for site in (*part.reads, *part.writes)]
        return tuple(Site.parse(name) for name in dict.fromkeys(names))

    def replaced(self, changes: Mapping[str, Any]) -> Recipe:
        """The same recipe with other values; `{"schedule.batch": 2048}` reaches inside.

        Raises `ThoughtscopeError` naming what is unknown or out of range, and what there is.
        """
        values = self.model_dump()
        for path, value in changes.items():
            *outer, last = path.split(".")
            held = values
            for name in outer:
                held = held.get(name) if isinstance(held, dict) else None  # type: ignore[assignment]
            if not isinstance(held, dict) or last not in held:
                known = sorted(held) if isinstance(held, dict) else sorted(values)
                raise ThoughtscopeError(f'A recipe has no "{path}". There are: {", ".join(known)}.')
            held[last] = value
        return Recipe.of(**values)


def _told(problem: Mapping[str, Any]) -> str:
    where = ".".join(str(step) for step in problem["loc"]) or "recipe"
    got = "" if problem["type"] == "value_error" else f" (got {problem['input']!r:.80})"
    return f"{where}: {problem['msg'].removeprefix('Value error, ')}{got}"
