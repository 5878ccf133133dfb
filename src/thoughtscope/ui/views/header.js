// @ts-check
// The two bars above the graph: the prompt, and what is shown of its graph.
import { html } from "../html.js";
import { useEffect, useMemo, useRef, useState } from "../vendor/hooks.mjs";
import { lastSaid, messagesOf, reworded } from "../conversation.js";
import { setState, useParts, useStore } from "../store.js";
import { cancelTrace, closeGraph, downloadGraph, openFile, openGraph, tracePrompt } from "../actions/graphs.js";
import { canTrace, canWrite, source } from "../actions/source.js";
import { prunedFrom, redo, setPrune, setShowErrors, undo, writeAddress } from "../actions/view.js";
import { graphNames } from "../components/library.js";
import { Mark, Pages, ThemeButton } from "../components/pages.js";
import { ProblemsButton } from "../components/problems.js";
import { Progress } from "../components/progress.js";
import { Scores } from "../components/scores.js";
import { Search } from "../components/search.js";
import { useShownNodes } from "../shown.js";
import { percent, plainText, readTurns, spellTurns } from "../text.js";

export function Header() {
  const { session, graph } = useParts("session", "graph");
  const home = (event) => {
    event.preventDefault();
    if (source.kind === "server") closeGraph();
  };
  return html`<header class="bar top">
    <a class="brand" href="#" onClick=${home}
      title="thoughtscope: to the start"><${Mark} /><span>thoughtscope</span></a>
    ${canTrace() && html`<${Pages} here="graph" />`}
    ${graph && canTrace() ? html`<${PromptBox} />` : html`<p
      class="prompt-fixed"><bdi>${plainText(graph?.heading)}</bdi></p>`}
    ${source.kind === "server" && session.graphs.length > 0
      && html`<${GraphPicker} session=${session} graph=${graph} />`}
    <${ProblemsButton} />
    <nav class="files" aria-label="Files">
      ${canWrite() && html`<${OpenButton} />`}
      ${graph && html`<button class="plain" onClick=${downloadGraph}
        title="Save this graph as JSON, with pins, supernodes and labels">Save JSON</button>`}
      ${graph && !graph.partial && source.reportAddress(graph.slug)
        && html`<a class="button plain" href=${source.reportAddress(graph.slug)} download=${`${graph.slug}.html`}
          title="One HTML file that opens from disk">Report</a>`}
    </nav>
    <${ThemeButton} onChange=${() => writeAddress("replace")} />
    <button class="icon" onClick=${() => setState({ dialog: "help" })} aria-label="Help and keyboard"
      title="Help (?)">?</button>
  </header>`;
}

/** The part of a graph's prompt that a person edits. */
function promptOf(graph) {
  return graph ? (graph.turns.length ? lastSaid(messagesOf(graph.turns)) : graph.prompt) : "";
}

/** @param {{ large?: boolean }} props */
export function PromptBox({ large = false }) {
  const { session, graph, trace, traceError, traceWarning } = useParts("session", "graph", "trace", "traceError",
    "traceWarning");
  const turns = graph?.turns ?? [];
  const speaks = Boolean(session.model?.chat); // a chat model's prompt is a message, unless somebody says otherwise
  const [text, setText] = useState(promptOf(graph));
  const [asChat, setAsChat] = useState(graph ? turns.length > 0 : speaks);
  useEffect(() => {
    setText(promptOf(graph));
    if (graph) setAsChat(turns.length > 0);
  }, [graph]);
  const submit = (event) => {
    event.preventDefault();
    tracePrompt(speaks && asChat ? reworded(turns, text) : text);
  };
  const shown = spellTurns(trace ? lastSaid(trace.prompt) : text);
  const type = ({ target }) => setText(spellTurns(text) === text ? target.value : readTurns(target.value));
  return html`<form class=${large ? "prompt large" : "prompt"} onSubmit=${submit}>
    <input id=${large ? "prompt-large" : "prompt"} value=${shown} readonly=${Boolean(trace)} onInput=${type}
      placeholder="Type a prompt that the model should continue"
      aria-label="Prompt" autocomplete="off" spellcheck="false" maxlength="20000" />
    ${speaks && html`<label class="switch as-chat" title="Put the prompt in the model’s chat template, as a message of
      the user’s"><input type="checkbox" checked=${asChat} disabled=${Boolean(trace)}
      onChange=${(event) => setAsChat(event.target.checked)} /><span>chat</span></label>`}
    ${trace ? html`<${Progress} work=${trace} onCancel=${cancelTrace} />`
      : html`<button class="primary" disabled=${!text.trim()}>Trace</button>`}
    ${traceError && html`<p class="prompt-error" role="alert">${traceError}
      <button type="button" class="plain" onClick=${() => setState({ traceError: null })}
        aria-label="Dismiss">×</button></p>`}
    ${traceWarning && html`<p class="prompt-error prompt-warning" role="status">${plainText(traceWarning.text)}
      <button type="button" onClick=${() => tracePrompt(traceWarning.prompt, { bos: true })}>Trace with a beginning
        token</button>
      <button type="button" class="plain" onClick=${() => setState({ traceWarning: null })}
        aria-label="Dismiss">×</button></p>`}
  </form>`;
}

