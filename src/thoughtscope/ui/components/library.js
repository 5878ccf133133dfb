// @ts-check
// The graphs that the server keeps: open, rename, delete; a deleted one can be brought back.
import { html } from "../html.js";
import { useState } from "../vendor/hooks.mjs";
import { useParts } from "../store.js";
import { openGraph, removeGraph, renameGraph } from "../actions/graphs.js";
import { canWrite } from "../actions/source.js";
import { plainText } from "../text.js";

/** @param {{ onDone?: () => void, most?: number }} props */
export function Library({ onDone = () => {}, most = Infinity }) {
  const { session, graph } = useParts("session", "graph");
  const names = graphNames(session.graphs);
  return html`<ul class="library">${session.graphs.slice(0, most).map((entry) => html`<${Entry} key=${entry.slug}
    entry=${entry} name=${names.get(entry.slug)} current=${entry.slug === graph?.slug} onDone=${onDone} />`)}</ul>`;
}

/** What graphs are called: their title or prompt; those that read alike carry a number or the time they were made. */
export function graphNames(graphs) {
  const name = (entry) => plainText(entry.title || entry.prompt || entry.slug);
  const times = new Map();
  for (const entry of graphs) times.set(name(entry), (times.get(name(entry)) ?? 0) + 1);
  const full = (entry) => {
    const mark = entry.number ?? (times.get(name(entry)) > 1 ? when(entry.created, true) : null);
    return mark ? `${name(entry)} (${mark})` : name(entry);
  };
  return new Map(graphs.map((entry) => [entry.slug, full(entry)]));
}

function Entry({ entry, name, current, onDone }) {
  const [editing, setEditing] = useState(false);
  const open = () => {
    openGraph(entry.slug);
    onDone();
  };
  if (editing) return html`<li><${Rename} entry=${entry} onClose=${() => setEditing(false)} /></li>`;
  return html`<li class=${current ? "current" : ""}>
    <button class="open" onClick=${open} aria-current=${current ? "true" : null}><bdi>${name}</bdi>
      <small>${when(entry.created)}</small></button>
    ${canWrite() && html`<button class="plain" onClick=${() => setEditing(true)}
      aria-label=${`Rename ${name}`}>Rename</button>
      <button class="plain" onClick=${() => removeGraph(entry.slug)} aria-label=${`Delete ${name}`}>Delete</button>`}
  </li>`;
}

function Rename({ entry, onClose }) {
  const [title, setTitle] = useState(entry.title || entry.prompt || entry.slug);
  const save = async (event) => {
    event.preventDefault();
    await renameGraph(entry.slug, title);
    onClose();
  };
  const keys = (event) => {
    if (event.key !== "Escape") return;
    event.preventDefault();
    event.stopPropagation();
    onClose();
  };
  return html`<form class="rename" onSubmit=${save}><input autofocus value=${title} maxlength="200" aria-label="Title"
      placeholder=${entry.prompt || entry.slug}
      onInput=${(event) => setTitle(event.target.value)} onKeyDown=${keys} ref=${(field) => field?.focus()} />
    <button class="primary">Save</button>
    <button type="button" class="plain" onClick=${onClose}>Cancel</button></form>`;
}

export function when(created, exact = false) {
  const date = new Date(typeof created === "number" ? created * 1000 : created ?? NaN);
  if (Number.isNaN(date.getTime())) return "";
  const day = date.toLocaleDateString(undefined, { day: "numeric", month: "short" });
  const time = date.toLocaleTimeString(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit" });
  return exact ? `${day}, ${time}` : day;
}
