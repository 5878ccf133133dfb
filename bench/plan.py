"""What a dictionary on many GPUs costs, on paper: `python bench/plan.py [--features 30e6] [--gpus 160] [--write PAGE]`.

Three kinds of numbers go in, and the table says of each which it is: what is measured here on a small training (bytes a
parameter, bytes between ranks a token, bytes on disk a row, what a step costs beyond its encoder product), what the
data sheet of a GPU states, and what is assumed.
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from _sides import take_turns

from thoughtscope.training.ranks import Ranks

MARKS = "<!-- plan: python bench/plan.py --write docs/many-gpus.md -->", "<!-- end of plan -->"


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """From public data sheets: NVIDIA H100 SXM5 80 GB; one 400 Gb/s network port a GPU, as in a DGX H100."""

    memory: float = 80e9
    flops: float = 989e12
    """bf16, dense."""
    bandwidth: float = 3.35e12
    network: float = 50e9


@dataclass(frozen=True, kw_only=True)
class Assumed:
    """What nobody measured here."""

    encoder_efficiency: float = 0.6
    """Share of the data sheet's FLOP/s that one large bf16 product reaches."""
    model_efficiency: float = 0.4
    """The same for the base model's forward pass."""
    network_efficiency: float = 0.7
    n_tokens: float = 40e9
    """As many as Gao et al. 2024 gave their largest dictionary, of 16 million features."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """The dictionary and the model."""

    n_features: float = 30e6
    d_model: int = 8192
    k: int = 64
    batch: int = 16_384
    parameters: float = 70e9
    depth: float = 0.5
    """Share of the base model's blocks that run before the site."""
    gpus: int = 160


@dataclass(frozen=True, kw_only=True)
class Constants:
    """Measured on a small training of the same code."""

    bytes_per_parameter: float
    """Of encoder and decoder, on the rank that has it: weights, moments, their copies in bf16."""
    bytes_per_token_fixed: float
    """Handed to collectives a token and rank, beyond the input rows, the scores and what is written."""
    store_bytes_beyond_rows: float
    step_over_encoder: float
    """Time of a step over that of its encoder product alone, here on a CPU."""


# --- measured ------------------------------------------------------------------------------------------------------


class Mirrored(Ranks):
    """One rank of several whose others hold the same as this one; counts what it hands to them."""

    def __init__(self, world: int) -> None:
        self.rank, self.world, self.bytes = 0, world, 0

    def total(self, x: Any) -> Any:
        self.bytes += x.nbytes
        return x

    def gathered(self, x: Any) -> Any:
        self.bytes += x.nbytes
        return x.repeat(self.world, *[1] * (x.dim() - 1))


def small(ranks: Ranks, *, d: int, n_features: int, k: int, n: int) -> tuple[Any, dict[Any, Any]]:
    """A state of a TopK autoencoder with free decoders, and a batch."""
    import torch

    from thoughtscope.core.site import Site
    from thoughtscope.training import recipes
    from thoughtscope.training.state import State
    from thoughtscope.training.weights import PartLayout, Scaling, start

    site = Site.parse("resid_post.0")
    recipe = recipes.sae(
        str(site), n_features=n_features, k=k, decoder="free", **{"schedule.sparsity_warm_up": 0.0}
    )
    rows = {site: torch.randn(n, d, generator=torch.Generator().manual_seed(0))}
    layouts = [PartLayout.of(part, {site: d}) for part in recipe.parts]
    weights = start(recipe, layouts, rows, {}, ranks, dtype=torch.float32)
    return State(
        recipe, layouts, weights, Scaling(mean={site: torch.zeros(d)}, unit={site: 1.0}), ranks
    ), rows


