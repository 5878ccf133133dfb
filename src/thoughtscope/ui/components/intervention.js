// Change a node or a supernode and see whether the answer changes as the graph says.
import { html } from "../html.js";
import { useEffect, useState } from "../vendor/hooks.mjs";
import { setState, useStore } from "../store.js";
import { canWrite, hasFeatures, runIntervention } from "../actions.js";
import { nodeLabel } from "../model.js";
import { Outcome } from "./outcome.js";
import { plainNumber, plainText } from "../text.js";

const OPS = [
  { op: "scale", name: "Scale", title: "Multiply the activation: 0 removes it, −1 turns it round", value: -1, low: -10, high: 10,
    step: 0.5 },
  { op: "ablate", name: "Ablate", title: "Set the activation to zero", value: 0 },
  { op: "set", name: "Set", title: "Give the feature this activation", value: 5, low: 0, high: 50, step: 0.5 },
  { op: "add", name: "Add", title: "Add to the activation", value: 5, low: -50, high: 50, step: 0.5 },
];

export function Bench({ graph }) {
  const { outcomes, outcomeShown } = useStore((s) => s);
  const outcome = outcomes[outcomeShown];
  return html`<section class="bench panel" aria-label="Intervention">
    <div class="bench-edit">
      <h2>Intervene</h2>
      ${canWrite() && hasFeatures() ? html`<${Editor} key=${graph.slug} graph=${graph} />` : html`<${Closed} />`}
    </div>
    <div class="bench-outcome">
      ${outcomes.length > 0 && html`<select class="picker" aria-label="Outcomes" value=${outcomeShown}
        onChange=${(event) => setState({ outcomeShown: Number(event.target.value) })}>
        ${outcomes.map((o, i) => html`<option key=${outcomes.length - i} value=${i}>${outcomes.length - i}. ${titleOf(o)}</option>`)}
          </select>`}
      ${outcome ? html`<${Outcome} outcome=${outcome} />` : html`<p class="quiet empty">${canWrite()
        ? "Before and after appear here." : "No intervention was recorded with this graph."}</p>`}
    </div>
  </section>`;
}

function titleOf(outcome) {
  return plainText(outcome.title ?? outcome.label ?? outcome.plan?.label ?? "Intervention");
}

function Closed() {
  return html`<p class="quiet">${canWrite()
    ? "The model and dictionary of this graph are not loaded, so it can be read but not tested. Trace the prompt here to test it."
    : "This page is read only. It shows the interventions that were recorded with the graph."}</p>`;
}

/** What can be changed: the supernodes, the pinned features, the selection, and what is chosen already. */
function useTargets(graph, chosen) {
  const { selected, supernodes, pins, labels } = useStore((s) => s);
  const name = (id) => plainText(nodeLabel(graph.byId.get(id), labels));
  const isFeature = (id) => graph.byId.get(id)?.kind === "feature";
  const targets = [
    ...supernodes.map((g) => ({ id: `group:${g.label}`, name: plainText(g.label), nodes: g.members.filter(isFeature) })),
    ...[...new Set([...pins, ...chosen, selected])].filter(isFeature).map((id) => ({ id, name: name(id), nodes: [id] })),
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
    if (edits.some((e) => e.target && !targets.some((t) => t.id === e.target))) setEdits(edits.map((e) => (targets.some((t) => t.id === e.target) ? e : { ...e, target: null })));
  });
  const found = edits.map((edit) => (edit.target ? targets.find((t) => t.id === edit.target) : current));
  const ready = found.every(Boolean) && edits.every((edit) => Number.isFinite(edit.value));
  const patch = (i, part) => setEdits(edits.map((edit, j) => (i === j ? { ...edit, ...part } : edit)));
  const run = (event) => {
    event.preventDefault();
    runIntervention({
      edits: edits.map((edit, i) => ({ nodes: found[i].nodes, op: edit.op, value: edit.op === "ablate" ? 0 : edit.value })),
      attention, maxNewTokens: length, title: edits.map((edit, i) => `${found[i].name} ${sentence(edit)}`).join(", "),
    });
  };
  return html`<form onSubmit=${run}>
    ${edits.map((edit, i) => html`<${EditRow} key=${i} edit=${edit} targets=${targets} current=${current}
      onChange=${(part) => patch(i, part)} onRemove=${edits.length > 1 ? () => setEdits(edits.filter((_, j) => j !== i)) : null} />`)}
    <div class="row"><button type="button" class="plain" disabled=${!found.every(Boolean)}
      onClick=${() => setEdits([...edits.map((e, i) => ({ ...e, target: found[i].id })), fresh()])}>+ another change</button></div>
    <div class="row options">
      <span class="choice" role="radiogroup" aria-label="Attention"
        title="Frozen: attention patterns stay as they were. Free: they may follow the change.">
        <span>attention</span>${["frozen",
          "free"].map((kind) => html`<button key=${kind} type="button" role="radio"
            aria-checked=${attention === kind ? "true" : "false"} onClick=${() => setAttention(kind)}>${kind}</button>`)}</span>
      <label title="Continue the text by this many tokens, before and after">write <input id="length" type="number" min="0" max="200"
        value=${length} onInput=${(event) => setLength(Math.max(0, Math.min(200, Math.trunc(Number(event.target.value))
          || 0)))} /> tokens</label>
    </div>
    <button class="primary run" disabled=${!ready || running}>${running ? "Running" : "Run"}</button>
    ${!found.every(Boolean) && html`<p class="quiet">Select a feature or supernode to change.</p>`}
  </form>`;
}

function sentence({ op, value }) {
  return { scale: `× ${plainNumber(value)}`, ablate: "ablated", set: `= ${plainNumber(value)}`,
    add: `${value < 0 ? "−" : "+"} ${plainNumber(Math.abs(value))}` }[op];
}

function EditRow({ edit, targets, current, onChange, onRemove }) {
  const kind = OPS.find((o) => o.op === edit.op);
  return html`<fieldset class="edit"><legend class="hidden">Change</legend>
    <div class="row"><select aria-label="What to change" value=${edit.target ?? ""}
      onChange=${(event) => onChange({ target: event.target.value || null })}>
      <option value="">${current ? `Selected: ${current.name}` : "Selected: nothing yet"}</option>
      ${targets.map((t) => html`<option key=${t.id} value=${t.id}>${t.name}${t.nodes.length > 1 ? ` (${t.nodes.length})` : ""}
        </option>`)}
    </select>${onRemove && html`<button type="button" class="icon" aria-label="Remove this change" onClick=${onRemove}>×</button>`}
      </div>
    <div class="row"><span class="choice" role="radiogroup" aria-label="Kind of change">
      ${OPS.map((o) => html`<button key=${o.op} type="button" role="radio" title=${o.title}
        aria-checked=${o.op === edit.op ? "true" : "false"} onClick=${() => onChange({ op: o.op, value: o.value })}>${o.name}
          </button>`)}</span></div>
    <div class="row strength">${kind.op !== "ablate"
      ? html`<input type="range" aria-label="Strength" min=${kind.low} max=${kind.high} step=${kind.step} value=${edit.value}
        onInput=${(event) => onChange({ value: Number(event.target.value) })} />
      <input type="number" class="strength-number" aria-label="Strength as a number" step="any" value=${edit.value}
        onInput=${(event) => onChange({ value: event.target.value === "" ? NaN : Number(event.target.value) })} />`
      : html`<span class="quiet">to zero</span>`}</div>
  </fieldset>`;
}
