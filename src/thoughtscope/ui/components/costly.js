// @ts-check
// What a large trace will take, before it is made.
import { html } from "../html.js";
import { tracePrompt } from "../actions/graphs.js";
import { lastSaid } from "../conversation.js";
import { setState, useStore } from "../store.js";
import { plainText } from "../text.js";

const count = (number) => Math.round(number).toLocaleString("en");

export function CostlyTrace() {
  const costly = useStore((s) => s.costly);
  const cancel = () => setState({ dialog: null });
  const go = (event) => {
    event.preventDefault();
    setState({ dialog: null });
    tracePrompt(costly.prompt, { ...costly.options, costly: true });
  };
  return html`<form class="costly" onSubmit=${go}>
    <p class="quiet"><bdi>${plainText(shortened(lastSaid(costly.prompt)))}</bdi></p>
    <dl>${rows(costly.price).map(([name, value]) => html`<dt key=${name}>${name}</dt><dd>${value}</dd>`)}</dl>
    <p class="quiet">A shorter prompt costs much less: edges grow with the square of its length.</p>
    <div class="row"><span class="spacer"></span><button type="button" autofocus onClick=${cancel}>Cancel</button>
      <button class="primary">Trace it</button></div>
  </form>`;
}

function rows(price) {
  return [
    ["Nodes", count(price.n_nodes)], ["Edges", `up to ${count(price.n_edges)}`],
    ["Memory", `about ${size(price.memory + price.device_memory)}`],
    ["Time", `about ${duration(price.seconds)}`], ["File", `about ${size(price.file)}`],
  ];
}

function size(bytes) {
  return bytes >= 1e9 ? `${(bytes / 1e9).toFixed(1)} GB` : `${Math.max(Math.round(bytes / 1e6), 1)} MB`;
}

function duration(seconds) {
  return seconds >= 90 ? `${Math.round(seconds / 60)} min` : `${Math.max(Math.round(seconds), 1)} s`;
}

function shortened(text) {
  return text.length > 200 ? `${text.slice(0, 200)}…` : text;
}