def held_bytes(state: Any) -> int:
    """What a state keeps in memory between steps."""
    tensors = [*state.weights.values(), *state.adam.mean.values(), *state.adam.square.values()]
    for part in state.parts:
        tensors += [part.idle, part.norm]
        tensors += [part.scorer] if part.scorer is not part.own["W_enc"] else []
        tensors += [part.decoder] if part.decoder is not part.own["W_dec"] else []
    return sum(tensor.nbytes for tensor in tensors)


def measured(rounds: int) -> Constants:
    """The constants, of small trainings on this machine."""
    import torch

    from thoughtscope.training.step import train_step

    torch.set_num_threads(1)
    d, n_features, k, n = 256, 8192, 16, 512
    ranks = Mirrored(4)
    state, batch = small(ranks, d=d, n_features=n_features, k=k, n=n)
    train_step(state, batch)
    known = n * (k * 2 + d * 4)  # candidates' scores in bf16, and what the features write in float32
    alone, rows = small(Ranks(), d=d, n_features=n_features, k=k, n=2048)
    x, encoder = next(iter(rows.values())).bfloat16(), alone.parts[0].scorer
    out = torch.empty(len(x), n_features, dtype=torch.bfloat16)
    seconds, _ = take_turns(
        {"step": lambda: train_step(alone, rows), "encoder": lambda: torch.mm(x, encoder.T, out=out)},
        rounds=5,
    )
    return Constants(
        bytes_per_parameter=held_bytes(alone) / (2 * d * n_features),
        bytes_per_token_fixed=(ranks.bytes - known) / n,
        store_bytes_beyond_rows=store_overhead(),
        step_over_encoder=seconds["step"] / seconds["encoder"],
    )


def store_overhead() -> float:
    """Bytes of a store a row, beyond the activations."""
    from thoughtscope.models import random_model
    from thoughtscope.training.data import harvest_to

    model, n = random_model("llama"), 8192
    with tempfile.TemporaryDirectory() as folder:
        harvest_to(folder, model, lambda: ([*range(3, 130)] for _ in range(80)), ["resid_post.0"], n_tokens=n)
        size = sum(path.stat().st_size for path in Path(folder).rglob("*.safetensors"))
    return size / n - 2 * model.d_model


# --- computed ------------------------------------------------------------------------------------------------------


def plan(case: Case, gpu: Gpu, assumed: Assumed, found: Constants) -> dict[str, float]:
    """Memory, work, traffic and time. Bytes, FLOPs and seconds, a GPU's share where it says so."""
    matrix = case.n_features * case.d_model
    own = matrix / case.gpus
    tokens_per_gpu = case.batch / case.gpus
    state = 2 * own * found.bytes_per_parameter
    gradients = 2 * own * 4  # on an accelerator a block is the whole matrix
    scores = case.batch * case.n_features / case.gpus * 2
    model_slice = 2 * case.parameters / case.gpus
    encoder = 2 * matrix  # FLOPs a token
    forward = 2 * case.parameters * case.depth
    sparse = 2 * case.k * case.d_model * 4  # decode, its gradient at the entries, the two matrices' gradients
    # Of a ring: what is gathered arrives once from each other rank, what is summed travels twice.
    traffic = case.d_model * 2 + case.k * 2 * case.gpus + 2 * case.d_model * 4 + found.bytes_per_token_fixed
    seconds = {
        "encoder product": case.batch * encoder / case.gpus / (gpu.flops * assumed.encoder_efficiency),
        "optimiser": 2
        * own
        * (3 * 4 * 2 + 4 + 2)
        / gpu.bandwidth,  # three numbers in and out, gradient, bf16 copy
        "scores read": 2 * scores / gpu.bandwidth,
        "between ranks": case.batch * traffic / (gpu.network * assumed.network_efficiency),
        "base model": tokens_per_gpu * forward / (gpu.flops * assumed.model_efficiency),
    }
    steps = assumed.n_tokens / case.batch
    step = sum(seconds.values())
    return {
        "memory: state": state,
        "memory: gradients": gradients,
        "memory: scores": scores,
        "memory: slice of the base model": model_slice,
        "memory: all": state + gradients + scores + model_slice,
        "FLOPs a token: encoder": encoder,
        "FLOPs a token: sparse products": sparse,
        "FLOPs a token: base model": forward,
        "bytes a token between ranks": traffic,
        "checkpoint": 2 * matrix * 12,
        "dictionary in bf16": 2 * matrix * 2,
        "store of all tokens": assumed.n_tokens * (2 * case.d_model + found.store_bytes_beyond_rows),
        **{f"seconds a step: {name}": value for name, value in seconds.items()},
        "seconds a step": step,
        "step over encoder product": step / seconds["encoder product"],
        "tokens a second": case.batch / step,
        "GPU-days": steps * step * case.gpus / 86_400,
        "days": steps * step / 86_400,
    }


