"""What every side is given: rows on disk, start weights, sizes; and the one definition of how well it did.

Rows are sparse combinations of unit directions whose frequencies follow a power law, plus noise, with mean 0 and mean
square 1: means and scales, which trainers treat in different ways, are no part of the problem. This module runs in
the peers' environments too: it needs torch and safetensors, nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

HELD_OUT = 2048
"""Rows that no side trains on."""
WARM_UP = 3
"""Steps whose time does not count: buffers and optimiser states are made in them."""
ACTIVE = 20.0
"""Directions in a row, on average."""
NOISE = 0.2
"""Standard deviation of the noise, of the signal's."""
BLOCK = 4096


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A dictionary to be trained: sizes, sites, and how many steps of how many rows."""

    name: str
    kind: str
    """"sae", "transcoder" or "clt"."""
    width: int
    n_features: int
    """Of each part."""
    k: int = 0
    """Active features a row, of a TopK."""
    threshold: float = 0.0
    """At which a JumpReLU starts."""
    layers: int = 1
    batch: int = 4096
    turns: int = 3
    steps_a_turn: int = 16
    rate: float = 1e-3
    folder: str = ""

    @property
    def reads(self) -> list[str]:
        """The site that each part reads, in the project's names."""
        return [f"{'resid_post' if self.kind == 'sae' else 'mlp_in'}.{layer}" for layer in range(self.layers)]

    @property
    def writes(self) -> list[str]:
        """The sites that are reconstructed; part i writes those from the i-th on."""
        return self.reads if self.kind == "sae" else [f"mlp_out.{layer}" for layer in range(self.layers)]

    @property
    def sites(self) -> list[str]:
        return list(dict.fromkeys([*self.reads, *self.writes]))

    @property
    def steps(self) -> int:
        return WARM_UP + self.turns * self.steps_a_turn

    @property
    def n_rows(self) -> int:
        # One batch more than the steps: with its asking for it, the last step is over.
        return (self.steps + 1) * self.batch + HELD_OUT

    def batch_of(self, step: int) -> dict[str, Tensor]:
        """The rows of a step by site, float32."""
        return self._rows(HELD_OUT + step * self.batch, self.batch)

    @cached_property
    def held_out(self) -> dict[str, Tensor]:
        return self._rows(0, HELD_OUT)

    def start(self) -> dict[str, Tensor]:
        """The weights before the first step, a fresh copy.

        `part/W_enc` (feature, width), `part/b_enc`, `part/W_dec` (feature, width · sites that the part writes, side by
        side), `part/log_threshold` of a JumpReLU, and `b_dec/site`. Parts are numbered.
        """
        return load_file(Path(self.folder) / "start.safetensors")

    def _rows(self, first: int, count: int) -> dict[str, Tensor]:
        found = {}
        for site in self.sites:
            stored = np.memmap(
                Path(self.folder) / f"{site}.f16", np.float16, "r", shape=(self.n_rows, self.width)
            )
            found[site] = torch.from_numpy(np.array(stored[first : first + count])).float()
        return found


def opened(folder: str) -> Problem:
    """The problem that `build` wrote there."""
    return Problem(**json.loads((Path(folder) / "problem.json").read_text()))


def build(problem: Problem, seed: int) -> None:
    """Writes rows, start weights and the problem itself into its folder."""
    folder = Path(problem.folder)
    draw = torch.Generator().manual_seed(seed)
    files = {
        site: np.memmap(folder / f"{site}.f16", np.float16, "w+", shape=(problem.n_rows, problem.width))
        for site in problem.sites
    }
    first = 0
    for block in rows(problem, draw):
        count = min(BLOCK, problem.n_rows - first)
        for site, x in block.items():
            files[site][first : first + count] = x[:count].half().numpy()
        first += count
    for file in files.values():
        file.flush()
    save_file(start(problem, draw), folder / "start.safetensors")
    (folder / "problem.json").write_text(json.dumps(asdict(problem)))


