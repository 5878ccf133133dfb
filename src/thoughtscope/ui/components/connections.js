// @ts-check
// What feeds the selected node and what it feeds, strongest first, with signs; a click travels there.
import { html } from "../html.js";
import { useMemo, useState } from "../vendor/hooks.mjs";
import { useStore } from "../store.js";
import { hover, select } from "../actions/view.js";
import { connectionsOf } from "../circuit.js";
import { nodeLabel } from "../model.js";
import { signName } from "../colour.js";
import { Glyph, Token } from "./token.js";
import { fullPlace } from "./describe.js";
import { percent, plainText, signed } from "../text.js";

const FIRST = 24;

export function Connections({ graph, members, shown }) {
  const { inputs, outputs } = useMemo(() => connectionsOf(graph, members), [graph, members]);
  return html`<div class="connections">
    <${Side} name="Inputs" list=${inputs} shown=${shown} hint="what drives it" />
    <${Side} name="Outputs" list=${outputs} shown=${shown} hint="what it drives" />
  </div>`;
}

function Side({ name, list, shown, hint }) {
  const [all, setAll] = useState(false);
  const labels = useStore((s) => s.labels);
  const inView = list.filter((entry) => shown.has(entry.node.id));
  const hidden = list.length - inView.length;
  const most = Math.abs(inView[0]?.weight ?? 1);
  const none = list.length ? "All are hidden by the slider."
    : name === "Inputs" ? "Nothing feeds it." : "It feeds nothing in this graph.";
  return html`<section aria-label=${name}>
    <h3>${name} <span>${inView.length ? hint : ""}</span></h3>
    <ol>${(all ? inView : inView.slice(0, FIRST)).map((entry) => html`<${Row} key=${entry.node.id} entry=${entry}
      most=${most} labels=${labels} out=${name === "Outputs"} />`)}</ol>
    ${inView.length === 0 && html`<p class="quiet">${none}</p>`}
    ${!all && inView.length > FIRST && html`<button class="plain more" onClick=${() => setAll(true)}>
      ${inView.length - FIRST} more</button>`}
    ${hidden > 0 && inView.length > 0 && html`<p class="quiet">${hidden} hidden by the slider</p>`}
  </section>`;
}

function Row({ entry, most, labels, out }) {
  const { node, weight, fraction } = entry;
  const label = nodeLabel(node, labels);
  const share = `${percent(Math.abs(fraction))} of ${out ? "that node’s" : "the"} input`;
  const isText = node.kind === "token" || node.kind === "logit";
  return html`<li><button class=${`connection ${node.kind} ${signName(weight)}`} data-id=${node.id}
    onClick=${() => select(node.id)}
    onPointerEnter=${() => hover(node.id)} onPointerLeave=${() => hover(null)}
    title=${`${plainText(label)} (${fullPlace(node)}): ${signed(weight)}, ${share}`}
    aria-label=${`${plainText(label)}, ${signName(weight)} by ${signed(weight)}, ${share}`}>
    <${Glyph} kind=${node.kind} />
    <span class="name">${isText ? html`<${Token} text=${label} />` : node.kind === "error" ? "error" : plainText(label)}
    </span>
    <span class="at">${isText ? `at ${node.position}` : `layer ${node.row}`}</span>
    <span class="weight">${signed(weight)}</span>
    <i class="weight-bar" style=${{ width: `${(100 * Math.abs(weight)) / most}%` }}></i>
  </button></li>`;
}
