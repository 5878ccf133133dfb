// @ts-check
// Search for nodes by label, token or feature number; arrow keys choose, Enter travels.
import { html } from "../html.js";
import { useMemo, useState } from "../vendor/hooks.mjs";
import { setState, useParts } from "../store.js";
import { select } from "../actions/view.js";
import { nodeLabel, searchNodes } from "../model.js";
import { Glyph, Token } from "./token.js";
import { placeText } from "./describe.js";
import { plainText } from "../text.js";

const SHOWN = 12;

export function Search() {
  const { graph, query, labels } = useParts("graph", "query", "labels");
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
    <input id="search" type="search" placeholder="Search nodes" autocomplete="off" spellcheck="false"
      aria-label="Search nodes by label, token or feature number" role="combobox"
        aria-expanded=${open && query ? "true" : "false"} aria-controls="search-list"
      value=${query}
      onInput=${(event) => { setState({ query: event.target.value }); setAt(0); setOpen(true); }}
      onFocus=${() => setOpen(true)} onBlur=${() => setTimeout(() => setOpen(false), 120)} onKeyDown=${onKeyDown} />
    <kbd>/</kbd>
    ${open && query.trim() && html`<ul id="search-list" class="popover" role="listbox">
      ${list.map((node, i) => html`<${Found} key=${node.id} node=${node} label=${nodeLabel(node, labels)} on=${i === at}
        onChoose=${() => go(node)} />`)}
      <li class="quiet" role="presentation">${summary(found.length)}</li>
    </ul>`}
  </div>`;
}

function Found({ node, label, on, onChoose }) {
  const isText = node.kind === "token" || node.kind === "logit";
  const choose = (event) => {
    event.preventDefault();
    onChoose();
  };
  return html`<li role="option" aria-selected=${on ? "true" : "false"} onPointerDown=${choose}>
    <${Glyph} kind=${node.kind} /><span class="found">${isText ? html`<${Token}
      text=${label} />` : plainText(label)}</span>
    <small>${placeText(node)}</small></li>`;
}

function summary(found) {
  if (found === 0) return "No node has this label, token or number.";
  return found > SHOWN ? `${found - SHOWN} more stand out in the graph` : `${found} found`;
}
