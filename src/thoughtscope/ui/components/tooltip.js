// @ts-check
// What is under the pointer, in three short lines beside it.
import { html } from "../html.js";
import { useLayoutEffect, useRef, useState } from "../vendor/hooks.mjs";
import { Glyph, Token } from "./token.js";
import { fullPlace, influenceText } from "./describe.js";
import { percent, plainNumber, plainText, signed } from "../text.js";
import { signName } from "../colour.js";

export function Tooltip({ node, label, place, link, bounds }) {
  const box = useRef();
  const [size, setSize] = useState({ width: 240, height: 60 });
  useLayoutEffect(() => setSize({ width: box.current.offsetWidth, height: box.current.offsetHeight }),
    [node.id, label, link]);
  const right = place.x + 14 + size.width < bounds.left + bounds.width;
  const left = right ? place.x + 14 : Math.max(bounds.left + 4, place.x - size.width - 14);
  const above = place.y - size.height - 10 > bounds.top;
  const top = above ? place.y - size.height - 10 : place.y + 14;
  return html`<div ref=${box} class="tooltip" style=${{ left: `${left}px`, top: `${top}px` }}>
    <div class="tooltip-name"><${Glyph} kind=${node.kind} />
      ${node.kind === "token" || node.kind === "logit" ? html`<${Token} text=${label} />` : plainText(label)}</div>
    <div class="tooltip-place">${fullPlace(node)}</div>
    <div class="tooltip-facts">${facts(node).join(" · ")}</div>
    ${link && html`<div class=${`tooltip-link ${signName(link.weight)}`}>${linkText(link)}</div>`}
  </div>`;
}

function linkText({ weight, fraction, out }) {
  const share = percent(Math.abs(fraction));
  return out ? `adds ${signed(weight)} to the selected, ${share} of its input`
    : `gets ${signed(weight)} from the selected, ${share} of its own input`;
}

function facts(node) {
  const list = [];
  if (node.kind === "logit" && node.probability !== null) list.push(`probability ${percent(node.probability)}`);
  if (node.activation !== null && node.kind === "feature") list.push(`activation ${plainNumber(node.activation)}`);
  if (node.kind !== "logit") list.push(influenceText(node));
  if (node.kind === "error") list.push("not explained by any feature");
  return list;
}
