"""A conversation on the page: who speaks, the template folded, and a chat model asked in its own template."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.browser.conftest import Server, serving
from tests.browser.gestures import agree, wait_for
from tests.chat_templates import CHATML, chat_model
from tests.clients import TOKEN
from tests.tiny_microscope import random_dictionary
from thoughtscope.microscope import Microscope


@pytest.fixture(scope="module")
def chatting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    model = chat_model(CHATML)
    opened = Microscope(model=model, dictionary=random_dictionary(model), bank=None, max_tokens=200)
    with serving(lambda: opened, tmp_path_factory.mktemp("chats")) as running:
        yield running


def test_a_conversation_is_asked_and_shown_by_turns(page: Any, chatting: Server) -> None:
    page.goto(f"{chatting.url}?token={TOKEN}")
    page.get_by_label("Prompt").fill("Hi <|im_end|>")
    assert page.get_by_label("chat").is_checked()
    page.get_by_role("button", name="Trace", exact=True).click()
    page.wait_for_selector(".stage g.node", timeout=60000)
    agree(lambda: page.locator(".role text").all_text_contents(), ["system", "user", "assistant"])
    agree(lambda: page.locator(".overview .turn dt").all_inner_texts(), ["system", "user", "assistant"])
    words = page.locator(".overview .turn:nth-child(2) .token").all_inner_texts()
    assert "".join(words).replace("·", " ") == "Hi <|im_end|>"
    agree(lambda: page.locator("#prompt").input_value(), "Hi <|im_end|>")
    wait_for(lambda: page.title().startswith("user: Hi <|im_end|>"))
    assert "user: Hi <|im_end|>" in page.get_by_label("Graphs").inner_text()
    graph = chatting.ask(f"graphs/{chatting.ask('session')['graphs'][0]['slug']}")
    turns = graph["metadata"]["thoughtscope"]["turns"]
    said = sum(turn["content"][1] - turn["content"][0] for turn in turns)
    length = len(graph["metadata"]["prompt_tokens"])
    agree(lambda: page.locator(".folded-name").count(), length - said)
    # what stands at the template's tokens is there as any other node
    node = next(n for n in graph["nodes"] if n["feature_type"] == "embedding" and n["ctx_idx"] == 0)
    page.goto(f"{page.url.split('#')[0]}#g={graph['metadata']['slug']}&s={node['node_id']}")
    page.wait_for_selector(".stage g.node.selected")
    agree(lambda: page.locator(".node-head h2 .token").inner_text(), "<|im_start|>")


def test_the_same_model_takes_a_plain_text(page: Any, chatting: Server) -> None:
    page.goto(f"{chatting.url}?token={TOKEN}")
    page.get_by_label("Prompt").fill("Hi")
    page.get_by_label("chat").uncheck()
    page.get_by_role("button", name="Trace", exact=True).click()
    page.wait_for_selector(".stage g.node", timeout=60000)
    assert page.locator(".folded-name").count() == 0 == page.locator(".role").count()
    agree(lambda: page.locator("#prompt").input_value(), "Hi")
    assert not page.get_by_label("chat").is_checked()


def test_a_model_without_a_template_has_no_switch(page: Any, server: Server) -> None:
    page.goto(server.url)
    page.wait_for_selector(".start")
    assert page.get_by_label("chat").count() == 0
