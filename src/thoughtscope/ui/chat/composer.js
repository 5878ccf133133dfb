// @ts-check
// Where a person types, and how answers are drawn.
import { html } from "../html.js";
import { useLayoutEffect, useRef } from "../vendor/hooks.mjs";
import { Choice } from "../components/choice.js";
import { useParts } from "../store.js";
import { writeAddress } from "./address.js";
import { getChat, setChat } from "./state.js";
import { answerLast, clear, editLast, isStale, say, stop } from "./talking.js";

const DRAWING = [{ value: "likeliest", name: "likeliest", title: "The likeliest token, each time" },
  { value: "drawn", name: "drawn", title: "Tokens are drawn; both sides use the same seed" }];

export function Composer() {
  const { draft, talking, editing, exchanges, session, settings } = useParts("draft", "talking", "editing",
    "exchanges", "session", "settings");
  const field = useRef(/** @type {any} */ (null));
  useLayoutEffect(() => {
    field.current.style.height = "auto";
    field.current.style.height = `${Math.min(160, field.current.scrollHeight + 2)}px`;
  }, [draft]);
  useLayoutEffect(() => { if (editing) field.current.focus(); }, [editing]);
  const submit = (event) => {
    event.preventDefault();
    if (!talking) say(draft);
  };
  const onKeyDown = (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) submit(event);
    else if (event.key === "ArrowUp" && !draft && exchanges.length) {
      event.preventDefault();
      editLast();
    }
  };
  const chat = Boolean(session.model?.chat);
  const empty = exchanges.length ? (chat ? "Answer" : "Go on with the text") : chat ? "Say something to the model"
    : "The beginning of a text";
  return html`<form class="composer" onSubmit=${submit}>
    <div class="composer-field"><textarea ref=${field} id="message" rows="1" dir="auto" value=${draft}
      placeholder=${empty} aria-label="Message" maxlength="20000" autofocus
      onInput=${(event) => setChat({ draft: event.target.value })} onKeyDown=${onKeyDown}></textarea>
      ${editing && html`<button type="button"
        onClick=${() => setChat({ editing: false, draft: "" })}>Leave it</button>`}
      <button type="button" class="settings" aria-expanded=${settings ? "true" : "false"}
        onClick=${() => setChat({ settings: !settings })}>Settings</button>
      ${talking ? html`<button type="button" class="primary" onClick=${stop} title="Stop (Esc)">Stop</button>`
        : html`<button class="primary" disabled=${!draft.trim()}>${editing ? "Send again" : "Send"}</button>`}</div>
    <${Options} chat=${chat} />
  </form>`;
}

function Options({ chat }) {
  const { sampling, length, system, exchanges, talking, settings } = useParts("sampling", "length", "system",
    "exchanges", "talking", "settings");
  const { drawn, temperature, topP, seed } = sampling;
  const set = (patch) => change({ sampling: { ...getChat().sampling, ...patch } });
  const stale = useStale();
  return html`<div class=${settings ? "composer-options open" : "composer-options"}>
    <${Choice} label="How tokens are chosen" options=${DRAWING} value=${drawn ? "drawn" : "likeliest"}
      onChange=${(value) => set({ drawn: value === "drawn" })} />
    <${NumberField} name="temperature" value=${temperature} least=${0.05} most=${5} step=${0.05} off=${!drawn}
      set=${(value) => set({ temperature: value })} />
    <${NumberField} name="top-p" value=${topP} least=${0.01} most=${1} step=${0.05} off=${!drawn}
      set=${(value) => set({ topP: value })} />
    <${NumberField} name="seed" value=${seed} least=${0} most=${2 ** 31} step=${1} off=${!drawn}
      set=${(value) => set({ seed: Math.trunc(value) })} />
    <${NumberField} name="tokens" title="Most tokens of an answer" value=${length} least=${1} most=${1000} step=${1}
      set=${(value) => change({ length: Math.trunc(value) })} />
    ${chat && html`<label class="system-line" title="Stands before the conversation, in place of the template’s own">
      system <input value=${system} maxlength="4000" placeholder="the template’s own" dir="auto"
      onInput=${(event) => setChat({ system: event.target.value })} onChange=${() => writeAddress()} /></label>`}
    <span class="composer-acts"><button type="button" class=${stale ? "small on" : "small"}
      disabled=${talking || !stale} onClick=${answerLast} title="Answer the last message with what is set now">
      Answer again</button>
    <button type="button" class="small" disabled=${!exchanges.length} onClick=${clear}
      title="Forget the conversation; what is turned stays">New</button></span>
  </div>`;
}

/** Whether the last message would be answered otherwise now. */
function useStale() {
  return isStale(useParts("exchanges", "turned", "sampling", "length", "system", "known", "seen", "talking",
    "session"));
}

function change(patch) {
  setChat(patch);
  writeAddress();
}

/** @param {{ name: string, value: number, least: number, most: number, step: number, set: (value: number) => void,
 *   off?: boolean, title?: string | null }} props */
function NumberField({ name, value, least, most, step, set, off = false, title = null }) {
  const onChange = ({ target }) => {
    const wanted = Number(target.value);
    if (target.value !== "" && wanted >= least && wanted <= most) set(wanted);
    else target.value = String(value);
  };
  return html`<label class="number" title=${title}>${name} <input type="number" value=${value} min=${least} max=${most}
    step=${step} disabled=${off} onChange=${onChange} /></label>`;
}
