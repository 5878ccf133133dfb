"""`capture`: one forward pass of the unmodified module, and the tensors at the wanted sites."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor

from thoughtscope.core.errors import UnknownSite, describe_choices
from thoughtscope.core.site import Site
from thoughtscope.models.edits import Edit, writes_of
from thoughtscope.models.hooks import forward, reading
from thoughtscope.models.model import Model
from thoughtscope.models.tokens import Tokens

_UNSTOPPABLE = ("final_norm", "logits")


class Activations(Mapping[Site, Tensor]):
    """What a forward pass held at each captured site. Sites may be given as text: `acts["resid_post.3"]`."""

    def __init__(self, tensors: Mapping[Site, Tensor], tokens: Tokens) -> None:
        self._tensors = dict(tensors)
        self.tokens = tokens

    def __getitem__(self, site: Site | str) -> Tensor:
        site = Site.parse(site) if isinstance(site, str) else site
        if site not in self._tensors:
            raise UnknownSite(
                describe_choices(site, self._tensors, what="captured site")
                + " Name it in the call of capture."
            )
        return self._tensors[site]

    def __contains__(self, site: object) -> bool:
        return (Site.parse(site) if isinstance(site, str) else site) in self._tensors

    def __iter__(self) -> Iterator[Site]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def to(self, device: torch.device | str) -> Activations:
        """All tensors on a device."""
        return Activations({site: x.to(device) for site, x in self._tensors.items()}, self.tokens)

    def __repr__(self) -> str:
        shapes = ", ".join(f"{site}: {tuple(x.shape)}" for site, x in self._tensors.items())
        return f"Activations({shapes})"


@torch.no_grad()
def capture(
    model: Model,
    tokens: Tokens,
    sites: Iterable[Site | str],
    *,
    edits: Iterable[Edit] = (),
    stop: bool = True,
    device: torch.device | str | None = None,
) -> Activations:
    """The tensors at `sites` in one forward pass under `edits`; shapes are those of `core.site`.

    With `stop`, the pass ends after the last wanted block. Tensors stay on the model's device, or move to `device`
    after the pass. A read sees the value after the edits of its site.
    Raises `UnknownSite` for a site that the model lacks.
    """
    wanted = tuple(dict.fromkeys(model.site(site) for site in sites))
    found: dict[Site, Tensor] = {}

    last = None
    if stop and wanted and not any(site.kind in _UNSTOPPABLE for site in wanted):
        last = max(site.layer or 0 for site in wanted)
    forward(
        model,
        tokens,
        reads={site: reading(found, site) for site in wanted},
        writes=writes_of(model, edits),
        last_layer=last,
    )
    activations = Activations({site: found[site] for site in wanted}, tokens)
    return activations if device is None else activations.to(device)
