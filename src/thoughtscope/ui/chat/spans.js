// @ts-check
// Tokens as the characters that they spell: a character that several tokens share is one span of the text.
import { readConversation } from "../conversation.js";

const LONGEST = 4; // bytes of a character

/** The bytes of a piece: its text, and bytes of partial characters that are written `<0xE4>`. */
function bytesOf(piece) {
  const encoder = new TextEncoder();
  return piece.split(/(<0x[0-9A-F]{2}>)/).flatMap((part) => {
    const byte = /^<0x([0-9A-F]{2})>$/.exec(part);
    return byte ? [Number.parseInt(byte[1], 16)] : [...encoder.encode(part)];
  });
}

/** Spans of text, each with the tokens `from` to `to` that spell it; numbers count from `first`. While the text grows,
 * a character that is not whole yet waits.
 * @param {string[]} pieces @returns {{ text: string, from: number, to: number }[]} */
export function spansOf(pieces, first = 0, growing = false) {
  const spans = [];
  let bytes = [];
  let from = first;
  const close = (text, to) => {
    spans.push({ text, from, to });
    bytes = [];
    from = to;
  };
  for (const [n, piece] of pieces.entries()) {
    const to = first + n + 1;
    if (!bytes.length && !piece.includes("<0x")) {
      close(piece, to);
      continue;
    }
    bytes.push(...bytesOf(piece));
    const text = decoded(bytes);
    const isLast = n === pieces.length - 1 && !growing;
    if (text !== null) close(text, to);
    else if (to - from >= LONGEST || isLast) close(new TextDecoder().decode(new Uint8Array(bytes)), to);
  }
  return spans;
}

function decoded(bytes) {
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(new Uint8Array(bytes));
  } catch {
    return null;
  }
}

/** The parts of a conversation's tokens that belong to its last exchange, and what stands before the first one.
 * @param {{ tokens: string[], turns: any[], growing?: boolean }} written
 * @param {{ user: string, answer: string, before: string }} said
 * @returns {{ first: SpokenPart[], user: SpokenPart | null, answer: SpokenPart | null }} */
export function partsOf({ tokens, turns: stated, growing = false }, said) {
  const turns = readConversation(stated, tokens.length);
  if (!turns.length) return plainParts(tokens, said, growing);
  const told = turns.map((turn) => ({
    role: turn.role, added: turn.added, before: range(turn.start, turn.from), after: range(turn.to, turn.end),
    spans: spansOf(tokens.slice(turn.from, turn.to), turn.from, growing),
  }));
  const isUser = ({ role, added }) => role === "user" && !added;
  const at = told.findLastIndex(isUser);
  return { first: told.slice(0, told.findIndex(isUser)), user: told[at] ?? null,
    answer: told.slice(at + 1).find(({ role }) => role !== "template") ?? null };
}

/** The turns of a conversation whose last answer is being written: the tokens that came are the assistant's. */
export function growingTurns(turns, began, length) {
  if (!turns.length) return turns;
  const last = turns.at(-1);
  if (last.role !== "assistant" || last.text) {
    const answer = { role: "assistant", text: "", start: began, content: [began, length], end: length, added: false };
    return [...turns, answer];
  }
  return [...turns.slice(0, -1), { ...last, content: [last.content[0], length], end: length }];
}

/** Without a template there is one text: its spans go to the text before, the last message, and the answer. */
function plainParts(tokens, said, growing) {
  const role = { role: "", added: false, after: [] };
  const user = { ...role, before: [], spans: [] };
  const answer = { ...role, before: [], spans: [] };
  let at = 0;
  const whole = said.before + said.user + said.answer;
  for (const span of spansOf(tokens, 0, growing)) {
    const belongs = at < said.before.length ? null : at < said.before.length + said.user.length ? user : answer;
    if (whole.startsWith(span.text, at)) {
      at += span.text.length;
      belongs?.spans.push(span);
    } else belongs?.before.push(...range(span.from, span.to)); // a token that the text does not show
  }
  return { first: [], user, answer };
}

function range(start, end) {
  return Array.from({ length: end - start }, (_, i) => start + i);
}
