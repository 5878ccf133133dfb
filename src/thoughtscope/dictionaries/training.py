"""A plain trainer for per-layer, skip and cross-layer transcoders: BatchTopK training, JumpReLU dictionaries.

Inputs and outputs are centred and scaled to unit mean square per layer while training; the scales are folded into the
saved weights. Of all features of all layers and tokens of a batch, those with the largest `a · ‖decoder‖` pass, so each
layer gets the share it needs (BatchTopK, Bussmann et al. 2024). The running threshold τ becomes θ_f = τ / ‖decoder_f‖:
the saved dictionary is a JumpReLU one and treats each token on its own. Features that have not fired for a while learn
from what the others leave (AuxK, Gao et al. 2024, A.2).
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from itertools import chain, count, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from thoughtscope.core.errors import CorruptArtefact, DictionaryMismatch, ThoughtscopeError
from thoughtscope.core.files import exclusive, writing
from thoughtscope.core.progress import Progress, silent
from thoughtscope.core.store import MANIFEST, load_artefact, save_artefact
from thoughtscope.dictionaries.activation import Activation
from thoughtscope.dictionaries.dictionary import Dictionary
from thoughtscope.dictionaries.documents import Document, Rows, document_batches, read_rows, skip_rows
from thoughtscope.dictionaries.preflight import with_self_test
from thoughtscope.dictionaries.sparse import SparseLayer
from thoughtscope.dictionaries.transcoders import LayerWeights, parse_sites, transcoders

if TYPE_CHECKING:
    from thoughtscope.core.site import Site
    from thoughtscope.models import Model

CHECKPOINT = "dictionary-training"
SELF_TEST_DOCUMENTS = 16


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """What to train and how. `l0` is the mean number of active features per token and layer."""

    cross_layer: bool
    n_features: int
    l0: float = 12.0
    skip: bool = False
    read: str = "mlp_in"
    write: str = "mlp_out"
    n_tokens: int = 3_000_000
    chunk_tokens: int = 200_000
    """Tokens captured at a time, shuffled, and gone through `passes` times."""
    passes: int = 1
    batch: int = 2048
    context: int = 128
    learning_rate: float = 3e-3
    warm_up: float = 0.02
    """Share of the steps over which the learning rate rises; over the last `decay` share it falls to 0."""
    decay: float = 0.5
    betas: tuple[float, float] = (0.9, 0.99)
    l0_start: float = 2.0
    """L0 starts at this multiple of `l0` and falls to it over the first `l0_settle` share of the steps."""
    l0_settle: float = 0.2
    dead_after: int = 50_000
    """Tokens without firing after which a feature counts as dead and learns by the auxiliary loss."""
    aux: float = 1 / 32
    aux_k: int = 16
    """Dead features that try to explain a token's residual, per layer."""
    precision: str = "float32"
    """Type of the encoder's products that select features: "bfloat16" is faster where the processor has it."""
    saved: str = "float16"
    """Type of the saved weights."""
    max_minutes: float | None = None
    """Ends the training, schedules included, after this much time in steps (capture not counted), if earlier."""
    seed: int = 0
    checkpoint_minutes: float = 3.0

    def __post_init__(self) -> None:
        if (
            min(self.n_features, self.batch, self.passes, self.n_tokens) < 1
            or not 0 < self.l0 < self.n_features
        ):
            raise ThoughtscopeError(
                f"n_features, batch, passes and n_tokens are at least 1, 0 < l0 < n_features; got {self}."
            )
        if self.chunk_tokens < self.batch:
            raise ThoughtscopeError(f"A chunk of {self.chunk_tokens} tokens holds no batch of {self.batch}.")

    @property
    def n_steps(self) -> int:
        return max(1, self.n_tokens // self.batch)

    @property
    def steps_per_chunk(self) -> int:
        return self.chunk_tokens // self.batch * self.passes


@dataclass(frozen=True, kw_only=True)
class Scaling:
    """Per layer: the mean, and the root mean square about it, of what is read and what is written."""

    mean_in: Float[Tensor, "layer d_in"]
    scale_in: Float[Tensor, " layer"]
    mean_out: Float[Tensor, "layer d_out"]
    scale_out: Float[Tensor, " layer"]

    @classmethod
    def of(cls, rows: Rows) -> Scaling:
        found = {}
        for name, x in (("in", rows.inputs), ("out", rows.outputs)):
            mean = x.float().mean(0)
            found[f"mean_{name}"] = mean
            found[f"scale_{name}"] = torch.stack(
                [
                    (x[:, layer].float() - mean[layer]).square().mean().sqrt().clamp(min=1e-8)
                    for layer in range(x.shape[1])
                ]
            )
        return cls(**found)

    def inputs(self, x: Tensor) -> Float[Tensor, "layer pos d_in"]:
        return (x.float().transpose(0, 1) - self.mean_in[:, None]) / self.scale_in[:, None, None]

    def outputs(self, y: Tensor) -> Float[Tensor, "layer pos d_out"]:
        return (y.float().transpose(0, 1) - self.mean_out[:, None]) / self.scale_out[:, None, None]


@dataclass(kw_only=True)
class Trainer:
    """The state of one training: weights, optimiser, threshold, when each feature last fired."""

    config: TrainConfig
    scaling: Scaling
    weights: dict[str, Tensor]
    optimiser: torch.optim.Optimizer
    threshold: float = 0.0
    idle: Tensor = field(default_factory=lambda: torch.zeros(0))
    step: int = 0
    seconds: float = 0.0
    """Time spent in steps."""
    tested: list[Document] = field(default_factory=list)
    """The documents on which the dictionary will be tested when it is done."""

    @property
    def progress(self) -> float:
        """How much of the training is done, from 0 to 1."""
        limit = self.config.max_minutes
        return min(1.0, max(self.step / self.config.n_steps, self.seconds / 60 / limit if limit else 0.0))

    @property
    def n_layers(self) -> int:
        return self.idle.shape[0]

    def n_targets(self, layer: int) -> int:
        return self.n_layers - layer if self.config.cross_layer else 1


def train_dictionary(
    model: Model,
    documents: Iterable[Document] | Callable[[], Iterable[Document]],
    config: TrainConfig,
    *,
    folder: str | os.PathLike[str] | None = None,
    name: str | None = None,
    progress: Progress = silent,
) -> Dictionary:
    """Trains a dictionary of `model` on `documents`, which are gone through again when they run out.

    With `folder`, metrics are appended to `metrics.jsonl` there, the state is saved every few minutes to `state/`, and
    a run that finds a state of the same configuration continues it; one that was finished is only read, and needs no
    documents. `progress` counts steps, with FVU, L0 and the share of dead features.
    Raises `ThoughtscopeError` when the documents hold too little text, or the state is of another configuration,
    `CorruptArtefact` for a damaged state, `FolderInUse` when another run trains in `folder`.
    """
    reads, writes = parse_sites(config.read, model.n_layers), parse_sites(config.write, model.n_layers)
    for site in (*reads, *writes):
        model.site(site)
    home = None if folder is None else Path(folder)
    if home:
        with writing(home):
            home.mkdir(parents=True, exist_ok=True)
    with exclusive(home, patience=0.0) if home else nullcontext():
        trainer = _resume(home, config, model.n_layers) if home else None
        if trainer is None or trainer.progress < 1 or not trainer.tested:
            log = _Log(home, progress, config)
            trainer = _train(model, documents, config, (reads, writes), trainer, home, log)
    trained = _folded(trainer, model, name or f"{model.name}/{'clt' if config.cross_layer else 'plt'}")
    return with_self_test(model, trained, trainer.tested)


def _train(
    model: Model,
    documents: Any,
    config: TrainConfig,
    sites: tuple[Sequence[Site], Sequence[Site]],
    trainer: Trainer | None,
    home: Path | None,
    log: _Log,
) -> Trainer:
    """Trains to the end, from the start or from where a trainer stands."""
    stream = _endless(documents)
    tested = list(islice(stream, SELF_TEST_DOCUMENTS))  # now: a one-time source may have none left at the end
    batches = document_batches(model, chain(tested, stream), context=config.context)
    for number in count():
        if trainer is not None:
            trainer.tested = tested
            if trainer.progress >= 1:
                return trainer
            if trainer.step >= (number + 1) * config.steps_per_chunk:
                skip_rows(batches, n_tokens=config.chunk_tokens)
                continue
        rows = read_rows(model, batches, *sites, n_tokens=config.chunk_tokens)
        trainer = trainer or _start(config, rows)
        trainer.tested = tested
        if _train_on(trainer, rows, number, home, log):
            return trainer
    raise AssertionError("count() has no end")


def _train_on(trainer: Trainer, rows: Rows, number: int, home: Path | None, log: _Log) -> bool:
    """Trains on one chunk, from where the trainer stands in it; True when the training is over."""
    started, before = time.monotonic(), trainer.seconds
    for index, step in _batches(trainer.config, number):
        if step < trainer.step:
            continue
        log.write(_step(trainer, Rows(inputs=rows.inputs[index], outputs=rows.outputs[index])), trainer)
        trainer.seconds = before + time.monotonic() - started
        over = trainer.progress >= 1
        if home and (over or time.monotonic() - log.saved_at > 60 * trainer.config.checkpoint_minutes):
            _save(trainer, home)
            log.saved_at = time.monotonic()
        if over:
            return True
    return False


# --- data ----------------------------------------------------------------------------------------------------------


def _endless(documents: Any) -> Iterator[Document]:
    """After the last document comes the first again."""
    while True:
        some = False
        for document in documents() if callable(documents) else documents:
            some = True
            yield document
        if not some:
            raise ThoughtscopeError(
                "The documents ran out. Give a list, or a function that returns them anew."
            )


def _batches(config: TrainConfig, number: int) -> Iterator[tuple[Tensor, int]]:
    """Row numbers of the shuffled batches of a chunk, each with its step; they depend on seed and number alone."""
    step = number * config.steps_per_chunk
    per_pass = config.steps_per_chunk // config.passes
    for turn in range(config.passes):
        random = torch.Generator().manual_seed(hash((config.seed, number, turn)) % 2**31)
        order = torch.randperm(config.chunk_tokens, generator=random)[: per_pass * config.batch]
        for index in order.view(per_pass, config.batch):
            yield index, step
            step += 1


# --- one step ------------------------------------------------------------------------------------------------------


def _start(config: TrainConfig, rows: Rows) -> Trainer:
    """Encoders start as directions of real inputs, so that every feature fires on something; decoders small."""
    random = torch.Generator().manual_seed(config.seed)
    scaling = Scaling.of(rows)
    n_layers, d_in = rows.inputs.shape[1:]
    d_out, n_features = rows.outputs.shape[2], config.n_features
    weights = {}
    for layer in range(n_layers):
        n_targets = n_layers - layer if config.cross_layer else 1
        drawn = torch.randint(len(rows), (n_features,), generator=random)
        x = scaling.inputs(rows.inputs[drawn])[layer]
        weights[f"W_enc_{layer}"] = x / x.norm(dim=-1, keepdim=True).clamp(min=1e-6)
        weights[f"b_enc_{layer}"] = torch.zeros(n_features)
        decoder = torch.randn(n_features, n_targets * d_out, generator=random)
        weights[f"W_dec_{layer}"] = 0.1 * decoder / decoder.norm(dim=-1, keepdim=True)
        weights[f"b_dec_{layer}"] = torch.zeros(d_out)
        if config.skip:
            weights[f"W_skip_{layer}"] = torch.zeros(d_out, d_in)
    return _trainer(config, scaling, weights, n_layers)


def _trainer(config: TrainConfig, scaling: Scaling, weights: dict[str, Tensor], n_layers: int) -> Trainer:
    for tensor in weights.values():
        tensor.requires_grad_()
    optimiser = torch.optim.Adam(weights.values(), lr=config.learning_rate, betas=config.betas, fused=True)
    idle = torch.zeros(n_layers, config.n_features, dtype=torch.long)
    return Trainer(config=config, scaling=scaling, weights=weights, optimiser=optimiser, idle=idle)


def _step(trainer: Trainer, batch: Rows) -> dict[str, Any]:
    """One optimiser step on a batch of tokens; returns its metrics.

    With x_l, y_l the scaled input and output of layer l: a = relu(W_enc x + b_enc), kept where a · ‖W_dec‖ > τ,
    ŷ_t = b_t + W_skip x_t + Σ_{l≤t} W_dec_{l→t}ᵀ a_l, and the loss is Σ_t mean (y_t − ŷ_t)² plus the auxiliary one.
    """
    config, w = trainer.config, trainer.weights
    x, y = (
        trainer.scaling.inputs(batch.inputs),
        trainer.scaling.outputs(batch.outputs),
    )  # (layer, pos, d) each
    # Which (token, feature) pairs pass is decided without gradients, on the features of all layers together: the score
    # of a pair is what it would write, its activation times its decoder's norm.
    with torch.no_grad():
        pre = [_preactivations(w, layer, x[layer], config.precision) for layer in range(trainer.n_layers)]
        scores = [p.relu() * w[f"W_dec_{layer}"].norm(dim=-1).to(p.dtype) for layer, p in enumerate(pre)]
        _move_threshold(trainer, scores)
        pairs = [(score > trainer.threshold).nonzero(as_tuple=True) for score in scores]
    # Only those pairs are decoded, so forward and backward cost what is active, not what there is.
    predicted = _decode(trainer, x, pre, pairs)
    for layer in range(trainer.n_layers):
        predicted[layer] = predicted[layer] + w[f"b_dec_{layer}"]
        if config.skip:
            predicted[layer] = predicted[layer] + x[layer] @ w[f"W_skip_{layer}"].T
    residual = [y[layer] - predicted[layer] for layer in range(trainer.n_layers)]  # (pos, d_out) each
    errors = torch.stack([r.square().mean() for r in residual])  # (layer,)
    loss = errors.sum()
    # Features silent for long get no gradient from the loss; they learn from what the others leave (AuxK).
    dead = trainer.idle > config.dead_after  # (layer, feature)
    if config.aux and dead.any():
        loss = loss + config.aux * _auxiliary(trainer, x, pre, [r.detach() for r in residual], dead)
    for group in trainer.optimiser.param_groups:
        group["lr"] = config.learning_rate * _rate(config, trainer.progress)
    trainer.optimiser.zero_grad(set_to_none=True)
    loss.backward()
    trainer.optimiser.step()
    trainer.idle += len(batch)
    for layer, (_, feature) in enumerate(pairs):
        trainer.idle[layer, feature] = 0
    trainer.step += 1
    return _metrics(trainer, errors.detach() / y.square().mean(dim=(1, 2)), pairs, dead)


def _metrics(
    trainer: Trainer, fvu: Tensor, pairs: list[tuple[Tensor, Tensor]], dead: Tensor
) -> dict[str, Any]:
    """What one step says: FVU and L0 as means over the layers and by layer, the share of dead features, τ."""
    batch = trainer.config.batch
    active = [len(feature) / batch for _, feature in pairs]
    return {
        "step": trainer.step,
        "tokens": trainer.step * batch,
        "fvu": float(fvu.mean()),
        "fvu_by_layer": fvu.tolist(),
        "l0": sum(active) / trainer.n_layers,
        "l0_by_layer": active,
        "dead": float(dead.float().mean()),
        "threshold": trainer.threshold,
    }


def _preactivations(w: Mapping[str, Tensor], layer: int, x: Tensor, precision: str) -> Tensor:
    dtype = getattr(torch, precision)
    return torch.addmm(w[f"b_enc_{layer}"].to(dtype), x.to(dtype), w[f"W_enc_{layer}"].to(dtype).T)


def _decode(
    trainer: Trainer, x: Tensor, pre: list[Tensor], pairs: list[tuple[Tensor, Tensor]]
) -> list[Tensor]:
    """What the given (token, feature) pairs write at each layer."""
    w, n_layers = trainer.weights, trainer.n_layers
    written: list[Tensor] = [torch.zeros(())] * n_layers
    for layer, (token, feature) in enumerate(pairs):
        value = pre[layer][token, feature].float()
        out = SparseLayer.apply(
            x[layer], w[f"W_enc_{layer}"], w[f"b_enc_{layer}"], w[f"W_dec_{layer}"], token, feature, value
        )
        for offset, part in enumerate(out.chunk(trainer.n_targets(layer), dim=1)):
            written[layer + offset] = written[layer + offset] + part
    return written


def _move_threshold(trainer: Trainer, scores: list[Tensor]) -> None:
    """Moves τ towards the score that lets `l0` features per token and layer pass, estimated on some of the tokens."""
    config = trainer.config
    sample = torch.cat([score[:128].flatten() for score in scores])
    unsettled = max(0.0, 1 - trainer.progress / config.l0_settle) if config.l0_settle else 0.0
    factor = 1 + (config.l0_start - 1) * unsettled
    k = round(min(factor * config.l0, config.n_features - 1) / config.n_features * len(sample))
    tau = float(sample.float().kthvalue(len(sample) - k).values)
    trainer.threshold = tau if trainer.step == 0 else 0.9 * trainer.threshold + 0.1 * tau


def _auxiliary(
    trainer: Trainer, x: Tensor, pre: list[Tensor], residual: list[Tensor], dead: Tensor
) -> Tensor:
    """The share of what is left unexplained that the dead features do not explain either."""
    pairs = []
    for layer in range(trainer.n_layers):
        index = dead[layer].nonzero()[:, 0]
        if not len(index):
            pairs.append((index, index))
            continue
        values, which = pre[layer][:, index].topk(min(trainer.config.aux_k, len(index)), dim=-1, sorted=False)
        row, column = (values > 0).nonzero(as_tuple=True)
        pairs.append((row, index[which[row, column]]))
    found = _decode(trainer, x, pre, pairs)
    left = [(r - f).square().mean() / r.square().mean() for r, f in zip(residual, found, strict=True)]
    return torch.stack(left).sum()


def _rate(config: TrainConfig, progress: float) -> float:
    """Linear warm-up, constant, linear decay to 0; as a share of the learning rate."""
    rising = (progress + 1 / config.n_steps) / max(config.warm_up, 1 / config.n_steps)
    falling = (1 - progress) / config.decay if config.decay else 1.0
    return min(1.0, rising, falling)


# --- results and checkpoints ---------------------------------------------------------------------------------------


def _folded(trainer: Trainer, model: Model, name: str) -> Dictionary:
    """The dictionary in the model's own units: scales, means and τ go into the weights."""
    w, s, config = (
        {key: tensor.detach() for key, tensor in trainer.weights.items()},
        trainer.scaling,
        trainer.config,
    )
    dtype = getattr(torch, config.saved)
    layers = []
    for layer in range(trainer.n_layers):
        n_targets = trainer.n_targets(layer)
        W_enc = w[f"W_enc_{layer}"] / s.scale_in[layer]
        norm = w[f"W_dec_{layer}"].norm(dim=-1)
        decoder = w[f"W_dec_{layer}"].view(config.n_features, n_targets, -1)
        decoder = decoder * s.scale_out[layer : layer + n_targets, None]
        b_dec = w[f"b_dec_{layer}"] * s.scale_out[layer] + s.mean_out[layer]
        W_skip = None
        if config.skip:
            W_skip = w[f"W_skip_{layer}"] * (s.scale_out[layer] / s.scale_in[layer])
            b_dec = b_dec - W_skip @ s.mean_in[layer]
        # The stored encoder is the rounded one, so its bias is made for that.
        W_enc = W_enc.to(dtype)
        layers.append(
            LayerWeights(
                W_enc=W_enc,
                b_enc=w[f"b_enc_{layer}"] - W_enc.float() @ s.mean_in[layer],
                decoder=decoder.to(dtype),
                b_dec=b_dec,
                threshold=trainer.threshold / norm.clamp(min=1e-9),
                W_skip=None if W_skip is None else W_skip.to(dtype),
            )
        )
    return transcoders(
        name=name,
        model_name=model.name,
        read=config.read,
        write=config.write,
        activation=Activation(kind="jumprelu"),
        layers=layers,
    )


def _save(trainer: Trainer, home: Path) -> None:
    state = trainer.optimiser.state_dict()["state"]
    names = list(trainer.weights)
    moments = {f"{names[i]}.{key}": value for i, entry in state.items() for key, value in entry.items()}
    tensors = {
        "weights": {name: tensor.detach() for name, tensor in trainer.weights.items()},
        "moments": moments,
        "rest": {"idle": trainer.idle, **vars(trainer.scaling)},
    }
    meta = {
        "config": asdict(trainer.config),
        "threshold": trainer.threshold,
        "step": trainer.step,
        "seconds": trainer.seconds,
        "tested": [
            each if isinstance(each, str) else [int(token) for token in each] for each in trainer.tested
        ],
    }
    save_artefact(home / "state", kind=CHECKPOINT, tensors=tensors, meta=meta)


def _resume(home: Path, config: TrainConfig, n_layers: int) -> Trainer | None:
    """The saved state, if there is one.

    Raises `ThoughtscopeError` when it belongs to another configuration, `CorruptArtefact` when it is damaged: to start
    anew would write over it.
    """
    if not os.path.lexists(home / "state" / MANIFEST):
        return None
    try:
        artefact = load_artefact(home / "state", kind=CHECKPOINT)
    except CorruptArtefact as error:
        raise CorruptArtefact(
            f"{error} The training stops here, and leaves {home / 'state'} as it is. Put a sound copy in its place, or "
            "move it away to start anew."
        ) from None
    wanted = json.loads(json.dumps(asdict(config)))
    changed = sorted(key for key in wanted if artefact.meta["config"].get(key) != wanted[key])
    if changed:
        raise ThoughtscopeError(
            f"{home / 'state'} was trained with another {', '.join(changed)}. Use another folder, or delete it."
        )
    rest = {name: tensor.clone() for name, tensor in artefact.tensors("rest").items()}
    idle = rest.pop("idle")
    if idle.shape[0] != n_layers:
        raise DictionaryMismatch(
            f"{home / 'state'} is of a model with {idle.shape[0]} layers, not {n_layers}."
        )
    stored = {name: tensor.clone() for name, tensor in artefact.tensors("weights").items()}
    names = sorted(stored, key=lambda key: (int(key.rsplit("_", 1)[1]), key))
    trainer = _trainer(config, Scaling(**rest), {name: stored[name] for name in names}, n_layers)
    moments = artefact.tensors("moments")
    keys = ("step", "exp_avg", "exp_avg_sq")
    trainer.optimiser.load_state_dict(
        {
            "state": {
                i: {key: moments[f"{name}.{key}"].clone() for key in keys} for i, name in enumerate(names)
            },
            "param_groups": trainer.optimiser.state_dict()["param_groups"],
        }
    )
    trainer.idle, trainer.threshold = idle, artefact.meta["threshold"]
    trainer.step, trainer.seconds = artefact.meta["step"], artefact.meta["seconds"]
    trainer.tested = list(artefact.meta.get("tested", ()))  # older states do not say
    return trainer


class _Log:
    """Metrics as JSON lines, one per `every` steps, and the caller's progress."""

    def __init__(self, home: Path | None, progress: Progress, config: TrainConfig) -> None:
        self.path = None if home is None else home / "metrics.jsonl"
        self.progress = progress
        self.every = max(1, config.n_steps // 200)
        self.saved_at = time.monotonic()

    def write(self, metrics: dict[str, Any], trainer: Trainer) -> None:
        metrics |= {
            "n_steps": trainer.config.n_steps,
            "progress": trainer.progress,
            "seconds": round(trainer.seconds, 1),
        }
        shown = {name: metrics[name] for name in ("fvu", "l0", "dead")}
        self.progress("train", metrics["step"], trainer.config.n_steps, **shown)
        if self.path and (metrics["step"] % self.every == 0 or trainer.progress >= 1):
            with self.path.open("a") as file:
                file.write(json.dumps(metrics) + "\n")
