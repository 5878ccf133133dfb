// @ts-check
// The circuit: pinned nodes and supernodes as cards with their edges added up. Cards can be dragged.
import { html } from "../html.js";
import { useMemo, useRef } from "../vendor/hooks.mjs";
import { useParts } from "../store.js";
import { placeCard, suggestedGroup, takeSuggestion, toggleMark, togglePin, ungroup } from "../actions/circuit.js";
import { canWrite, hasFeatures } from "../actions/source.js";
import { hover, select } from "../actions/view.js";
import { CARD, arrowCurve, circuitCards, circuitEdges, layoutCircuit, textPlaces } from "../circuit.js";
import { signName } from "../colour.js";
import { ruleOf } from "../model.js";
import { useSize } from "../measure.js";
import { Glyph, Token } from "./token.js";
import { count, percent, plainText, signed, tokenText } from "../text.js";

const TOLD = 14; // arrows that say their weight while nothing is selected

export function Circuit({ graph }) {
  const { pins, supernodes, labels, selected, marked, cards: moved } = useParts("pins", "supernodes", "labels",
    "selected", "marked", "cards");
  const box = useRef();
  const size = useSize(box);
  const cards = useMemo(() => circuitCards(graph, pins, supernodes, labels), [graph, pins, supernodes, labels]);
  const edges = useMemo(() => circuitEdges(graph, cards), [graph, cards]);
  const layout = useMemo(() => size && layoutCircuit(cards, size.width, size.height), [cards, size]);
  const field = { width: size?.width ?? 0, height: layout?.height ?? 0 };
  const place = (card) => heldPlace(moved[card.id], field) ?? layout.places.get(card.id);
  return html`<div class="circuit-box" ref=${box}>
    ${cards.length === 0 && html`<${EmptyCircuit} graph=${graph} />`}
    ${layout && cards.length > 0 && html`<svg class="circuit" width=${field.width} height=${field.height} role="group"
      aria-label=${`Circuit of ${cards.length} cards`}>
      <${Arrows} cards=${cards} edges=${edges} place=${place} selected=${selected} />
      ${cards.map((card) => html`<${Card} key=${card.id} card=${card} place=${place(card)} rule=${ruleFor(graph, card)}
        selected=${selected === card.id}
        marked=${card.members.length === 1 && marked.includes(card.members[0].id)} size=${field} />`)}
    </svg>`}
  </div>`;
}

/** How a group came by its name, where a rule gave it. */
function ruleFor(graph, { kind, label, members }) {
  return kind === "group" ? ruleOf(graph, { label, members: members.map((node) => node.id) }) : null;
}

/** Where a dragged card lies in a panel of this size, wholly inside it. */
function heldPlace(share, size) {
  if (!share) return null;
  return {
    x: clamp(share[0] * size.width, CARD.width / 2, size.width - CARD.width / 2),
    y: clamp(share[1] * size.height, CARD.height / 2, size.height - CARD.height / 2),
  };
}

function EmptyCircuit({ graph }) {
  const first = canWrite() && hasFeatures() ? suggestedGroup(graph) : null;
  return html`<div class="empty"><p>The circuit is empty.</p>
    ${first && html`<p>A first experiment:
      <button class="suggestion" onClick=${takeSuggestion}>Group the ${count(first.members.length, "feature")} at${" "}
        <${Token} text=${first.token} /></button> and press Run on the right.</p>`}
    <p>Pin the nodes that matter with <kbd>P</kbd> or <kbd>Ctrl</kbd>-click, mark several with <kbd>Shift</kbd>-click
      and group them with <kbd>G</kbd>.</p></div>`;
}

function Arrows({ cards, edges, place, selected }) {
  const touches = (edge) => selected === edge.source.id || selected === edge.target.id;
  const inside = edges.some(touches);
  const most = Math.max(...edges.map((edge) => Math.abs(edge.fraction)), 0.01);
  const told = inside ? edges.filter(touches) : edges.slice(0, TOLD);
  const at = textPlaces(told.map((edge) => arrowCurve(place(edge.source), place(edge.target))), cards.map(place));
  return html`<g class="arrows">${[...edges].reverse().map((edge) => html`<path
    key=${`${edge.source.id}>${edge.target.id}`}
    class=${`arrow ${signName(edge.weight)}${touches(edge) ? " near" : inside ? " far" : ""}`}
    d=${arrowPath(place(edge.source), place(edge.target))}
    stroke-width=${0.8 + 5 * Math.sqrt(Math.abs(edge.fraction) / most)}>
    <title>${arrowText(edge)}</title></path>`)}
    ${told.map((edge, i) => at[i] && html`<text key=${`${edge.source.id} ${edge.target.id}`} aria-hidden="true"
      class=${`arrow-weight ${signName(edge.weight)}`} x=${at[i].x} y=${at[i].y} dy="0.35em"
      text-anchor="middle">${signed(edge.weight)}</text>`)}</g>`;
}

