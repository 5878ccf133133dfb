// @ts-check
// A page of its own: dictionaries by how sparse and how faithful they are. A figure, and the same as a table.
import { html } from "./html.js";
import { render } from "./vendor/preact.mjs";
import { useEffect, useState } from "./vendor/hooks.mjs";

/** What an axis can show: its name, whether less is better, how it is written, and what it means. */
const FIGURES = {
  l0: { name: "L0", less: true, digits: 1, log: true, what: "active features a token" },
  fvu: { name: "FVU", less: true, digits: 4, log: false, what: "share of variance that is not explained" },
  loss_change: { name: "loss change", less: true, digits: 4, log: false, what: "nats a token, when spliced in" },
  kl: { name: "KL", less: true, digits: 4, log: false, what: "nats a token, when spliced in" },
  agreement: { name: "agreement", less: false, digits: 4, log: false, what: "top token unchanged when spliced in" },
  loss_recovered_mean: { name: "recovered (mean)", less: false, digits: 4, log: false,
    what: "of the loss that the mean activation costs" },
  loss_recovered_zero: { name: "recovered (zero)", less: false, digits: 4, log: false,
    what: "of the loss that zeros cost" },
  cosine: { name: "cosine", less: false, digits: 4, log: false, what: "between activation and reconstruction" },
  shrinkage: { name: "shrinkage", less: false, digits: 3, log: false,
    what: "length of the reconstruction over the activation's" },
  dead: { name: "dead", less: true, digits: 3, log: false, what: "share of features never active" },
  dense: { name: "dense", less: true, digits: 3, log: false, what: "share of features on a tenth of all tokens" },
};
const SIZE = { width: 860, height: 440, left: 76, right: 20, top: 16, bottom: 52 };

/** The value of a figure, null where it is not known. */
function valueOf(point, figure) {
  const value = point.scores[figure];
  return typeof value === "number" && Number.isFinite(value) ? value : null;
}

/** The points that no other one beats: at least as good in both figures and better in one. */
export function frontOf(points, x, y) {
  const known = points.filter((point) => valueOf(point, x) !== null && valueOf(point, y) !== null);
  const cost = (point, figure) => (FIGURES[figure].less ? 1 : -1) * valueOf(point, figure);
  const beats = (one, other) => cost(one, x) <= cost(other, x) && cost(one, y) <= cost(other, y)
    && (cost(one, x) < cost(other, x) || cost(one, y) < cost(other, y));
  return known.filter((point) => !known.some((other) => beats(other, point)))
    .sort((one, other) => valueOf(one, x) - valueOf(other, x));
}

/** From values to pixels, with round numbers for ticks; logarithmic where the figure asks for it and can be. */
function scaleOf(values, figure, from, to) {
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const log = FIGURES[figure].log && low > 0;
  const turn = log ? Math.log10 : (value) => value;
  const margin = (turn(high) - turn(low)) * 0.06 || Math.abs(turn(high)) * 0.1 || 0.1;
  const [start, end] = [turn(low) - margin, turn(high) + margin];
  const place = (value) => from + (turn(value) - start) / (end - start) * (to - from);
  return { place, ticks: log ? decades(10 ** start, 10 ** end) : steps(start, end) };
}

function steps(start, end) {
  const rough = (end - start) / 8;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * ([1, 2, 5, 10].find((factor) => factor * power >= rough) ?? 10);
  const first = Math.ceil(start / step);
  const count = Math.floor(end / step) - first + 1;
  return Array.from({ length: count }, (_, n) => Number(((first + n) * step).toPrecision(12)));
}

function decades(start, end) {
  const found = [];
  for (let power = Math.floor(Math.log10(start)); power <= Math.ceil(Math.log10(end)); power += 1) {
    found.push(...[1, 2, 5].map((factor) => Number((factor * 10 ** power).toPrecision(6))));
  }
  return found.filter((value) => value >= start && value <= end);
}

function shown(value, figure) {
  if (value === null) return "–";
  return value.toFixed(FIGURES[figure].digits).replace(/^-/, "−");
}

function Page({ title, points }) {
  const [axes, setAxes] = useState({ x: "l0", y: "fvu" });
  const [over, setOver] = useState(/** @type {number | null} */ (null));
  const [theme, setTheme] = useState("auto");
  useEffect(() => { document.documentElement.dataset.theme = theme; }, [theme]);
  const front = frontOf(points, axes.x, axes.y);
  return html`<main class="pareto">
    <header><h1>${title}</h1><span class="spacer"></span>
      <${Choice} label="across" value=${axes.x} options=${figureNames()} choose=${(x) => setAxes({ ...axes, x })} />
      <${Choice} label="up" value=${axes.y} options=${figureNames()} choose=${(y) => setAxes({ ...axes, y })} />
      <${Choice} label="theme" value=${theme} options=${[["auto", "auto"], ["light", "light"], ["dark", "dark"]]}
        choose=${setTheme} /></header>
    <p class="quiet">Each point is a dictionary. On the line are those that no other one beats in both figures.</p>
    <${Figure} points=${points} front=${front} axes=${axes} over=${over} setOver=${setOver} />
    <${Table} points=${points} front=${front} over=${over} setOver=${setOver} />
  </main>`;
}

const figureNames = () => Object.entries(FIGURES).map(([key, figure]) => [key, figure.name]);

function Choice({ label, value, options, choose }) {
  return html`<label class="quiet">${label} <select value=${value} onChange=${(event) => choose(event.target.value)}>
    ${options.map(([key, name]) => html`<option key=${key} value=${key}>${name}</option>`)}</select></label>`;
}

