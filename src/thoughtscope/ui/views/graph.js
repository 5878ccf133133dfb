// The graph itself: the prompt across, the layers up, and what happens under the pointer.
import { html } from "../html.js";
import { useEffect, useLayoutEffect, useMemo, useRef, useState } from "../vendor/hooks.mjs";
import { useStore } from "../store.js";
import { hover, select, toggleMark, togglePin } from "../actions.js";
import { connectionsOf, selectedMembers } from "../circuit.js";
import { layoutGraph, nearestNode } from "../layout.js";
import { nodeLabel, searchNodes, visibleNodes } from "../model.js";
import { EdgeCanvas, edgeJobs, focusLinks } from "../components/edges.js";
import { Grid, Nodes } from "../components/nodes.js";
import { Tooltip } from "../components/tooltip.js";
import { TrustLine } from "../components/scores.js";

/** The nodes on show; those that are selected, pinned or grouped stay whatever the slider says. */
export function shownNodes(state) {
  const { graph, prune, showErrors, selected, pins, supernodes } = state;
  return visibleNodes(graph, prune, showErrors, [...pins, ...supernodes.flatMap((g) => g.members), selected]);
}

let latest = null; // the layout on screen, for the arrow keys

export function currentLayout() {
  return latest;
}

function useSize(element) {
  const [size, setSize] = useState(null);
  useLayoutEffect(() => {
    const measure = () => setSize({ width: element.current.clientWidth, height: element.current.clientHeight });
    const observer = new ResizeObserver(measure);
    observer.observe(element.current);
    measure();
    return () => observer.disconnect();
  }, []);
  return size;
}

export function GraphView() {
  const graph = useStore((s) => s.graph);
  const box = useRef();
  const size = useSize(box);
  const layout = useMemo(() => size && layoutGraph(graph, size.width, size.height), [graph, size?.width, size?.height]);
  latest = layout;
  return html`<section class="graph panel" aria-label="Attribution graph">
    <div class="graph-scroll" ref=${box}>${layout && html`<${Stage} graph=${graph} layout=${layout} scroller=${box} />`}</div>
    <${Legend} />
    <${TrustLine} graph=${graph} />
  </section>`;
}

function Stage({ graph, layout, scroller }) {
  const state = useStore((s) => s);
  const { selected, supernodes, prune, showErrors, pins, labels, query, theme, hovered } = state;
  const nodes = useMemo(() => shownNodes(state), [graph, prune, showErrors, pins, supernodes, selected]);
  const shown = useMemo(() => new Set(nodes.map((node) => node.id)), [nodes]);
  const members = useMemo(() => selectedMembers(graph, selected, supernodes), [graph, selected, supernodes]);
  const near = useMemo(() => (members.length ? nearby(connectionsOf(graph, members)) : null), [graph, members]);
  const matches = useMemo(() => (query.trim() ? new Set(searchNodes(graph, query, labels).map((n) => n.id)) : null), [graph, query,
    labels]);
  const jobs = useMemo(() => restingJobs(graph, shown, near, members), [graph, shown, near, members]);
  const first = firstFocus(graph, state, nodes);
  const svg = useMemo(() => html`<g><${Grid} layout=${layout} graph=${graph} />
    <${Nodes} layout=${layout} nodes=${nodes} state=${{ selected, pins, marked: state.marked, supernodes, labels }} near=${near}
      matches=${matches} first=${first} /></g>`,
    [layout, nodes, selected, pins, state.marked, supernodes, labels, near, matches, first]);
  const handlers = usePointer(layout, nodes);
  useEffect(() => { scroller.current.scrollLeft = layout.width; }, [layout]); // wide graphs open at the answer
  useEffect(() => showPlace(scroller.current, layout.places.get(selected)), [selected, layout]);
  return html`<div class="stage" style=${{ width: `${layout.width}px`, height: `${layout.height}px` }} ...${handlers}>
    <${Crosshair} layout=${layout} graph=${graph} />
    <${EdgeCanvas} layout=${layout} jobs=${jobs} theme=${theme} name="edges" />
    <${HoverEdges} layout=${layout} graph=${graph} shown=${shown} theme=${theme} />
    <svg width=${layout.width} height=${layout.height} role="group"
      aria-label=${`Attribution graph of “${graph.prompt}”: ${nodes.length} nodes. Arrow keys move, Enter selects, P pins.`}>
      ${svg}<${HoverRing} layout=${layout} />
    </svg>
    ${hovered && shown.has(hovered.id)
      && html`<${HoverTip} graph=${graph} layout=${layout} id=${hovered.id} near=${near} scroller=${scroller} />`}
  </div>`;
}

