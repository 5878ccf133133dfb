// The circuit: pinned nodes and supernodes as cards with their edges added up. Cards can be dragged.
import { html } from "../html.js";
import { useLayoutEffect, useMemo, useRef, useState } from "../vendor/hooks.mjs";
import { useStore } from "../store.js";
import { canWrite, hasFeatures, hover, select, suggestedGroup, takeSuggestion, toggleMark, togglePin, ungroup } from "../actions.js";
import { CARD, circuitCards, circuitEdges, layoutCircuit } from "../circuit.js";
import { signName } from "../colour.js";
import { Glyph, Token } from "./token.js";
import { count, percent, plainText, signed, tokenText } from "../text.js";

export function Circuit({ graph }) {
  const { pins, supernodes, labels, selected, marked, dock } = useStore((s) => s);
  const box = useRef();
  const [size, setSize] = useState(null);
  const [moved, setMoved] = useState({});
  useLayoutEffect(() => {
    const measure = () => setSize({ width: box.current.clientWidth, height: box.current.clientHeight });
    const observer = new ResizeObserver(measure);
    observer.observe(box.current);
    measure();
    return () => observer.disconnect();
  }, [dock]);
  const cards = useMemo(() => circuitCards(graph, pins, supernodes, labels), [graph, pins, supernodes, labels]);
  const edges = useMemo(() => circuitEdges(graph, cards), [graph, cards]);
  const layout = useMemo(() => size && layoutCircuit(cards, size.width, size.height), [cards, size?.width, size?.height]);
  const place = (card) => moved[card.id] ?? layout.places.get(card.id);
  return html`<div class="circuit-box" ref=${box}>
    ${cards.length === 0 && html`<${EmptyCircuit} graph=${graph} />`}
    ${layout && cards.length > 0 && html`<svg class="circuit" width=${size.width} height=${layout.height} role="group"
      aria-label=${`Circuit of ${cards.length} cards`}>
      <${Arrows} edges=${edges} place=${place} selected=${selected} />
      ${cards.map((card) => html`<${Card} key=${card.id} card=${card} place=${place(card)} selected=${selected === card.id}
        marked=${card.members.length === 1 && marked.includes(card.members[0].id)}
          onMove=${(x, y) => setMoved({ ...moved, [card.id]: { x, y } })} size=${{ width: size.width, height: layout.height }} />`)}
    </svg>`}
  </div>`;
}

function EmptyCircuit({ graph }) {
  const first = canWrite() && hasFeatures() ? suggestedGroup(graph) : null;
  return html`<div class="empty"><p>The circuit is empty.</p>
    ${first && html`<p>A first experiment:
      <button class="suggestion" onClick=${takeSuggestion}>Group the ${count(first.members.length, "feature")} at <${Token} text=${first.token} /></button>
      and press Run on the right.</p>`}
    <p>Pin the nodes that matter with <kbd>P</kbd> or <kbd>Ctrl</kbd>-click, mark several with <kbd>Shift</kbd>-click and group them with <kbd>G</kbd>.</p></div>`;
}

function Arrows({ edges, place, selected }) {
  const inside = edges.some((edge) => selected === edge.source.id || selected === edge.target.id);
  const most = Math.max(...edges.map((edge) => Math.abs(edge.fraction)), 0.01);
  return html`<g class="arrows">${[...edges].reverse().map((edge) => {
    const near = selected === edge.source.id || selected === edge.target.id;
    return html`<path key=${`${edge.source.id}>${edge.target.id}`}
      class=${`arrow ${signName(edge.weight)}${near ? " near" : inside ? " far" : ""}`}
      d=${arrowPath(place(edge.source), place(edge.target))} stroke-width=${0.8 + 5 * Math.sqrt(Math.abs(edge.fraction) / most)}>
      <title>${`${plainText(edge.source.label)} ${signName(edge.weight)} ${plainText(edge.target.label)}: ${signed(edge.weight)}, ${percent(Math.abs(edge.fraction))} of its input`}</title></path>`;
  })}</g>`;
}

