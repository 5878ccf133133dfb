// @ts-check
// Where the data comes from: the server, or the element that a report carries inside itself.

export class ApiError extends Error {
  /** @param {string} code @param {string} message @param {Price} [price] of what was too costly to do unasked */
  constructor(code, message, price) {
    super(message);
    this.code = code;
    this.price = price;
  }
}

const OFFLINE = "The server does not answer. Is thoughtscope still running?";

/** @param {string} path @param {{ method?: string, body?: unknown, signal?: AbortSignal, stream?: boolean }} options */
async function ask(path, { method = "GET", body, signal, stream = false } = {}) {
  const headers = body === undefined ? {} : { "Content-Type": "application/json" };
  if (stream) Object.assign(headers, { Accept: "text/event-stream" });
  try {
    return await fetch(path, {
      method, headers, signal, body: body === undefined ? undefined : JSON.stringify(body),
    });
  } catch (error) {
    if (/** @type {Error} */ (error).name === "AbortError") throw new ApiError("cancelled", "Cancelled.");
    throw new ApiError("offline", OFFLINE);
  }
}

async function request(path, options) {
  return readAnswer(await ask(`api/${path}`, options));
}

async function readAnswer(answer) {
  let value = null;
  try {
    value = await answer.json();
  } catch (error) {
    if (/** @type {Error} */ (error).name === "AbortError") throw new ApiError("cancelled", "Cancelled.");
    if (answer.ok) return null;
  }
  if (!answer.ok) {
    const { code = "http", message = `The server answered ${answer.status}.` } = value?.error ?? {};
    throw new ApiError(code, message);
  }
  return value;
}

/** Sends work and calls `onProgress` for each step, `onSnapshot` for what is there so far; resolves to the event called
 * `wanted`, or to a plain answer. */
async function work(path, body, wanted, { onProgress, onSnapshot = (_) => {}, signal }) {
  const answer = await ask(`api/${path}`, { method: "POST", body, signal, stream: true });
  const streams = answer.headers.get("Content-Type")?.startsWith("text/event-stream");
  if (!answer.ok || !streams) return readAnswer(answer);
  try {
    for await (const { event, data } of serverEvents(answer.body)) {
      if (event === "progress") onProgress(data);
      else if (event === "snapshot") onSnapshot(data);
      else if (event === wanted) return data;
      else if (event === "error") throw failure(data.error);
    }
  } catch (error) {
    if (/** @type {Error} */ (error).name === "AbortError") throw new ApiError("cancelled", "Cancelled.");
    throw error;
  }
  throw new ApiError("cut", "The answer broke off before the work was done.");
}

/** The events of an answer as they come; ends with `answer`, throws what the server says against it. */
async function* answerEvents(body, signal) {
  const answer = await ask("api/generate", { method: "POST", body, signal, stream: true });
  if (!answer.ok) await readAnswer(answer);
  try {
    for await (const { event, data } of serverEvents(answer.body)) {
      if (event === "error") throw failure(data.error);
      yield { event, data };
      if (event === "answer") return;
    }
  } catch (error) {
    if (/** @type {Error} */ (error).name === "AbortError") throw new ApiError("cancelled", "Cancelled.");
    if (error instanceof TypeError) throw new ApiError("offline", OFFLINE);
    throw error;
  }
  throw new ApiError("cut", "The answer broke off.");
}

function failure(error) {
  return new ApiError(error?.code, error?.message ?? "It failed.", error?.price);
}

async function* serverEvents(stream) {
  const reader = stream.getReader();
  const decoder = new TextDecoder();
  let waiting = "";
  for (;;) {
    const { done, value } = await reader.read();
    waiting += decoder.decode(value ?? new Uint8Array(), { stream: !done });
    const parts = waiting.replaceAll("\r\n", "\n").split("\n\n");
    waiting = parts.pop() ?? "";
    for (const part of parts) {
      const event = /^event: ?(.*)$/m.exec(part)?.[1] ?? "message";
      const data = [...part.matchAll(/^data: ?(.*)$/gm)].map((match) => match[1]).join("\n");
      if (data) yield { event, data: JSON.parse(data) };
    }
    if (done) return;
  }
}

const slugPath = (slug) => `graphs/${encodeURIComponent(slug)}`;
const put = (path, body) => request(path, { method: "PUT", body });