/** Scrolls sideways to a place that is out of view. */
function showPlace(scroller, place) {
  if (!place) return;
  const { scrollLeft, clientWidth } = scroller;
  if (place.x < scrollLeft + 60 || place.x > scrollLeft + clientWidth - 30) scroller.scrollLeft = place.x - clientWidth / 2;
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

function restingJobs(graph, shown, near, members) {
  const { rest, focus } = edgeJobs(graph, shown, near, members);
  const background = { links: rest, faint: near ? 0.07 : 0.62, widest: near ? 1.6 : 2.6 };
  return near ? [background, { links: focus, faint: 0.9, widest: 4.2 }] : [background];
}

function firstFocus(graph, { selected, hovered }, nodes) {
  if (hovered?.by === "keys") return hovered.id;
  if (graph.byId.has(selected)) return selected;
  return (nodes.find((node) => node.isTarget) ?? nodes.find((node) => node.kind === "logit") ?? nodes[0])?.id;
}

function usePointer(layout, nodes) {
  const at = (event) => {
    const box = event.currentTarget.getBoundingClientRect();
    return nearestNode(layout, nodes, event.clientX - box.left, event.clientY - box.top);
  };
  return {
    onPointerMove: (event) => hover(at(event)?.id ?? null),
    onPointerLeave: () => hover(null),
    onFocusIn: (event) => { if (event.target.matches?.("g.node:focus-visible")) hover(event.target.dataset.id, "keys"); },
    onClick: (event) => {
      const node = at(event);
      if (!node) return select(null);
      if (event.ctrlKey || event.metaKey) return togglePin(node.id);
      if (event.shiftKey) return toggleMark(node.id);
      return select(node.id);
    },
  };
}

/** A faint column and row behind the hovered node, so that its token and layer can be read off. */
function Crosshair({ layout, graph }) {
  const hovered = useStore((s) => s.hovered);
  const node = hovered && graph.byId.get(hovered.id);
  if (!node) return null;
  const column = layout.columns[node.position];
  const row = layout.rows[node.row];
  return html`<div class="crosshair" aria-hidden="true">
    <div style=${{ left: `${column.x}px`, width: `${column.width}px`, top: `${layout.top}px`,
      height: `${layout.height - layout.top}px` }}></div>
    ${row && html`<div style=${{ left: "0", width: `${layout.width}px`, top: `${row.y}px`, height: `${row.height}px` }}></div>`}
  </div>`;
}

function HoverEdges({ layout, graph, shown, theme }) {
  const hovered = useStore((s) => s.hovered?.id);
  const selected = useStore((s) => s.selected);
  const node = hovered !== selected && graph.byId.get(hovered);
  const jobs = useMemo(() => (node ? [{ links: focusLinks(graph, [node], (n) => shown.has(n.id)).slice(0, 60), faint: 0.55, widest: 3 }]
    : []), [node, graph, shown]);
  return html`<${EdgeCanvas} layout=${layout} jobs=${jobs} theme=${theme} name="edges hover-edges" />`;
}

function HoverRing({ layout }) {
  const hovered = useStore((s) => s.hovered);
  const place = hovered && layout.places.get(hovered.id);
  return place ? html`<circle class=${`hover-ring ${hovered.by}`} cx=${place.x} cy=${place.y} r=${place.r + 4.5}/>` : null;
}

function HoverTip({ graph, layout, id, near, scroller }) {
  const labels = useStore((s) => s.labels);
  const node = graph.byId.get(id);
  const { scrollLeft, scrollTop, clientWidth } = scroller.current;
  return html`<${Tooltip} node=${node} label=${nodeLabel(node, labels)} place=${layout.places.get(id)} link=${near?.get(id)}
    bounds=${{ left: scrollLeft, top: scrollTop, width: clientWidth }} />`;
}

function Legend() {
  return html`<div class="legend" aria-label="Legend">
    <span><svg width="10" height="10" viewBox="-5 -5 10 10"><circle class="shape feature" r="4"/></svg>feature</span>
    <span><svg width="10" height="10" viewBox="-5 -5 10 10"><path class="shape error" d="M0-4 4 0 0 4-4 0Z"/>
      </svg>error: not explained</span>
    <span><svg width="10" height="10" viewBox="-5 -5 10 10"><rect class="shape token" x="-3.5" y="-3.5" width="7" height="7" rx="1"/>
      </svg>token or output</span>
    <span><i class="stroke raises"></i>raises</span>
    <span><i class="stroke lowers"></i>lowers</span>
    <span class="quiet">wider is stronger</span>
  </div>`;
}

/** Moves keyboard attention to a node, and the browser's focus with it. */
export function focusNode(id) {
  hover(id, "keys");
  const element = document.querySelector(`.stage g.node[data-id="${CSS.escape(id)}"]`);
  element?.focus({ preventScroll: true });
  element?.scrollIntoView({ block: "nearest", inline: "nearest" });
}