function GraphPicker({ session, graph }) {
  const known = session.graphs.some((g) => g.slug === graph?.slug);
  const names = graphNames(session.graphs);
  const unknown = graph ? graph.slug || "being traced" : `Open a graph (${session.graphs.length})`;
  return html`<span class="picker-pair"><select class="picker" aria-label="Graphs" value=${graph?.slug ?? ""}
    onChange=${(event) => event.target.value && openGraph(event.target.value)}>
    ${!known && html`<option value="">${unknown}</option>`}
    ${session.graphs.map((g) => html`<option key=${g.slug} value=${g.slug}>${names.get(g.slug)}</option>`)}
  </select>
  <button class="plain" onClick=${() => setState({ dialog: "library" })}
    title="Rename or delete graphs">Library</button></span>`;
}

export function OpenButton() {
  const input = useRef();
  const chosen = (event) => {
    const [file] = event.target.files;
    if (file) openFile(file);
    event.target.value = "";
  };
  return html`<button class="plain" onClick=${() => input.current.click()}
    title="Open a graph file of this or another tool">Open file</button>
    <input ref=${input} class="hidden" id="file" type="file" accept=".json,application/json" tabindex="-1"
      aria-label="Graph file" onChange=${chosen} />`;
}

export function Toolbar() {
  const { undoable, redoable } = useParts("undoable", "redoable");
  const hasErrors = useStore((s) => s.graph?.hasErrors);
  return html`<div class="bar tools" role="toolbar" aria-label="View">
    <${Scores} />
    <${PruneSlider} />
    ${hasErrors && html`<${ErrorSwitch} />`}
    <div class="spacer"></div>
    <div class="pair"><button class="icon" disabled=${!undoable} onClick=${undo} aria-label="Undo"
      title="Undo (Ctrl Z)">↶</button>
    <button class="icon" disabled=${!redoable} onClick=${redo} aria-label="Redo"
      title="Redo (Ctrl Shift Z)">↷</button></div>
    <${Search} />
  </div>`;
}

function PruneSlider() {
  const { graph, prune } = useParts("graph", "prune");
  const before = useRef(null);
  const isInner = (node) => node.kind === "feature" || node.kind === "error";
  const nodes = useShownNodes();
  const shown = useMemo(() => nodes.filter(isInner).length, [nodes]);
  const inner = useMemo(() => graph.nodes.filter(isInner).length, [graph]);
  const finished = () => {
    if (before.current !== null) prunedFrom(before.current);
    before.current = null;
  };
  const part = graph.held !== null && graph.held < 0.995 ? graph.held : null;
  const title = `Keeps the strongest nodes that together hold this share of the influence that ${part
    ? `the file holds: ${percent(part, 0)} of the whole` : "is in the file"}.`;
  return html`<label class="prune" title=${title}>
    <span class="lead-in">Nodes with</span>
    <input id="prune" type="range" min="20" max="100" step="1" value=${Math.round(prune * 100)}
      aria-valuetext=${`${Math.round(prune * 100)} percent of the influence, ${shown} nodes`}
      onInput=${(event) => { before.current ??= prune; setPrune(Number(event.target.value) / 100); }}
        onChange=${finished} />
    <b>${Math.round(prune * 100)} %</b>
    <small><span class="word">${part ? `of the ${percent(part, 0)} that the file holds, ` : "of the influence, "}</span>
      ${shown} of ${inner}</small>
  </label>`;
}

function ErrorSwitch() {
  const shown = useStore((s) => s.showErrors);
  return html`<label class="switch" title="Errors are the part of each layer that no feature explains">
    <input id="errors" type="checkbox" checked=${shown} onChange=${(event) => setShowErrors(event.target.checked)} />
      <span>Errors ◆</span></label>`;
}
