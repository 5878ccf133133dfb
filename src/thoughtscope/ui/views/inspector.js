// @ts-check
// The right-hand column: what is selected, or how to read the graph when nothing is.
import { html } from "../html.js";
import { useEffect, useMemo, useState } from "../vendor/hooks.mjs";
import { setState, useParts, useStore } from "../store.js";
import { renameGroup, toggleMark, togglePin, ungroup } from "../actions/circuit.js";
import { editLabel } from "../actions/features.js";
import { LabelLine } from "../components/label.js";
import { canWrite, hasFeatures, source } from "../actions/source.js";
import { hover, select } from "../actions/view.js";
import { selectedMembers } from "../circuit.js";
import { byInfluence, givenLabel, nodeLabel, ruleOf } from "../model.js";
import { Connections } from "../components/connections.js";
import { FeatureDetail, madeWith, useFeature } from "../components/feature.js";
import { Glyph, Token } from "../components/token.js";
import { PromptTokens } from "../components/turns.js";
import { fullPlace, kindName, placeText } from "../components/describe.js";
import { useShownNodes } from "../shown.js";
import { percent, plainNumber, plainText } from "../text.js";

export function Inspector() {
  const { graph, selected, supernodes } = useParts("graph", "selected", "supernodes");
  const members = useMemo(() => selectedMembers(graph, selected, supernodes), [graph, selected, supernodes]);
  const nodes = useShownNodes();
  const shown = useMemo(() => new Set(nodes.map((node) => node.id)), [nodes]);
  if (!members.length) {
    return html`<aside class="inspector panel" aria-label="About this graph"><${Overview} graph=${graph} /></aside>`;
  }
  const isGroup = selected.startsWith("group:") && !graph.byId.has(selected);
  return html`<aside class="inspector panel" aria-label="Selected node">
    ${isGroup ? html`<${GroupHead} key=${selected} graph=${graph} label=${selected.slice(6)} members=${members} />`
      : html`<${NodeHead} key=${selected} node=${members[0]} />`}
    <${Connections} key=${`c${selected}`} graph=${graph} members=${members} shown=${shown} />
    ${isGroup ? html`<${MemberList} members=${members} />` : html`<${Detail} key=${`d${selected}`}
      node=${members[0]} />`}
  </aside>`;
}

function NodeHead({ node }) {
  const { pins, marked, labels } = useParts("pins", "marked", "labels");
  const answer = useFeature(node);
  const toggle = (on, name, other, act, title) => html`<button class=${on ? "small on" : "small"} title=${title}
    aria-pressed=${on ? "true" : "false"} onClick=${() => act(node.id)}>${on ? other : name}</button>`;
  return html`<header class="node-head">
    <div class="kind"><${Glyph}
      kind=${node.kind} /><span>${kindName(node.kind)}</span><small>${fullPlace(node)}</small></div>
    <${NodeName} node=${node} label=${nodeLabel(node, labels)} detail=${answer.detail} />
    <div class="facts">
      ${node.kind === "logit" && html`<span>probability <b>${percent(node.probability)}</b></span>`}
      ${node.activation !== null && node.kind === "feature"
        && html`<span>activation <b>${plainNumber(node.activation)}</b></span>`}
      ${node.kind !== "logit" && html`<span title="This node’s share of all influence on the answers">
        influence <b>${node.influence === null ? "not known" : percent(node.influence)}</b></span>`}
      <span class="spacer"></span>
      ${toggle(pins.includes(node.id), "Pin", "Pinned", togglePin, "Pin to the circuit (P)")}
      ${toggle(marked.includes(node.id), "Mark", "Marked", toggleMark, "Mark for a supernode (M or Shift-click)")}
    </div>
  </header>`;
}

function NodeName({ node, label, detail }) {
  const own = useStore((s) => givenLabel(node, s.labels));
  if (node.kind === "token" || node.kind === "logit") return html`<h2><${Token} text=${label} /></h2>`;
  if (node.kind === "error") return html`<h2>What no feature explains here</h2>`;
  const fixed = source.kind === "report" || (hasFeatures() && !canWrite());
  const automatic = detail?.auto_label;
  return html`<${EditableName} value=${own} placeholder=${automatic ? plainText(automatic) : "Name this feature"}
    what="Label of the feature" onSave=${(text) => editLabel(node, text)} fixed=${fixed} />
    <${LabelLine} detail=${detail} own=${own} fixed=${fixed || !hasFeatures()} />`;
}

/** A name that turns into a field when it is edited; Enter keeps it, Escape leaves it as it was. */
function EditableName({ value, placeholder, what, onSave, fixed = false }) {
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
  return html`<input class="name-field" value=${text} placeholder=${placeholder} aria-label=${what} maxlength="200"
    spellcheck="false" readonly=${fixed} title=${fixed ? plainText(value) : "Click to rename"}
    onInput=${(event) => setText(event.target.value)} onKeyDown=${keys}
    onBlur=${(event) => event.target.value !== value && onSave(event.target.value)} />`;
}

