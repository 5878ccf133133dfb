// @ts-check
// Change a node or a supernode and see whether the answer changes as the graph says.
import { html } from "../html.js";
import { useEffect, useState } from "../vendor/hooks.mjs";
import { useParts, useStore } from "../store.js";
import { cancelIntervention, removeOutcome, runIntervention, showOutcome } from "../actions/interventions.js";
import { canWrite, hasFeatures, hasModel } from "../actions/source.js";
import { nodeLabel } from "../model.js";
import { Choice } from "./choice.js";
import { madeWith } from "./feature.js";
import { Outcome, changeText, outcomeTitle } from "./outcome.js";
import { Progress } from "./progress.js";
import { plainNumber, plainText } from "../text.js";

const OPS = [
  { value: "scale", name: "Scale", title: "Multiply the activation: 0 removes it, −1 turns it round", start: -1,
    low: -10, high: 10, step: 0.5 },
  { value: "ablate", name: "Ablate", title: "Set the activation to zero", start: 0, low: 0, high: 0, step: 1 },
  { value: "set", name: "Set", title: "Give the feature this activation", start: 5, low: 0, high: 50, step: 0.5 },
  { value: "add", name: "Add", title: "Add to the activation", start: 5, low: -50, high: 50, step: 0.5 },
];
const ATTENTION = [{ value: "frozen", name: "frozen" }, { value: "free", name: "free" }];
const USUAL = 10; // times a feature's own value: beyond it the model works on inputs that it never saw

export function Bench({ graph }) {
  const { outcomes, outcomeShown, labels, supernodes } = useParts("outcomes", "outcomeShown", "labels", "supernodes");
  const title = (o) => outcomeTitle(o, { graph, labels, supernodes });
  const outcome = outcomes[outcomeShown];
  const empty = canWrite() ? "Before and after appear here." : "No intervention was recorded with this graph.";
  return html`<section class="bench panel" aria-label="Intervention">
    <div class="bench-edit">
      <h2>Intervene</h2>
      ${canWrite() && hasFeatures() ? html`<${Editor} key=${graph.slug} graph=${graph} />`
        : html`<${Closed} graph=${graph} />`}
    </div>
    <div class="bench-outcome">
      ${outcomes.length > 0 && html`<div class="row picked"><select class="picker" aria-label="Outcomes"
        value=${outcomeShown}
        onChange=${(event) => showOutcome(Number(event.target.value))}>
        ${outcomes.map((o, i) => html`<option key=${outcomes.length - i} value=${i}>
          ${outcomes.length - i}. ${title(o)}</option>`)}</select>
        ${canWrite() && html`<button class="icon" aria-label="Remove this outcome" title="Remove this outcome"
          onClick=${() => removeOutcome(outcome)}>×</button>`}</div>`}
      ${outcome ? html`<${Outcome} outcome=${outcome} />` : html`<p class="quiet empty">${empty}</p>`}
    </div>
  </section>`;
}

function Closed({ graph }) {
  if (!canWrite()) {
    return html`<p class="quiet">This page is read only. It shows the interventions that were recorded with the
      graph.</p>`;
  }
  const { model } = madeWith(graph);
  const other = hasModel() ? "Its dictionary is not the one that is loaded here"
    : `It was made with ${model || "a model that is not stated"}, which is not the one that is loaded here`;
  return html`<p class="quiet">This graph can be read but not tested. ${other}. To test it, serve that model with its
    dictionary.</p>`;
}

/** What can be changed: the supernodes, the pinned features, the selection, and what is chosen already. */
function useTargets(graph, chosen) {
  const { selected, supernodes, pins, labels } = useParts("selected", "supernodes", "pins", "labels");
  const isFeature = (id) => graph.byId.get(id)?.kind === "feature";
  const single = (id) => ({ id, name: plainText(nodeLabel(graph.byId.get(id), labels)), nodes: [id] });
  const group = ({ label, members }) => (
    { id: `group:${label}`, name: plainText(label), nodes: members.filter(isFeature) });
  const targets = [
    ...supernodes.map(group),
    ...[...new Set([...pins, ...chosen, selected])].filter(isFeature).map(single),
  ].filter((target) => target.nodes.length);
  return { targets, current: targets.find((target) => target.id === selected) ?? null };
}

const fresh = () => ({ target: null, op: "scale", value: -1 });