/** From card to card: bottom to top between levels, side to side within one. */
function arrowPath(from, to) {
  if (Math.abs(from.y - to.y) < CARD.height) {
    const side = to.x > from.x ? 1 : -1;
    const [x1, x2] = [from.x + (side * CARD.width) / 2, to.x - (side * CARD.width) / 2];
    const lift = Math.max(0, Math.abs(x2 - x1) - 40) * 0.06;
    return `M${x1} ${from.y}C${x1 + side * 14} ${from.y - lift} ${x2 - side * 14} ${to.y - lift} ${x2} ${to.y}`;
  }
  const up = from.y > to.y ? -1 : 1;
  const [y1, y2] = [from.y + (up * CARD.height) / 2, to.y - (up * CARD.height) / 2];
  const bend = (y1 - y2) * 0.5;
  return `M${from.x} ${y1}C${from.x} ${y1 - bend} ${to.x} ${y2 + bend} ${to.x} ${y2}`;
}

function Card({ card, place, selected, marked, onMove, size }) {
  const drag = useRef(null);
  const [w, h] = [CARD.width, CARD.height];
  const start = (event) => {
    if (event.button !== 0 || event.target.closest(".card-close")) return;
    drag.current = { x: event.clientX - place.x, y: event.clientY - place.y, far: false, from: [event.clientX, event.clientY] };
    event.currentTarget.setPointerCapture(event.pointerId);
  };
  const move = (event) => {
    const d = drag.current;
    if (!d) return;
    d.far ||= Math.hypot(event.clientX - d.from[0], event.clientY - d.from[1]) > 4;
    if (d.far) onMove(clamp(event.clientX - d.x, w / 2, size.width - w / 2), clamp(event.clientY - d.y, h / 2, size.height - h / 2));
  };
  const end = (event) => {
    const far = drag.current?.far;
    drag.current = null;
    if (far === false) choose(event);
  };
  const choose = (event) => {
    if (event.shiftKey && card.kind !== "group") return toggleMark(card.id);
    if ((event.ctrlKey || event.metaKey) && card.kind !== "group") return togglePin(card.id);
    return select(card.id);
  };
  const close = () => (card.kind === "group" ? ungroup(card.label) : togglePin(card.id));
  const plain = card.kind === "token" || card.kind === "logit";
  const label = card.kind === "error" ? `error, layer ${card.members[0].layer}` : plain ? tokenText(card.label) : plainText(card.label);
  return html`<g class=${`card ${card.kind}${selected ? " selected" : ""}${marked ? " marked" : ""}`} data-id=${card.id}
    transform=${`translate(${place.x} ${place.y})`}
      role="button" tabindex="0" aria-pressed=${selected ? "true" : "false"}
        aria-label=${`${label}${card.kind === "group" ? `, supernode of ${card.members.length}` : ""}`}
      onPointerDown=${start} onPointerMove=${move} onPointerUp=${end} onPointerCancel=${() => { drag.current = null; }}
      onKeyDown=${(event) => { if (event.key === "Enter") { event.stopPropagation(); choose(event); } }}
      onPointerEnter=${() => card.members.length === 1 && hover(card.id)} onPointerLeave=${() => hover(null)}>
    ${card.kind === "group" && html`<rect class="stack" x=${-w / 2 + 3} y=${-h / 2 + 3} width=${w} height=${h} rx="4"/>`}
    <rect class="face" x=${-w / 2} y=${-h / 2} width=${w} height=${h} rx="4"/>
    <foreignObject x=${-w / 2} y=${-h / 2} width=${w} height=${h}>
      <div class="card-text"><${Glyph} kind=${card.kind} /><span>${label}</span>
        ${card.kind === "group" && html`<small>${card.members.length}</small>`}
      <button class="card-close" tabindex="-1" aria-label=${card.kind === "group" ? `Ungroup ${label}` : `Unpin ${label}`}
        title=${card.kind === "group" ? "Ungroup" : "Unpin"} onClick=${close}>×</button></div>
    </foreignObject>
  </g>`;
}

const clamp = (value, low, high) => Math.max(low, Math.min(high, value));
