"""Texts that would like to be scripts: in a prompt, tokens, labels, groups, titles, examples, on the page and in a report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest

from tests.browser.fixture_graph import make_graph
from tests.browser.gestures import at, wait_for

MARK = "document.documentElement.dataset.owned='yes';alert(1)"
OWNED = "document.documentElement.dataset.owned"
AT_ONCE = 5
ATTACKS = (
    f'<img src=x onerror="{MARK}">',
    f"<script>{MARK}</script>",
    f"</script><script>{MARK}</script>",
    f'<svg onload="{MARK}">',
    f'<iframe srcdoc="<script>parent.{MARK}</script>">',
    f'<a href="javascript:{MARK}" id=x autofocus onfocus="{MARK}">here</a>',
    f"javascript:{MARK}",
    f'"onmouseover="{MARK}" x="',
    f"'-{MARK}-'",
    f"`${{{MARK}}}`",
    f'{{{{constructor.constructor("{MARK}")()}}}}',
    f"<style>@import 'data:text/css,*{{background:url(javascript:{MARK})}}'</style>",
    f'<math><mtext><img src=x onerror="{MARK}">',
    f'<details open ontoggle="{MARK}">',
    f"]]><script>{MARK}</script>",
    f"--><script>{MARK}</script>",
    f"\\u003cscript\\u003e{MARK}\\u003c/script\\u003e",
    f"&lt;img src=x onerror={MARK}&gt;",
    f'\u202e<img src=x onerror="{MARK}">\u202c',
    f"\u2028;{MARK}//",
)


def poisoned(attacks: Sequence[str]) -> dict[str, Any]:
    """The made-up graph with an attack wherever a text can stand, each of them at each kind of place."""
    graph = make_graph(layers=3, features=24, dictionary="tiny/clt", slug="hostile")
    in_turn = cycle(attacks)
    graph["metadata"] |= {
        "prompt": "".join(attacks),
        "title": plain("".join(attacks[::-1]))[:200],
        "prompt_tokens": [next(in_turn) for _ in graph["metadata"]["prompt_tokens"]],
    }
    for kind in ("logit", "embedding", "cross layer transcoder"):
        for node in (node for node in graph["nodes"] if node["feature_type"] == kind):
            text = next(in_turn)
            node["clerp"] = f'Output "{text}" (p=0.5)' if kind == "logit" else text
    some = [node["node_id"] for node in graph["nodes"] if node["feature_type"] == "cross layer transcoder"]
    groups = [[plain(attack), *some[2 * place : 2 * place + 2]] for place, attack in enumerate(attacks)]
    graph["qParams"] = {
        **graph.get("qParams", {}),
        "supernodes": groups,
        "pinnedIds": some[: 3 * len(attacks)],
    }
    return graph


def plain(text: str) -> str:
    """As one line, which a label has to be."""
    return " ".join("".join(character if character.isprintable() else " " for character in text).split())


@pytest.fixture
def dialogs(page: Any) -> Iterator[list[str]]:
    """What `alert` said."""
    said: list[str] = []

    def asked(dialog: Any) -> None:
        said.append(dialog.message)
        dialog.dismiss()

    page.on("dialog", asked)
    yield said
    page.remove_listener("dialog", asked)


@pytest.mark.parametrize("first", range(0, len(ATTACKS), AT_ONCE))
def test_a_text_never_becomes_a_script(
    page: Any, server: Any, dialogs: list[str], tmp_path: Path, first: int
) -> None:
    graph = poisoned(ATTACKS[first : first + AT_ONCE])
    slug = server.add(graph)
    page.goto(f"{server.url}#g={slug}")
    page.wait_for_selector(".stage g.node")
    for pinned in graph["qParams"]["pinnedIds"]:
        at(page, pinned).dispatch_event("pointerenter")
        at(page, pinned).dispatch_event("click")
    assert page.evaluate(OWNED) is None

    report = tmp_path / "report.html"
    report.write_bytes(page.request.get(f"{server.url}api/reports/{slug}").body())
    page.goto(report.as_uri())
    page.wait_for_selector(".stage g.node")
    assert page.evaluate(OWNED) is None
    page.goto(f"{server.url}icon.svg")
    server.ask(f"graphs/{slug}", method="DELETE")
    assert dialogs == []


def test_the_watch_would_notice_a_script(page: Any, dialogs: list[str]) -> None:
    """The same look at a page that does run one."""
    page.goto(f"data:text/html,<script>{MARK}</script>")
    wait_for(lambda: dialogs == ["1"])
    assert page.evaluate(OWNED) == "yes"