function Figure({ points, front, axes, over, setOver }) {
  const known = points.filter((point) => valueOf(point, axes.x) !== null && valueOf(point, axes.y) !== null);
  if (known.length === 0) return html`<p class="pad">No dictionary has both figures.</p>`;
  const { width, height, left, right, top, bottom } = SIZE;
  const x = scaleOf(known.map((point) => valueOf(point, axes.x)), axes.x, left, width - right);
  const y = scaleOf(known.map((point) => valueOf(point, axes.y)), axes.y, height - bottom, top);
  const at = (point) => [x.place(valueOf(point, axes.x)), y.place(valueOf(point, axes.y))];
  const under = known.find((point) => points.indexOf(point) === over);
  return html`<figure class="pareto-figure"><svg viewBox=${`0 0 ${width} ${height}`} role="img"
      aria-label=${`${FIGURES[axes.y].name} against ${FIGURES[axes.x].name} of ${known.length} dictionaries`}
      onMouseLeave=${() => setOver(null)}>
    ${x.ticks.map((tick) => html`<g key=${`x${tick}`}><line class="grid-line" x1=${x.place(tick)} x2=${x.place(tick)}
      y1=${top} y2=${height - bottom} /><text class="tick" text-anchor="middle" x=${x.place(tick)}
      y=${height - bottom + 17}>${tick}</text></g>`)}
    ${y.ticks.map((tick) => html`<g key=${`y${tick}`}><line class="grid-line" x1=${left} x2=${width - right}
      y1=${y.place(tick)} y2=${y.place(tick)} /><text class="tick" text-anchor="end" x=${left - 8}
      y=${y.place(tick) + 4}>${tick}</text></g>`)}
    <text class="axis-name" text-anchor="middle" x=${(left + width - right) / 2} y=${height - 8}>
      ${axisName(axes.x)}</text>
    <text class="axis-name" text-anchor="middle" transform=${`rotate(-90 14 ${(top + height - bottom) / 2})`} x="14"
      y=${(top + height - bottom) / 2}>${axisName(axes.y)}</text>
    <polyline class="front" points=${front.map((point) => at(point).join(",")).join(" ")} />
    ${known.map((point) => html`<circle key=${points.indexOf(point)} cx=${at(point)[0]} cy=${at(point)[1]}
      class=${front.includes(point) ? "dot best" : "dot"} r=${point === under ? 7 : 5}
      onMouseEnter=${() => setOver(points.indexOf(point))}><title>${point.name}</title></circle>`)}
    ${under && html`<${Label} point=${under} place=${at(under)} axes=${axes} />`}
  </svg></figure>`;
}

const axisName = (figure) => `${FIGURES[figure].name}: ${FIGURES[figure].what}`;

function Label({ point, place, axes }) {
  const lines = [point.name, `${point.kind}, ${point.n_features.toLocaleString("en-US")} features`,
    `${FIGURES[axes.x].name} ${shown(valueOf(point, axes.x), axes.x)}, `
      + `${FIGURES[axes.y].name} ${shown(valueOf(point, axes.y), axes.y)}`];
  const wide = Math.max(...lines.map((line) => line.length)) * 7 + 20;
  const left = Math.min(Math.max(place[0] + 12, 4), SIZE.width - wide - 4);
  const top = place[1] > 90 ? place[1] - 74 : place[1] + 14;
  return html`<g class="label" pointer-events="none"><rect x=${left} y=${top} width=${wide} height="62" rx="4" />
    ${lines.map((line, n) => html`<text key=${n} x=${left + 10} y=${top + 19 + 17 * n}
      class=${n === 0 ? "label-name" : ""}>${line}</text>`)}</g>`;
}

function Table({ points, front, over, setOver }) {
  const [order, setOrder] = useState({ by: "l0", up: true });
  const figures = Object.keys(FIGURES);
  const key = (point) => (order.by === "name" ? point.name : valueOf(point, order.by));
  const compare = (one, other) => {
    const [a, b] = [key(one), key(other)];
    if (a === null || b === null) return (a === null ? 1 : 0) - (b === null ? 1 : 0);
    return (a < b ? -1 : a > b ? 1 : 0) * (order.up ? 1 : -1);
  };
  const sorted = [...points].sort(compare);
  const Head = ({ by, name, title }) => html`<th scope="col" title=${title}
    aria-sort=${order.by === by ? (order.up ? "ascending" : "descending") : "none"}>
    <button onClick=${() => setOrder({ by, up: order.by === by ? !order.up : true })}>${name}</button></th>`;
  return html`<div class="pareto-table"><table><thead><tr><${Head} by="name" name="dictionary" title="its name" />
      <th scope="col">kind</th><th scope="col">features</th>
      ${figures.map((figure) => html`<${Head} key=${figure} by=${figure} name=${FIGURES[figure].name}
        title=${FIGURES[figure].what} />`)}</tr></thead>
    <tbody>${sorted.map((point) => {
      const number = points.indexOf(point);
      return html`<tr key=${number} class=${`${number === over ? "over" : ""} ${front.includes(point) ? "best" : ""}`}
        onMouseEnter=${() => setOver(number)} onMouseLeave=${() => setOver(null)}>
        <th scope="row">${point.name}</th><td>${point.kind}</td>
        <td class="number">${point.n_features.toLocaleString("en-US")}</td>
        ${figures.map((figure) => html`<td key=${figure} class="number">${shown(valueOf(point, figure), figure)}</td>`)}
      </tr>`;
    })}</tbody></table></div>`;
}

const holder = document.getElementById("thoughtscope-data");
const root = document.getElementById("app");
if (holder && root) render(html`<${Page} ...${JSON.parse(holder.textContent ?? "{}")} />`, root);
