// @ts-check
// The page: header, graph with its panels, and what lies over them.
import { html } from "./html.js";
import { render } from "./vendor/preact.mjs";
import { useEffect, useState } from "./vendor/hooks.mjs";
import { useParts, useStore } from "./store.js";
import { openFile, start } from "./actions/graphs.js";
import { canWrite } from "./actions/source.js";
import { Splitter } from "./components/splitter.js";
import { Notice } from "./components/notice.js";
import { nodeSentence } from "./components/describe.js";
import { listenToKeys } from "./keyboard.js";
import { nodeLabel } from "./model.js";
import { plainText } from "./text.js";
import { Dialogs } from "./views/dialogs.js";
import { Dock } from "./views/dock.js";
import { GraphView } from "./views/graph.js";
import { Header, Toolbar } from "./views/header.js";
import { Inspector } from "./views/inspector.js";
import { Login } from "./views/login.js";
import { Start } from "./views/start.js";

function App() {
  const { session, graph, fatal, locked, theme, dock, loading, dialog } = useParts("session", "graph", "fatal",
    "locked", "theme", "dock", "loading", "dialog");
  useEffect(() => {
    document.documentElement.dataset.theme = theme;
    document.title = graph ? `${plainText(graph.heading).slice(0, 60)} · thoughtscope` : "thoughtscope";
  }, [theme, graph]);
  if (fatal) return html`<${Alone}><h1>The page cannot start</h1><p class="lead" role="alert">${fatal}</p><//>`;
  if (locked) return html`<${Alone}><${Login} start=${start} /><//>`;
  if (!session) {
    return html`<${Alone}><h1 class="hidden">thoughtscope</h1><p class="quiet"
      role="status">Waiting for the model to load…</p><//>`;
  }
  return html`<div class=${graph ? `app dock-${dock}` : "app bare"} aria-busy=${loading ? "true" : "false"}>
    <${Header} />
    ${graph ? html`<${Work} graph=${graph} />` : html`<${Start} />`}
    <${Dialogs} /><${Loading} />${!dialog && html`<${Notice} />`}<${DropZone} /><${Spoken} />
  </div>`;
}

function Alone({ children }) {
  return html`<main class="start alone"><div class="start-column">${children}</div></main>`;
}

function Work({ graph }) {
  return html`<h1 class="hidden">Attribution graph of “${plainText(graph.heading)}”</h1><${Toolbar} />
    <main class="work"><${GraphView} />
      <${Splitter} name="inspector-width" label="Width of the inspector" axis="x" panel=".inspector" least=${260} />
      <${Inspector} /></main>
    <${Dock} graph=${graph} />`;
}

/** Says at once that something is being opened, however long the server takes. */
function Loading() {
  const loading = useStore((s) => s.loading);
  return html`<div class="loading" role="status">${loading && html`<p><i></i>${loading}…</p>`}</div>`;
}

function DropZone() {
  const [over, setOver] = useState(false);
  useEffect(() => {
    if (!canWrite()) return undefined;
    const holds = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
    const on = {
      dragover: (event) => {
        if (!holds(event)) return;
        event.preventDefault();
        setOver(true);
      },
      dragleave: (event) => { if (event.relatedTarget === null) setOver(false); },
      drop: (event) => {
        if (!holds(event)) return;
        event.preventDefault();
        setOver(false);
        openFile(event.dataTransfer.files[0]);
      },
    };
    for (const [name, act] of Object.entries(on)) window.addEventListener(name, act);
    return () => { for (const [name, act] of Object.entries(on)) window.removeEventListener(name, act); };
  }, []);
  return over ? html`<div class="drop">Drop a graph file to open it</div>` : null;
}

/** Says the selection aloud to a screen reader. */
function Spoken() {
  const { graph, selected, labels } = useParts("graph", "selected", "labels");
  const node = graph?.byId.get(selected);
  const text = node ? `Selected: ${nodeSentence(node, nodeLabel(node, labels))}`
    : selected ? `Selected: supernode ${plainText(selected.slice(6))}` : "";
  return html`<div class="hidden" aria-live="polite">${text}</div>`;
}

render(html`<${App} />`, document.getElementById("app"));
listenToKeys();
start();
