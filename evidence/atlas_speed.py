"""How fast an atlas opens from disk: the first feature, any other one, and how smoothly its map moves."""

from __future__ import annotations

import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from _claim import Measured, Unavailable, main, told

OPENED = 5
"""Times that the page is opened, each in a browser context of its own."""
VISITED = 50
POINTS = 30_000
PANNED = 4.0
"""Seconds for which the map is dragged about."""
SIZE = {"width": 1440, "height": 830}

VISIT = """async (id) => {
  const start = performance.now();
  location.hash = `f=${id}`;
  for (;;) {
    const open = document.querySelector(".atlas-feature");
    if (open?.dataset.feature === id && open.querySelector(".feature-numbers") && open.querySelector(".examples, .pad"))
      return performance.now() - start;
    if (performance.now() - start > 20000) return null;
    await new Promise(requestAnimationFrame);
  }
}"""
"""Goes to a feature by the address; milliseconds until its figures and examples are in the page."""

PAN = """async (seconds) => {
  const field = document.querySelector(".map-field");
  const box = field.getBoundingClientRect();
  const at = (angle) => ({ clientX: box.left + box.width / 2 + 90 * Math.cos(angle), bubbles: true, pointerId: 1,
    clientY: box.top + box.height / 2 + 90 * Math.sin(angle) });
  field.setPointerCapture = () => {};
  const drawn = () => Number(field.dataset.drawn);
  field.dispatchEvent(new PointerEvent("pointerdown", at(0)));
  const [start, before, gaps] = [performance.now(), drawn(), []];
  let last = start;
  for (let now = start; now - start < 1000 * seconds;) {
    field.dispatchEvent(new PointerEvent("pointermove", at((now - start) / 250)));
    now = await new Promise(requestAnimationFrame);
    gaps.push(now - last);
    last = now;
  }
  field.dispatchEvent(new PointerEvent("pointerup", at(0)));
  return { frames: drawn() - before, seconds: (last - start) / 1000, gaps };
}"""
"""Drags the map along a circle, a step each frame; how often it was drawn, and milliseconds between frames."""

IDLE = """async (seconds) => {
  const start = performance.now();
  let [frames, last] = [0, start];
  while (last - start < 1000 * seconds) { last = await new Promise(requestAnimationFrame); frames += 1; }
  return frames / ((last - start) / 1000);
}"""


def measure(seed: int) -> Measured:
    """SmolLM2's autoencoders, which ship with 24,576 features; and for the map, as many points as are claimed."""
    from thoughtscope.atlas import Atlas, bank_required, feature_map
    from thoughtscope.dictionaries import load_dictionary
    from thoughtscope.reports import AtlasPage

    dictionary = load_dictionary("smollm2/sae")
    bank = bank_required(dictionary)
    bare = Atlas(dictionary=dictionary, bank=bank)
    start = time.perf_counter()
    places = feature_map(dictionary, alive=bare.count > 0, seed=seed)
    mapped = time.perf_counter() - start
    whole = Atlas(dictionary=dictionary, bank=bank, map=places)
    with tempfile.TemporaryDirectory() as home:
        real, many = Path(home) / "real", Path(home) / "many"
        start = time.perf_counter()
        AtlasPage(atlas=whole, labels={}).save(real)
        written = time.perf_counter() - start
        AtlasPage(atlas=crowd(seed), labels={}).save(many)
        (Path(home) / "empty.html").write_text("<!doctype html><p class='example'>nothing</p>")
        names = [f"{part.name}/{index}" for part in dictionary.parts for index in range(part.n_features)]
        found = in_browser(real, many, Path(home) / "empty.html", random.Random(seed).sample(names, VISITED))
        size = sum(file.stat().st_size for file in real.rglob("*") if file.is_file())
    details = {
        "features": len(names),
        "first feature, seconds": found["first"],
        "any feature, milliseconds": {
            "median": round(statistics.median(found["visits"]), 1),
            "worst": round(max(found["visits"]), 1),
            "n": len(found["visits"]),
        },
        "map": found["map"] | {"points": POINTS},
        "folder, bytes": size,
        "seconds to make the map": round(mapped, 1),
        "seconds to write the folder": round(written, 1),
        "window": SIZE,
    }
    control = {
        "seconds to open an empty page": found["empty"],
        "frames a second of an empty page": found["idle"],
    }
    return Measured(value=statistics.median(found["first"]), n=OPENED, control=control, details=details)


