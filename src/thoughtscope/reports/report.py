"""`build_report`: the page, one graph, its features and the interventions on it, in one HTML file without a network."""

from __future__ import annotations

import base64
import hashlib
import html as escaping
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import thoughtscope
from thoughtscope.core.errors import ThoughtscopeError
from thoughtscope.core.files import atomic_write_text
from thoughtscope.reports import payload
from thoughtscope.reports.bundle import bundle

if TYPE_CHECKING:
    from thoughtscope.atlas import FeatureBank
    from thoughtscope.core.labels import LabelStore
    from thoughtscope.dictionaries import Dictionary
    from thoughtscope.graphs import Graph
    from thoughtscope.interventions import Outcome
    from thoughtscope.models import Model


@dataclass(frozen=True, kw_only=True)
class Report:
    """A finished page and the data that it shows."""

    title: str
    data: Mapping[str, Any]
    """`version`, `title`, `graph` (the graph file), `features` (by `layer/index`), `circuit` (the scores of what is
    pinned and grouped), `outcomes`."""

    @property
    def html(self) -> str:
        """The whole page as text."""
        return render(self.title, self.data)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Writes the page to `path` and its data beside it as `.data.json`; each as a whole or not at all.

        Not as `.json`: under that name lies the graph file that a report is often made from.
        """
        path = Path(path)
        if path.suffix.lower() not in (".html", ".htm"):
            raise ThoughtscopeError(f'A report is an HTML file; "{path}" should end in .html.')
        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(self.data, ensure_ascii=False, allow_nan=False, indent=1)
        atomic_write_text(path.with_suffix(".data.json"), text + "\n")
        atomic_write_text(path, self.html)
        return path


def build_report(
    graph: Graph | Mapping[str, Any],
    *,
    model: Model | None = None,
    dictionary: Dictionary | None = None,
    bank: FeatureBank | None = None,
    labels: LabelStore | None = None,
    outcomes: Sequence[Outcome | Mapping[str, Any]] = (),
    title: str | None = None,
) -> Report:
    """A report on one graph (or the content of a graph file), with what the bank knows of its features.

    `model` and `dictionary` are named in the page's head; `bank` gives examples and automatic labels, by default the
    one that lies with the dictionary; `labels` are people's and have their place over all others; `outcomes` are
    shown as interventions: nouns, or what the page got of them before.
    """
    if bank is None and dictionary is not None:
        from thoughtscope.atlas import bank_of, made_labels_of

        found = bank_of(dictionary)
        bank = None if found is None else found.called(made_labels_of(dictionary))
    shown = None if isinstance(graph, Mapping) else payload.labelled(graph, bank=bank, labels=labels)
    file = payload.graph_file(shown) if shown is not None else dict(cast("Mapping[str, Any]", graph))
    given = {} if labels is None else labels.given_of(payload.source_of(file)[0])
    own = {place: each[-1].text for place, each in given.items()}
    file = payload.relabelled(file, own)
    heading = title or payload.heading_of(file["metadata"])
    data = {
        "version": thoughtscope.__version__,
        "title": heading,
        "graph": payload.with_names(payload.for_page(file), model, dictionary),
        "features": payload.features_of(file, bank, given),
        "circuit": _circuit(file),
        "outcomes": [
            dict(outcome)
            if isinstance(outcome, Mapping)
            else payload.outcome_json(outcome, shown, bank=bank, labels=own)
            for outcome in outcomes
        ],
    }
    return Report(title=heading, data=data)


def _circuit(file: Mapping[str, Any]) -> dict[str, Any] | None:
    """The scores of what the file has pinned and grouped, and of nothing else: a report computes none of its own."""
    whole = payload.distinct_content(file)
    query = whole.get("qParams") or {}
    picked = [
        *query.get("pinnedIds", ()),
        *(name for _, *names in query.get("supernodes", ()) for name in names),
    ]
    present = {node["node_id"] for node in whole["nodes"]}
    nodes = [name for name in dict.fromkeys(picked) if name in present]
    return {"nodes": nodes, **payload.circuit_scores(file, nodes)} if nodes else None


def render(title: str, data: Mapping[str, Any], *, page: str | None = None, also: str = "") -> str:
    """The HTML page, by default the one that shows a graph.

    Its one script and its one style sheet are named by hash in the content security policy, so that nothing else can
    run, whatever the data holds; except scripts of the sources `also`, for a page that has some beside it.
    """
    script, style = _page_parts(page)
    policy = "; ".join(
        [
            "default-src 'none'",
            f"script-src {hash_source(script)} {also}".rstrip(),
            "style-src 'unsafe-inline'",
            "img-src data:",
            "font-src data:",
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )
    return (
        "<!doctype html>\n"
        '<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escaping.escape(title)} · thoughtscope</title>\n"
        f"<style>{style}</style>\n</head>\n<body>\n{_body()}\n"
        f'<script type="application/json" id="thoughtscope-data">{embed_json(data)}</script>\n'
        f"<script>{script}</script>\n</body>\n</html>\n"
    )


def embed_json(data: Any) -> str:
    """JSON that is safe inside a script element and inside JavaScript, and still the same data."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def hash_source(text: str) -> str:
    """A script's or a style sheet's name in a content security policy."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _page() -> Path:
    return Path(str(files("thoughtscope"))) / "ui"


@cache
def _page_parts(name: str | None) -> tuple[str, str]:
    """A page's script and style, ready to stand inside an HTML file; `name` is its entry, None the page of graphs."""
    page = _page()
    listing = json.loads((page / "modules.json").read_text(encoding="utf-8"))
    entry, styles = (listing["entry"], listing["styles"]) if name is None else (name, listing["pages"][name])
    script = bundle(page, entry, aliases=listing.get("aliases", {}))
    # `</script` and `<!--` would end or disturb the element; in strings and patterns the backslash changes nothing.
    script = re.sub(r"<(?=/script|!--)", r"\\x3c", script, flags=re.IGNORECASE)
    style = "\n".join((page / style).read_text(encoding="utf-8") for style in styles)
    if "</style" in style.lower():
        raise ThoughtscopeError("The page's style sheet would end its own element.")
    return script, style


def _body() -> str:
    """What stands in the body of the page's own index.html, without its scripts."""
    index = (_page() / "index.html").read_text(encoding="utf-8")
    match = re.search(r"<body[^>]*>(.*)</body>", index, flags=re.DOTALL | re.IGNORECASE)
    return re.sub(
        r"<script\b.*?</script>", "", match[1] if match else "", flags=re.DOTALL | re.IGNORECASE
    ).strip()
