// The right-hand column: what is selected, or how to read the graph when nothing is.
import { html } from "../html.js";
import { useEffect, useMemo, useState } from "../vendor/hooks.mjs";
import { setState, useStore } from "../store.js";
import { canWrite, editLabel, hasFeatures, hover, renameGroup, select, source, toggleMark, togglePin, ungroup } from "../actions.js";
import { selectedMembers } from "../circuit.js";
import { featureName, nodeLabel } from "../model.js";
import { Connections } from "../components/connections.js";
import { FeatureDetail, useFeature } from "../components/feature.js";
import { Glyph, Token } from "../components/token.js";
import { kindName, placeText } from "../components/describe.js";
import { percent, plainNumber, plainText } from "../text.js";
import { shownNodes } from "./graph.js";

export function Inspector() {
  const state = useStore((s) => s);
  const { graph, selected, supernodes, prune, showErrors, pins } = state;
  const members = useMemo(() => selectedMembers(graph, selected, supernodes), [graph, selected, supernodes]);
  const shown = useMemo(() => new Set(shownNodes(state).map((node) => node.id)), [graph, prune, showErrors, pins, supernodes,
    selected]);
  if (!members.length) return html`<aside class="inspector panel" aria-label="About this graph"><${Overview} graph=${graph} /></aside>`;
  const isGroup = selected.startsWith("group:") && !graph.byId.has(selected);
  return html`<aside class="inspector panel" aria-label="Selected node">
    ${isGroup ? html`<${GroupHead} key=${selected} label=${selected.slice(6)} members=${members} />`
      : html`<${NodeHead} key=${selected} node=${members[0]} />`}
    <${Connections} key=${`c${selected}`} graph=${graph} members=${members} shown=${shown} />
    ${isGroup ? html`<${MemberList} members=${members} />` : html`<${Detail} node=${members[0]} />`}
  </aside>`;
}

function NodeHead({ node }) {
  const { pins, marked, labels } = useStore((s) => s);
  const answer = useFeature(node);
  const pinned = pins.includes(node.id);
  return html`<header class="node-head">
    <div class="kind"><${Glyph} kind=${node.kind} /><span>${kindName(node.kind)}</span><small>${placeText(node)}</small></div>
    <${NodeName} node=${node} label=${nodeLabel(node, labels)} automatic=${answer.detail?.auto_label} />
    <div class="facts">
      ${node.kind === "logit" && html`<span>probability <b>${percent(node.probability)}</b></span>`}
      ${node.activation !== null && node.kind === "feature" && html`<span>activation <b>${plainNumber(node.activation)}</b></span>`}
      ${node.share > 0 && html`<span>influence <b>${percent(node.share)}</b></span>`}
      <span class="spacer"></span>
      <button class=${pinned ? "small on" : "small"} aria-pressed=${pinned ? "true" : "false"} onClick=${() => togglePin(node.id)}
        title="Pin to the circuit (P)">${pinned ? "Pinned" : "Pin"}</button>
      <button class=${marked.includes(node.id) ? "small on" : "small"} aria-pressed=${marked.includes(node.id) ? "true" : "false"}
        onClick=${() => toggleMark(node.id)} title="Mark for a supernode (M or Shift-click)">Mark</button>
    </div>
  </header>`;
}

function NodeName({ node, label, automatic }) {
  if (node.kind === "token" || node.kind === "logit") return html`<h2><${Token} text=${label} /></h2>`;
  if (node.kind === "error") return html`<h2>What no feature explains here</h2>`;
  const named = label !== featureName(node);
  return html`<${EditableName} value=${named ? label : ""} placeholder=${automatic ? plainText(automatic) : "Name this feature"}
    what="Label of the feature"
    onSave=${(text) => editLabel(node, text)} fixed=${source.kind === "server" && hasFeatures() && !canWrite()} />`;
}

/** A name that turns into a field when it is edited; Enter keeps it, Escape leaves it as it was. */
function EditableName({ value, placeholder, what, onSave, fixed }) {
  const [text, setText] = useState(value);
  useEffect(() => setText(value), [value]);
  const keys = (event) => {
    if (event.key === "Enter") event.target.blur();
    else if (event.key === "Escape") {
      event.target.value = value;
      setText(value);
      event.target.blur();
    } else return;
    event.stopPropagation();
  };
  return html`<input class="name-field" value=${text} placeholder=${placeholder} aria-label=${what} maxlength="200" spellcheck="false"
    readonly=${fixed} title="Click to rename"
    onInput=${(event) => setText(event.target.value)} onBlur=${(event) => event.target.value !== value && onSave(event.target.value)}
      onKeyDown=${keys} />`;
}

