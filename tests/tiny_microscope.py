"""A tiny model with a random cross-layer dictionary: enough for everything above the layer of graphs."""

from __future__ import annotations

from functools import cache

import torch

from tests.tiny_models import tiny_model
from thoughtscope.dictionaries import Activation, Card, Dictionary, LayerWeights, transcoders
from thoughtscope.microscope import Microscope
from thoughtscope.models import Model

N_FEATURES = 24


@cache
def shared_model() -> Model:
    return tiny_model("llama", layers=3, max_position_embeddings=64)


def random_dictionary(
    model: Model, *, name: str = "tiny/clt", scan: str = "tiny-clt", seed: int = 0
) -> Dictionary:
    """A cross-layer transcoder with random weights; about half of its features are active at each position."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator) / shape[-1] ** 0.5

    layers = tuple(
        LayerWeights(
            W_enc=random(N_FEATURES, model.d_model),
            b_enc=random(N_FEATURES),
            decoder=random(N_FEATURES, model.n_layers - layer, model.d_model),
            b_dec=random(model.d_model),
        )
        for layer in range(model.n_layers)
    )
    return transcoders(
        name=name,
        scan=scan,
        model_name=model.name,
        activation=Activation(kind="relu"),
        layers=layers,
        card=Card(declared={"fvu": 0.25, "l0": 12.0}),
    )


def tiny_microscope(*, bank: object | None = None, max_tokens: int = 48) -> Microscope:
    model = shared_model()
    return Microscope(model=model, dictionary=random_dictionary(model), bank=bank, max_tokens=max_tokens)
