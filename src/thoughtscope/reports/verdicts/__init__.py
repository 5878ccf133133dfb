"""`verdicts_page`: the claims of a paper with what was found here, as one HTML file that opens from disk.

It needs no script: a table, and figures as SVG whose colours follow the reader's theme.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from thoughtscope.reports.verdicts.figure import Figure as Figure
from thoughtscope.reports.verdicts.figure import svg

HEAD = ("Claim", "Paper", "Here", "Control", "Asked", "Verdict")


def verdicts_page(replicated: Mapping[str, Any], figures: Sequence[Figure] = ()) -> str:
    """The page of a replication, of the JSON that it is saved as (`name`, `paper`, `quick`, `verdicts`)."""
    rows = "".join(_row(verdict) for verdict in replicated["verdicts"])
    held = sum(verdict["outcome"] == "replicated" for verdict in replicated["verdicts"])
    quick = (
        " This was a quick run: it shows that everything runs, not what is true."
        if replicated["quick"]
        else ""
    )
    drawn = "".join(
        f"<figure><figcaption>{escape(figure.title)}</figcaption>{svg(figure)}</figure>" for figure in figures
    )
    title = escape(str(replicated["paper"]))
    head = "".join(f"<th>{name}</th>" for name in HEAD)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; "
        "base-uri 'none'; form-action 'none'\">\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{title} · thoughtscope</title>\n<style>{_style()}</style>\n</head>\n<body>\n"
        f"<h1>{title}</h1>\n<p>{held} of {len(replicated['verdicts'])} claims replicate.{quick}</p>\n"
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>\n'
        f"<main>{drawn}</main>\n</body>\n</html>\n"
    )


def _row(verdict: Mapping[str, Any]) -> str:
    claim, seen = verdict["claim"], verdict["seen"] or {"values": (), "controls": (), "note": "", "n": 0}
    asked = f"{claim['holds']['op']} {claim['holds']['value']:g}"
    if claim["margin"] is not None:
        asked += f", {claim['margin']:g} beyond the control"
    paper = "" if claim["paper"] is None else f"{claim['paper']:g}"
    notes = " ".join(filter(None, (claim["published"], seen["note"])))
    what = f"{escape(claim['statement'])}<small>{escape(claim['where'])}. {escape(notes)}</small>"
    control = _figures(seen["controls"]) + (
        f"<small>{escape(claim['control'])}</small>" if seen["controls"] else ""
    )
    here = f"{_figures(seen['values'])}<small>{escape(claim['unit'])}, n {seen['n']:,}</small>"
    word = verdict["outcome"].replace(" ", "-")
    cells = (what, paper, here, control, escape(asked), f'<b class="{word}">{verdict["outcome"]}</b>')
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>\n"


def _figures(values: Sequence[float | None]) -> str:
    return ", ".join("none" if value is None else f"{value:.3g}" for value in values)


@cache
def _style() -> str:
    return (Path(str(files(__package__))) / "verdicts.css").read_text(encoding="utf-8")