function arrowText({ source, target, weight, fraction }) {
  return `${plainText(source.label)} ${signName(weight)} ${plainText(target.label)}: ${signed(weight)}, `
    + `${percent(Math.abs(fraction))} of its input`;
}

function arrowPath(from, to) {
  const [start, ...rest] = arrowCurve(from, to).map((point) => point.join(" "));
  return `M${start}C${rest.join(" ")}`;
}

function Card({ card, place, selected, marked, size, rule }) {
  const hand = useCardHand(card, place, size);
  const [w, h] = [CARD.width, CARD.height];
  const group = card.kind === "group";
  const label = cardText(card);
  const named = rule ? `${label}. ${plainText(rule)}` : label;
  const close = () => (group ? ungroup(card.label) : togglePin(card.id));
  const states = [["selected", selected], ["marked", marked], ["by-rule", rule]].filter(([, on]) => on);
  return html`<g class=${["card", card.kind, ...states.map(([name]) => name)].join(" ")}
    data-id=${card.id}
    transform=${`translate(${place.x} ${place.y})`} role="button" tabindex="0"
      aria-pressed=${selected ? "true" : "false"}
    aria-label=${`${named}${group ? `, supernode of ${card.members.length}` : ""}`} ...${hand}>
    ${group && html`<rect class="stack" x=${-w / 2 + 3} y=${-h / 2 + 3} width=${w} height=${h} rx="4"/>`}
    <rect class="face" x=${-w / 2} y=${-h / 2} width=${w} height=${h} rx="4"/>
    <foreignObject x=${-w / 2} y=${-h / 2} width=${w} height=${h}>
      <div class="card-text"><${Glyph} kind=${card.kind} /><span title=${named}>${label}</span>
        ${group && html`<small>${rule ? "rule · " : ""}${card.members.length}</small>`}
      <button class="card-close" tabindex="-1" aria-label=${group ? `Ungroup ${label}` : `Unpin ${label}`}
        title=${group ? "Ungroup" : "Unpin"} onClick=${close}>×</button></div>
    </foreignObject>
  </g>`;
}

function cardText(card) {
  if (card.kind === "error") return `error, layer ${card.members[0].layer}`;
  return card.kind === "token" || card.kind === "logit" ? tokenText(card.label) : plainText(card.label);
}

/** A press selects, marks or unpins the card; a drag moves it, and where it is let go is kept. */
function useCardHand(card, place, size) {
  const drag = useRef(null);
  const choose = (event) => {
    if (event.shiftKey && card.kind !== "group") return toggleMark(card.id);
    if ((event.ctrlKey || event.metaKey) && card.kind !== "group") return togglePin(card.id);
    return select(card.id);
  };
  const move = (event, last) => {
    const d = drag.current;
    const at = heldPlace([(event.clientX - d.x) / size.width, (event.clientY - d.y) / size.height], size);
    placeCard(card.id, at.x / size.width, at.y / size.height, { last });
  };
  return {
    onPointerDown: (event) => {
      if (event.button !== 0 || event.target.closest(".card-close")) return;
      const { clientX, clientY } = event;
      drag.current = { x: clientX - place.x, y: clientY - place.y, far: false, from: [clientX, clientY] };
      event.currentTarget.setPointerCapture(event.pointerId);
    },
    onPointerMove: (event) => {
      const d = drag.current;
      if (!d) return;
      d.far ||= Math.hypot(event.clientX - d.from[0], event.clientY - d.from[1]) > 4;
      if (d.far) move(event, false);
    },
    onPointerUp: (event) => {
      if (drag.current?.far) move(event, true);
      else if (drag.current) choose(event);
      drag.current = null;
    },
    onPointerCancel: () => { drag.current = null; },
    onKeyDown: (event) => {
      if (event.key !== "Enter") return;
      event.stopPropagation();
      choose(event);
    },
    onPointerEnter: () => card.members.length === 1 && hover(card.id),
    onPointerLeave: () => hover(null),
  };
}

const clamp = (value, low, high) => Math.max(low, Math.min(high, value));
