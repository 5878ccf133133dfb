"""The page to talk on, in a browser: two answers at once, features of each token, what is turned, and what may go wrong."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.browser.conftest import FLAGS, Server, find_chromium, serving
from tests.browser.gestures import agree, wait_for
from tests.chat_templates import CHATML, chat_model
from tests.clients import TOKEN, events
from tests.tiny_microscope import random_dictionary, tiny_microscope
from thoughtscope.microscope import Microscope

pytestmark = pytest.mark.browser


@dataclass
class Chat:
    """The page with a tiny chat model behind it, and what the browser complained of."""

    page: Any
    server: Server
    said: list[str]

    def open(self, hash: str = "") -> Any:
        self.page.goto(
            f"{self.server.url}icon.svg"
        )  # an address that differs only after the # does not load again
        self.page.goto(f"{self.server.url}chat?token={TOKEN}{hash}")
        self.page.wait_for_selector("#message")
        return self.page

    def say(self, text: str, sides: int = 1) -> None:
        """Sends a message and waits until its answers were read."""
        number = self.page.locator(".exchange").count() + 1
        self.page.locator("#message").fill(text)
        self.page.keyboard.press("Enter")
        self.read(number, sides)

    def read(self, number: int, sides: int) -> None:
        for side in ("plain", "turned")[:sides]:
            answer = f".answer.by-{side}[aria-busy=false]"
            self.page.locator(".exchange").nth(number - 1).locator(answer).wait_for(timeout=60_000)

    def words(self, side: str) -> str:
        """What the answers of one side say."""
        return "".join(self.page.locator(f".answer.by-{side} .t:not(.mark-token)").all_text_contents())

    def answer(self, **body: Any) -> str:
        with self.server.open("api/generate", json.dumps({"max_new_tokens": 6, **body}).encode()) as reply:
            return events(reply.read().decode())[-1][1]["text"]


@pytest.fixture(scope="module")
def chatting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chat]:
    chromium = find_chromium()
    if chromium is None:
        pytest.skip("no Chromium: install it, or name it in the environment variable CHROMIUM")
    from playwright.sync_api import sync_playwright

    # Long enough for an answer that is stopped late: its bytes that are no text are three tokens each when read again.
    model = chat_model(CHATML, max_position_embeddings=512)
    opened = Microscope(model=model, dictionary=random_dictionary(model), bank=None, max_tokens=500)
    with serving(lambda: opened, tmp_path_factory.mktemp("talks")) as server, sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=list(FLAGS))
        page = browser.new_context(reduced_motion="reduce").new_page()
        page.set_default_timeout(20_000)
        said: list[str] = []

        def heard(message: Any) -> None:
            asked = message.location.get("url", "")
            if message.type == "error" and not asked.endswith("/favicon.ico"):
                said.append(f"{message.text} {asked}")

        page.on("console", heard)
        page.on("pageerror", lambda error: said.append(str(error)))
        yield Chat(page=page, server=server, said=said)
        browser.close()


@pytest.fixture
def chat(chatting: Chat) -> Iterator[Chat]:
    chatting.page.set_viewport_size({"width": 1280, "height": 800})
    chatting.said.clear()
    yield chatting
    assert chatting.said == []


def printable(text: str) -> str:
    """As a page shows it: without the characters that disguise text."""
    hidden = [*range(9), *range(11, 32), *range(127, 160)]
    return "".join("\ufffd" if ord(character) in hidden else character for character in text)


def test_an_answer_and_the_features_of_its_tokens(chat: Chat) -> None:
    page = chat.open("#n=6")
    assert page.url.endswith("/chat#n=6")  # the token has gone from the address
    chat.say("Hi <b>é</b>")
    assert chat.words("plain") == printable(chat.answer(chat=[{"role": "user", "content": "Hi <b>é</b>"}]))
    assert page.locator(".said h3").all_inner_texts() == ["system", "user"]
    said = "".join(page.locator(".said.user .t:not(.mark-token)").all_text_contents())
    assert said == "Hi <b>é</b>" and page.locator(".words b").count() == 0
    # é is two tokens and one character; every token of the template is a mark
    assert page.locator(".said.user .t:not(.mark-token)", has_text="é").count() == 1
    page.locator(".said.user .t", has_text="H").click()
    rows = page.locator(".at-token .feature-row")
    wait_for(lambda: rows.count() == 10)
    reading = chat.server.ask("readings", {"chat": [{"role": "user", "content": "Hi <b>é</b>"}], "n": 10})
    first = reading["at"][reading["tokens"].index("H")][0]
    part, index = first["id"].split("/")
    assert f"L{part} #{index}" in rows.first.inner_text()
    shares = [float(text.removesuffix(" %")) for text in rows.locator("b").all_inner_texts()]
    assert shares == sorted(shares, reverse=True) and shares[0] > 0


def test_arrow_keys_go_over_the_tokens_and_a_feature_tints_them(chat: Chat) -> None:
    page = chat.open("#n=6")
    chat.say("ab cd")
    page.locator(".said.user .t", has_text="b").click()
    here = page.locator(".t:focus")
    page.keyboard.press("ArrowRight")
    agree(lambda: here.text_content(), " ")
    page.keyboard.press("ArrowRight")
    agree(lambda: here.text_content(), "c")
    agree(lambda: page.locator(".at-token h2 .token").inner_text(), "c")
    page.keyboard.press("ArrowDown")
    page.locator(".answer .t:focus").wait_for()
    assert page.locator(".tint-scale").count() == 0
    page.locator(".at-token .pick").first.click()
    page.wait_for_selector(".tint-scale")
    assert (
        page.locator(".t.chosen").evaluate("e => getComputedStyle(e).backgroundColor") != "rgba(0, 0, 0, 0)"
    )
    page.keyboard.press("Escape")
    agree(lambda: page.locator(".t.chosen").count(), 0)


def test_a_turned_feature_gives_a_second_answer(chat: Chat) -> None:
    page = chat.open("#n=6")
    chat.say("ab")
    page.locator(".said.user .t", has_text="b").click()
    page.locator(".at-token .feature-row .icon").first.click()
    page.locator(".turning input[type=number]").fill("10")
    page.locator(".turning input[type=number]").press("Tab")
    page.get_by_role("button", name="Answer again").click()
    page.wait_for_selector(".answer.by-turned")
    chat.read(1, 2)
    unit = page.evaluate("decodeURIComponent(location.hash)").split("f=")[1].split("&")[0]
    place, value = unit.split(":")
    assert page.locator(".turning-name").get_attribute("title").endswith(f"L{place.replace('/', ' #')}")
    times, largest = map(float, value.split("@"))
    part, index = place.split("/")
    edit = {"part": part, "index": int(index), "op": "set", "value": times * largest, "start": 0}
    asked = [{"role": "user", "content": "ab"}]
    assert chat.words("plain") == printable(chat.answer(chat=asked))
    assert chat.words("turned") == printable(chat.answer(chat=asked, edits=[edit])) != chat.words("plain")
    # each column goes on from its own answer
    with page.expect_request(
        lambda request: request.url.endswith("generate") and 'edits":[{' in request.post_data
    ) as one:
        chat.say("cd", 2)
    sent = json.loads(one.value.post_data)["chat"]
    assert [message["role"] for message in sent] == ["user", "assistant", "user"]
    assert sent[1]["content"] == chat.answer(chat=asked, edits=[edit])
    page.get_by_role("button", name="Let go of").click()
    agree(lambda: page.locator(".turning").count(), 0)
    assert "f=" not in page.url


def test_the_address_brings_back_what_is_turned_and_a_shared_conversation(chat: Chat) -> None:
    said = quote(json.dumps([["ab", "cd", "ef"]]))
    page = chat.open(f"#f=1/3:-2@4.5,0/5:0&s=Be+brief&t=0.8&p=0.95&seed=7&n=5&theme=dark&c={said}")
    agree(
        lambda: page.locator(".turning input[type=number]").evaluate_all("all => all.map(e => e.value)"),
        ["-2", "0"],
    )
    assert "× 4.5 = −9" in page.locator(".turning").first.inner_text()
    assert "switched off" in page.locator(".turning").last.inner_text()
    assert page.locator(".system-line input").input_value() == "Be brief"
    assert (
        page.get_by_label("seed").input_value() == "7"
        and page.get_by_label("temperature").input_value() == "0.8"
    )
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    chat.read(1, 2)
    wait_for(lambda: chat.words("turned") == "ef")
    assert chat.words("plain") == "cd" and page.locator(".said h3").all_inner_texts() == ["system", "user"]
    with page.expect_request(lambda request: request.url.endswith("generate")) as one:
        page.get_by_role("button", name="Answer again").click()
    assert json.loads(one.value.post_data)["sampling"] == {"temperature": 0.8, "top_p": 0.95, "seed": 7}
    chat.read(1, 2)
    plain = chat.words("plain")
    page.get_by_role("button", name="Share").click()
    page.wait_for_selector(".notice")
    talk = page.evaluate("JSON.parse(new URLSearchParams(location.hash.slice(1)).get('c'))")
    assert talk[0][0] == "ab" and printable(talk[0][1]) == plain
    page.get_by_role("button", name="New").click()
    page.locator(".turning .icon").first.click()
    agree(lambda: "c=" in page.url, False)
    # the seed makes the same answer again, also to a message that only the address says
    page.wait_for_selector(".chat-empty")
    chat.open(f"#s=Be+brief&t=0.8&p=0.95&seed=7&n=5&c={quote(json.dumps([['ab', '']]))}")
    chat.read(1, 1)
    assert chat.words("plain") == plain


def test_what_the_address_cannot_mean_is_passed_over(chat: Chat) -> None:
    page = chat.open("#f=9/1:3,1/99999:3,nothing,1/2:NaN,1/2:999&t=-1&n=0&c=[1,2]&theme=pink")
    page.wait_for_selector(".notice.error")
    agree(lambda: page.locator(".turning").count(), 0)
    assert page.get_by_role("spinbutton", name="tokens").input_value() == "200"
    assert page.locator(".chat-empty").count() == 1
    wait_for(lambda: len(chat.said) == 2)
    assert all("404" in text for text in chat.said)  # features that there are not
    chat.said.clear()


def test_a_message_is_said_in_other_words_and_an_answer_is_stopped(chat: Chat) -> None:
    page = chat.open("#n=100")
    page.locator("#message").fill("ab")
    page.keyboard.press("Enter")
    wait_for(lambda: page.locator(".answer.running .t:not(.mark-token)").count() > 2)
    page.keyboard.press("Escape")
    page.wait_for_selector(".answer.stopped")
    chat.read(1, 1)
    assert "stopped" in page.locator(".answer h3").inner_text() and 0 < len(chat.words("plain")) < 100
    page.get_by_role("spinbutton", name="tokens").fill("4")
    page.locator("#message").focus()
    page.keyboard.press("ArrowUp")
    agree(lambda: page.locator("#message").input_value(), "ab")
    page.keyboard.press("Escape")
    agree(lambda: page.locator("#message").input_value(), "")
    page.keyboard.press("ArrowUp")
    page.locator("#message").fill("cd")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("ef")
    page.keyboard.press("Enter")
    page.locator(".answer.done[aria-busy=false]").wait_for()
    assert page.locator(".exchange").count() == 1
    assert "".join(page.locator(".said.user .t:not(.mark-token)").all_text_contents()) == "cd\nef"


def test_features_are_found_by_words_and_by_example(chat: Chat) -> None:
    page = chat.open()
    chat.server.ask("labels/1/3", {"label": "Golden <i>gates</i>"}, "PUT")
    page.get_by_label("Look for features").fill("golden")
    page.get_by_role("button", name="Find").click()
    row = page.locator(".found-list .feature-row")
    row.wait_for()
    assert (
        row.locator(".name").inner_text() == "Golden <i>gates</i>"
        and row.locator("small").inner_text() == "L1 #3"
    )
    assert row.get_by_role("button", name="Turn up").is_disabled()  # nothing says how strong it can be
    row.locator(".pick").click()
    agree(lambda: page.locator(".feature-card h2").inner_text().split("L1")[0].strip(), "Golden <i>gates</i>")
    page.get_by_role("button", name="Switch it off").click()
    agree(lambda: page.locator(".turning").count(), 1)
    page.get_by_label("Look for features").fill("ab cd")
    page.get_by_role("radio", name="example").click()
    page.get_by_role("button", name="Find").click()
    wait_for(lambda: row.count() == 20)
    shares = [float(text.removesuffix(" %")) for text in row.locator("b").all_inner_texts()]
    assert shares[0] == max(shares) > 0
    page.get_by_label("Look for features").fill("zzz")
    page.get_by_role("radio", name="words").click()
    page.get_by_role("button", name="Find").click()
    page.get_by_text("No feature for “zzz”").wait_for()


def test_what_the_server_refuses_is_said_where_the_answer_would_be(chat: Chat) -> None:
    page = chat.open("#n=6")
    page.locator("#message").fill("ab " * 200)
    page.keyboard.press("Enter")
    page.wait_for_selector(".answer-error")
    assert "tokens" in page.locator(".answer-error").inner_text()
    assert "refused" in page.locator(".answer h3").inner_text()
    wait_for(lambda: len(chat.said) >= 1)
    assert all("422" in text for text in chat.said)
    page.locator("#message").focus()
    page.keyboard.press("ArrowUp")
    page.locator("#message").fill("ab")
    page.keyboard.press("Enter")
    page.locator(".answer.done").wait_for()
    chat.said.clear()


def test_a_narrow_window_shows_one_answer_or_both(chat: Chat) -> None:
    page = chat.page
    page.set_viewport_size({"width": 390, "height": 844})
    chat.open(f"#n=4&f=1/3:2@5&c={quote(json.dumps([['ab', 'cd', 'ef']]))}")
    chat.read(1, 2)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    first, second = (page.locator(f".answer.by-{side}") for side in ("plain", "turned"))
    assert first.bounding_box()["y"] < second.bounding_box()["y"]
    page.get_by_role("radio", name="as it is").click()
    agree(second.is_visible, False)
    page.get_by_role("radio", name="turned").click()
    agree(lambda: (first.is_visible(), second.is_visible()), (False, True))


def test_a_model_without_a_template_goes_on_with_a_text(chat: Chat, tmp_path: Path) -> None:
    with serving(tiny_microscope, tmp_path) as server:
        page = chat.page
        page.goto(f"{server.url}?token={TOKEN}")
        page.get_by_role("link", name="chat").click()
        page.wait_for_selector("#message")
        assert page.locator(".system-line").count() == 0
        page.goto(f"{server.url}chat#n=3")
        page.reload()
        plain = Chat(page=page, server=server, said=chat.said)
        plain.say("ab cd")
        wait_for(
            lambda: "".join(page.locator(".said.user .t:not(.mark-token)").all_text_contents()) == "ab cd"
        )
        answer = plain.answer(prompt="ab cd", max_new_tokens=3)
        assert plain.words("plain") == printable(answer)
        with page.expect_request(lambda request: request.url.endswith("generate")) as one:
            plain.say(" ef")
        assert json.loads(one.value.post_data)["prompt"] == f"ab cd{answer} ef"


def test_a_server_without_a_model_says_so(chat: Chat, tmp_path: Path) -> None:
    with serving(None, tmp_path) as server:  # type: ignore[arg-type]
        chat.page.goto(f"{server.url}chat?token={TOKEN}")
        chat.page.get_by_text("There is no model to talk to").wait_for()
