// @ts-check
// The graph itself: the prompt across, the layers up, and what happens under the pointer.
import { html } from "../html.js";
import { useEffect, useLayoutEffect, useMemo, useRef } from "../vendor/hooks.mjs";
import { getState, setState, useParts, useStore } from "../store.js";
import { cancelTrace } from "../actions/graphs.js";
import { fitView, hover, zoom } from "../actions/view.js";
import { connectionsOf, selectedMembers } from "../circuit.js";
import { MOST, heldView, layoutGraph, seen, viewShowing } from "../layout.js";
import { useSize } from "../measure.js";
import { nodeLabel, searchNodes } from "../model.js";
import { placeNames } from "../naming.js";
import { useShownNodes } from "../shown.js";
import { Axes, Grid } from "../components/axes.js";
import { EdgeCanvas, focusLinks, restingLinks } from "../components/edges.js";
import { Nodes } from "../components/nodes.js";
import { usePointer, useWheel } from "../components/pointer.js";
import { Refining } from "../components/progress.js";
import { Tooltip } from "../components/tooltip.js";
import { TrustLine } from "../components/scores.js";
import { clip, plainText } from "../text.js";

export function GraphView() {
  const graph = useStore((s) => s.graph);
  const box = useRef();
  const size = useSize(box);
  const layout = useMemo(() => size && layoutGraph(graph, size.width, size.height,
    graph.follows ? getState().layout : null), [graph, size]);
  useLayoutEffect(() => {
    if (layout) setState({ layout, view: heldView(layout, getState().view) });
  }, [layout]);
  return html`<section class="graph panel" aria-label="Attribution graph">
    <div class="graph-scroll" ref=${box}>${layout && html`<${Stage} graph=${graph} layout=${layout} />`}</div>
    ${graph.partial ? html`<${RefiningGraph} />` : html`<${Legend} graph=${graph} />`}
    <${ZoomButtons} />
    <${TrustLine} graph=${graph} />
    <${Warnings} graph=${graph} />
  </section>`;
}

/** Where the legend stands once the graph is made, so that nothing moves. */
function RefiningGraph() {
  const trace = useStore((s) => s.trace);
  return trace && html`<${Refining} work=${trace} onStop=${cancelTrace} />`;
}

/** What spoke against the dictionary when it was loaded: the graph is no better than that. */
function Warnings({ graph }) {
  const warnings = graph.ours?.provenance?.warnings;
  if (!Array.isArray(warnings) || !warnings.length) return null;
  return html`<div class="graph-warnings" role="note">${warnings.slice(0, 5).map((text) => html`<p
    class="warning"><bdi>${clip(plainText(text), 600)}</bdi></p>`)}</div>`;
}

function Stage({ graph, layout }) {
  const state = useParts("selected", "supernodes", "pins", "marked", "labels");
  const { query, theme, view, edgeCount } = useParts("query", "theme", "view", "edgeCount");
  const { selected, supernodes, pins, labels } = state;
  const keyed = useStore((s) => (s.hovered?.by === "keys" ? s.hovered.id : null));
  const nodes = useShownNodes();
  const shown = useMemo(() => new Set(nodes.map((node) => node.id)), [nodes]);
  const scene = useMemo(() => seen(layout, view), [layout, view]);
  const members = useMemo(() => selectedMembers(graph, selected, supernodes), [graph, selected, supernodes]);
  const near = useMemo(() => (members.length ? nearby(connectionsOf(graph, members)) : null), [graph, members]);
  const matches = useMemo(() => (query.trim() ? new Set(searchNodes(graph, query, labels).map((n) => n.id)) : null),
    [graph, query, labels]);
  const jobs = useMemo(() => edgeJobs(graph, shown, near, members, edgeCount),
    [graph, shown, near, members, edgeCount]);
  const names = useMemo(() => placeNames(scene, nodes, labels, {
    always: new Set([...pins, ...members.map((node) => node.id)]), most: 30 + 30 * Math.floor(view.scale - 1),
  }), [scene, nodes, labels, pins, members]);
  const first = keyed ?? (graph.byId.has(selected) ? selected : firstNode(nodes)?.id);
  const look = useRef();
  look.current = { layout: scene, nodes };
  const stage = useRef();
  const handlers = usePointer(look);
  useWheel(stage);
  useEffect(() => showPlace(layout, layout.places.get(selected)), [selected, layout]);
  return html`<div class=${view.scale > 1 ? "stage zoomed" : "stage"} ref=${stage} ...${handlers}>
    <${Crosshair} layout=${scene} graph=${graph} />
    <${Grid} layout=${scene} />
    <${EdgeCanvas} layout=${scene} jobs=${jobs} theme=${theme} name="edges" />
    <${HoverEdges} layout=${scene} graph=${graph} shown=${shown} theme=${theme} />
    <${Drawing} scene=${scene} nodes=${nodes} near=${near} matches=${matches} first=${first} names=${names}
      state=${state}
      label=${`Attribution graph of “${plainText(graph.heading)}”: ${nodes.length} nodes. `
        + "Arrow keys move, Enter selects, P pins, plus and minus zoom."} />
    <${HoverTip} graph=${graph} layout=${scene} shown=${shown} near=${near} />
  </div>`;
}

