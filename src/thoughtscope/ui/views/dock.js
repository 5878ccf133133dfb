// Below the graph: the circuit that was picked out, and the bench on which it is tested.
import { html } from "../html.js";
import { useMemo } from "../vendor/hooks.mjs";
import { setState, useStore } from "../store.js";
import { groupable } from "../actions.js";
import { subsetScores } from "../scores.js";
import { Bench } from "../components/intervention.js";
import { Circuit } from "../components/circuit.js";

export function Dock({ graph }) {
  const { dock, pins, supernodes, marked } = useStore((s) => s);
  const ready = groupable().length;
  const scores = useMemo(() => circuitScores(graph, pins, supernodes), [graph, pins, supernodes]);
  return html`<div class=${`dock ${dock}`}>
    <section class="panel circuit-panel" aria-label="Circuit">
      <header><h2>Circuit</h2>
        ${scores && html`<small title="Scores of the graph with these nodes, all tokens and all outputs alone; everything else counts as error.">replacement <b>${scores.replacement.toFixed(2)}</b> completeness <b>${scores.completeness.toFixed(2)}</b></small>`}
        <span class="spacer"></span>
        <button class="plain" disabled=${ready === 0} onClick=${() => setState({ dialog: "group" })}
          title="Make a supernode of the marked nodes, or of the pinned ones outside supernodes (G)">Group${marked.length
            ? ` ${marked.length} marked` : ready ? ` ${ready} pinned` : ""}</button>
        <button class="icon" aria-label=${dock === "full" ? "Smaller circuit" : "Larger circuit"}
          title=${dock === "full" ? "Smaller" : "Larger"} onClick=${() => setState({ dock: dock === "full" ? "open" : "full" })}>
            ${dock === "full" ? "▾" : "▴"}</button>
      </header>
      <${Circuit} key=${graph.slug} graph=${graph} />
    </section>
    <${Bench} graph=${graph} />
  </div>`;
}

function circuitScores(graph, pins, supernodes) {
  const ids = [...pins, ...supernodes.flatMap((g) => g.members)];
  if (!ids.length) return null;
  const ends = graph.nodes.filter((node) => node.kind === "token" || node.kind === "logit").map((node) => node.id);
  return subsetScores(graph, new Set([...ids, ...ends]));
}