function Editor({ graph }) {
  const running = useStore((s) => s.running);
  const [edits, setEdits] = useState([fresh()]);
  const { targets, current } = useTargets(graph, edits.map((edit) => edit.target));
  const [attention, setAttention] = useState("frozen");
  const [length, setLength] = useState(0);
  useEffect(() => { // a supernode that is gone gives way to the selection
    const lives = (edit) => !edit.target || targets.some((target) => target.id === edit.target);
    if (!edits.every(lives)) setEdits(edits.map((edit) => (lives(edit) ? edit : { ...edit, target: null })));
  });
  const found = edits.map((edit) => (edit.target ? targets.find((t) => t.id === edit.target) : current));
  const ready = found.every(Boolean) && edits.every((edit) => Number.isFinite(edit.value));
  const warning = ready ? edits.map((edit, i) => beyondUsual(graph, edit, found[i])).find(Boolean) : null;
  const patch = (i, part) => setEdits(edits.map((edit, j) => (i === j ? { ...edit, ...part } : edit)));
  const another = () => setEdits([...edits.map((e, i) => ({ ...e, target: found[i].id })), fresh()]);
  const run = (event) => {
    event.preventDefault();
    runIntervention({
      edits: edits.map(({ op, value }, i) => ({ nodes: found[i].nodes, op, value: op === "ablate" ? 0 : value })),
      attention, maxNewTokens: length, title: edits.map((edit, i) => `${found[i].name} ${changeText(edit)}`).join(", "),
    });
  };
  const written = (event) => setLength(Math.max(0, Math.min(200, Math.trunc(Number(event.target.value)) || 0)));
  return html`<form onSubmit=${run}>
    ${edits.map((edit, i) => html`<${EditRow} key=${i} edit=${edit} targets=${targets} current=${current}
      onChange=${(part) => patch(i, part)}
      onRemove=${edits.length > 1 ? () => setEdits(edits.filter((_, j) => j !== i)) : null} />`)}
    <div class="row options">
      <${Choice} label="Attention" lead="attention" options=${ATTENTION} value=${attention} onChange=${setAttention}
        title="Frozen: attention patterns stay as they were. Free: they may follow the change." />
      <label title="Continue the text by this many tokens, before and after">write <input id="length" type="number"
        min="0" max="200" value=${length} onInput=${written} /> tokens</label>
    </div>
    ${warning && html`<p class="warning" role="alert">${warning}</p>`}
    ${running ? html`<${Progress} work=${running} onCancel=${cancelIntervention} />`
      : html`<div class="row"><button class="primary run"
        disabled=${!ready}>${warning ? "Run all the same" : "Run"}</button>
        <button type="button" class="plain" disabled=${!found.every(Boolean)}
          onClick=${another}>+ another change</button>
        </div>`}
    ${!found.every(Boolean) && html`<p class="quiet">Select a feature or supernode to change.</p>`}
  </form>`;
}

/** A warning where a change gives a feature more than ten times its own value. */
function beyondUsual(graph, { op, value }, target) {
  if (op === "ablate") return null;
  const times = target.nodes.map((id) => {
    const own = Math.abs(graph.byId.get(id).activation ?? 0);
    if (op === "scale") return Math.abs(value);
    return own > 0 ? Math.abs(value) / own : 0;
  });
  const most = Math.max(...times);
  if (most <= USUAL) return null;
  return `This is ${plainNumber(most)} times what the feature has here. Beyond ${USUAL} times, the model leaves what `
    + "it was trained on, and its answer says little about the feature.";
}

function EditRow({ edit, targets, current, onChange, onRemove }) {
  const kind = OPS.find((op) => op.value === edit.op);
  const number = (event) => onChange({ value: event.target.value === "" ? NaN : Number(event.target.value) });
  return html`<fieldset class="edit"><legend class="hidden">Change</legend>
    <div class="row"><select aria-label="What to change" value=${edit.target ?? ""}
      onChange=${(event) => onChange({ target: event.target.value || null })}>
      <option value="">${current ? `Selected: ${current.name}` : "Selected: nothing yet"}</option>
      ${targets.map((t) => html`<option key=${t.id} value=${t.id}>
        ${t.name}${t.nodes.length > 1 ? ` (${t.nodes.length})` : ""}</option>`)}
    </select>${onRemove && html`<button type="button" class="icon" aria-label="Remove this change" onClick=${onRemove}>×
      </button>`}</div>
    <div class="row"><${Choice} label="Kind of change" options=${OPS} value=${edit.op}
      onChange=${(op) => onChange({ op, value: OPS.find((o) => o.value === op)?.start })} /></div>
    <div class="row strength">${kind.value !== "ablate"
      ? html`<input type="range" aria-label="Strength" min=${kind.low} max=${kind.high} step=${kind.step}
        value=${edit.value} onInput=${(event) => onChange({ value: Number(event.target.value) })} />
      <input type="number" class="strength-number" aria-label="Strength as a number" step="any" value=${edit.value}
        onInput=${number} />`
      : html`<span class="quiet">to zero</span>`}</div>
  </fieldset>`;
}