/** Nodes above the edges, in three parts: what is zoomed is cut off at the axes. */
function Drawing({ scene, nodes, near, matches, first, names, state, label }) {
  const { plot, outputs, inputs, width, height } = scene;
  const parts = useMemo(() => ({
    body: nodes.filter((node) => node.row >= 0 && node.kind !== "logit"),
    inputs: nodes.filter((node) => node.row < 0),
    outputs: nodes.filter((node) => node.kind === "logit"),
  }), [nodes]);
  const drawn = (part) => html`<${Nodes} layout=${scene} nodes=${parts[part]} state=${state} near=${near}
    matches=${matches} first=${first} names=${names} />`;
  return html`<svg width=${width} height=${height} role="group" aria-label=${label}>
    <defs>
      <clipPath id="clip-body"><rect x=${plot.left - 6} y=${plot.top} width=${plot.right - plot.left + 14}
        height=${plot.bottom - plot.top} /></clipPath>
      <clipPath id="clip-inputs"><rect x=${plot.left - 6} y=${inputs.y} width=${plot.right - plot.left + 14}
        height=${inputs.height} /></clipPath>
    </defs>
    <${Axes} layout=${scene} />
    <g clip-path="url(#clip-body)">${drawn("body")}</g>
    <g clip-path="url(#clip-inputs)">${drawn("inputs")}</g>
    <g data-band=${outputs.y}>${drawn("outputs")}</g>
    <${HoverRing} layout=${scene} />
  </svg>`;
}

/** Moves a zoomed graph so that a chosen node is in view. */
function showPlace(layout, place) {
  if (!place) return;
  const view = viewShowing(layout, getState().view, place);
  if (view !== getState().view) setState({ view });
}

function nearby({ inputs, outputs }) {
  const near = new Map();
  const add = (list, out) => {
    const most = Math.abs(list[0]?.weight ?? 1);
    for (const entry of list) near.set(entry.node.id, { ...entry, out, strength: entry.weight / most });
  };
  add(outputs, false);
  add(inputs, true);
  return near;
}

function edgeJobs(graph, shown, near, members, edgeCount) {
  const links = restingLinks(graph, shown, edgeCount);
  const strength = graph.influenceKnown ? (link) => link.influence : null;
  if (!near) return [{ links, faint: 0.7, widest: 3, strength }];
  const focus = { links: focusLinks(graph, members, shown), faint: 0.9, widest: 4.2 };
  return [{ links, faint: 0.08, widest: 1.6, strength }, focus];
}

function firstNode(nodes) {
  return nodes.find((node) => node.isTarget) ?? nodes.find((node) => node.kind === "logit") ?? nodes[0];
}

