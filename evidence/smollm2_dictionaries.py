"""What the real model's skip transcoders explain on text of other books and sites than they were trained on.

In such a model a few tokens have outputs a hundred times as long as the others', and hold most of the squares: the
share of them that is left unexplained says next to nothing of the other tokens. So there are two figures by layer: over
all tokens, and over those whose output is at most `OUTLIER` times as long as the median one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from statistics import mean
from typing import Any

from _claim import Measured, main
from _smollm2 import documents, load

TOKENS = 24_000
FIT_TOKENS = 40_000
"""Tokens of the training's text from which the linear maps are made."""
OUTLIER = 5.0
RIDGE = 1e-3


@dataclass
class Squares:
    """Sums over tokens of a layer's output y: Σ‖y − guess‖², Σ‖y‖², Σ y."""

    error: float = 0.0
    squares: float = 0.0
    total: Any = 0.0
    n: int = 0

    def add(self, y: Any, guess: Any) -> None:
        self.error += float((y - guess).square().sum())
        self.squares += float(y.square().sum())
        self.total = self.total + y.sum(0)
        self.n += len(y)

    @property
    def fvu(self) -> float:
        return self.error / (self.squares - float(self.total.square().sum()) / self.n)


@dataclass
class Line:
    """The least-squares line of a layer, from what enters its MLP to what leaves it."""

    moments: dict[str, Any] = field(default_factory=dict)
    n: int = 0

    def add(self, x: Any, y: Any) -> None:
        found = {"x": x.sum(0), "y": y.sum(0), "xx": x.T @ x, "xy": x.T @ y}
        self.moments = {name: self.moments.get(name, 0.0) + each for name, each in found.items()}
        self.n += len(x)

    def solved(self) -> tuple[Any, Any]:
        """Weight and constant."""
        import torch

        x, y = self.moments["x"] / self.n, self.moments["y"] / self.n
        xx = self.moments["xx"] / self.n - x[:, None] * x
        xy = self.moments["xy"] / self.n - x[:, None] * y
        ridge = RIDGE * xx.diagonal().mean() * torch.eye(len(x), dtype=xx.dtype)
        weight = torch.linalg.solve(xx + ridge, xy)
        return weight, y - x @ weight


def measure(seed: int) -> Measured:
    """The first tokens of the held-out documents, in an order that does not depend on the seed."""
    from thoughtscope.dictionaries import evaluate_dictionary

    model, dictionary = load("transcoders")
    bars = medians(model, dictionary)
    lines = fitted(model, dictionary, bars)
    ours, linear, l0 = explained(model, dictionary, lines, bars)
    scores = evaluate_dictionary(model, dictionary, documents(held_out=True), max_tokens=TOKENS)
    layers = {
        part.name: {
            "fvu": round(ours[number]["usual"].fvu, 4),
            "fvu_all": round(ours[number]["all"].fvu, 4),
            "linear": round(linear[number]["usual"].fvu, 4),
            "linear_all": round(linear[number]["all"].fvu, 4),
            "l0": round(l0[number], 2),
            "outliers": round(1 - ours[number]["usual"].n / ours[number]["all"].n, 5),
        }
        for number, part in enumerate(dictionary.parts)
    }
    averages = {name: round(mean(layer[name] for layer in layers.values()), 4) for name in layers["0"]}
    kept = ("n_tokens", "loss", "loss_spliced", "loss_change", "loss_mean", "loss_recovered_mean", "agreement", "kl",
            "dead")  # fmt: skip
    return Measured(
        value=averages["fvu"],
        n=ours[0]["all"].n,
        control={"linear": averages["linear"], "mean": 1.0},
        details={
            "averages": averages,
            "features_a_layer": dictionary.parts[0].n_features,
            "spliced": {name: value for name, value in asdict(scores).items() if name in kept},
            "linear_maps_from_tokens": FIT_TOKENS,
            "outlier_is_longer_than_medians": OUTLIER,
            "layers": layers,
        },
    )


def batches(model: Any, dictionary: Any, *, held_out: bool, n_tokens: int) -> Iterator[list[tuple[Any, Any]]]:
    """By layer, what enters its MLP and what leaves it, at all tokens but each text's first."""
    from thoughtscope import capture
    from thoughtscope.dictionaries.documents import counted, document_batches

    seen = 0
    for tokens in document_batches(model, documents(held_out), context=128, batch_tokens=2048):
        keep = counted(tokens.mask, skip_first=dictionary.skip_first)
        acts = capture(model, tokens, dictionary.sites)
        yield [(acts[part.reads[0]][keep], acts[part.writes[0]][keep]) for part in dictionary.parts]
        seen += int(keep.sum())
        if seen >= n_tokens:
            return


def medians(model: Any, dictionary: Any) -> list[float]:
    """By layer, the median length of its output, on the training's text."""
    batch = next(batches(model, dictionary, held_out=False, n_tokens=1))
    return [float(y.norm(dim=1).median()) for _, y in batch]


def fitted(model: Any, dictionary: Any, bars: list[float]) -> list[tuple[Any, Any]]:
    """By layer, the line through the training's text, outliers left out: they would decide it."""
    lines = [Line() for _ in dictionary.parts]
    for batch in batches(model, dictionary, held_out=False, n_tokens=FIT_TOKENS):
        for line, (x, y), bar in zip(lines, batch, bars, strict=True):
            usual = y.norm(dim=1) <= OUTLIER * bar
            line.add(x[usual], y[usual])
    return [line.solved() for line in lines]


def explained(
    model: Any, dictionary: Any, lines: list[Any], bars: list[float]
) -> tuple[Any, Any, list[float]]:
    """By layer, the sums of the dictionary and of the line, over all tokens and over usual ones; and the mean L0."""
    from thoughtscope.dictionaries.replacement import reconstruct

    ours, linear = ([{"all": Squares(), "usual": Squares()} for _ in lines] for _ in range(2))
    active = [0] * len(lines)
    for batch in batches(model, dictionary, held_out=True, n_tokens=TOKENS):
        for number, (part, (x, y)) in enumerate(zip(dictionary.parts, batch, strict=True)):
            written, values = reconstruct(part, {part.reads[0]: x})
            guesses = (written[part.writes[0]], x @ lines[number][0] + lines[number][1])
            usual = y.norm(dim=1) <= OUTLIER * bars[number]
            for sums, guess in zip((ours, linear), guesses, strict=True):
                sums[number]["all"].add(y, guess)
                sums[number]["usual"].add(y[usual], guess[usual])
            active[number] += int((values != 0).sum())
    return ours, linear, [count / ours[0]["all"].n for count in active]


if __name__ == "__main__":
    main(
        measure,
        claim="Share of SmolLM2-135M-Instruct's MLP outputs that its skip transcoders leave unexplained on held-out "
        "text, mean of the layers, without tokens of outlying length (control: the best linear map; the mean).",
    )
