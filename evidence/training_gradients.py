"""Every gradient of a training step against autograd in float64.

The step's gradients are written out by hand in sparse form; the reference (`tests/training_oracle.py`) is the dense
loss of the papers under autograd. Kinds of dictionary times activations, and what dead features learn by.
"""

from __future__ import annotations

from _claim import Measured, main

SEEDS = 3
MISTAKE = 1 + 1e-6
"""The control's gradient of one matrix is longer by this factor."""


def measure(seed: int) -> Measured:
    """The largest relative error of any gradient: ‖ours − autograd‖ / ‖autograd‖."""
    import torch

    from tests import training_oracle as oracle

    torch.set_num_threads(1)
    errors: dict[str, float] = {}
    tensors = 0
    for turn in range(SEEDS):
        for kind in oracle.KINDS:
            for name, activation in oracle.ACTIVATIONS.items():
                state, batch = oracle.made(kind, activation, seed=seed + turn)
                found, wanted = oracle.gradients(state, batch)[1], oracle.expected(state, batch)[1]
                errors[f"{kind}, {name}, {turn}"] = oracle.worst(found, wanted)
                tensors += len(found)
            for name, remedy, activation in oracle.REMEDIES:
                state, batch, dead = oracle.with_dead(kind, remedy, activation, seed=seed + turn)
                found, wanted = oracle.gradients(state, batch)[1], oracle.expected(state, batch, dead)[1]
                errors[f"{kind}, {activation.kind} with {name} loss, {turn}"] = oracle.worst(found, wanted)
                tensors += len(found)
    mistaken = {name: grad * MISTAKE if name.endswith("W_enc") else grad for name, grad in found.items()}
    where = max(errors, key=lambda name: errors[name])
    return Measured(
        value=errors[where],
        n=len(errors),
        control=oracle.worst(mistaken, wanted),
        details={
            "where": where,
            "gradients compared": tensors,
            "kinds": list(oracle.KINDS),
            "activations": list(oracle.ACTIVATIONS),
            "control": f"the last case with W_enc's gradients {MISTAKE} times as long",
        },
    )


if __name__ == "__main__":
    main(
        measure,
        claim="Largest relative error of a training step's gradients against autograd in float64, over every kind of "
        "dictionary and every activation.",
    )
