"""Power laws fitted to measurements, with intervals by the bootstrap."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

DRAWS = 1000
"""Resamples of a bootstrap."""
LEVEL = (0.025, 0.975)


@dataclass(frozen=True, kw_only=True)
class PowerLaw:
    """y = factor · x^exponent, fitted as a line in logarithms."""

    exponent: float
    factor: float
    r2: float
    """Share of the variance of log y that the line explains."""
    low: float
    """Of the exponent's 95 % interval, its ends."""
    high: float

    def __str__(self) -> str:
        return f"{self.exponent:.3f} [{self.low:.3f}, {self.high:.3f}], r² {self.r2:.3f}"


def power_law(x: Sequence[float], y: Sequence[float], *, seed: int = 0) -> PowerLaw:
    """Least squares in logarithms; the interval from resampled residuals. Takes three points or more, all above 0."""
    u, v = np.log(np.asarray(x, float)), np.log(np.asarray(y, float))
    slope, start = np.polyfit(u, v, 1)
    left = v - (start + slope * u)
    r2 = 1 - left.var() / v.var() if v.var() else 0.0
    low, high = interval(_resampled(u, start + slope * u, left, seed))
    return PowerLaw(exponent=float(slope), factor=float(np.exp(start)), r2=float(r2), low=low, high=high)


def _resampled(u: np.ndarray, line: np.ndarray, left: np.ndarray, seed: int) -> np.ndarray:
    """Slopes of the line with residuals drawn anew, each wider by what two fitted numbers took of their variance."""
    left = left * (len(u) / max(1, len(u) - 2)) ** 0.5
    drawn = line + np.random.default_rng(seed).choice(left, (DRAWS, len(u)))
    centred = u - u.mean()
    return drawn @ centred / (centred @ centred)


def interval(draws: np.ndarray) -> tuple[float, float]:
    """The middle 95 % of some numbers."""
    low, high = np.quantile(draws, LEVEL)
    return float(low), float(high)


@dataclass(frozen=True, kw_only=True)
class Optimum:
    """The best way to spend one budget of compute."""

    compute: float
    size: float
    steps: float
    loss: float


def frontier(losses: Mapping[tuple[float, float], float]) -> list[Optimum]:
    """The optimum of each budget, from losses by (size, steps), where compute is size · steps.

    A parabola in log size through each budget's logarithms of loss; budgets with fewer than three runs, or whose best
    is at or beyond the edge of what was tried, have none.
    """
    budgets: dict[float, list[tuple[float, float]]] = {}
    for (size, steps), loss in losses.items():
        budgets.setdefault(round(float(np.log2(size * steps)), 6), []).append((size, loss))
    found = []
    for exponent, runs in sorted(budgets.items()):
        if len(runs) < 3:
            continue
        u = np.log([size for size, _ in runs])
        bend, slope, start = np.polyfit(u, np.log([loss for _, loss in runs]), 2)
        best = -slope / (2 * bend) if bend > 0 else np.inf
        if u.min() < best < u.max():
            loss = float(np.exp(start + slope * best + bend * best**2))
            size = float(np.exp(best))
            found.append(Optimum(compute=2.0**exponent, size=size, steps=2.0**exponent / size, loss=loss))
    return found


@dataclass(frozen=True, kw_only=True)
class Sigmoid:
    """The chance of a yes as a logistic function of log10 x."""

    slope: float
    """Per power of ten."""
    half: float
    """The x at which the chance is a half."""


def sigmoid(x: Float[np.ndarray, " case"], yes: Int[np.ndarray, " case"]) -> Sigmoid | None:
    """Maximum likelihood, with a prior as of a hundredth of a case on the slope; None where all answers are alike."""
    from scipy.optimize import minimize
    from scipy.special import expit

    if yes.all() or not yes.any():
        return None
    u, sign = np.log10(x), np.where(yes > 0, 1.0, -1.0)
    centre = u.mean()

    def loss(at: np.ndarray) -> tuple[float, np.ndarray]:
        z = at[0] * (u - centre) + at[1]
        pull = -sign * expit(-sign * z)
        value = np.logaddexp(0, -sign * z).sum() + 0.005 * at[0] ** 2
        return value, np.array([pull @ (u - centre) + 0.01 * at[0], pull.sum()])

    slope, start = minimize(loss, np.zeros(2), jac=True, method="BFGS").x
    return Sigmoid(slope=float(slope), half=float(10 ** (centre - start / slope)))


def auroc(scores: Float[np.ndarray, " case"], yes: Int[np.ndarray, " case"]) -> float:
    """The chance that a yes has a larger score than a no, ties counting a half; 0.5 without either."""
    from scipy.stats import rankdata

    n, m = int(yes.sum()), int(len(yes) - yes.sum())
    if not n or not m:
        return 0.5
    return float((rankdata(scores)[yes > 0].sum() - n * (n + 1) / 2) / (n * m))
