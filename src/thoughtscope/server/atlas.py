"""The atlas of the dictionary at hand, piece by piece: the page asks for what it shows."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from fastapi.responses import Response

from thoughtscope import microscope
from thoughtscope.core.files import MAPS
from thoughtscope.microscope import Microscope
from thoughtscope.server.bodies import answered
from thoughtscope.server.session import Session
from thoughtscope.server.wire import EffectsRequest, PieceName

if TYPE_CHECKING:
    from thoughtscope.reports import AtlasPage


class Shelf:
    """The atlas, made when the first piece is asked for; its map, when somebody waits for it."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self._opening, self._mapping = threading.Lock(), threading.Lock()
        self._page: AtlasPage | None = None

    def piece(self, opened: Microscope, name: str) -> dict[str, Any]:
        """A piece of the page as it is now, with people's labels of this moment; "map" waits until there is a map."""
        with self._opening:
            page = self._page = self._page or microscope.atlas_page(opened, self._maps, make=False)
        if name == "map":
            with self._mapping:  # other pieces go on meanwhile
                if self._page.atlas.map is None:
                    self._page = microscope.atlas_page(opened, self._maps, progress=self._go_on)
            return {"made": True}
        labels = opened.labels.of(opened.dictionary.name)
        return replace(page, labels=labels).piece(name)

    @property
    def _maps(self) -> Path:
        return self.session.folder.root / MAPS

    def _go_on(self, stage: str, done: int, total: int | None, **figures: float) -> None:
        self.session.check_open()


def add_atlas(app: FastAPI, session: Session) -> None:
    """The routes of the atlas page, and of what it asks the model."""
    shelf = Shelf(session)

    @app.get("/api/atlas/{name}")
    async def atlas_piece(name: PieceName) -> Response:
        return await answered(shelf.piece, await session.microscope(), name)

    @app.post("/api/effects")
    async def effects(body: EffectsRequest) -> Response:
        def verb(opened: Microscope) -> microscope.Effects:
            with microscope.heard():
                tokens = microscope.tokens_of(opened, body.asked, bos=body.bos)
            return microscope.effects(opened, tokens, n=body.n)

        def told(found: microscope.Effects) -> dict[str, Any]:
            return {"answer": found.answer, "features": [each.to_json() for each in found.found]}

        return await answered(told, await session.run(verb))
