"""What changes over a training: learning rate, sparsity, k. Each is a function of the step alone."""

from __future__ import annotations

from thoughtscope.training.recipe import Schedule


def rate(plan: Schedule, step: int) -> float:
    """Linear warm-up, constant, linear decay towards 0."""
    share = step / plan.n_steps
    rising = (step + 1) / max(1.0, plan.warm_up * plan.n_steps)
    falling = (1 - share) / plan.decay if plan.decay else 1.0
    return plan.learning_rate * min(1.0, rising, falling)


def sparsity(plan: Schedule, step: int) -> float:
    """The share of a penalty that counts."""
    return min(1.0, (step + 1) / max(1.0, plan.sparsity_warm_up * plan.n_steps))


def active(plan: Schedule, step: int, k: float, n_features: int) -> float:
    """Active features a token: from `k_start` times `k` down to `k`."""
    until = plan.sparsity_warm_up * plan.n_steps
    left = max(0.0, 1 - step / until) if until else 0.0
    return min(k * (1 + (plan.k_start - 1) * left), n_features / 2)
