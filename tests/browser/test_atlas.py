"""The atlas in a browser: from disk and from the server, by mouse and by keys, in both themes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.browser.conftest import Server, serving
from tests.browser.gestures import agree, becomes, wait_for
from tests.clients import TOKEN
from tests.tiny_atlas import atlas, bank, dictionary, microscope
from thoughtscope.atlas import find_text
from thoughtscope.reports import AtlasPage

EVIL = '<img src=x onerror="document.title=1">‮'


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An atlas on disk, in which a person has named two features."""
    home = tmp_path_factory.mktemp("atlas")
    AtlasPage(atlas=atlas(), labels={"1/5": "seaside towns", "2/7": EVIL}).save(home)
    return home


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server on the same dictionary."""
    from thoughtscope.atlas import mapping

    usual, mapping.EPOCHS = mapping.EPOCHS, 5
    with serving(lambda: microscope(), tmp_path_factory.mktemp("work")) as running:
        yield running
    mapping.EPOCHS = usual


@pytest.fixture
def disk(page: Any, folder: Path) -> Any:
    """`disk("#…")` opens the page from disk."""

    def open_at(view: str = "") -> Any:
        page.goto("about:blank")
        page.goto(f"{(folder / 'index.html').as_uri()}{view}")
        page.wait_for_selector(".atlas-row")
        return page

    return open_at


def rows(page: Any) -> list[str]:
    return page.locator(".atlas-row .row-id").all_inner_texts()


def shown(page: Any) -> str | None:
    return page.locator(".atlas-feature").get_attribute("data-feature")


def view(page: Any) -> str:
    page.wait_for_timeout(250)
    return page.evaluate("location.hash")


# --- from disk -----------------------------------------------------------------------------------------------------


def test_from_disk_a_feature_is_what_the_bank_says(disk: Any) -> None:
    page = disk("#f=1/5")
    page.wait_for_selector(".example")
    assert page.locator(".feature-head h2").inner_text() == "seaside towns"
    detail = bank().detail(1, 5)
    examples = [each for group in detail["examples_quantiles"] for each in group["examples"]]
    assert page.locator(".example").count() == len(examples)
    assert page.locator(".example .peak").count() == len(examples)
    assert page.locator(".logits.raises li").count() == 8
    page.locator(".specificity").wait_for()
    assert page.locator(".beside .other").count() > 8  # near, and fires with
    assert "thoughtscope serve --model" in page.locator(".steering").inner_text()


def test_a_label_is_never_markup(disk: Any) -> None:
    page = disk("#f=2/7")
    heading = page.locator(".feature-head h2").inner_text()
    assert "<img" in heading and "‮" not in heading and page.title() != "1"


def test_search_by_words_tokens_and_lists(disk: Any) -> None:
    page = disk()
    assert "72 features" in page.locator(".list-count").inner_text()
    page.keyboard.press("/")
    page.keyboard.type("seaside")
    wait_for(lambda: rows(page) == ["1/5"])
    token = next(
        piece
        for piece in bank().peaks(0, bank().layers[0].count.nonzero()[0].item(), 5)
        if piece.strip().isalnum()
    )
    wanted = {
        f"{layer}/{index}" for layer in range(3) for index in range(24)
        if any(piece.strip().lower() == token.strip().lower() for piece in bank().peaks(layer, index, 99))
    }  # fmt: skip
    page.locator(".search-mode").select_option("token")
    page.locator("#search").fill(token.strip())
    wait_for(lambda: set(rows(page)) == wanted and len(wanted) > 0)
    page.locator(".search-mode").select_option("list")
    page.locator("#search").fill(f"{token.strip()}, no such word")
    wait_for(lambda: "1 of 2" in page.locator(".row-peaks").first.inner_text())
    page.keyboard.press("Escape")
    page.keyboard.press("Escape")
    wait_for(lambda: "72 features" in page.locator(".list-count").inner_text())


def test_near_lists_the_neighbours(disk: Any) -> None:
    page = disk("#f=1/5&m=near")
    names = [f"{feature // 24}/{feature % 24}" for feature in atlas().map.near.index[29, :10].tolist()]
    wait_for(lambda: rows(page) == ["1/5", *names])


def test_words_find_what_the_command_line_finds(disk: Any) -> None:
    """The page's own search against `find_text`, which ranks by the same rule; and what the labels say."""
    page = disk()
    for text in ("q", "0", "x y"):
        found = {f"{each.layer}/{each.index}" for each in find_text(bank(), text, n=200)}
        labels = {f"{layer}/{i}": bank().auto_label(layer, i) or "" for layer in range(3) for i in range(24)}
        named = {
            name for name, label in labels.items() if all(word in label.lower() for word in text.split())
        }
        page.locator("#search").fill(text)
        wanted = f"{len(found | named)} for “{text}”"
        agree(lambda: page.locator(".list-count").inner_text(), wanted)
        assert set(rows(page)) <= found | named


def test_keys_go_through_the_list_and_back(disk: Any) -> None:
    page = disk()
    first, second = rows(page)[:2]
    page.keyboard.press("j")
    wait_for(lambda: shown(page) == first)
    page.keyboard.press("ArrowDown")
    wait_for(lambda: shown(page) == second)
    page.keyboard.press("k")
    wait_for(lambda: shown(page) == first)
    page.keyboard.press("Escape")
    wait_for(lambda: shown(page) is None)
    assert page.locator(".welcome").count() == 1