/** A faint column and row behind the hovered node, so that its token and layer can be read off. */
function Crosshair({ layout, graph }) {
  const hovered = useStore((s) => s.hovered);
  const node = hovered && graph.byId.get(hovered.id);
  if (!node) return null;
  const { plot } = layout;
  const across = within(layout.columns[node.position].x, layout.columns[node.position].width, plot.left, plot.right);
  const row = layout.rows[node.row];
  const up = row && within(row.y, row.height, plot.top, plot.bottom);
  return html`<div class="crosshair" aria-hidden="true">
    <div style=${{ left: `${across[0]}px`, width: `${across[1]}px`, top: `${plot.top}px`,
      height: `${layout.height - plot.top}px` }}></div>
    ${up && html`<div style=${{ left: "0", width: `${plot.right}px`, top: `${up[0]}px`, height: `${up[1]}px` }}></div>`}
  </div>`;
}

function within(start, length, low, high) {
  const from = Math.max(low, start);
  return [from, Math.max(0, Math.min(high, start + length) - from)];
}

function HoverEdges({ layout, graph, shown, theme }) {
  const hovered = useStore((s) => (s.hovered?.id === s.selected ? null : s.hovered?.id));
  const node = graph.byId.get(hovered);
  const jobs = useMemo(() => {
    const links = node ? focusLinks(graph, [node], shown).slice(0, 60) : [];
    return links.length ? [{ links, faint: 0.55, widest: 3 }] : [];
  }, [node, graph, shown]);
  return html`<${EdgeCanvas} layout=${layout} jobs=${jobs} theme=${theme} name="edges hover-edges" />`;
}

function HoverRing({ layout }) {
  const hovered = useStore((s) => s.hovered);
  const place = hovered && layout.places.get(hovered.id);
  return place ? html`<circle class=${`hover-ring ${hovered.by}`} cx=${place.x} cy=${place.y}
    r=${place.r + 4.5}/>` : null;
}

function HoverTip({ graph, layout, shown, near }) {
  const { hovered, labels } = useParts("hovered", "labels");
  const node = hovered && shown.has(hovered.id) && graph.byId.get(hovered.id);
  if (!node) return null;
  return html`<${Tooltip} node=${node} label=${nodeLabel(node, labels)} place=${layout.places.get(node.id)}
    link=${near?.get(node.id)} bounds=${{ left: 0, top: 0, width: layout.width }} />`;
}

function Legend({ graph }) {
  const mark = (shape) => html`<svg width="10" height="10" viewBox="-5 -5 10 10" aria-hidden="true">${shape}</svg>`;
  return html`<div class="legend" aria-label="Legend">
    <span>${mark(html`<circle class="shape feature" r="4"/>`)}feature</span>
    ${graph.hasErrors && html`<span>${mark(html`<path class="shape error" d="M0-4 4 0 0 4-4 0Z"/>`)}error</span>`}
    <span>${mark(html`<rect class="shape token" x="-3.5" y="-3.5" width="7" height="7" rx="1"/>`)}token, output</span>
    <span><i class="stroke raises"></i>raises</span>
    <span><i class="stroke lowers"></i>lowers</span>
  </div>`;
}

function ZoomButtons() {
  const scale = useStore((s) => s.view.scale);
  return html`<div class="zoom" role="group" aria-label="Zoom">
    <button class="icon" aria-label="Zoom out" title="Zoom out (−)" disabled=${scale <= 1}
      onClick=${() => zoom(1 / 1.5)}>−</button>
    <button class="icon wide" aria-label="Show the whole graph" title="Show the whole graph (0)" disabled=${scale === 1}
      onClick=${fitView}>${scale === 1 ? "fit" : `${scale.toFixed(1)}×`}</button>
    <button class="icon" aria-label="Zoom in" title="Zoom in (+, or Ctrl and the wheel)" disabled=${scale >= MOST}
      onClick=${() => zoom(1.5)}>+</button>
  </div>`;
}

/** Moves keyboard attention to a node, the browser's focus and the view with it. */
export function focusNode(id) {
  hover(id, "keys");
  const { layout } = getState();
  if (layout) showPlace(layout, layout.places.get(id));
  const element = document.querySelector(`.stage g.node[data-id="${CSS.escape(id)}"]`);
  /** @type {SVGElement | null} */ (element)?.focus({ preventScroll: true });
}
