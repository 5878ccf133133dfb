// Search for nodes by label, token or feature number; arrow keys choose, Enter travels.
import { html } from "../html.js";
import { useMemo, useState } from "../vendor/hooks.mjs";
import { setState, useStore } from "../store.js";
import { select } from "../actions.js";
import { nodeLabel, searchNodes } from "../model.js";
import { Glyph, Token } from "./token.js";
import { placeText } from "./describe.js";
import { plainText } from "../text.js";

const SHOWN = 12;

export function Search() {
  const { graph, query, labels } = useStore((s) => s);
  const [at, setAt] = useState(0);
  const [open, setOpen] = useState(false);
  const found = useMemo(() => searchNodes(graph, query, labels), [graph, query, labels]);
  const list = found.slice(0, SHOWN);
  const go = (node) => {
    setOpen(false);
    select(node.id);
  };
  const onKeyDown = (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step && list.length) setAt((at + step + list.length) % list.length);
    else if (event.key === "Enter" && list[at]) go(list[at]);
    else if (event.key === "Escape") {
      setState({ query: "" });
      event.target.blur();
    } else return;
    event.preventDefault();
    event.stopPropagation();
  };
  return html`<div class="search">
    <input id="search" type="search" placeholder="Search nodes" aria-label="Search nodes by label, token or feature number"
      autocomplete="off" spellcheck="false"
      role="combobox" aria-expanded=${open && query ? "true" : "false"} aria-controls="search-list" value=${query}
      onInput=${(event) => { setState({ query: event.target.value }); setAt(0); setOpen(true); }}
      onFocus=${() => setOpen(true)} onBlur=${() => setTimeout(() => setOpen(false), 120)} onKeyDown=${onKeyDown} />
    <kbd>/</kbd>
    ${open && query.trim() && html`<ul id="search-list" class="popover" role="listbox">
      ${list.map((node, i) => html`<li key=${node.id} role="option" aria-selected=${i === at ? "true" : "false"}
        onPointerDown=${(event) => { event.preventDefault(); go(node); }}>
        <${Glyph} kind=${node.kind} /><span class="found">
          ${node.kind === "token" || node.kind === "logit" ? html`<${Token} text=${nodeLabel(node, labels)} />`
            : plainText(nodeLabel(node, labels))}</span><small>${placeText(node)}</small>
      </li>`)}
      <li class="quiet" role="presentation">
        ${found.length === 0 ? "No node has this label, token or number." : found.length > SHOWN
          ? `${found.length - SHOWN} more stand out in the graph` : `${found.length} found`}</li>
    </ul>`}
  </div>`;
}
