// The page: header, graph with its panels, and what lies over them.
import { html } from "./html.js";
import { render } from "./vendor/preact.mjs";
import { useEffect, useState } from "./vendor/hooks.mjs";
import { useStore } from "./store.js";
import { canWrite, openFile, start } from "./actions.js";
import { listenToKeys } from "./keyboard.js";
import { nodeLabel } from "./model.js";
import { nodeSentence } from "./components/describe.js";
import { plainText } from "./text.js";
import { Dialogs } from "./views/dialogs.js";
import { Dock } from "./views/dock.js";
import { GraphView } from "./views/graph.js";
import { Header, Toolbar } from "./views/header.js";
import { Inspector } from "./views/inspector.js";
import { Start } from "./views/start.js";

function App() {
  const { session, graph, fatal, theme, dock, loading } = useStore((s) => s);
  useEffect(() => {
    document.documentElement.dataset.theme = theme;
    document.title = graph ? `${graph.prompt.slice(0, 60)} · thoughtscope` : "thoughtscope";
  }, [theme, graph]);
  if (fatal) return html`<main class="start"><div class="start-column"><h1>The page cannot start</h1><p class="lead" role="alert">${fatal}</p></div></main>`;
  if (!session) return html`<main class="start"><div class="start-column"><p class="quiet">Waiting for the model to load…</p></div></main>`;
  return html`<div class=${graph ? `app dock-${dock}` : "app bare"} aria-busy=${loading ? "true" : "false"}>
    <${Header} />
    ${graph ? html`<${Toolbar} /><main class="work"><${GraphView} /><${Inspector} /></main><${Dock} graph=${graph} />` : html`<${Start} />`}
    <${Dialogs} /><${Notice} /><${DropZone} /><${Spoken} />
  </div>`;
}

function Notice() {
  const notice = useStore((s) => s.notice);
  return html`<div class="notices" role="status">${notice && html`<p class=${`notice ${notice.kind}`}>${notice.text}</p>`}</div>`;
}

function DropZone() {
  const [over, setOver] = useState(false);
  useEffect(() => {
    if (!canWrite()) return undefined;
    const holds = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
    const on = {
      dragover: (event) => { if (holds(event)) { event.preventDefault(); setOver(true); } },
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
  const { graph, selected, labels } = useStore((s) => s);
  const node = graph?.byId.get(selected);
  const text = node ? `Selected: ${nodeSentence(node, nodeLabel(node, labels))}` : selected ? `Selected: supernode ${plainText(selected.slice(6))}` : "";
  return html`<div class="hidden" aria-live="polite">${text}</div>`;
}

render(html`<${App} />`, document.getElementById("app"));
listenToKeys();
start();