def in_browser(real: Path, many: Path, empty: Path, visits: list[str]) -> dict[str, Any]:
    """Everything that is timed, in one Chromium without a window."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        raise Unavailable("playwright is not installed") from None
    from tests.browser.conftest import FLAGS, find_chromium

    chromium = find_chromium()
    if chromium is None:
        raise Unavailable("there is no Chromium on this machine")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=FLAGS, headless=True)

        def opened(address: str, ready: str) -> tuple[Any, float]:
            page = browser.new_context(viewport=SIZE).new_page()
            start = time.perf_counter()
            page.goto(address)
            page.wait_for_selector(ready)
            return page, round(time.perf_counter() - start, 3)

        blank, nothing = opened(empty.as_uri(), ".example")
        idle = round(blank.evaluate(IDLE, 2), 1)
        first = []
        for visit in visits[:OPENED]:
            page, seconds = opened(
                f"{(real / 'index.html').as_uri()}#f={visit}", ".atlas-feature .feature-numbers"
            )
            first.append(told(seconds))
        page.wait_for_selector(".row-peaks .token")
        times = [page.evaluate(VISIT, name) for name in visits[OPENED - 1 :] + visits[: OPENED - 1]]
        page, _ = opened((many / "index.html").as_uri(), ".map-field[data-drawn]")
        page.wait_for_selector(".row-peaks .token")
        told(page.evaluate(PAN, 1.0)["frames"])
        page.keyboard.press("0")  # all points in sight
        moved = page.evaluate(PAN, PANNED)
        browser.close()
    if None in times:
        raise AssertionError("a feature did not open within 20 seconds")
    gaps = sorted(moved["gaps"])
    return {
        "first": first,
        "visits": times,
        "empty": nothing,
        "idle": idle,
        "map": {
            "frames a second": round(moved["frames"] / moved["seconds"], 1),
            "milliseconds between frames, 95 %": round(gaps[int(0.95 * len(gaps))], 1),
            "milliseconds between frames, worst": round(gaps[-1], 1),
        },
    }


def crowd(seed: int) -> Any:
    """An atlas of `POINTS` made-up features with made-up examples, each with a place."""
    import numpy as np
    import torch

    from thoughtscope.atlas import Atlas, FeatureMap, Neighbours, Recording, bank_of_recording
    from thoughtscope.atlas.columns import by_feature
    from thoughtscope.atlas.recording import Plan, Stretch
    from thoughtscope.core.site import Site
    from thoughtscope.dictionaries import Activation, Dictionary, Part
    from thoughtscope.models.random_models import random_model

    draw, torch_draw = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    model, n_tokens = random_model("gpt2", layers=1, seed=seed), 100_000
    site = Site("resid_post", 0)
    weights = torch.randn(POINTS, model.d_model, generator=torch_draw)
    part = Part(name="resid_post.0", activation=Activation(kind="relu"), W_enc={site: weights},
                b_enc=torch.zeros(POINTS), W_dec={site: weights}, b_dec={site: torch.zeros(model.d_model)})  # fmt: skip
    dictionary = Dictionary(name="made/up", scan="made-up", model_name=model.name, parts=(part,))
    counts = np.minimum(draw.lognormal(3.0, 1.2, POINTS).astype(int) + 1, 2000)
    feature = np.repeat(np.arange(POINTS), counts).astype(np.int32)
    token = draw.integers(n_tokens, size=len(feature)).astype(np.int32)
    order = np.lexsort((feature, token))
    value = (np.abs(draw.standard_normal(len(feature))) + 0.1).astype(np.float16)
    columns = by_feature(feature[order], token[order], value, POINTS)
    lengths = np.full(n_tokens // 100, 100)
    stretch = Stretch(ids=draw.integers(3, 250, n_tokens).astype(np.int32), lengths=lengths, parts=(columns,))
    plan = Plan(model=model.name, revision="", dictionary=dictionary.name, scan=dictionary.scan, n_features=(POINTS,),
                documents="", context=100, batch_tokens=100, max_tokens=n_tokens, stretch_tokens=n_tokens)  # fmt: skip
    bank = bank_of_recording(model, dictionary, Recording(plan=plan, stretches=(stretch,)))
    cluster = draw.integers(300, size=POINTS)
    centres = draw.uniform(-10, 10, (300, 2))
    places = FeatureMap(
        dictionary_name=dictionary.name,
        digest="",
        n_features=(POINTS,),
        place=(centres[cluster] + 0.5 * draw.standard_normal((POINTS, 2))).astype(np.float32),
        cluster=cluster.astype(np.int32),
        near=Neighbours(
            index=draw.integers(POINTS, size=(POINTS, 14)).astype(np.int32),
            cosine=np.full((POINTS, 14), 0.5, np.float32),
        ),
    )
    return Atlas(dictionary=dictionary, bank=bank, map=places)


if __name__ == "__main__":
    main(
        measure,
        claim="Seconds until an atlas of 24,576 features, opened from disk in a headless Chromium, shows the first "
        "feature in full (median; control: an empty page).",
    )
