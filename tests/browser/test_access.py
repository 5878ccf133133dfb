"""Everyone can use it: contrast, sizes, small screens, keys, focus, forced colours, paper."""

from __future__ import annotations

from typing import Any

import pytest

from tests.browser.gestures import agree, becomes, click, wait_for

COLOURS = """
const parse = (text) => { const m = text.match(/[\\d.]+/g).map(Number);
  if (text.startsWith('color(')) return [m[0] * 255, m[1] * 255, m[2] * 255, m[3] ?? 1];
  return [m[0], m[1], m[2], m[3] ?? 1]; };
const over = (top, under) => top.slice(0, 3).map((v, i) => v * top[3] + under[i] * (1 - top[3])).concat(1);
const light = (c) => { const f = (v) => { v /= 255; return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; };
  return 0.2126 * f(c[0]) + 0.7152 * f(c[1]) + 0.0722 * f(c[2]); };
const ratio = (a, b) => { const [x, y] = [light(a), light(b)].sort((p, q) => q - p); return (x + 0.05) / (y + 0.05); };
const visible = (e) => { const r = e.getBoundingClientRect(); const s = getComputedStyle(e);
  return r.width > 1 && r.height > 1 && s.visibility !== 'hidden' && s.display !== 'none' && !e.closest('.hidden, option'); };
const ground = (e) => { const layers = [];
  for (let at = e; at; at = at.parentElement) { const style = getComputedStyle(at);
    const face = at.matches('.card') ? parse(getComputedStyle(at.querySelector('.face')).fill) : parse(style.backgroundColor);
    layers.push([face[0], face[1], face[2], face[3]]); if (face[3] === 1) break; }
  return layers.reverse().reduce((under, top) => over(top, under), [255, 255, 255, 1]); };
const opacity = (e) => { let o = 1; for (let at = e; at; at = at.parentElement) o *= Number(getComputedStyle(at).opacity); return o; };
"""

TEXTS = (
    """() => {"""
    + COLOURS
    + """
  const bad = []; let seen = 0;
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const check = (e, text, colour) => { const under = ground(e); colour[3] *= opacity(e); seen += 1;
    const found = ratio(over(colour, under), under);
    if (found < 4.5) bad.push(`${found.toFixed(2)} ${e.tagName}.${e.getAttribute('class')} ${text.slice(0, 30)}`); };
  for (let n = walk.nextNode(); n; n = walk.nextNode()) {
    const e = n.parentElement; if (!n.data.trim() || !visible(e) || e.closest('title, script, noscript')) continue;
    const s = getComputedStyle(e); const svg = e.closest('svg') && !e.closest('foreignObject');
    check(e, n.data, parse(svg ? s.fill : s.color)); }
  for (const e of document.querySelectorAll('input:not([type=range]):not([type=checkbox]), select')) {
    if (visible(e)) check(e, e.value ?? '', parse(getComputedStyle(e, e.value ? null : '::placeholder').color)); }
  return [seen, bad]; }"""
)

MARKS = (
    """() => {"""
    + COLOURS
    + """
  const bad = [];
  const check = (e, colour, what) => { const under = ground(e.parentElement); colour[3] *= opacity(e);
    const found = ratio(over(colour, under), under);
    if (found < 3) bad.push(`${found.toFixed(2)} ${what} ${e.getAttribute('class')}`); };
  for (const e of document.querySelectorAll('.node .shape')) { const s = getComputedStyle(e);
    const best = ['fill', 'stroke'].map((p) => parse(s[p])).sort((a, b) => {
      const under = ground(e.parentElement); return ratio(b, under) - ratio(a, under); })[0]; check(e, best, 'shape'); }
  for (const e of document.querySelectorAll('button, input:not([type=range]), select')) { const s = getComputedStyle(e);
    if (visible(e) && parse(s.borderTopColor)[3] > 0 && s.borderTopWidth !== '0px') check(e, parse(s.borderTopColor), 'border'); }
  return bad; }"""
)


def show_everything(page: Any, node: Any) -> None:
    """A selection, cards, a search, an edge list: as much of the page as can be seen at once."""
    click(page, node("say Austin"), "Control")
    click(page, node("Texas"), "Control")
    click(page, node("Texas"))
    page.locator("#search").fill("Dallas")
    page.locator("#search-list").wait_for()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("window", [(1440, 900), (1024, 700), (390, 844)], ids=["wide", "small", "phone"])
def test_every_text_and_mark_has_contrast(
    opened: Any, node: Any, scheme: str, window: tuple[int, int]
) -> None:
    opened.emulate_media(color_scheme=scheme)
    opened.set_viewport_size({"width": window[0], "height": window[1]})
    becomes(opened, "document.querySelectorAll('.stage g.node').length > 50")
    seen, bad = opened.evaluate(TEXTS)
    assert seen > 80 and bad == []
    assert opened.evaluate(MARKS) == []
    show_everything(opened, node)
    seen, bad = opened.evaluate(TEXTS)
    assert seen > 80 and bad == []
    assert opened.evaluate(MARKS) == [], "what is not in focus can still be seen"
    opened.keyboard.press("Escape")
    opened.keyboard.press("Escape")
    opened.locator("h2", has_text="Circuit").click()
    opened.keyboard.press("?")
    opened.locator("dialog").wait_for()
    assert opened.evaluate(TEXTS)[1] == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_start_has_contrast(page: Any, server: Any, traced: str, scheme: str) -> None:
    page.emulate_media(color_scheme=scheme)
    page.goto(server.url)
    page.wait_for_selector(".start .library li")
    assert page.evaluate(TEXTS)[1] == [] and page.evaluate(MARKS) == []