function Detail({ node }) {
  const answer = useFeature(node);
  if (node.kind === "feature") return html`<${FeatureDetail} node=${node} answer=${answer} />`;
  const text = {
    error: "The dictionary rebuilds this layer’s output from its features; this diamond is the difference. Influence that passes through it is real, but nothing here says what it means.",
    token: "A token of the prompt. Its embedding starts every path of the graph.",
    logit: "An output the model may say next. Its inputs are what raises or lowers it.",
  }[node.kind];
  return html`<p class="quiet pad">${text}</p>`;
}

function GroupHead({ label, members }) {
  const share = members.reduce((sum, node) => sum + node.share, 0);
  return html`<header class="node-head">
    <div class="kind"><${Glyph} kind="group" /><span>Supernode</span><small>${members.length} nodes that act as one</small></div>
    <${EditableName} value=${label} placeholder="Name" what="Name of the supernode" onSave=${(text) => renameGroup(label, text)} />
    <div class="facts">${share > 0 && html`<span>influence <b>${percent(share)}</b></span>`}<span class="spacer"></span>
      <button class="small" onClick=${() => ungroup(label)}>Ungroup</button></div>
  </header>`;
}

function MemberList({ members }) {
  const labels = useStore((s) => s.labels);
  return html`<section class="members"><h3>Members</h3><ol>
    ${members.map((node) => html`<li key=${node.id}>
      <button class="connection" onClick=${() => select(node.id)} onPointerEnter=${() => hover(node.id)}
        onPointerLeave=${() => hover(null)}>
    <${Glyph} kind=${node.kind} /><span class="name">${plainText(nodeLabel(node, labels))}</span><span class="at">${placeText(node)}
      </span></button></li>`)}</ol></section>`;
}

function Overview({ graph }) {
  const { session, labels } = useStore((s) => s);
  const outputs = graph.nodes.filter((node) => node.kind === "logit").sort((a, b) => b.probability - a.probability).slice(0, 6);
  const strongest = graph.nodes.filter((node) => node.kind === "feature").sort((a, b) => b.share - a.share).slice(0, 14);
  const model = nameOf(graph.ours?.model) || graph.scan || session.model?.name;
  return html`<div class="overview">
    ${outputs.length > 0 && html`<h2>What leads ${model || "the model"} from this prompt to <${Token} text=${outputs[0].output} /></h2>`}
    <p class="prompt-text">${graph.tokens.map((token, i) => html`<${Token} key=${i} text=${token} />`)}</p>
    <section><h3>The model continues with</h3>
      <ol class="bars">${outputs.map((node) => html`<li key=${node.id}>
        <button class="connection" onClick=${() => select(node.id)} onPointerEnter=${() => hover(node.id)}
          onPointerLeave=${() => hover(null)}>
        <span class="name"><${Token} text=${node.output} /></span><span class="weight">${percent(node.probability)}</span>
          <i class="weight-bar ink" style=${{ width: `${100 * (node.probability ?? 0)}%` }}></i></button></li>`)}</ol>
    </section>
    <section class="how"><h3>How to read it</h3>
      <p><b>A node</b> is a feature that is active at a token (across) in a layer (up). Click one to see what it responds to.</p>
      <p><b>An edge</b> says how much one node adds to another: <em class="raises">blue raises</em>, <em
        class="lowers">orange lowers</em>.</p>
      <p><b>Diamonds</b> are what the features miss. The line below the graph says how much that is.</p>
      <p><b>Test it:</b> pin the nodes that matter, group them, then change them at the lower right and see whether the answer follows.${" "}
        <button class="link" onClick=${() => setState({ dialog: "help" })}>Keys and more</button></p>
    </section>
    ${strongest.length > 0 && html`<section><h3>Strongest features</h3>
      <ol>${strongest.map((node) => html`<li key=${node.id}>
        <button class="connection" onClick=${() => select(node.id)} onPointerEnter=${() => hover(node.id)}
          onPointerLeave=${() => hover(null)}>
        <${Glyph} kind="feature" /><span class="name">${plainText(nodeLabel(node, labels))}</span><span class="at">${placeText(node)}
          </span><span class="weight">${percent(node.share)}</span></button></li>`)}</ol>
    </section>`}
    <dl class="origin"><dt>Model</dt><dd>${model || "not stated"}</dd>
      <dt>Dictionary</dt><dd>${nameOf(graph.ours?.dictionary) || "not stated"}</dd><dt>Graph</dt><dd>${graph.slug}</dd></dl>
  </div>`;
}

function nameOf(value) {
  return typeof value === "string" ? value : value?.name;
}