# --- told ----------------------------------------------------------------------------------------------------------


def table(case: Case, gpu: Gpu, assumed: Assumed, found: Constants, result: dict[str, float]) -> str:
    """A page's tables: what goes in and where it is from, and what comes out."""
    rows = ["| what goes in | value | from |", "|---|---|---|"]
    origins = [("case", case), ("data sheet", gpu), ("assumed", assumed), ("measured here", found)]
    for origin, noun in origins:
        rows += [
            f"| {name.replace('_', ' ')} | {shown(value)} | {origin} |"
            for name, value in asdict(noun).items()
        ]
    rows += ["", "| what comes out | |", "|---|---|"]
    rows += [f"| {name} | {shown(value, unit(name))} |" for name, value in result.items()]
    return "\n".join(rows)


def unit(name: str) -> str:
    """Of a result's name."""
    if name.startswith(("memory", "checkpoint", "dictionary", "store", "bytes")):
        return "B"
    return "s" if name.startswith("seconds") else ""


def shown(value: float, unit: str = "") -> str:
    """Three digits and a prefix; seconds as they are."""
    if not unit and 1e4 <= value < 1e6:
        return f"{value:,.0f}"
    if unit == "s" or not value or 0.01 <= abs(value) < 1e4:
        return f"{value:.3g} {unit}".strip() if abs(value) < 1000 else f"{value:,.0f} {unit}".strip()
    for size, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if unit and abs(value) >= size:
            return f"{value / size:.3g} {prefix}{unit}"
    return f"{value:.3g}"


def main() -> None:
    parser = argparse.ArgumentParser(description="What a dictionary on many GPUs costs, on paper.")
    parser.add_argument("--features", type=float, default=Case.n_features)
    parser.add_argument("--gpus", type=int, default=Case.gpus)
    parser.add_argument("--batch", type=int, default=Case.batch)
    parser.add_argument("--tokens", type=float, default=Assumed.n_tokens)
    parser.add_argument(
        "--rounds", type=int, default=5, help="turns of the step and its encoder product (default 5)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--write", metavar="PAGE", help="put the tables between the marks of a page")
    chosen = parser.parse_args()
    case = Case(n_features=chosen.features, gpus=chosen.gpus, batch=chosen.batch)
    gpu, assumed, found = Gpu(), Assumed(n_tokens=chosen.tokens), measured(chosen.rounds)
    result = plan(case, gpu, assumed, found)
    if chosen.write:
        page = Path(chosen.write)
        start, end = map(re.escape, MARKS)
        text = f"{MARKS[0]}\n\n{table(case, gpu, assumed, found, result)}\n\n{MARKS[1]}"
        page.write_text(re.sub(f"{start}.*{end}", lambda _: text, page.read_text(), flags=re.DOTALL))
    elif chosen.json:
        print(json.dumps({"case": asdict(case), "gpu": asdict(gpu), "assumed": asdict(assumed),
                          "measured": asdict(found), "result": result}))  # fmt: skip
    else:
        print(table(case, gpu, assumed, found, result))


if __name__ == "__main__":
    main()