def test_the_address_holds_the_view(disk: Any) -> None:
    page = disk("#f=1/5")
    page.keyboard.press("+")
    page.get_by_role("radio", name="how often").click()
    page.locator(".list-sort select").select_option("number")
    hash = view(page)
    assert "f=1/5" in hash and "c=often" in hash and "s=number" in hash and "z=" in hash
    again = disk(hash)
    assert shown(again) == "1/5" and view(again) == hash
    assert rows(again)[:3] == ["0/0", "0/1", "0/2"] or "1/5" in rows(again)


def test_an_address_is_followed_whatever_was_just_done(disk: Any) -> None:
    """Also in the moment in which the page is about to write its own."""
    page = disk()
    for number in range(12):
        page.keyboard.press("j")
        page.wait_for_timeout(100 + 3 * number)
        page.evaluate("(id) => { location.hash = `f=${id}`; }", f"1/{number}")
        wait_for(lambda number=number: shown(page) == f"1/{number}", seconds=5)


def test_a_point_is_found_by_the_pointer(disk: Any) -> None:
    """Each feature with a place can be pointed at: what is under the pointer is a feature whose point is there."""
    page = disk()
    box = page.locator(".map-field").bounding_box()
    becomes(page, "document.querySelector('.map-field').dataset.drawn > 0")
    middle = page.evaluate(
        """() => { const c = document.querySelector('.map-points'); const d = c.getContext('2d')
          .getImageData(0, 0, c.width, c.height).data; const g = [d[0], d[1], d[2]];
          for (let i = 0; i < d.length; i += 4) if (Math.abs(d[i] - g[0]) + Math.abs(d[i + 1] - g[1])
            + Math.abs(d[i + 2] - g[2]) > 150) return [(i / 4) % c.width, Math.floor(i / 4 / c.width)]; return null; }"""
    )
    ratio = page.evaluate("Math.min(2, devicePixelRatio)")
    x, y = box["x"] + middle[0] / ratio, box["y"] + middle[1] / ratio
    page.mouse.move(x, y)
    page.mouse.click(x, y)
    wait_for(lambda: shown(page) is not None)
    before = view(page)
    page.mouse.move(box["x"] + 200, box["y"] + 200)
    page.mouse.down()
    page.mouse.move(box["x"] + 260, box["y"] + 230, steps=4)
    page.mouse.up()
    assert "z=" in view(page) and view(page) != before
    page.keyboard.press("0")
    assert "z=" not in view(page)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_both_themes_draw_the_map_on_their_own_ground(disk: Any, page: Any, scheme: str) -> None:
    page.emulate_media(color_scheme=scheme)
    opened = disk()
    becomes(opened, "document.querySelector('.map-field').dataset.drawn > 0")
    ground = opened.evaluate(
        "() => [...document.querySelector('.map-points').getContext('2d').getImageData(0, 0, 1, 1).data].slice(0, 3)"
    )
    assert (sum(ground) < 150) == (scheme == "dark")


def test_without_its_folder_the_page_says_what_is_missing(page: Any, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text((folder / "index.html").read_text())
    page.expected_errors += ["ERR_FILE_NOT_FOUND"]
    page.goto((tmp_path / "index.html").as_uri())
    page.get_by_text("data/index.js cannot be read").wait_for()


# --- from the server -----------------------------------------------------------------------------------------------


@pytest.fixture
def served(page: Any, live: Server) -> Any:
    def open_at(hash: str = "") -> Any:
        page.goto(f"{live.url}icon.svg")
        page.goto(f"{live.url}atlas?token={TOKEN}{hash}")
        page.wait_for_selector(".atlas-row")
        page.wait_for_selector(".map-points")
        return page

    return open_at


def test_a_label_made_on_the_page_is_kept_at_once(served: Any, live: Server) -> None:
    page = served("#f=1/5")
    page.locator(".feature-name").fill("harbours")
    page.keyboard.press("Enter")
    wait_for(lambda: live.labels.of(dictionary().name) == {"1/5": "harbours"})
    page.locator("#search").fill("harbours")
    wait_for(lambda: rows(page) == ["1/5"])
    assert live.ask("features/1/5")["label"] == "harbours"
    page.locator(".feature-name").fill("")
    page.keyboard.press("Enter")
    wait_for(lambda: live.labels.of(dictionary().name) == {})


def test_the_model_is_asked_for_a_sentence_and_for_effects(served: Any, live: Server) -> None:
    page = served()
    for mode, route in (("sentence", "like"), ("effect", "effects")):
        page.locator(".search-mode").select_option(mode)
        page.locator("#search").fill("ab cd")
        page.get_by_role("button", name="Find").click()
        asked = live.ask(route, {"prompt": "ab cd", "n": 60})["features"]
        names = [f"{each['part']}/{each['index']}" for each in asked]
        wait_for(lambda names=names: rows(page)[:5] == names[:5])
    assert "ablated" in page.locator(".row-peaks").first.inner_text()


def test_a_feature_is_steered_here_and_now(served: Any, live: Server) -> None:
    page = served("#f=1/5")
    page.get_by_label("Prompt to steer").fill("ab cd")
    page.get_by_role("button", name="Go").click()
    wait_for(lambda: page.locator(".steered dd").count() == 2)
    wait_for(lambda: page.get_by_role("button", name="Go").is_enabled())
    assert page.locator(".steering .refusal").count() == 0
    link = page.get_by_role("link", name="Talk to the model with it").get_attribute("href")
    assert link == f"chat#f={quote('1/5')}:4"


def test_the_pages_know_one_another(served: Any) -> None:
    page = served()
    assert page.locator(".pages a").all_inner_texts() == ["graph", "chat", "atlas"]
    assert page.locator(".pages a[aria-current=page]").inner_text() == "atlas"