const ABOUT = {
  error: "The dictionary rebuilds this layer’s output from its features; this diamond is the difference. Influence "
    + "that passes through it is real, but nothing here says what it means.",
  token: "A token of the prompt. Its embedding starts every path of the graph.",
  logit: "An output the model may say next. Its inputs are what raises or lowers it.",
};

function Detail({ node }) {
  const answer = useFeature(node);
  if (node.kind === "feature") return html`<${FeatureDetail} node=${node} answer=${answer} />`;
  return html`<p class="quiet pad">${ABOUT[node.kind]}</p>`;
}

function GroupHead({ graph, label, members }) {
  const rule = ruleOf(graph, { label, members: members.map((node) => node.id) });
  return html`<header class="node-head">
    <div class="kind"><${Glyph}
      kind="group" /><span>Supernode</span><small>${members.length} nodes that act as one</small></div>
    <${EditableName} value=${label} placeholder="Name" what="Name of the supernode"
      onSave=${(text) => renameGroup(label, text)} />
    ${rule && html`<p class="rule">${plainText(rule)}</p>`}
    <div class="facts"><span class="spacer"></span>
      <button class="small" onClick=${() => ungroup(label)}>Ungroup</button></div>
  </header>`;
}

function MemberList({ members }) {
  return html`<section class="members"><h3>Members</h3><${NodeList} nodes=${members} /></section>`;
}

/** Nodes as a list of buttons that lead to them. */
function NodeList({ nodes, influence = false }) {
  const labels = useStore((s) => s.labels);
  return html`<ol>${nodes.map((node) => html`<li key=${node.id}>
    <button class="connection" onClick=${() => select(node.id)} onPointerEnter=${() => hover(node.id)}
      onPointerLeave=${() => hover(null)}><${Glyph} kind=${node.kind} />
      <span class="name">${plainText(nodeLabel(node, labels))}</span><span class="at">${placeText(node)}</span>
      ${influence && node.influence !== null && html`<span class="weight">${percent(node.influence)}</span>`}
    </button></li>`)}</ol>`;
}

function Overview({ graph }) {
  const session = useStore((s) => s.session);
  const logits = graph.nodes.filter((n) => n.kind === "logit");
  const outputs = logits.sort((a, b) => b.probability - a.probability).slice(0, 10);
  const strongest = graph.nodes.filter((n) => n.kind === "feature").sort(byInfluence).slice(0, 14);
  const made = madeWith(graph);
  const model = made.model || (hasFeatures() ? session.model?.name : "");
  return html`<div class="overview">
    ${outputs.length > 0 && html`<h2>What leads ${model || "the model"} from this prompt to${" "}
      <${Token} text=${outputs[0].output} /></h2>`}
    <${PromptTokens} graph=${graph} />
    <section><h3>The model continues with</h3>
      <ol class="bars">${outputs.map((node) => html`<${OutputRow} key=${node.id} node=${node} />`)}</ol>
    </section>
    ${strongest.length > 0 && html`<section><h3>Strongest features <span>${graph.influenceKnown
      ? "share of all influence on the answers" : "influence not known; in the file’s order"}</span></h3>
      <${NodeList} nodes=${strongest} influence /></section>`}
    <${HowToRead} hasErrors=${graph.hasErrors} />
    <dl class="origin"><dt>Model</dt><dd>${model || "not stated"}</dd>
      <dt>Dictionary</dt><dd>${made.dictionary || "not stated"}</dd>
      ${made.tool && html`<dt>Made by</dt><dd>${made.tool}</dd>`}<dt>Graph</dt><dd>${graph.slug}</dd></dl>
  </div>`;
}

function OutputRow({ node }) {
  return html`<li><button class="connection" onClick=${() => select(node.id)} onPointerEnter=${() => hover(node.id)}
    onPointerLeave=${() => hover(null)}>
    <span class="name"><${Token} text=${node.output} /></span><span class="weight">${percent(node.probability)}</span>
    <i class="weight-bar ink" style=${{ width: `${100 * (node.probability ?? 0)}%` }}></i></button></li>`;
}

function HowToRead({ hasErrors }) {
  return html`<section class="how"><h3>How to read it</h3>
    <p><b>A node</b> is a feature that is active at a token (across) in a layer (up). Click one to see what it
      responds to.</p>
    <p><b>An edge</b> says how much one node adds to another: <em class="raises">blue raises</em>,${" "}
      <em class="lowers">orange lowers</em>.</p>
    ${hasErrors && html`<p><b>Diamonds</b> are what the features miss. The line below the graph says how much
      that is.</p>`}
    <p><b>Test it:</b> pin the nodes that matter, group them, then change them at the lower right and see whether the
      answer follows.${" "}<button class="link" onClick=${() => setState({ dialog: "help" })}>Keys and more</button></p>
  </section>`;
}
