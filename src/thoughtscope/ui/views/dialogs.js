// @ts-check
// What opens over the page: help, the name of a new supernode, the library of graphs, files that were not read, and the
// price of a large graph.
import { html } from "../html.js";
import { useLayoutEffect, useRef, useState } from "../vendor/hooks.mjs";
import { setState, useParts, useStore } from "../store.js";
import { group, groupable } from "../actions/circuit.js";
import { CostlyTrace } from "../components/costly.js";
import { Library } from "../components/library.js";
import { Notice } from "../components/notice.js";
import { Problems } from "../components/problems.js";
import { nodeLabel } from "../model.js";
import { plainText } from "../text.js";

const close = () => setState({ dialog: null });

export function Dialogs() {
  const dialog = useStore((s) => s.dialog);
  if (dialog === "help") return html`<${Dialog} key="help" title="Reading and testing a graph"><${Help} /><//>`;
  if (dialog === "group") return html`<${Dialog} key="group" title="New supernode"><${NameGroup} /><//>`;
  if (dialog === "library") return html`<${Dialog} key="library" title="Graphs"><${Library} onDone=${close} /><//>`;
  if (dialog === "problems") return html`<${Dialog} key="problems" title="Files not read"><${Problems} /><//>`;
  if (dialog === "costly") return html`<${Dialog} key="costly" title="A large graph"><${CostlyTrace} /><//>`;
  return null;
}

function Dialog({ title, children }) {
  const element = useRef();
  // At once, not after the next paint: a key pressed right away must reach the field, not the button behind it.
  useLayoutEffect(() => {
    const before = /** @type {HTMLElement | null} */ (document.activeElement);
    element.current.showModal();
    return () => giveBack(before);
  }, []);
  return html`<dialog ref=${element} aria-label=${title} onClose=${close} onCancel=${close}
    onClick=${(event) => event.target === element.current && close()}>
    <${Notice} /><header><h2>${title}</h2><button class="icon" onClick=${close}
      aria-label="Close">×</button></header>${children}</dialog>`;
}

/** The focus returns to where it was before the dialog, or to the graph where that is gone. */
function giveBack(before) {
  setTimeout(() => {
    const held = before && before !== document.body && before.isConnected && !before.hasAttribute("disabled");
    const other = document.querySelector('.stage g.node[tabindex="0"], #prompt-large, .brand');
    const target = held ? before : /** @type {HTMLElement | null} */ (other);
    target?.focus({ preventScroll: true });
  });
}

function NameGroup() {
  const { graph, labels } = useParts("graph", "labels");
  const members = groupable().map((id) => graph.byId.get(id)).filter(Boolean);
  const [name, setName] = useState(() => commonLabel(members, labels));
  const submit = (event) => {
    event.preventDefault();
    group(name);
  };
  const names = members.slice(0, 6).map((node) => plainText(nodeLabel(node, labels))).join(", ");
  return html`<form class="name-group" onSubmit=${submit}>
    <input id="group-name" autofocus value=${name} maxlength="200" aria-label="Name of the supernode"
      placeholder="What do they stand for?" onInput=${(event) => setName(event.target.value)}
      onFocus=${(event) => event.target.select()} />
    <p class="quiet">${members.length} nodes: ${names}${members.length > 6 ? "…" : ""}</p>
    <div class="row"><span class="spacer"></span><button type="button" onClick=${close}>Cancel</button>
      <button class="primary" disabled=${!name.trim()}>Group</button></div>
  </form>`;
}

/** The label that most members share is the first suggestion. */
function commonLabel(members, labels) {
  const times = new Map();
  for (const node of members) times.set(nodeLabel(node, labels), (times.get(nodeLabel(node, labels)) ?? 0) + 1);
  return [...times].sort((a, b) => b[1] - a[1])[0]?.[0] ?? "";
}

const KEYS = [
  ["← ↑ → ↓", "move between nodes"], ["Enter", "select"], ["P", "pin or unpin"], ["M", "mark for a supernode"],
  ["G", "group what is marked, or pinned"], ["+ −", "zoom"], ["0", "show the whole graph"], ["/", "search"],
  ["E", "errors on or off"], ["Ctrl Z", "undo"], ["Ctrl Shift Z", "redo"], ["Esc", "clear"], ["?", "this page"],
];
const MOUSE = [
  ["click", "select"], ["Ctrl click", "pin"], ["Shift click", "mark for a supernode"], ["Ctrl wheel, pinch", "zoom"],
  ["drag the graph", "move it when zoomed"], ["drag a card", "arrange the circuit"],
  ["drag a border", "resize the panels"], ["drop a file", "open a graph of another tool"],
];

function Help() {
  return html`<div class="help">
    <section><h3>What is what</h3>
      <p>Columns are the tokens of the prompt, rows the layers of the model. A <b>feature</b> ● is a direction that the
      dictionary found; it stands where it is active. An <b>edge</b> is its direct effect on another node in this
      prompt: <em class="raises">blue raises</em> it, <em
        class="lowers">orange lowers</em> it, and wider is stronger. At
      rest the edges with most influence on the answers are drawn.</p>
      <p><b>Influence</b> is the share of what leads to the answers that passes through a node or an edge, over paths of
      every length.</p>
      <p>An <b>error</b> ◆ is the part of a layer that no feature explains. <b>Replacement</b> is the share of the
      influence that runs from the tokens to the answers through features alone; <b>completeness</b> is the
      share of what
      feeds the nodes that is explained. Whatever was cut away or is hidden counts as error.</p>
      <p>A graph is a hypothesis. <b>Test it:</b> change a feature or a supernode at the lower right, and compare what
      the model then says with what the graph predicts.</p></section>
    <section><h3>Mouse and touch</h3><dl>${MOUSE.map(([how, what]) => html`<dt
      key=${how}>${how}</dt><dd>${what}</dd>`)}</dl>
      <h3>Keys</h3><dl>${KEYS.map(([key, what]) => html`<dt
        key=${key}><kbd>${key}</kbd></dt><dd>${what}</dd>`)}</dl></section>
  </div>`;
}
