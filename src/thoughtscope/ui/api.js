// Where the data comes from: the server, or the element that a report carries inside itself.

export class ApiError extends Error {
  constructor(code, message) {
    super(message);
    this.code = code;
  }
}

async function request(path, { method = "GET", body } = {}) {
  let answer;
  try {
    answer = await fetch(`api/${path}`, {
      method, body: body === undefined ? undefined : JSON.stringify(body),
      headers: body === undefined ? {} : { "Content-Type": "application/json" },
    });
  } catch {
    throw new ApiError("offline", "The server does not answer. Is thoughtscope still running?");
  }
  return readAnswer(answer);
}

async function readAnswer(answer) {
  let value = null;
  try {
    value = await answer.json();
  } catch {
    if (answer.ok) return null;
  }
  if (!answer.ok) {
    throw new ApiError(value?.error?.code ?? "http", value?.error?.message ?? `The server answered ${answer.status}.`);
  }
  return value;
}

/** Sends a prompt and calls `onProgress` for each step; resolves to the new graph's slug. */
async function traceOnServer(body, onProgress) {
  const answer = await fetch("api/trace", {
    method: "POST", headers: { "Content-Type": "application/json", Accept: "text/event-stream" }, body: JSON.stringify(body),
  }).catch(() => { throw new ApiError("offline", "The server does not answer. Is thoughtscope still running?"); });
  if (!answer.ok) return readAnswer(answer);
  let slug = null;
  for await (const { event, data } of serverEvents(answer.body)) {
    if (event === "progress") onProgress(data);
    else if (event === "graph") slug = data.slug;
    else if (event === "error") throw new ApiError(data.error?.code, data.error?.message ?? "Tracing failed.");
  }
  if (slug === null) throw new ApiError("cut", "The answer broke off before the graph was done.");
  return slug;
}

async function* serverEvents(stream) {
  const reader = stream.getReader();
  const decoder = new TextDecoder();
  let waiting = "";
  for (;;) {
    const { done, value } = await reader.read();
    waiting += decoder.decode(value ?? new Uint8Array(), { stream: !done });
    const parts = waiting.replaceAll("\r\n", "\n").split("\n\n");
    waiting = parts.pop();
    for (const part of parts) {
      const event = /^event: ?(.*)$/m.exec(part)?.[1] ?? "message";
      const data = [...part.matchAll(/^data: ?(.*)$/gm)].map((match) => match[1]).join("\n");
      if (data) yield { event, data: JSON.parse(data) };
    }
    if (done) return;
  }
}

const slugPath = (slug) => `graphs/${encodeURIComponent(slug)}`;

const server = {
  kind: "server",
  session: () => request("session"),
  graph: (slug) => request(slugPath(slug)),
  feature: (layer, index) => request(`features/${layer}/${index}`),
  trace: traceOnServer,
  upload: (json) => request("graphs", { method: "POST", body: json }),
  saveSupernodes: (slug, supernodes) => request(`${slugPath(slug)}/supernodes`, { method: "PUT", body: { supernodes } }),
  savePins: (slug, pins) => request(`${slugPath(slug)}/pins`, { method: "PUT", body: { pins } }),
  saveLabel: (layer, index, label) => request(`labels/${layer}/${index}`, { method: "PUT", body: { label } }),
  intervene: (body) => request("intervene", { method: "POST", body }),
  reportAddress: (slug) => `api/reports/${encodeURIComponent(slug)}`,
};

const missing = (what) => async () => { throw new ApiError("report", `A report cannot ${what}. Run thoughtscope serve.`); };

/** A report holds one graph, the details of its features and the interventions that were recorded. */
function embedded(data) {
  const metadata = data.graph?.metadata ?? {};
  const about = metadata.thoughtscope ?? {};
  return {
    kind: "report",
    outcomes: data.outcomes ?? [],
    session: async () => ({
      version: data.version ?? "", model: asModel(about.model ?? metadata.scan), dictionary: asModel(about.dictionary), example_prompts: [],
      graphs: [{ slug: metadata.slug, prompt: metadata.prompt }], read_only: true,
    }),
    graph: async () => data.graph,
    feature: async (layer, index) => {
      const detail = data.features?.[`${layer}/${index}`];
      if (!detail) throw new ApiError("unknown_feature", "This report holds no examples for this feature.");
      return detail;
    },
    trace: missing("trace a prompt"), upload: missing("take a file"), intervene: missing("run the model"),
    saveSupernodes: async () => null, savePins: async () => null, saveLabel: async () => null,
    reportAddress: () => null,
  };
}

function asModel(value) {
  return value && typeof value === "object" ? value : { name: value ?? "" };
}

export function openSource() {
  const element = document.getElementById("thoughtscope-data");
  return element ? embedded(JSON.parse(element.textContent)) : server;
}
