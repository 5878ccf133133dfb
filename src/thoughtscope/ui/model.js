// @ts-check
// A graph file, as published by this and other tools, made ready to draw: typed nodes, sorted inputs and outputs.
import { headingOf, readConversation, templateTokens } from "./conversation.js";
import { readCurve } from "./curve.js";
import { tokenWord } from "./text.js";

const LONGEST = 4000; // characters of a label: more cannot be read, and is slow to draw
const MAX_NODES = 20000;
const READABLE = 400; // features and errors that a graph opens with: of more, the slider shows the rest
const MAX_TOKENS = 20000;
const MAX_LAYERS = 1000;

/** Turns graph JSON into the page's graph; throws an Error with a plain sentence when it cannot be one.
 * @param {GraphFile} json @returns {Graph} */
export function buildGraph(json) {
  const metadata = json?.metadata ?? {};
  if (!Array.isArray(json?.nodes) || !Array.isArray(json?.links)) {
    throw new Error("This file has no lists of nodes and links.");
  }
  if (json.nodes.length > MAX_NODES) {
    throw new Error(`This graph has ${json.nodes.length} nodes; the page draws at most ${MAX_NODES}. Prune it first.`);
  }
  const tokens = (metadata.prompt_tokens ?? []).map(String);
  const nodes = json.nodes.map((raw, i) => readNode(raw, tokens, metadata, json.influence_share?.[i]));
  nameOutputs(nodes, metadata.thoughtscope?.targets);
  const sameId = tellApart(nodes);
  const byId = new Map(nodes.map((node) => [node.id, node]));
  const inner = nodes.filter((node) => node.kind === "feature" || node.kind === "error");
  const stated = Math.min(MAX_LAYERS, Number(metadata.thoughtscope?.n_layers) || 0);
  const layers = Math.max(stated, 1 + most(inner.map((node) => node.layer), -1));
  const positions = Math.max(tokens.length, 1 + most(nodes.map((node) => node.position), 0));
  if (positions > MAX_TOKENS || layers > MAX_LAYERS) {
    throw new Error(`A node stands at token ${positions - 1} or layer ${layers - 1}: too far out to draw.`);
  }
  while (tokens.length < positions) tokens.push("");
  const turns = readConversation(metadata.thoughtscope?.turns, tokens.length);
  const folded = templateTokens(turns, tokens.length);
  for (const node of nodes) node.template = folded[node.position];
  for (const node of nodes) node.row = node.kind === "token" ? -1 : node.kind === "logit" ? layers : node.layer;
  const links = readLinks(json.links, json.edge_influence, sameId);
  const connected = connect(links, byId);
  const influenceKnown = links.length > 0 && links.every((link) => link.influence !== null);
  const prompt = String(metadata.prompt ?? tokens.join(""));
  const total = most(nodes.map((node) => node.cumulative ?? 0), 0) || 1;
  return {
    slug: String(metadata.slug ?? ""), prompt, heading: headingOf(turns) || prompt, scan: metadata.scan,
    tokens, turns, folded, nodes, byId, layers, links, metadata, json, ours: metadata.thoughtscope ?? null,
    influenceKnown,
    ranked: influenceKnown ? [...links].sort((a, b) => Number(b.influence) - Number(a.influence)) : links,
    hasErrors: nodes.some((node) => node.kind === "error"), held: finite(json.score_curve?.influence_held),
    total, opening: openingOf(inner, total), curve: readCurve(json.score_curve), ...connected,
  };
}

/** The share of the influence whose nodes a graph opens with: all, if they can be read, else the most that can. */
function openingOf(nodes, total) {
  const ranked = nodes.filter((node) => node.cumulative !== null).map((node) => node.cumulative).sort((a, b) => a - b);
  const first = ranked[READABLE - (nodes.length - ranked.length)]; // nodes without a rank always show
  return first === undefined ? 1 : Math.min(1, Math.max(0.2, (Math.ceil((first / total) * 100) - 1) / 100));
}

/** @returns {GraphNode} */
function readNode(raw, tokens, metadata, share) {
  const type = String(raw.feature_type ?? "");
  const kind = /logit/.test(type) ? "logit" : /embedding/.test(type) ? "token" : /error|bias/.test(type) ? "error"
    : "feature";
  const position = Math.max(0, Math.trunc(Number(raw.ctx_idx)) || 0);
  const layer = Math.max(0, Math.trunc(Number(raw.layer)) || 0);
  /** @type {GraphNode} */
  const node = {
    id: String(raw.node_id), fileId: String(raw.node_id), kind, type, position, layer, index: null,
    token: tokens[position] ?? "", clerp: String(raw.clerp ?? "").slice(0, LONGEST), topToken: topToken(raw),
    cumulative: finite(raw.influence), activation: finite(raw.activation), probability: finite(raw.token_prob),
    isTarget: Boolean(raw.is_target_logit), influence: finite(share), row: 0, template: false,
    absent: Math.max(0, finite(raw.absent) ?? 0), // input that the file's maker left out
  };
  if (kind === "feature") node.index = featureIndex(raw, layer, metadata);
  if (kind === "logit") readLogit(node, raw);
  return node;
}

function topToken(raw) {
  const first = (raw.top_logits ?? raw.feature_details?.top_logits)?.[0];
  const text = typeof first === "string" ? first : first?.text ?? first?.[0];
  return typeof text === "string" ? text : null;
}

