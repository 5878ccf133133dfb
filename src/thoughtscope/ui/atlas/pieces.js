// @ts-check
// Where the atlas's pieces come from: scripts beside a page that was opened from disk, or the server.
import { canWrite, source } from "../actions/source.js";

const KINDS = {
  u1: Uint8Array, u2: Uint16Array, u4: Uint32Array, i2: Int16Array, i4: Int32Array, f4: Float32Array,
};
/** @type {Map<string, Promise<any>>} */ const known = new Map();
/** @type {Map<string, (content: any) => void>} */ const waiting = new Map();
const MOST = 64; // pieces that are kept; the index and the text always are

/** A piece by name, read once. Rejects with what to tell a person. */
export function piece(name) {
  let found = known.get(name);
  if (!found) {
    found = canWrite() ? source.atlas(name) : scripted(name);
    found.catch(() => known.delete(name));
    known.set(name, found);
    const shards = [...known.keys()].filter((key) => key.includes("-"));
    if (shards.length > MOST) known.delete(shards[0]);
  }
  return found;
}

/** Forgets what was read, as the server knows more now; the text stays as it is. */
export function forget() {
  for (const key of [...known.keys()]) if (key !== "text") known.delete(key);
}

/** A piece as a script beside the page: all that a page from disk may load. It calls `thoughtscopeAtlas`. */
function scripted(name) {
  return new Promise((resolve, reject) => {
    waiting.set(name, resolve);
    const element = document.createElement("script");
    element.src = `${JSON.parse(document.getElementById("thoughtscope-data")?.textContent ?? "{}").pieces}${name}.js`;
    element.onerror = () => reject(new Error(`data/${name}.js cannot be read. The page needs its folder beside it.`));
    element.onload = () => element.remove();
    document.head.append(element);
  });
}

/** @type {any} */ (globalThis).thoughtscopeAtlas = (name, content) => {
  waiting.get(name)?.(content);
  waiting.delete(name);
};

/** A column of numbers: base64 of little-endian bytes. @returns {any} */
export function column({ kind, data }) {
  const text = atob(data);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i += 1) bytes[i] = text.charCodeAt(i);
  return new KINDS[kind](bytes.buffer);
}

/** Where each of some counted stretches begins, and behind the last one how many there are. */
export function starts(counts) {
  const found = new Uint32Array(counts.length + 1);
  for (let i = 0; i < counts.length; i += 1) found[i + 1] = found[i] + counts[i];
  return found;
}
