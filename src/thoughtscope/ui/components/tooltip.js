// What is under the pointer, in three short lines beside it.
import { html } from "../html.js";
import { useLayoutEffect, useRef, useState } from "../vendor/hooks.mjs";
import { Glyph, Token } from "./token.js";
import { placeText } from "./describe.js";
import { percent, plainNumber, plainText, signed } from "../text.js";
import { signName } from "../colour.js";

export function Tooltip({ node, label, place, link, bounds }) {
  const box = useRef();
  const [size, setSize] = useState({ width: 240, height: 60 });
  useLayoutEffect(() => setSize({ width: box.current.offsetWidth, height: box.current.offsetHeight }), [node.id, label, link]);
  const right = place.x + 14 + size.width < bounds.left + bounds.width;
  const left = right ? place.x + 14 : Math.max(bounds.left + 4, place.x - size.width - 14);
  const above = place.y - size.height - 10 > bounds.top;
  const top = above ? place.y - size.height - 10 : place.y + 14;
  return html`<div ref=${box} class="tooltip" style=${{ left: `${left}px`, top: `${top}px` }}>
    <div class="tooltip-name"><${Glyph} kind=${node.kind} />
      ${node.kind === "token" || node.kind === "logit" ? html`<${Token} text=${label} />` : plainText(label)}</div>
    <div class="tooltip-place">${placeText(node)}</div>
    <div class="tooltip-facts">${facts(node).join(" · ")}</div>
    ${link && html`<div class=${`tooltip-link ${signName(link.weight)}`}>
      ${signed(link.weight)} ${link.out ? "to the selected" : "from the selected"}, ${percent(Math.abs(link.fraction))} of ${link.out
        ? "its" : "this one’s"} input</div>`}
  </div>`;
}

function facts(node) {
  const list = [];
  if (node.kind === "logit" && node.probability !== null) list.push(`probability ${percent(node.probability)}`);
  if (node.activation !== null && node.kind === "feature") list.push(`activation ${plainNumber(node.activation)}`);
  if (node.share > 0) list.push(`${percent(node.share)} of the influence`);
  if (node.kind === "error") list.push("not explained by any feature");
  return list;
}
