// @ts-check
// Below the graph: the circuit that was picked out, and the bench on which it is tested.
import { html } from "../html.js";
import { useEffect, useState } from "../vendor/hooks.mjs";
import { setState, useParts, useStore } from "../store.js";
import { arrangeCards, groupable } from "../actions/circuit.js";
import { canWrite, source } from "../actions/source.js";
import { Bench } from "../components/intervention.js";
import { Circuit } from "../components/circuit.js";
import { Splitter } from "../components/splitter.js";

export function Dock({ graph }) {
  const dock = useStore((s) => s.dock);
  return html`<div class=${`dock ${dock}`}>
    <${Splitter} name="dock-height" label="Height of the circuit" axis="y" panel=".circuit-panel" least=${120} />
    <section class="panel circuit-panel" aria-label="Circuit">
      <header><h2>Circuit</h2><${CircuitScore} graph=${graph} /><span class="spacer"></span>
        <${Buttons} dock=${dock} /></header>
      <${Circuit} key=${graph.slug} graph=${graph} />
    </section>
    <${Splitter} name="bench-width" label="Width of the bench" axis="x" panel=".bench" least=${300} />
    <${Bench} graph=${graph} />
  </div>`;
}

function Buttons({ dock }) {
  const { marked, cards } = useParts("marked", "cards", "pins", "supernodes");
  const ready = groupable().length;
  const what = marked.length ? ` ${marked.length} marked` : ready ? ` ${ready} pinned` : "";
  const size = (wanted, name, sign) => html`<button class="icon" aria-label=${name} title=${name}
    onClick=${() => setState({ dock: wanted })}>${sign}</button>`;
  return html`
    ${Object.keys(cards).length > 0 && html`<button class="plain" onClick=${arrangeCards}
      title="Put the cards where the page would put them">Arrange</button>`}
    <button class="plain" disabled=${ready === 0} onClick=${() => setState({ dialog: "group" })}
      title="Make a supernode of the marked nodes, or of the pinned ones outside supernodes (G)">Group${what}</button>
    ${dock === "open" && size("full", "Larger circuit", "▴")}
    ${dock === "full" && size("open", "Smaller circuit", "▾")}
    ${dock === "closed" ? size("open", "Open the circuit", "▴") : size("closed", "Close the circuit", "✕")}`;
}

/** The scores of the picked nodes alone: the server's, or in a report those of what the file had picked. */
function CircuitScore({ graph }) {
  const { pins, supernodes } = useParts("pins", "supernodes");
  const [scores, setScores] = useState(/** @type {CircuitScores | null} */ (null));
  const nodes = [...new Set([...pins, ...supernodes.flatMap((g) => g.members)])];
  useEffect(() => {
    setScores(null);
    if (!nodes.length || graph.partial || (source.kind === "server" && !canWrite())) return undefined;
    let wanted = true;
    const ask = () => source.score(graph.slug, nodes.map((id) => graph.byId.get(id).fileId))
      .then((found) => wanted && setScores(found), () => wanted && setScores(null));
    const timer = setTimeout(ask, 150);
    return () => {
      wanted = false;
      clearTimeout(timer);
    };
  }, [graph, nodes.join()]);
  if (!scores) return null;
  if (scores.replacement === null || scores.completeness === null) {
    return html`<small title=${`The scores of these nodes are not known: ${scores.why_unscored}.`}>not scored</small>`;
  }
  return html`<small title=${"Scores of the graph with these nodes, all tokens and all outputs alone; everything else "
    + "counts as error."}>replacement <b>${scores.replacement.toFixed(2)}</b> completeness${" "}
    <b>${scores.completeness.toFixed(2)}</b></small>`;
}