def test_few_sizes_of_type_and_targets_of_24_pixels(opened: Any, node: Any) -> None:
    show_everything(opened, node)
    sizes = opened.evaluate("""() => { const sizes = new Set(); const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
      for (let n = walk.nextNode(); n; n = walk.nextNode()) if (n.data.trim() && !n.parentElement.closest('script, noscript'))
        sizes.add(getComputedStyle(n.parentElement).fontSize); return [...sizes]; }""")
    assert len(sizes) <= 6, sorted(sizes)
    small = opened.evaluate("""() => [...document.querySelectorAll('button, select, input:not(.hidden), a[href], label.switch')]
      .map((e) => [e, (e.matches('[type=checkbox]') ? e.closest('label') : e).getBoundingClientRect()])
      .filter(([e, r]) => r.width > 1 && r.height && (r.width < 23.9 || r.height < 23.9) && !e.matches('.link'))
      .map(([e, r]) => `${e.className} ${e.textContent} ${r.width}x${r.height}`)""")
    assert small == []


def test_a_phone_needs_no_sideways_scrolling(page: Any, server: Any, graph: dict[str, Any]) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    for address in ("", f"#g={graph['metadata']['slug']}"):
        page.goto(f"{server.url}icon.svg")
        page.goto(f"{server.url}{address}")
        page.wait_for_selector(".stage g.node" if address else ".start .lead")
        agree(lambda: page.evaluate("document.documentElement.scrollWidth"), 390)
    out = page.evaluate("""() => [...document.querySelectorAll('button, select, input, .score, .trust')].filter((e) => {
      const r = e.getBoundingClientRect(); return r.width > 1 && (r.right > 391 || r.left < -1); }).map((e) => e.outerHTML.slice(0, 80))""")
    assert out == []
    assert page.locator(".row-name").count() > 2 and page.locator(".column-name").count() > 5


def test_arrow_keys_stay_in_a_radio_group(real_bench: Any) -> None:
    page = real_bench
    page.get_by_role("radio", name="Scale").focus()
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.textContent") == "Ablate"
    agree(lambda: page.get_by_role("radio", name="Ablate").get_attribute("aria-checked"), "true")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    assert page.evaluate("document.activeElement.textContent") == "Add"
    assert page.locator("[aria-label='Kind of change'] [tabindex='0']").count() == 1


def test_closing_a_dialog_gives_the_focus_back(opened: Any) -> None:
    button = opened.get_by_role("button", name="Help and keyboard")
    for close in ("Escape", "button"):
        button.click()
        opened.locator("dialog").wait_for()
        if close == "Escape":
            opened.keyboard.press("Escape")
        else:
            opened.get_by_role("button", name="Close", exact=True).click()
        agree(
            lambda: opened.evaluate("document.activeElement.getAttribute('aria-label')"), "Help and keyboard"
        )


def test_there_is_one_heading_of_the_first_rank(opened: Any, server: Any) -> None:
    agree(lambda: opened.locator("h1").count(), 1)
    assert "Dallas" in opened.locator("h1").inner_text()
    opened.goto(f"{server.url}icon.svg")
    opened.goto(server.url)
    opened.wait_for_selector(".start h1")
    agree(lambda: opened.locator("h1").count(), 1)


def test_forced_colours_show_what_is_chosen(real_bench: Any) -> None:
    page = real_bench
    page.emulate_media(forced_colors="active")
    chosen = page.get_by_role("radio", name="Scale")
    other = page.get_by_role("radio", name="Ablate")
    ground = "e => getComputedStyle(e).backgroundColor"
    assert chosen.evaluate(ground) != other.evaluate(ground)
    assert "✓" in chosen.evaluate("e => getComputedStyle(e, '::before').content")
    page.emulate_media(forced_colors="none")


def test_paper_keeps_the_graph(opened: Any, node: Any) -> None:
    click(opened, node("Texas"), "Control")
    opened.emulate_media(media="print")
    wait_for(lambda: opened.locator(".graph-scroll").bounding_box()["height"] > 300)
    for selector in (".stage", "canvas.edges", ".trust", ".scores", ".circuit", ".inspector"):
        box = opened.locator(selector).first.bounding_box()
        assert box and box["width"] > 100 and box["height"] > 12, selector
    panel = opened.locator(".graph-scroll").bounding_box()
    nodes = opened.eval_on_selector_all(
        ".stage g.node .shape",
        "all => all.map(e => { const r = e.getBoundingClientRect(); return [r.left, r.bottom]; })",
    )
    assert len(nodes) > 100
    assert all(x >= panel["x"] and y <= panel["y"] + panel["height"] + 1 for x, y in nodes)
    assert not opened.locator(".run").is_visible() and not opened.locator(".files").is_visible()
    opened.emulate_media(media="screen")


@pytest.fixture
def real_bench(page: Any, server: Any, traced: str) -> Any:
    """The page with a graph of the tiny model, where changes can be made."""
    page.goto(f"{server.url}#g={traced}")
    page.wait_for_selector(".bench-edit .choice")
    return page
