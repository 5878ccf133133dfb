"""`KeptAnswers`: answers by the hash of what was asked, so that nothing is asked, or paid, twice."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from thoughtscope.assistants.requests import Answer, Assistant, Request
from thoughtscope.core.errors import CorruptArtefact, LimitExceeded
from thoughtscope.core.files import atomic_write_text, read_file, writing
from thoughtscope.core.parsing import strict_json

LIMIT = 16 * 2**20
"""Bytes of a kept answer."""


class KeptAnswers:
    """A folder of answers, a file each: `ab/abcd….json` with the assistant's identity, the request and the answer.

    A file that cannot be read counts as none, so that its request is asked again. What failed is not kept.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)

    def get(self, assistant: Assistant, request: Request) -> Answer | None:
        """The answer to a request, if this assistant gave one before."""
        try:
            found = strict_json(read_file(self._path(assistant, request), limit=LIMIT), "a kept answer")
            return Answer.from_json(found["answer"])
        except (FileNotFoundError, CorruptArtefact, LimitExceeded, TypeError, KeyError):
            return None

    def keep(self, assistant: Assistant, request: Request, answer: Answer) -> None:
        """Keeps an answer, on disk at once. Raises `NotWritten`."""
        path = self._path(assistant, request)
        asked = {"assistant": dict(assistant.identity()), "request": request.to_json()}
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write_text(
            path, json.dumps({**asked, "answer": answer.to_json()}, ensure_ascii=False, allow_nan=False)
        )

    def _path(self, assistant: Assistant, request: Request) -> Path:
        name = key_of(assistant, request)
        return self.folder / name[:2] / f"{name}.json"


def key_of(assistant: Assistant, request: Request) -> str:
    """SHA-256 of everything that decides an answer."""
    asked = {"assistant": dict(assistant.identity()), "request": request.to_json()}
    return hashlib.sha256(json.dumps(asked, sort_keys=True, allow_nan=False).encode()).hexdigest()
