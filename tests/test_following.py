"""Chosen features at every token: the values of the dense encoder, in Python and over HTTP."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.chat_templates import CHATML, chat_model
from tests.clients import client_of
from tests.tiny_microscope import random_dictionary, tiny_microscope
from thoughtscope.core.errors import UnknownFeature
from thoughtscope.dictionaries import encode
from thoughtscope.microscope import Microscope, WorkFolder, activations, readings, tokens_of
from thoughtscope.models import capture
from thoughtscope.server.session import Session


def test_activations_are_those_of_the_encoder() -> None:
    microscope = tiny_microscope()
    tokens = tokens_of(microscope, "ab cd ef")
    found = encode(microscope.dictionary, capture(microscope.model, tokens, microscope.dictionary.sites))
    dense = torch.zeros(3, len(tokens.pieces[0]), 24)
    dense[found.part.long(), found.position.long(), found.index.long()] = found.value
    names = [f"{part}/{index}" for part in range(3) for index in range(24)]
    values = activations(microscope, "ab cd ef", names)
    assert list(values) == names
    for name in names:
        part, index = map(int, name.split("/"))
        assert values[name] == dense[part, :, index].tolist()
    assert sum(any(value) for value in values.values()) > 30 and not all(map(all, values.values()))
    for position, strongest in enumerate(readings(microscope, tokens, n=5).at):
        for one in strongest:
            assert values[one.feature.id][position] == one.value
    for name in ("3/0", "0/24", "0", "x/1"):
        with pytest.raises(UnknownFeature):
            activations(microscope, "ab", [name])


def test_activations_over_http(tmp_path: Path) -> None:
    model = chat_model(CHATML)
    opened = Microscope(model=model, dictionary=random_dictionary(model), bank=None, max_tokens=200)
    session = Session(lambda: opened, folder=WorkFolder(tmp_path))
    try:
        client = client_of(session)
        body = {"chat": [{"role": "user", "content": "Hi"}], "features": ["1/3", "0/7"]}
        assert client.post("/api/activations", json=body).json() == {
            "values": activations(opened, body["chat"], body["features"])  # type: ignore[arg-type]
        }
        for features, status in ((["9/9"], 404), ([], 422), (["1/3"] * 21, 422), (["a"], 422)):
            reply = client.post("/api/activations", json={**body, "features": features})
            assert reply.status_code == status and reply.json()["error"]["message"]
    finally:
        session.close()
