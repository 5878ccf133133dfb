// A graph file, as published by this and other tools, made ready to draw: typed nodes, sorted inputs and outputs.

const MAX_NODES = 20000;
const MAX_TOKENS = 20000;
const MAX_LAYERS = 1000;

/** Turns graph JSON into the page's graph; throws an Error with a plain sentence when it cannot be one. */
export function buildGraph(json) {
  const metadata = json?.metadata ?? {};
  if (!Array.isArray(json?.nodes) || !Array.isArray(json?.links)) throw new Error("This file has no lists of nodes and links.");
  if (json.nodes.length > MAX_NODES) throw new Error(`This graph has ${json.nodes.length} nodes; the page draws at most ${MAX_NODES}. Prune it first.`);
  const tokens = (metadata.prompt_tokens ?? []).map(String);
  const nodes = json.nodes.map((raw) => readNode(raw, tokens, metadata));
  nameOutputs(nodes, metadata.thoughtscope?.targets);
  const byId = new Map(nodes.map((node) => [node.id, node]));
  const layers = Math.max(Math.min(1000, Number(metadata.thoughtscope?.n_layers) || 0),
    1 + most(nodes.filter((n) => n.kind === "feature" || n.kind === "error").map((n) => n.layer), -1));
  const positions = Math.max(tokens.length, 1 + most(nodes.map((n) => n.position), 0));
  if (positions > MAX_TOKENS || layers > MAX_LAYERS) throw new Error(`A node stands at token ${positions - 1} or layer ${layers - 1}: too far out to draw.`);
  while (tokens.length < positions) tokens.push("");
  for (const node of nodes) node.row = node.kind === "token" ? -1 : node.kind === "logit" ? layers : node.layer;
  shareInfluence(nodes);
  const links = readLinks(json.links, byId);
  return {
    slug: String(metadata.slug ?? ""), prompt: String(metadata.prompt ?? tokens.join("")), scan: metadata.scan,
    tokens, nodes: [...byId.values()], byId, layers, links, metadata, json,
    ours: metadata.thoughtscope ?? null,
    maxWeight: links.reduce((most, link) => Math.max(most, Math.abs(link.weight)), 0) || 1,
    ...connect(links, byId),
  };
}

function readNode(raw, tokens, metadata) {
  const type = String(raw.feature_type ?? "");
  const kind = /logit/.test(type) ? "logit" : /embedding/.test(type) ? "token" : /error|bias/.test(type) ? "error" : "feature";
  const position = Math.max(0, Math.trunc(Number(raw.ctx_idx)) || 0);
  const layer = Math.max(0, Math.trunc(Number(raw.layer)) || 0);
  const node = {
    id: String(raw.node_id), kind, type, position, layer, index: null, token: tokens[position] ?? "",
    clerp: String(raw.clerp ?? ""), cumulative: finite(raw.influence), activation: finite(raw.activation),
    probability: finite(raw.token_prob), isTarget: Boolean(raw.is_target_logit), share: 0, row: 0,
    absent: Math.max(0, finite(raw.absent) ?? 0), // input that the file's maker left out
  };
  if (kind === "feature") node.index = featureIndex(raw, layer, metadata);
  if (kind === "logit") readLogit(node, raw);
  return node;
}

/** Our own files list the outputs exactly; the labels that other tools read have their quotes changed. */
function nameOutputs(nodes, targets) {
  const texts = new Map((Array.isArray(targets) ? targets : []).map((target) => [String(target?.id), target?.text]));
  for (const node of nodes) if (node.kind === "logit" && typeof texts.get(node.id) === "string") node.output = texts.get(node.id);
}

function most(values, least) {
  return values.reduce((sofar, value) => Math.max(sofar, value), least);
}

function finite(value) {
  return typeof value === "number" && Number.isFinite(value) ? value : null;
}

/** The feature's number within its layer. Files disagree on `feature`: it may be a Cantor pair of layer and number. */
function featureIndex(raw, layer, metadata) {
  const parts = /^(\d+)_(\d+)_(\d+)$/.exec(String(raw.node_id));
  if (parts && Number(parts[1]) === layer && Number(parts[3]) === Number(raw.ctx_idx)) return Number(parts[2]);
  const value = Number(raw.feature);
  if (!Number.isSafeInteger(value) || value < 0) return null;
  if (metadata.schema_version !== 1) return value;
  const sum = Math.floor((Math.sqrt(8 * value + 1) - 1) / 2);
  return value - (sum * (sum + 1)) / 2;
}

