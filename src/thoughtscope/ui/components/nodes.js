// Nodes, columns and rows as SVG: every node can be focused and says what it is to a screen reader.
import { html } from "../html.js";
import { useRef } from "../vendor/hooks.mjs";
import { signFill } from "../colour.js";
import { nodeLabel } from "../model.js";
import { nodeSentence } from "./describe.js";
import { percent, tokenText } from "../text.js";

export function Grid({ layout, graph }) {
  const right = layout.width - 6;
  return html`<g class="grid" aria-hidden="true">
    ${layout.columns.map((column, i) => (i === 0 ? null
      : html`<line key=${`c${i}`} x1=${column.x} x2=${column.x} y1=${layout.top} y2=${layout.top + layout.body + 22}/>`))}
    ${layout.rows.map((row) => html`<g key=${`r${row.layer}`}>
      <line x1="34" x2=${right} y1=${row.y + row.height} y2=${row.y + row.height}/>
      ${showsName(row, layout) && html`<text class="row-name" x="30" y=${row.y + row.height / 2 + 3.5}>${row.layer}</text>`}
    </g>`)}
    <line x1="34" x2=${right} y1=${layout.top} y2=${layout.top}/>
    <text class="row-name" x="30" y=${layout.top - 15}>out</text>
    <text class="row-name" x="30" y=${layout.inputs.y + 14.5}>in</text>
    ${layout.columns.map((column) => html`<${ColumnName} key=${`n${column.position}`} column=${column} y=${layout.inputs.y + 37}
      slanted=${layout.slanted} />`)}
  </g>`;
}

/** With very low rows only every second or fifth layer is named. */
function showsName(row, layout) {
  const every = row.height >= 11 ? 1 : row.height >= 6 ? 2 : 5;
  return row.layer % every === 0 || row.layer === layout.rows.length - 1;
}

function ColumnName({ column, y, slanted }) {
  const room = slanted ? 9 : Math.max(3, Math.floor((column.width - 4) / 7));
  const text = tokenText(column.token);
  const characters = [...text];
  const shown = characters.length > room ? `${characters.slice(0, room - 1).join("")}…` : text;
  const x = column.x + column.width / 2 + (slanted ? 4 : 0);
  return html`<text class=${slanted ? "column-name slanted" : "column-name"} x=${x} y=${slanted ? y - 8 : y}
    transform=${slanted ? `rotate(-52 ${x} ${y - 8})` : null}>${shown}<title>${`token ${column.position}: ${text}`}</title></text>`;
}

export function Nodes({ layout, nodes, state, near, matches, first }) {
  const { selected, pins, marked, supernodes, labels } = state;
  const pinned = new Set(pins);
  const chosen = new Set(marked);
  const grouped = new Map(supernodes.flatMap((g) => g.members.map((id) => [id, g.label])));
  const members = new Set(selected?.startsWith("group:") ? supernodes.find((g) => `group:${g.label}` === selected)?.members
    : [selected]);
  const drawn = useRef(new Map());
  return html`<g class=${near ? "nodes has-focus" : "nodes"}>${nodes.map((node) => unchanged(drawn.current, {
    node, place: layout.places.get(node.id), label: nodeLabel(node, labels), near: near?.get(node.id), selected: members.has(node.id),
      pinned: pinned.has(node.id),
    marked: chosen.has(node.id), group: grouped.get(node.id), match: matches ? matches.has(node.id) : null, first: first === node.id,
  }))}</g>`;
}

/** The element drawn last time if nothing about it changed, so that a click in a large graph redraws only what differs. */
function unchanged(drawn, props) {
  const old = drawn.get(props.node.id);
  if (old && Object.keys(props).every((name) => props[name] === old.props[name])) return old.element;
  const element = html`<${Node} key=${props.node.id} ...${props} />`;
  drawn.set(props.node.id, { props, element });
  return element;
}

function Node({ node, place, label, near, selected, pinned, marked, group, match, first }) {
  const { x, y, r } = place;
  const classes = ["node", node.kind, selected && "selected", pinned && "pinned", marked && "marked", near && "near",
    group !== undefined && "grouped", match === true && "match", match === false && "unmatched", node.isTarget
      && "target"].filter(Boolean).join(" ");
  const fill = near ? { fill: signFill(near.weight, near.strength), stroke: signFill(near.weight, 1) } : null;
  return html`<g class=${classes} data-id=${node.id} transform=${`translate(${round(x)} ${round(y)})`} role="button"
      tabindex=${first ? 0 : -1} aria-pressed=${selected ? "true" : "false"}
        aria-label=${nodeSentence(node, label, { pinned, group, near })}>
    ${selected && html`<circle class="ring" r=${r + 4.5}/>`}
    ${pinned && html`<circle class="pin" r=${r + 2.4}/>`}
    ${marked && html`<circle class="mark-ring" r=${r + 6.5}/>`}
    <${Shape} kind=${node.kind} r=${r} style=${fill} />
    ${place.named && html`<text class="output-name" x="9" y="4">${clip(tokenText(label), place.room - 34)} <tspan class="share">
      ${percent(node.probability)}</tspan></text>`}
  </g>`;
}

function clip(text, room) {
  const characters = [...text];
  const most = Math.max(3, Math.floor(room / 6.6));
  return characters.length > most ? `${characters.slice(0, most - 1).join("")}…` : text;
}

function Shape({ kind, r, style }) {
  if (kind === "feature") return html`<circle class="shape" r=${r} style=${style}/>`;
  if (kind === "error") return html`<path class="shape" d=${`M0${-r * 1.25}L${r * 1.25} 0L0 ${r * 1.25}L${-r * 1.25} 0Z`}
    style=${style}/>`;
  return html`<rect class="shape" x=${-r} y=${-r} width=${2 * r} height=${2 * r} rx="1" style=${style}/>`;
}

const round = (value) => Math.round(value * 10) / 10;
