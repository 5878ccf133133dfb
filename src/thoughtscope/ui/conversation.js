// @ts-check
// A conversation in a graph file: who speaks at which tokens, and which tokens are only the template's.

const MOST = 4000; // turns

/** The turns that a file states, one after the other over all of its tokens; none where it states nothing of the kind.
 * @returns {Turn[]} */
export function readConversation(stated, length) {
  if (!Array.isArray(stated) || stated.length > MOST) return [];
  const whole = (value) => Number.isSafeInteger(value) && value >= 0;
  const turns = [];
  let at = 0;
  for (const raw of stated) {
    const [from, to] = Array.isArray(raw?.content) ? raw.content : [];
    const inside = [raw?.start, from, to, raw?.end].every(whole)
      && raw.start === at && at <= from && from <= to && to <= raw.end;
    if (!inside) return [];
    at = raw.end;
    turns.push({ role: String(raw.role), text: String(raw.text), start: raw.start, end: raw.end, from, to,
      added: Boolean(raw.added) });
  }
  return at === length ? turns : [];
}

/** For each token whether it is only the template's. @param {Turn[]} turns @returns {boolean[]} */
export function templateTokens(turns, length) {
  const folded = new Array(length).fill(turns.length > 0);
  for (const { from, to } of turns) folded.fill(false, from, to);
  return folded;
}

/** The messages that were asked for, without what the template added and an answer that has not begun. */
export function messagesOf(turns) {
  const said = turns.filter((turn) => !turn.added);
  const last = said.at(-1);
  if (last?.role === "assistant" && !last.text) said.pop();
  return said.map(({ role, text }) => ({ role, content: text }));
}

/** A conversation in one line; nothing for a plain text. */
export function headingOf(turns) {
  return messagesOf(turns).map(({ role, content }) => `${role}: ${content.trim().split(/\s+/).join(" ")}`).join(" · ");
}

/** What the user said last: the part of a prompt, a text or messages, that a person edits. */
export function lastSaid(asked) {
  if (typeof asked === "string") return asked;
  return asked.findLast(({ role }) => role === "user")?.content ?? "";
}

/** The same conversation with other words of the user's last; a new one where there was none. */
export function reworded(turns, text) {
  const messages = messagesOf(turns);
  const at = messages.findLastIndex(({ role }) => role === "user");
  if (at < 0) return [...messages, { role: "user", content: text }];
  return messages.map((message, i) => (i === at ? { ...message, content: text } : message));
}