function readLogit(node, raw) {
  const written = /"([\s\S]*)"\s*\(p=([\d.eE+-]+)\)/.exec(node.clerp);
  node.output = written ? written[1].replace(/\\"/g, '"') : node.clerp.replace(/^Output\s*/, "");
  if (node.probability === null && written) node.probability = finite(Number(written[2]));
  node.index = Number(String(raw.node_id).split("_")[1]);
}

/** `influence` in a file is the running total over nodes, strongest first; the steps are each node's own share. */
function shareInfluence(nodes) {
  const ranked = nodes.filter((node) => node.cumulative !== null).sort((a, b) => a.cumulative - b.cumulative);
  let before = 0;
  for (const node of ranked) {
    node.share = Math.max(0, node.cumulative - before);
    before = node.cumulative;
  }
}

function readLinks(rows, byId) {
  const links = [];
  for (const row of rows) {
    const source = byId.get(String(row.source));
    const target = byId.get(String(row.target));
    const weight = Number(row.weight);
    if (source && target && source !== target && Number.isFinite(weight) && weight !== 0) links.push({ source, target, weight });
  }
  return links.sort((a, b) => Math.abs(b.weight) - Math.abs(a.weight));
}

/** Inputs and outputs of every node, strongest first (the links come sorted). */
function connect(links, byId) {
  const inputs = new Map();
  const outputs = new Map();
  for (const id of byId.keys()) {
    inputs.set(id, []);
    outputs.set(id, []);
  }
  const totals = new Map([...byId].map(([id, node]) => [id, node.absent]));
  for (const link of links) {
    inputs.get(link.target.id).push(link);
    outputs.get(link.source.id).push(link);
    totals.set(link.target.id, totals.get(link.target.id) + Math.abs(link.weight));
  }
  for (const link of links) link.fraction = link.weight / totals.get(link.target.id);
  return { inputs, outputs, totals };
}

export function featureKey(node) {
  return node.kind === "feature" && node.index !== null ? `${node.layer}/${node.index}` : null;
}

/** What a node is called: the label given to it here, the file's, or its place. */
export function nodeLabel(node, labels) {
  if (node.kind === "token") return node.token;
  if (node.kind === "logit") return node.output || node.clerp;
  if (node.kind === "error") return "what the dictionary misses";
  const own = labels[featureKey(node)];
  return own || node.clerp || featureName(node);
}

export function featureName(node) {
  return node.index === null ? node.id : `L${node.layer} #${node.index}`;
}

/** The nodes that the prune slider and the error switch let through; tokens, logits and `keep` always show. */
export function visibleNodes(graph, prune, showErrors, keep) {
  const kept = new Set(keep);
  return graph.nodes.filter((node) => {
    if (node.kind === "token" || node.kind === "logit" || kept.has(node.id)) return true;
    if (node.kind === "error" && !showErrors) return false;
    return node.cumulative === null || prune >= 1 || node.cumulative <= prune * influenceTotal(graph) + 1e-9;
  });
}

/** The largest running total in the file: 1 for a whole graph, 0.8 for one that was cut at 80 %. */
export function influenceTotal(graph) {
  graph.total ??= graph.nodes.reduce((most, node) => Math.max(most, node.cumulative ?? 0), 0) || 1;
  return graph.total;
}

/** Nodes whose label, token, feature number or id contains the query, the most influential first. */
export function searchNodes(graph, query, labels) {
  const wanted = query.trim().toLowerCase();
  if (!wanted) return [];
  const number = /^l?(\d+)\s*[#/: ]\s*(\d+)$/.exec(wanted);
  const found = graph.nodes.filter((node) => {
    if (number) return node.kind === "feature" && node.layer === Number(number[1]) && node.index === Number(number[2]);
    if (/^#?\d+$/.test(wanted) && node.kind === "feature") return String(node.index) === wanted.replace("#", "");
    if (node.kind === "error") return "error".startsWith(wanted) || node.id.toLowerCase() === wanted;
    return nodeLabel(node, labels).toLowerCase().includes(wanted)
      || (node.kind !== "logit" && node.token.toLowerCase().includes(wanted))
      || node.id.toLowerCase() === wanted;
  });
  return found.sort((a, b) => b.share - a.share || a.row - b.row);
}