def rows(problem: Problem, draw: torch.Generator) -> Iterator[dict[str, Tensor]]:
    """Blocks of rows by site: the same active directions at every site, which has a vector of its own for each."""
    n = 2 * problem.width
    chance = 1 / torch.arange(1, n + 1).float() ** 0.8
    chance = (chance * (ACTIVE / chance.sum())).clamp(max=0.5)
    vectors = {site: _unit(torch.randn(n, problem.width, generator=draw)) for site in problem.sites}
    mean_strength, mean_square = 1.0, 13 / 12  # of a strength between 0.5 and 1.5
    variance = (chance * mean_square - (chance * mean_strength) ** 2).sum() / problem.width
    unit = float((variance * (1 + NOISE**2)).sqrt())
    for _ in range(0, problem.n_rows, BLOCK):
        active = torch.rand(BLOCK, n, generator=draw) < chance
        row, which = active.nonzero(as_tuple=True)
        strength = 0.5 + torch.rand(len(row), generator=draw)
        starts = torch.bincount(row, minlength=BLOCK).cumsum(0) - torch.bincount(row, minlength=BLOCK)
        block = {}
        for site, directions in vectors.items():
            x = torch.nn.functional.embedding_bag(
                which, directions, starts, mode="sum", per_sample_weights=strength
            )
            x -= (chance * mean_strength) @ directions
            x += torch.randn(x.shape, generator=draw) * (variance.sqrt() * NOISE)
            block[site] = x / unit
        yield block


def start(problem: Problem, draw: torch.Generator) -> dict[str, Tensor]:
    """Encoders and decoders of random directions; an autoencoder's are the same ones."""
    weights = {f"b_dec/{site}": torch.zeros(problem.width) for site in problem.writes}
    for part in range(problem.layers):
        n_written = problem.layers - part
        encoder = _unit(torch.randn(problem.n_features, problem.width, generator=draw))
        decoder = _unit(torch.randn(problem.n_features, n_written * problem.width, generator=draw))
        weights[f"{part}/W_enc"] = encoder
        weights[f"{part}/W_dec"] = encoder.clone() if problem.kind == "sae" else 0.3 * decoder
        weights[f"{part}/b_enc"] = torch.zeros(problem.n_features)
        if problem.threshold:
            weights[f"{part}/log_threshold"] = torch.full((problem.n_features,), problem.threshold).log()
    return weights


def fvu(problem: Problem, weights: Mapping[str, Tensor]) -> float:
    """The fraction of the held-out variance that weights of `start`'s layout leave unexplained, a mean over sites."""
    x = problem.held_out
    total = {site: weights[f"b_dec/{site}"].expand(HELD_OUT, -1).clone() for site in problem.writes}
    for part, site in enumerate(problem.reads):
        z = torch.addmm(weights[f"{part}/b_enc"], x[site], weights[f"{part}/W_enc"].T)
        if problem.k:
            value, index = z.topk(problem.k, dim=1)
            z = torch.zeros_like(z).scatter_(1, index, value.relu())
        else:
            z *= z > weights[f"{part}/log_threshold"].exp()
        written = z @ weights[f"{part}/W_dec"]
        for place, target in enumerate(problem.writes[part:]):
            total[target] += written[:, place * problem.width : (place + 1) * problem.width]
    shares = [
        float((total[site] - x[site]).square().sum() / (x[site] - x[site].mean(0)).square().sum())
        for site in problem.writes
    ]
    return sum(shares) / len(shares)


def centred(weights: Mapping[str, Tensor], problem: Problem) -> dict[str, Tensor]:
    """Weights of an autoencoder that takes b_dec off its input, as ones of `start`'s layout."""
    site = problem.writes[0]
    shift = weights["0/W_enc"] @ weights[f"b_dec/{site}"]
    return dict(weights) | {"0/b_enc": weights["0/b_enc"] - shift}


def _unit(rows: Tensor) -> Tensor:
    return rows / rows.norm(dim=1, keepdim=True)
