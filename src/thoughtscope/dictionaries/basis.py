"""`basis`: a site's own coordinates as a dictionary: the neurons, to stand beside features in every measure."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from thoughtscope.core.site import Site
from thoughtscope.dictionaries.activation import Activation
from thoughtscope.dictionaries.dictionary import Dictionary, Part

if TYPE_CHECKING:
    from thoughtscope.models import Model


def basis(model: Model, site: Site | str) -> Dictionary:
    """An autoencoder whose features are the coordinates of a site, in the model's order; it reconstructs exactly.

    At `mlp_act` these are the neurons. Activations keep their signs. Raises `UnknownSite`.
    """
    at = model.site(site)
    one = torch.eye(model.width(at))
    part = Part(
        name=str(at),
        activation=Activation(kind="abs_topk", k=len(one)),
        W_enc={at: one},
        b_enc=torch.zeros(len(one)),
        W_dec={at: one},
        b_dec={},
    )
    return Dictionary(
        name=f"{model.name}/{at}/basis", scan=f"{model.name}-basis", model_name=model.name, parts=(part,)
    )