const server = {
  kind: "server",
  /** @returns {Promise<Session>} */ session: () => request("session"),
  login: async (token) => readAnswer(await ask("login", { method: "POST", body: { token } })),
  /** @returns {Promise<GraphFile>} */ graph: (slug) => request(slugPath(slug)),
  feature: (layer, index) => request(`features/${encodeURIComponent(layer)}/${index}`),
  answer: answerEvents,
  /** @returns {Promise<{ features: FoundFeature[] }>} */
  search: (text, n) => request(`search?${new URLSearchParams({ text, n })}`),
  /** @returns {Promise<{ features: FoundFeature[] }>} */
  like: (asked, n) => request("like", { method: "POST", body: { ...asked, n } }),
  /** @returns {Promise<{ values: Record<string, number[]> }>} */
  activations: (asked, ids) => request("activations", { method: "POST", body: { ...asked, features: ids } }),
  /** @returns {Promise<Reading>} */
  readings: (asked, n) => request("readings", { method: "POST", body: { ...asked, n } }),
  /** @returns {Promise<any>} */ atlas: (name) => request(`atlas/${name}`),
  /** @returns {Promise<{ answer: string, features: FoundEffect[] }>} */
  effects: (body) => request("effects", { method: "POST", body }),
  /** @returns {Promise<{ slug: string, warnings?: string[] }>} */
  trace: (body, how) => work("trace", body, "graph", how),
  upload: (json) => request("graphs", { method: "POST", body: json }),
  rename: (slug, title) => request(slugPath(slug), { method: "PATCH", body: { title } }),
  remove: (slug) => request(slugPath(slug), { method: "DELETE" }),
  restore: (slug) => request(`${slugPath(slug)}/restore`, { method: "POST" }),
  saveSupernodes: (slug, supernodes) => put(`${slugPath(slug)}/supernodes`, { supernodes }),
  savePins: (slug, pins) => put(`${slugPath(slug)}/pins`, { pins }),
  saveLayout: (slug, layout) => put(`${slugPath(slug)}/layout`, { layout }),
  saveLabel: (layer, index, label, author) => put(`labels/${layer}/${index}`, { label, author: author || null }),
  /** @returns {Promise<CircuitScores>} */
  score: (slug, nodes) => request(`${slugPath(slug)}/score`, { method: "POST", body: { nodes } }),
  /** @returns {Promise<Outcome>} */ intervene: (body, how) => work("intervene", body, "outcome", how),
  removeOutcome: (slug, id) => request(`${slugPath(slug)}/outcomes/${id}`, { method: "DELETE" }),
  reportAddress: (slug) => `api/reports/${encodeURIComponent(slug)}`,
};

const missing = (what) => async () => {
  throw new ApiError("report", `A report cannot ${what}. Run thoughtscope serve.`);
};
const nothing = async () => null;

/** A report holds one graph, the details of its features and the interventions that were recorded. */
function embedded(data) {
  const metadata = data.graph?.metadata ?? {};
  const about = metadata.thoughtscope ?? {};
  return {
    kind: "report",
    session: async () => ({
      version: data.version ?? "", model: asModel(about.model ?? metadata.scan), dictionary: asModel(about.dictionary),
      example_prompts: [], graphs: [{ slug: metadata.slug, prompt: metadata.prompt }],
    }),
    graph: async () => ({ outcomes: data.outcomes, ...data.graph }),
    feature: async (layer, index) => {
      const detail = data.features?.[`${layer}/${index}`];
      if (!detail) throw new ApiError("unknown_feature", "This report holds no examples for this feature.");
      return detail;
    },
    login: nothing,
    answer: missing("run the model"), search: missing("run the model"), like: missing("run the model"),
    effects: missing("run the model"), atlas: missing("show a dictionary"),
    readings: missing("run the model"), activations: missing("run the model"),
    trace: missing("trace a prompt"), upload: missing("take a file"), intervene: missing("run the model"),
    rename: nothing, remove: nothing, restore: nothing,
    score: async (slug, nodes) => (isSame(nodes, data.circuit?.nodes ?? []) ? data.circuit : null),
    saveSupernodes: nothing, savePins: nothing, saveLayout: nothing, saveLabel: nothing, removeOutcome: nothing,
    reportAddress: () => null,
  };
}

const isSame = (ids, others) => new Set(ids).size === new Set(others).size && ids.every((id) => others.includes(id));

function asModel(value) {
  return value && typeof value === "object" ? value : { name: value ?? "" };
}

export function openSource() {
  const element = document.getElementById("thoughtscope-data");
  return element ? embedded(JSON.parse(element.textContent)) : server;
}
