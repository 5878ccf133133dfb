"""The recipes that come along: one function for each kind of dictionary in the literature.

Each takes the sites and sizes that the question decides, and returns a `Recipe` whose every other value can be changed
with `replaced`. Third parties add their own as entry points of the group `thoughtscope.recipes`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from thoughtscope.core.errors import ThoughtscopeError
from thoughtscope.core.registry import Registry
from thoughtscope.training.recipe import PartSites, Recipe

Number = int | float

RECIPES: Registry[Callable[..., Recipe]] = Registry("recipe", ThoughtscopeError, group="thoughtscope.recipes")


def autoencoders(sites: str | Iterable[str]) -> tuple[PartSites, ...]:
    """One part for each site, which it reads and writes."""
    listed = [sites] if isinstance(sites, str) else list(sites)
    return tuple(PartSites.of(name=site, reads=(site,), writes=(site,)) for site in listed)


def per_layer(n_layers: int, read: str = "mlp_in", write: str = "mlp_out") -> tuple[PartSites, ...]:
    """One transcoder a layer, from what enters its MLP to what leaves it."""
    return tuple(
        PartSites.of(name=str(layer), reads=(f"{read}.{layer}",), writes=(f"{write}.{layer}",))
        for layer in range(n_layers)
    )


def cross_layer(n_layers: int, read: str = "mlp_in", write: str = "mlp_out") -> tuple[PartSites, ...]:
    """One encoder a layer, whose features write to the MLP outputs of that and every later layer."""
    return tuple(
        PartSites.of(
            name=str(layer),
            reads=(f"{read}.{layer}",),
            writes=tuple(f"{write}.{later}" for later in range(layer, n_layers)),
        )
        for layer in range(n_layers)
    )


@RECIPES.register("sae")
def sae(
    sites: str | Iterable[str] = "resid_post.0", n_features: int = 4096, k: int = 32, **others: Any
) -> Recipe:
    """A TopK sparse autoencoder with unit decoders, tied start and AuxK (Gao et al. 2024)."""
    return _made(
        dict(
            parts=autoencoders(sites),
            n_features=n_features,
            activation=dict(kind="topk", k=k),
            decoder="unit",
            tied_start=True,
            dead=dict(kind="auxiliary"),
        ),
        others,
    )


@RECIPES.register("relu-sae")
def relu_sae(
    sites: str | Iterable[str] = "resid_post.0",
    n_features: int = 4096,
    coefficient: Number = 0.2,
    **others: Any,
) -> Recipe:
    """ReLU with an L1 penalty weighted by free decoders' norms (Templeton et al. 2024), dead features resampled."""
    return _made(
        dict(
            parts=autoencoders(sites),
            n_features=n_features,
            activation=dict(kind="relu", coefficient=coefficient, start_l0=n_features / 16),
            tied_start=True,
            dead=dict(kind="resampling"),
        ),
        others,
    )


@RECIPES.register("batchtopk-sae")
def batchtopk_sae(
    sites: str | Iterable[str] = "resid_post.0", n_features: int = 4096, k: Number = 32, **others: Any
) -> Recipe:
    """A BatchTopK sparse autoencoder (Bussmann et al. 2024)."""
    return _made(
        dict(
            parts=autoencoders(sites),
            n_features=n_features,
            activation=dict(kind="batchtopk", k=k, shared=False),
            decoder="unit",
            tied_start=True,
        ),
        others,
    )


@RECIPES.register("matryoshka-sae")
def matryoshka_sae(
    sites: str | Iterable[str] = "resid_post.0", n_features: int = 4096, k: Number = 32, **others: Any
) -> Recipe:
    """A Matryoshka BatchTopK sparse autoencoder: five nested sizes (Bussmann et al. 2025)."""
    return _made(
        dict(
            parts=autoencoders(sites),
            n_features=n_features,
            activation=dict(kind="batchtopk", k=k, shared=False, prefixes=(1 / 16, 1 / 8, 1 / 4, 1 / 2, 1)),
            decoder="unit",
            tied_start=True,
        ),
        others,
    )