/** In old files a feature and an error may share an id. Each keeps a node of its own; links follow the order of the
 * file: a link goes to the node that was not linked with the same partner before. */
function tellApart(nodes) {
  const sameId = new Map();
  for (const node of nodes) {
    const others = sameId.get(node.fileId) ?? [];
    if (others.length) node.id = `${node.fileId}~${others.length + 1}`;
    sameId.set(node.fileId, [...others, node]);
  }
  return sameId;
}

/** Our own files list the outputs exactly; the labels that other tools read have their quotes changed. */
function nameOutputs(nodes, targets) {
  const texts = new Map((Array.isArray(targets) ? targets : []).map((target) => [String(target?.id), target?.text]));
  for (const node of nodes) {
    if (node.kind === "logit" && typeof texts.get(node.id) === "string") node.output = texts.get(node.id);
  }
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

/** `Output "TEXT" (p=0.9)`: the text runs to the last quote before the probability, whatever quotes it holds itself. */
function readLogit(node, raw) {
  const end = node.clerp.lastIndexOf('" (p=');
  const start = node.clerp.indexOf('"');
  const written = start >= 0 && end > start;
  node.output = written ? unescaped(node.clerp.slice(start + 1, end)) : node.clerp.replace(/^Output\s*/, "");
  const probability = written ? Number.parseFloat(node.clerp.slice(end + 5)) : NaN;
  if (node.probability === null) node.probability = finite(probability);
  node.index = Number(String(raw.node_id).split("_")[1]);
}

/** Undoes the escapes of a quoted text, and only where all of its quotes are escaped. */
function unescaped(text) {
  return /(^|[^\\])"/.test(text) ? text : text.replaceAll('\\"', '"');
}

/** @returns {Link[]} */
function readLinks(rows, influence, sameId) {
  const links = [];
  const seen = new Set();
  for (const [i, row] of rows.entries()) {
    const sources = sameId.get(String(row.source)) ?? [];
    const named = sameId.get(String(row.target)) ?? [];
    const targets = named.length > 1 ? named.filter((node) => node.kind !== "error") : named; // nothing feeds an error
    const found = pairOf(sources, targets, seen);
    const weight = Number(row.weight);
    if (!found || !Number.isFinite(weight) || weight === 0) continue;
    links.push({ ...found, weight, influence: finite(influence?.[i]), fraction: 0 });
  }
  return links.sort((a, b) => Math.abs(b.weight) - Math.abs(a.weight));
}

/** The first pair of nodes with these ids that has no link yet; one link too many goes to the first pair. */
function pairOf(sources, targets, seen) {
  const plain = sources.length === 1 && targets.length === 1;
  for (const target of targets) {
    for (const source of sources) {
      if (source === target) continue;
      if (plain) return { source, target };
      const key = `${source.id}>${target.id}`;
      if (seen.has(key)) continue;
      seen.add(key);
      return { source, target };
    }
  }
  return sources[0] && targets[0] && sources[0] !== targets[0] ? { source: sources[0], target: targets[0] } : null;
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

/** Why a supernode is called what it is called, if a rule named it and nobody has changed it since.
 * @param {Graph} graph @param {Group} group @returns {string | null} */
export function ruleOf(graph, { label, members }) {
  const named = graph.json.named_by_rule?.find((group) => group.label === label);
  const same = named?.members.length === members.length && members.every((id) => named?.members.includes(id));
  return named && same ? named.why : null;
}

/** @param {GraphNode} node */
export function featureKey(node) {
  return node?.kind === "feature" && node.index !== null ? `${node.layer}/${node.index}` : null;
}

/** The label that a person or the dictionary gave to a feature, or nothing. */
export function givenLabel(node, labels) {
  return labels[featureKey(node)] || node.clerp || "";
}

/** What a node is called: the label given to it here, the file's, or its number and the token it stands for. */
export function nodeLabel(node, labels) {
  if (node.kind === "token") return node.token;
  if (node.kind === "logit") return node.output || node.clerp;
  if (node.kind === "error") return "what the dictionary misses";
  const told = node.topToken === null ? `at ${tokenWord(node.token)}` : `→ ${tokenWord(node.topToken)}`;
  return givenLabel(node, labels) || `${featureName(node)} ${told}`;
}

export function featureName(node) {
  return node.index === null ? node.fileId : `L${node.layer} #${node.index}`;
}

/** More influence first; where it is not known, as the file ranks them. */
export function byInfluence(a, b) {
  if (a.influence !== null && b.influence !== null && a.influence !== b.influence) return b.influence - a.influence;
  return (a.cumulative ?? 2) - (b.cumulative ?? 2);
}

/** The nodes that the slider and the error switch let through; tokens, outputs and `keep` always show. */
export function visibleNodes(graph, prune, showErrors, keep) {
  const kept = new Set(keep);
  return graph.nodes.filter((node) => {
    if (node.kind === "token" || node.kind === "logit" || kept.has(node.id)) return true;
    if (node.kind === "error" && !showErrors) return false;
    return node.cumulative === null || prune >= 1 || node.cumulative <= prune * graph.total + 1e-9;
  });
}

/** The nodes on show; those that are selected, pinned or grouped stay whatever the slider says. */
export function shownNodes({ graph, prune, showErrors, selected, pins, supernodes }) {
  return visibleNodes(graph, prune, showErrors, [...pins, ...supernodes.flatMap((g) => g.members), selected]);
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
  return found.sort((a, b) => byInfluence(a, b) || a.row - b.row);
}
