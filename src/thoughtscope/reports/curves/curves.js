"use strict";
// The figures of trainings against tokens: one chart a figure, all runs over one another. Opened from disk, the page
// shows the data that it holds; served, it asks for new data every few seconds.
(() => {
  const CHARTS = [
    { key: "loss", name: "Loss", log: true, show: (v) => v.toPrecision(4) },
    { key: "fvu", name: "Unexplained variance (FVU)", log: true, show: (v) => v.toFixed(4) },
    { key: "l0", name: "Active features a token, a part (L0)", log: false, show: (v) => v.toFixed(1) },
    { key: "dead", name: "Dead features", log: false, show: (v) => `${(100 * v).toFixed(1)} %` },
    { key: "tokens_per_second", name: "Tokens a second", log: false, show: (v) => short(v) },
  ];
  const EVERY = 3000; // milliseconds
  const WIDTH = 480, HEIGHT = 220, LEFT = 52, RIGHT = 10, TOP = 8, BOTTOM = 24;
  const SVG = "http://www.w3.org/2000/svg";
  const hidden = new Set();
  const logs = new Map(CHARTS.map((chart) => [chart.key, chart.log]));
  let data = { runs: [] };
  let at = null; // tokens under the pointer

  const byId = (id) => document.getElementById(id);
  const colour = (number) => `var(--c${number % 8})`;

  function short(value) {
    for (const [size, unit] of [[1e9, "G"], [1e6, "M"], [1e3, "k"]]) {
      if (Math.abs(value) >= size) return `${Number((value / size).toPrecision(3))}${unit}`;
    }
    return String(Number(value.toPrecision(3)));
  }

  function element(name, attributes = {}, ...children) {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  }

  function drawn(name, attributes, text) {
    const made = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text !== undefined) made.textContent = text;
    return made;
  }

  // --- scales

  function ticks(low, high, log) {
    if (log) {
      const found = [];
      for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++) {
        for (const factor of high / low > 50 ? [1] : [1, 2, 5]) {
          const value = factor * 10 ** power;
          if (value >= low * 0.999 && value <= high * 1.001) found.push(value);
        }
      }
      return found.length > 1 ? found : [low, high];
    }
    const rough = (high - low) / 4 || 1;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = power * [1, 2, 5, 10].find((factor) => factor * power >= rough);
    const found = [];
    for (let value = Math.ceil(low / step) * step; value <= high + step * 1e-6; value += step) found.push(value);
    return found;
  }

  function scale(values, { log, zero }) {
    let low = Infinity, high = -Infinity;
    for (const value of values) {
      if (log && value <= 0) continue;
      low = Math.min(low, value);
      high = Math.max(high, value);
    }
    if (!(low <= high)) [low, high] = log ? [0.1, 1] : [0, 1];
    if (zero && !log) low = Math.min(0, low);
    if (low === high) high = log ? low * 2 : low + 1;
    const to = log ? Math.log : Number;
    return { low, high, log, place: (value) => (to(value) - to(low)) / (to(high) - to(low)) };
  }

  // --- charts

  function points(run, key) {
    const { tokens } = run.points, values = run.points[key] || [];
    const found = [];
    for (let i = 0; i < tokens.length; i++) if (Number.isFinite(values[i])) found.push([tokens[i], values[i]]);
    return found;
  }

  function chart({ key, show }, runs, x) {
    const held = runs.map((run) => ({ run, found: points(run, key) }));
    const y = scale(held.flatMap(({ found }) => found.map((point) => point[1])), { log: logs.get(key), zero: true });
    const left = (value) => LEFT + x.place(value) * (WIDTH - LEFT - RIGHT);
    const top = (value) => HEIGHT - BOTTOM - y.place(value) * (HEIGHT - TOP - BOTTOM);
    const svg = byId(`chart-${key}`);
    svg.replaceChildren();
    for (const value of ticks(y.low, y.high, y.log)) {
      svg.append(drawn("line", { class: "grid", x1: LEFT, x2: WIDTH - RIGHT, y1: top(value), y2: top(value) }));
      svg.append(drawn("text", { x: LEFT - 6, y: top(value) + 4, "text-anchor": "end" }, short(value)));
    }
    for (const value of ticks(x.low, x.high, false)) {
      svg.append(drawn("text", { x: left(value), y: HEIGHT - 6, "text-anchor": "middle" }, short(value)));
    }
    for (const { run, found } of held) {
      const there = found.filter((point) => !y.log || point[1] > 0);
      const d = there.map(([tokens, value], i) => `${i ? "L" : "M"}${left(tokens).toFixed(1)},${top(value).toFixed(1)}`);
      if (d.length) svg.append(drawn("path", { class: "curve", d: d.join(""), stroke: colour(run.number) }));
      if (there.length === 1) {
        const [tokens, value] = there[0];
        svg.append(drawn("circle", { cx: left(tokens), cy: top(value), r: 3, fill: colour(run.number) }));
      }
    }
    svg.setAttribute("aria-label", `${key} against tokens for ${runs.map((run) => run.name).join(", ") || "no run"}`);
    read(key, held, show, svg, left, top);
  }

  /** What the pointer is over: the values of all runs at those tokens, or at their ends. */
  function read(key, held, show, svg, left, top) {
    const out = byId(`read-${key}`);
    out.replaceChildren();
    if (at !== null) svg.append(drawn("line", { class: "at", x1: left(at), x2: left(at), y1: TOP, y2: HEIGHT - BOTTOM }));
    for (const { run, found } of held) {
      if (!found.length) continue;
      let nearest = found[found.length - 1];
      if (at !== null) {
        for (const point of found) if (Math.abs(point[0] - at) < Math.abs(nearest[0] - at)) nearest = point;
        if (!logs.get(key) || nearest[1] > 0) {
          svg.append(drawn("circle", { cx: left(nearest[0]), cy: top(nearest[1]), r: 3.5, fill: colour(run.number) }));
        }
      }
      const mark = element("b", {}, show(nearest[1]));
      mark.style.color = colour(run.number);
      out.append(mark, held.length > 1 ? ` ${run.name}  ` : "  ");
    }
    out.append(at === null ? "at the end" : `at ${short(at)} tokens`);
  }

  // --- the page

  function render() {
    const numbered = data.runs.map((run, number) => ({ ...run, number }));
    const runs = numbered.filter((run) => !hidden.has(run.name));
    const x = scale([0, ...runs.flatMap((run) => run.points.tokens)], { log: false, zero: true });
    byId("runs").replaceChildren(...numbered.map((run) => {
      const dot = element("i");
      dot.style.background = colour(run.number);
      const button = element("button", { "aria-pressed": String(!hidden.has(run.name)), title: run.folder }, dot, run.name);
      button.addEventListener("click", () => {
        hidden.has(run.name) ? hidden.delete(run.name) : hidden.add(run.name);
        render();
      });
      return button;
    }));
    for (const each of CHARTS) chart(each, runs, x);
    byId("svgs").x = x;
    summary(numbered);
    const going = data.runs.filter((run) => !run.finished).length;
    if (!data.runs.length) byId("said").textContent = "No training here has written figures yet.";
    else byId("said").textContent = `${data.runs.length} training${data.runs.length > 1 ? "s" : ""}, ${going} not finished`;
  }

  function summary(runs) {
    const head = element("tr", {}, ...["Training", "tokens", "done", ...CHARTS.map((each) => each.name)]
      .map((name) => element("th", { scope: "col" }, name)));
    const rows = runs.map((run) => {
      const last = (key) => (run.points[key] || []).filter(Number.isFinite).at(-1);
      const tokens = last("tokens");
      const cells = [run.name, tokens === undefined ? "–" : short(tokens), `${Math.floor(100 * run.done)} %`,
        ...CHARTS.map(({ key, show }) => (last(key) === undefined ? "–" : show(last(key))))];
      return element("tr", {}, ...cells.map((cell) => element("td", {}, cell)));
    });
    byId("summary").replaceChildren(head, ...rows);
  }

  function build() {
    const charts = CHARTS.map(({ key, name }) => {
      const svg = drawn("svg", { id: `chart-${key}`, viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", preserveAspectRatio: "none" });
      const toggle = element("button", { class: "plain", "aria-pressed": String(logs.get(key)) }, "log");
      toggle.addEventListener("click", () => {
        logs.set(key, !logs.get(key));
        toggle.setAttribute("aria-pressed", String(logs.get(key)));
        render();
      });
      svg.addEventListener("pointermove", (event) => {
        const box = svg.getBoundingClientRect(), { x } = byId("svgs");
        const share = ((event.clientX - box.left) / box.width * WIDTH - LEFT) / (WIDTH - LEFT - RIGHT);
        at = x.low + Math.min(1, Math.max(0, share)) * (x.high - x.low);
        render();
      });
      svg.addEventListener("pointerleave", () => { at = null; render(); });
      const caption = element("figcaption", {}, element("h2", {}, name), toggle);
      return element("figure", {}, caption, svg, element("div", { class: "read", id: `read-${key}` }));
    });
    byId("charts").replaceChildren(...charts, element("span", { id: "svgs", hidden: "" }));
    byId("theme").addEventListener("click", () => {
      const root = document.documentElement;
      const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
      root.dataset.theme = dark ? "light" : "dark";
    });
  }

  async function follow() {
    try {
      const answer = await fetch("/curves.json", { cache: "no-store" });
      if (answer.ok) {
        data = await answer.json();
        render();
      } else if (answer.status === 401) {
        byId("said").textContent = "This page asks for its token: open the link that was printed.";
        return;
      }
    } catch {
      byId("said").textContent = "The server has ended. The figures are those of its last answer.";
    }
    setTimeout(follow, EVERY);
  }

  build();
  const held = byId("thoughtscope-data");
  if (held) {
    data = JSON.parse(held.textContent);
    render();
  } else {
    render();
    follow();
  }
})();