@RECIPES.register("jumprelu-sae")
def jumprelu_sae(
    sites: str | Iterable[str] = "resid_post.0", n_features: int = 4096, l0: Number = 32, **others: Any
) -> Recipe:
    """A JumpReLU sparse autoencoder that settles at a wanted L0 (Rajamanoharan et al. 2024; Conerly et al. 2025)."""
    return _made(
        dict(
            parts=autoencoders(sites),
            n_features=n_features,
            activation=dict(kind="jumprelu", target_l0=l0, coefficient=1.0, start_l0=2 * l0, bandwidth=0.5),
            tied_start=True,
            dead=dict(kind="pre-activation"),
        ),
        others,
    )


@RECIPES.register("gated-sae")
def gated_sae(
    sites: str | Iterable[str] = "resid_post.0",
    n_features: int = 4096,
    coefficient: Number = 0.2,
    **others: Any,
) -> Recipe:
    """A gated sparse autoencoder (Rajamanoharan et al. 2024, Gated)."""
    return _made(
        dict(
            parts=autoencoders(sites),
            n_features=n_features,
            activation=dict(kind="gated", coefficient=coefficient, start_l0=n_features / 16),
            decoder="unit",
            tied_start=True,
            dead=dict(kind="resampling"),
        ),
        others,
    )


@RECIPES.register("transcoder")
def transcoder(
    n_layers: int,
    n_features: int = 4096,
    k: Number = 16,
    read: str = "mlp_in",
    write: str = "mlp_out",
    **others: Any,
) -> Recipe:
    """One transcoder a layer (Dunefsky et al. 2024); all layers' features compete for their places."""
    return _made(
        dict(
            parts=per_layer(n_layers, read, write),
            n_features=n_features,
            activation=dict(kind="batchtopk", k=k),
        ),
        others,
    )


@RECIPES.register("skip-transcoder")
def skip_transcoder(
    n_layers: int,
    n_features: int = 4096,
    k: Number = 16,
    read: str = "mlp_in",
    write: str = "mlp_out",
    **others: Any,
) -> Recipe:
    """Transcoders with a linear path beside the features (Paulo et al. 2025)."""
    return _made(
        dict(
            parts=per_layer(n_layers, read, write),
            n_features=n_features,
            activation=dict(kind="batchtopk", k=k),
            skip=True,
        ),
        others,
    )


@RECIPES.register("clt")
def clt(
    n_layers: int,
    n_features: int = 4096,
    k: Number = 16,
    read: str = "mlp_in",
    write: str = "mlp_out",
    **others: Any,
) -> Recipe:
    """A cross-layer transcoder (Ameisen et al. 2025), by BatchTopK over all layers."""
    return _made(
        dict(
            parts=cross_layer(n_layers, read, write),
            n_features=n_features,
            activation=dict(kind="batchtopk", k=k),
        ),
        others,
    )


@RECIPES.register("crosscoder")
def crosscoder(
    n_layers: int, n_features: int = 4096, coefficient: Number = 0.1, site: str = "resid_post", **others: Any
) -> Recipe:
    """One set of features that reads and writes a site of every layer, by the L1 of norms (Lindsey et al. 2024)."""
    sites = tuple(f"{site}.{layer}" for layer in range(n_layers))
    return _made(
        dict(
            parts=(PartSites.of(name=site, reads=sites, writes=sites),),
            n_features=n_features,
            activation=dict(kind="relu", coefficient=coefficient, start_l0=n_features / 16),
            norm="by site",
            tied_start=True,
            dead=dict(kind="resampling"),
        ),
        others,
    )


def _made(values: dict[str, Any], others: dict[str, Any]) -> Recipe:
    """The recipe, with what the caller said last; dots reach inside (`{"schedule.batch": 2048}`)."""
    made = Recipe.of(**values)
    return made.replaced(others) if others else made
