"""The pages: links lead somewhere, snippets are code, commands and options exist, figures are the measured ones."""

from __future__ import annotations

import ast
import json
import re
import shlex
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "docs"), str(ROOT / "evidence")]

import _figures  # noqa: E402
import render  # noqa: E402

PAGES = [
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "specimens").glob("*.md")),
]
READMES = (ROOT / "README.md", ROOT / "README.zh-CN.md")
SALES = """blazing cutting-edge effortless game-changing groundbreaking lightning-fast next-generation powerful
revolutionary robust seamless state-of-the-art supercharge unparalleled world-class""".split()

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def fences(page: Path) -> list[tuple[str, str]]:
    """The fenced blocks of a page: language and content."""
    return re.findall(r"^ *```(\w*)\n(.*?)^ *```$", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def prose(page: Path) -> str:
    return re.sub(r"^ *```.*?^ *```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    titles = re.findall(r"^#+ +(.+)$", prose(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


# --- links and snippets --------------------------------------------------------------------------------------------


@each_page
def test_links_lead_somewhere(page):
    text = re.sub(r"`[^`]*`", "", prose(page))
    links = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'(?:src|srcset|href)="([^"]+)"', text)
    for link in links:
        if link.startswith(("http://", "https://")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path) if path else page
        assert target.exists(), f"{page.name} links to {link}, which does not exist"
        if anchor:
            assert anchor in anchors(target), (
                f"{page.name} links to {link}, but {target.name} has no such heading"
            )


def test_every_page_is_in_the_index():
    linked = set(re.findall(r"\]\((\w[\w.-]*\.md)\)", (ROOT / "docs" / "index.md").read_text()))
    assert linked == {page.name for page in (ROOT / "docs").glob("*.md")} - {"index.md"}


@each_page
def test_snippets_are_code(page):
    for language, code in fences(page):
        assert language, f"{page.name} has a block without a language: {code[:40]!r}"
        if language == "python" and page.name != "architecture.md":
            ast.parse(code)
        if language == "json":
            json.loads(code)


@each_page
def test_main_path_is_the_same_everywhere(page):
    blocks = [code for language, code in fences(page) if "load_model, load_dictionary, tokenize" in code]
    assert all(code == the_path() for code in blocks), f"{page.name} shows another main path than README.md"


@cache
def the_path() -> str:
    (code,) = [
        code for language, code in fences(READMES[0]) if "load_model, load_dictionary, tokenize" in code
    ]
    return code


@cache
def commands() -> dict[str, set[str]]:
    from thoughtscope.cli.app import every_command

    return {name: {option for p in one.params for option in p.opts} for name, one in every_command().items()}


@each_page
def test_commands_and_options_exist(page):
    for language, code in fences(page):
        for line in code.splitlines() if language == "sh" else ():
            words = shlex.split(re.sub(r"\$\(.*?\)", "X", line), comments=True)
            if words[:1] == ["make"]:
                makefile = (ROOT / "Makefile").read_text()
                assert all(re.search(rf"^{word}:", makefile, flags=re.MULTILINE) for word in words[1:2]), line
            if words[:1] == ["thoughtscope"]:
                name = words[1] if words[1] in commands() else " ".join(words[1:3])
                assert name in commands(), f"{page.name}: {line}"
                options = {word for word in words[2:] if re.fullmatch(r"--?[a-z][\w-]*", word)}
                assert options <= commands()[name] | {"--help", "-h"}, f"{page.name}: {line}"


@each_page
def test_no_sales_talk(page):
    words = set(re.findall(r"[a-z]+(?:-[a-z]+)*", prose(page).lower()))
    assert not words & set(SALES), f"{page.name}: say it with a figure instead of {words & set(SALES)}"


def test_scripts_named_in_pages_exist():
    for page in PAGES:
        for name in re.findall(r"(?:evidence|bench)/(\w+)\.py", page.read_text()):
            folders = [ROOT / "evidence" / f"{name}.py", ROOT / "bench" / f"{name}.py"]
            assert name == "name" or any(path.exists() for path in folders), f"{page.name} names {name}.py"


def test_every_layout_is_documented():
    from thoughtscope.dictionaries.formats import FORMATS

    listed = re.findall(
        r"^\| `([\w-]+)` \| .*$", (ROOT / "docs" / "file-formats.md").read_text(), flags=re.MULTILINE
    )
    assert set(FORMATS) <= set(listed)


# --- what is rendered ----------------------------------------------------------------------------------------------


@each_page
def test_rendered_pages_are_up_to_date(page):
    assert page.read_text() == rendered()[page], "run `make docs`"


@cache
def rendered() -> dict[Path, str]:
    return render.rendered()


def test_figures_are_filled_from_the_measurement():
    measured = {
        "a": {"value": 0.98214, "n": 1234, "details": {"clt": {"fvu": 0.1}}},
        "b": {"unavailable": "no GPU"},
    }
    fields = ["a.value:.1%", "a.n", "a.details.clt.fvu:.3f", "b.value"]
    text = "{} of {}, {}, {}".format(*(f"<!--={field}-->x<!--/-->" for field in fields))
    filled = _figures.fill(text, measured)
    assert re.sub("<!--.*?-->", "", filled) == "98.2 % of 1,234, 0.100, –"
    assert _figures.fill(filled, measured) == filled
    assert re.sub("<!--.*?-->", "", _figures.fill(text, {})) == "– of –, –, –"
    with pytest.raises(KeyError, match="no_such"):
        _figures.fill("<!--=a.details.no_such-->x<!--/-->", measured)


def test_figures_name_existing_evidence():
    names = {path.stem for path in (ROOT / "evidence").glob("*.py")}
    for page in PAGES:
        used = set(re.findall(r"<!--=(\w+)\.", page.read_text())) - {"NAME"}
        assert used <= names, f"{page.name} quotes {sorted(used - names)}, which nothing measures"


# --- the two READMEs -----------------------------------------------------------------------------------------------


def test_both_readmes_have_the_same_parts():
    english, chinese = READMES
    code = lambda page: [re.sub(r" +#.*", "", block) for _, block in fences(page)]
    assert code(english) == code(chinese)
    for pattern in (
        r"^(#+) ",
        r"<!--=(.+?)-->",
        r"`(\w+)` \|$",
        r'(?:src|srcset)="([^"]+)"',
        r"^\|(?:---\|)+$",
    ):
        found = [re.findall(pattern, page.read_text(), flags=re.MULTILINE) for page in READMES]
        assert found[0] == found[1], pattern
    links = [{link for link in re.findall(r"\]\(([^)]+)\)", page.read_text())} for page in READMES]
    assert links[0] - {"README.zh-CN.md"} == links[1] - {"README.md"}


# --- the quickstart runs -------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(
    not (ROOT / "src" / "thoughtscope" / "assets" / "specimen" / "clt").is_dir(),
    reason="this checkout has no specimen dictionary",
)
def test_the_quickstart_runs(tmp_path, monkeypatch):
    """The block of the README, as it stands, on the model that ships."""
    monkeypatch.chdir(tmp_path)
    space: dict[str, object] = {}
    exec(compile(the_path(), "README.md", "exec"), space)
    assert len(space["small"]) < len(space["graph"])
    outcome = space["outcome"]
    assert outcome.before.tokens[0] == " Austin" == outcome.answer and outcome.rank_after > 1
    space["report"].save(tmp_path / "report.html")
