// @ts-check
// One message and its answers: as the model is, and with features turned, beside each other.
import { html } from "../html.js";
import { useMemo } from "../vendor/hooks.mjs";
import { useParts } from "../store.js";
import { count, plainText } from "../text.js";
import { largestOf, placeOf } from "./features.js";
import { partsOf } from "./spans.js";
import { editLast } from "./talking.js";
import { Words } from "./words.js";

/** @param {{ exchange: Exchange, number: number, before: string, beforeTurned: string, isLast: boolean }} props what
 *   was said before, on each side: a model without a template reads all of it as one text */
export function ExchangeView({ exchange, number, before, beforeTurned, isLast }) {
  const { user, plain, turned } = exchange;
  const { editing, talking, session } = useParts("editing", "talking", "session");
  const parts = useWritten(plain, user, before);
  const chat = Boolean(session.model?.chat);
  const heard = { side: "plain", answer: plain, number };
  return html`<section class=${editing && isLast ? "exchange replaced" : "exchange"}
    aria-label=${`Message ${number + 1}`}>
    ${number === 0 && parts?.first.map((part, n) => html`<div key=${`first${n}`} class="said first">
      <h3 title=${part.added ? "The template brings this along" : null}>${plainText(part.role)}</h3>
      <${Pointed} ...${heard} part=${part} text="" /></div>`)}
    <div class="said user"><h3>${chat ? "user" : "text"}</h3>
      <${Pointed} ...${heard} part=${parts?.user ?? null} text=${user} />
      ${isLast && !talking && html`<button class="plain small edit-last" onClick=${editLast}
        title="Say it in other words (↑ in an empty field)">Edit</button>`}</div>
    <div class=${turned ? "answers two" : "answers"}>
      <${AnswerView} side="plain" answer=${plain} part=${parts?.answer ?? null} number=${number}
        name=${turned ? "as it is" : "answer"} />
      ${turned && html`<${TurnedView} answer=${turned} number=${number} user=${user}
        before=${beforeTurned} />`}</div>
  </section>`;
}

function TurnedView({ answer, number, user, before }) {
  const part = useWritten(answer, user, before)?.answer ?? null;
  const what = answer.turned.map(({ id, multiple }) => `${placeOf(id)} × ${multiple}`).join(", ");
  return html`<${AnswerView} side="turned" answer=${answer} part=${part} number=${number} name="turned"
    what=${what} />`;
}

/** Who said what in an answer's tokens, as far as they are known. */
function useWritten(answer, user, before) {
  const written = answer?.reading ?? answer?.written;
  return useMemo(() => (written ? partsOf(written, { user, answer: answer.text, before }) : null),
    [written, user, before]);
}

/** @param {{ side: "plain" | "turned", answer: Answer | null, part: SpokenPart | null, number: number,
 *   name: string, what?: string }} props */
function AnswerView({ side, answer, part, number, name, what = "" }) {
  if (!answer) return html`<div class="answer"></div>`;
  return html`<div class=${`answer by-${side} ${answer.state}`} aria-busy=${isBusy(answer) ? "true" : "false"}>
    <h3 title=${what || null}><span>${name}</span>${what && html`<em>${what}</em>`}
      <small>${statusOf(answer)}</small></h3>
    <${Pointed} part=${part} text=${answer.text} side=${side} answer=${answer} number=${number} />
    ${answer.error && html`<p class="answer-error" role="alert">${plainText(answer.error)}</p>`}
  </div>`;
}

/** Words with what is chosen among them, and the tint of the chosen feature. */
function Pointed({ part, text, side, answer, number }) {
  const { token, feature, known, seen } = useParts("token", "feature", "known", "seen");
  const mine = token && token.exchange === number && token.side === side ? token.token : null;
  const most = feature ? largestOf({ known, seen }, feature)?.value ?? 0 : 0;
  const tokens = (answer?.reading ?? answer?.written)?.tokens ?? [];
  return html`<${Words} part=${part} text=${text} tokens=${tokens} reading=${answer?.reading ?? null}
    place=${`${number}.${side}`} feature=${feature} most=${most} chosen=${mine} />`;
}

/** Whether its tokens or their features are still to come. */
function isBusy({ state, text, reading, unread }) {
  return state === "running" || (state !== "error" && text !== "" && !reading && unread === null);
}

function statusOf(answer) {
  const { state, ended, unread } = answer;
  const tokens = answer.count ? count(answer.count, "token") : "";
  const how = { running: answer.count ? "" : "waiting…", stopped: "stopped",
    error: answer.count ? "broke off" : "refused", done: ended || !answer.count ? "" : "at its limit" }[state];
  const read = unread ? "not read" : state !== "running" && isBusy(answer) ? "reading…" : "";
  return [tokens, how, read].filter(Boolean).join(" · ");
}
