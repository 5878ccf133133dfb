// @ts-check
// Nodes as SVG: every node can be focused and says what it is to a screen reader.
import { html } from "../html.js";
import { useRef } from "../vendor/hooks.mjs";
import { signFill } from "../colour.js";
import { nodeLabel } from "../model.js";
import { nodeSentence } from "./describe.js";
import { clip, percent, tokenText } from "../text.js";

export function Nodes({ layout, nodes, state, near, matches, first, names }) {
  const { selected, pins, marked, supernodes, labels } = state;
  const pinned = new Set(pins);
  const chosen = new Set(marked);
  const grouped = new Map(supernodes.flatMap((g) => g.members.map((id) => [id, g.label])));
  const group = selected?.startsWith("group:") ? supernodes.find((g) => `group:${g.label}` === selected) : null;
  const members = new Set(group ? group.members : [selected]);
  const drawn = useRef(new Map());
  return html`<g class=${near ? "nodes has-focus" : "nodes"}>${nodes.map((node) => unchanged(drawn.current, {
    node, ...layout.places.get(node.id), label: nodeLabel(node, labels), near: near?.get(node.id),
    selected: members.has(node.id), pinned: pinned.has(node.id), marked: chosen.has(node.id),
    group: grouped.get(node.id), match: matches ? matches.has(node.id) : null, first: first === node.id,
    name: names.get(node.id),
  }))}</g>`;
}

/** The element drawn last time if nothing about it changed, so that a click in a large graph redraws what differs. */
function unchanged(drawn, props) {
  const old = drawn.get(props.node.id);
  if (old && Object.keys(props).every((name) => props[name] === old.props[name])) return old.element;
  const element = html`<${Node} key=${props.node.id} ...${props} />`;
  drawn.set(props.node.id, { props, element });
  return element;
}

function Node({ node, x, y, r, named, room, label, near, selected, pinned, marked, group, match, first, name }) {
  const classes = Object.entries({
    node: true, [node.kind]: true, selected, pinned, marked, near, grouped: group !== undefined,
    match: match === true, unmatched: match === false, target: node.isTarget,
  }).filter(([, on]) => on).map(([word]) => word).join(" ");
  const fill = near ? { fill: signFill(near.weight, near.strength), stroke: signFill(near.weight, 1) } : null;
  return html`<g class=${classes} data-id=${node.id} transform=${`translate(${round(x)} ${round(y)})`} role="button"
      tabindex=${first ? 0 : -1} aria-pressed=${selected ? "true" : "false"}
      aria-label=${nodeSentence(node, label, { pinned, group, near })}>
    ${selected && html`<circle class="ring" r=${r + 4.5}/>`}
    ${pinned && html`<circle class="pin" r=${r + 2.4}/>`}
    ${marked && html`<circle class="mark-ring" r=${r + 6.5}/>`}
    <${Shape} kind=${node.kind} r=${r} style=${fill} />
    ${named && html`<${OutputName} node=${node} label=${label} room=${room} />`}
    ${name && html`<text class="node-name" x=${name.x} y=${name.y} text-anchor=${name.anchor}>${name.text}</text>`}
  </g>`;
}

/** The answer's name beside its square, with its probability where both find room. */
function OutputName({ node, label, room }) {
  const share = node.probability === null ? "" : percent(node.probability);
  const letters = Math.floor((room - 6.2 * share.length - 4) / 7.2);
  const both = letters >= Math.min(12, [...tokenText(label)].length);
  return html`<text class="output-name" x="8" y="4">${clip(tokenText(label), both ? letters : Math.floor(room / 7.2))}
    ${both && html`<tspan class="share" dx="5">${share}</tspan>`}</text>`;
}

function Shape({ kind, r, style }) {
  if (kind === "feature") return html`<circle class="shape" r=${r} style=${style}/>`;
  if (kind === "error") {
    const d = r * 1.25;
    return html`<path class="shape" d=${`M0${-d}L${d} 0L0 ${d}L${-d} 0Z`} style=${style}/>`;
  }
  return html`<rect class="shape" x=${-r} y=${-r} width=${2 * r} height=${2 * r} rx="1" style=${style}/>`;
}

const round = (value) => Math.round(value * 10) / 10;
