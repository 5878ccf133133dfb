// @ts-check
// Turning a feature up here and now: what the model says as it is, and with the feature held.
import { html } from "../html.js";
import { useEffect, useRef, useState } from "../vendor/hooks.mjs";
import { canTrace, canWrite, source } from "../actions/source.js";
import { useParts } from "../store.js";
import { plainText, runningText } from "../text.js";
import { idOf, placed } from "./index.js";
import { getAtlas, setAtlas } from "./state.js";

const TOKENS = 40;

export function Steering({ feature }) {
  const { index, steer } = useParts("index", "steer");
  const [answers, setAnswers] = useState(/** @type {any} */ (null));
  const stopper = useRef(/** @type {AbortController | null} */ (null));
  useEffect(() => () => stopper.current?.abort(), []);
  useEffect(() => { stopper.current?.abort(); setAnswers(null); }, [feature]);
  if (!canTrace()) return html`<${Offline} id=${idOf(index, feature)} />`;
  const most = index.largest[feature];
  const run = async (event) => {
    event.preventDefault();
    stopper.current?.abort();
    const { signal } = stopper.current = new AbortController();
    setAnswers({ plain: "", turned: "", running: true });
    const draw = async (side, edits) => {
      for await (const { event: kind, data } of source.answer(asked(steer.prompt, edits), signal)) {
        if (kind === "token") setAnswers((old) => ({ ...old, [side]: old[side] + data.text }));
      }
    };
    try {
      const { part, index: own } = placed(index, feature);
      await draw("plain", []);
      await draw("turned", [{ part: part.name, index: own, op: "set", value: steer.multiple * most }]);
      setAnswers((old) => ({ ...old, running: false }));
    } catch (error) {
      const { code, message } = /** @type {any} */ (error);
      setAnswers((old) => (code === "cancelled" ? old : { ...old, error: message, running: false }));
    }
  };
  return html`<section class="steering"><h3>Steer</h3><form onSubmit=${run}>
      <input type="text" aria-label="Prompt to steer" placeholder="A prompt to go on from" value=${steer.prompt}
        onInput=${(event) => setAtlas({ steer: { ...steer, prompt: event.target.value } })} />
      <label class="steer-by"><input type="range" min="-8" max="8" step="0.5" value=${steer.multiple}
        aria-label="Multiple of the largest activation" onInput=${(event) => setAtlas({ steer: { ...steer,
          multiple: Number(event.target.value) } })} /><b>${steer.multiple}×</b></label>
      <button class="primary" disabled=${!most || !steer.prompt.trim() || answers?.running}>Go</button></form>
    ${!most && html`<p class="quiet">How strong it can be is not known: it never fired on the scanned text.</p>`}
    ${answers && html`<dl class="steered"><dt>as it is</dt><dd>${runningText(answers.plain)}</dd>
      <dt>held at ${steer.multiple}×</dt><dd>${runningText(answers.turned)}</dd></dl>`}
    ${answers?.error && html`<p class="refusal" role="alert">${plainText(answers.error)}</p>`}
    <p class="quiet"><a href=${`chat#f=${idOf(index, feature)}:${steer.multiple}`}>Talk to the model with it</a></p>
  </section>`;
}

function asked(prompt, edits) {
  const { session } = getAtlas();
  const said = session?.model?.chat ? { chat: [{ role: "user", content: prompt }] } : { prompt };
  return { ...said, edits, max_new_tokens: TOKENS };
}

/** What to run where there is no model behind the page. */
function Offline({ id }) {
  const { index } = useParts("index");
  const why = canWrite() ? "There is no model behind this page." : "This page was opened from disk.";
  return html`<section class="steering"><h3>Steer</h3><p class="quiet">${why} To turn this feature, or to name it,
    run${" "}
    <code>thoughtscope serve --model ${plainText(index.model)} --dictionary ${plainText(index.name)}</code> and open
    its atlas at <code>#f=${id}</code>.</p></section>`;
}
