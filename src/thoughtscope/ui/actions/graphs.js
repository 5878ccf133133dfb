// @ts-check
// Graphs: opening, tracing, files in and out, and the library that keeps them.
import { lastSaid } from "../conversation.js";
import { HOME } from "../layout.js";
import { buildGraph, featureKey } from "../model.js";
import { getState, setState } from "../store.js";
import { readHash } from "../url.js";
import { hearLabel } from "./features.js";
import { notify, notifyProblems } from "./notice.js";
import { keep, listenToTabs, tell } from "./saving.js";
import { source } from "./source.js";
import { savedAuthor } from "./features.js";
import { savedTheme } from "./theme.js";
import { forgetSteps, writeAddress } from "./view.js";

const EMPTY = {
  graph: null, selected: null, hovered: null, pins: [], supernodes: [], cards: {}, marked: [], outcomes: [],
  view: HOME, layout: null,
};
let opening = 0;

export async function start() {
  try {
    const session = await source.session();
    setState({ session, theme: savedTheme(), author: savedAuthor() });
    window.addEventListener("popstate", followAddress);
    listenToTabs({ onArrangement: () => writeAddress("replace"), onLabel: hearLabel, onLibrary: refreshSession });
    if (session.problems?.length) notifyProblems(session.problems);
    await followAddress();
  } catch (error) {
    const { code, message } = /** @type {any} */ (error);
    setState(code === "token_needed" ? { locked: true, theme: savedTheme() } : { fatal: message });
  }
}

async function followAddress() {
  const view = readHash(location.hash);
  const { graph, session } = getState();
  if (view.theme) setState({ theme: view.theme });
  const slug = source.kind === "report" ? session?.graphs[0].slug : view.slug;
  if (!slug) return setState(EMPTY);
  if (graph?.slug !== slug) return openGraph(slug, view, "none");
  return setState({ ...knownView(graph, view), hovered: null });
}

/** The part of an address that fits this graph; what the address leaves open comes from the file. */
function knownView(graph, view) {
  const known = (ids) => [...new Set(ids)].filter((id) => graph.byId.has(id));
  const query = graph.json.qParams ?? {};
  const filed = Array.isArray(query.supernodes) ? query.supernodes.filter(Array.isArray) : [];
  const groups = view.supernodes ?? filed.map(([label, ...members]) => ({ label: String(label), members }));
  const present = groups.map((g) => ({ label: g.label, members: known(g.members.map(String)) }));
  const supernodes = uniqueNames(present.filter((g) => g.members.length));
  const pins = known(view.pins ?? (Array.isArray(query.pinnedIds) ? query.pinnedIds.map(String) : []));
  const named = view.selected?.startsWith("group:") && supernodes.some((g) => `group:${g.label}` === view.selected);
  return {
    pins, supernodes, prune: view.prune ?? graph.opening, showErrors: view.showErrors, edgeCount: view.edgeCount,
    selected: named || graph.byId.has(view.selected) ? view.selected : null,
  };
}

function uniqueNames(groups) {
  const seen = new Map();
  return groups.map((group) => {
    const times = (seen.get(group.label) ?? 0) + 1;
    seen.set(group.label, times);
    return times === 1 ? group : { ...group, label: `${group.label} (${times})` };
  });
}

export async function openGraph(slug, view = readHash(""), how = "push") {
  const ticket = (opening += 1);
  setState({ loading: "Opening the graph" });
  try {
    const json = await source.graph(slug);
    const graph = buildGraph(json);
    if (ticket !== opening) return;
    graph.slug = slug ?? graph.slug;
    forgetSteps();
    setState({
      ...EMPTY, graph, loading: null, query: "", labels: {}, traceError: null, cards: placesOf(json.qParams?.layout),
      outcomes: [...(json.outcomes ?? [])].reverse(), outcomeShown: 0, ...knownView(graph, view),
    });
    writeAddress(how === "none" ? "replace" : how);
  } catch (error) {
    if (ticket !== opening) return;
    setState({ loading: null });
    notify(/** @type {Error} */ (error).message, "error");
  }
}

/** Where cards lie, as the server kept it; anything else in its place is left out. */
function placesOf(layout) {
  const isPlace = (at) => Array.isArray(at) && at.length === 2 && at.every((value) => value >= 0 && value <= 1);
  return Object.fromEntries(Object.entries(layout ?? {}).filter(([, at]) => isPlace(at)));
}

let tracing = null;

/** @param {string | Message[]} prompt a text or a conversation @param {{ bos?: boolean, costly?: boolean }} options */
export async function tracePrompt(prompt, options = {}) {
  if (!lastSaid(prompt).trim() || tracing) return;
  tracing = new AbortController();
  const began = opening; // a graph that somebody opens meanwhile stays on screen
  const work = { prompt, since: Date.now() };
  setState({ trace: { ...work, stage: "starting", done: 0, total: 0 }, traceError: null, traceWarning: null });
  try {
    const asked = { ...(typeof prompt === "string" ? { prompt } : { chat: prompt }), ...options, snapshots: true };
    const onProgress = (progress) => setState({ trace: { ...work, ...progress } });
    const onSnapshot = (json) => { if (opening === began) showSnapshot(json); };
    const { slug, warnings } = await source.trace(asked, { onProgress, onSnapshot, signal: tracing.signal });
    tracing = null;
    setState({ trace: null, traceWarning: warnings?.length ? { prompt, text: warnings.join(" ") } : null });
    await Promise.all([getState().graph?.partial ? settleGraph(slug) : openGraph(slug), refreshSession()]);
    tell({ library: true });
  } catch (error) {
    tracing = null;
    const { code, message, price } = /** @type {any} */ (error);
    if (code === "costly") return setState({ trace: null, costly: { prompt, options, price }, dialog: "costly" });
    setState({ trace: null, traceError: code === "cancelled" ? null : message });
    const stopped = await keepSnapshot();
    if (code === "cancelled" && !stopped) notify("Tracing was cancelled.");
  }
}

/** Ends a trace; a picture that is there already stays, and is kept as the graph. */
export function cancelTrace() {
  tracing?.abort();
}

/** Shows a graph in the making: the first one as a graph that is opened, later ones in its place. */
function showSnapshot(json) {
  const { graph: before } = getState();
  const graph = { ...buildGraph(json), slug: "", partial: true };
  if (before?.partial) return replaceGraph(graph, json);
  forgetSteps();
  const view = knownView(graph, readHash(""));
  setState({ ...EMPTY, graph, loading: null, query: "", labels: {}, outcomeShown: 0, ...view });
}

/** Puts a newer picture of the same graph on screen: selection, zoom and what was arranged stay, nodes keep places. */
function replaceGraph(graph, json) {
  const { graph: before, selected, hovered, pins, marked, supernodes, showErrors, edgeCount } = getState();
  const prune = getState().prune === before?.opening ? null : getState().prune; // only a moved slider stays
  const arranged = supernodes.some((g) => !json.named_by_rule?.some((named) => named.label === g.label));
  const view = { selected, pins, prune, showErrors, edgeCount, ...(arranged ? { supernodes } : {}) };
  const known = (ids) => ids.filter((id) => graph.byId.has(id));
  setState({
    graph: { ...graph, follows: true }, ...knownView(graph, { ...view, supernodes: view.supernodes ?? null }),
    marked: known(marked), hovered: hovered && graph.byId.has(hovered.id) ? hovered : null,
  });
}

/** The finished graph takes the place of its last picture. */
async function settleGraph(slug) {
  const ticket = (opening += 1);
  const json = await source.graph(slug);
  if (ticket !== opening) return;
  replaceGraph({ ...buildGraph(json), slug }, json);
  keepArrangement();
}

/** Keeps the last picture of a trace that came to no end; whether there was one. */
async function keepSnapshot() {
  const { graph } = getState();
  if (!graph?.partial) return false;
  try {
    const { slug } = await source.upload(graph.json);
    if (getState().graph === graph) {
      setState({ graph: { ...graph, slug, partial: false, follows: true } });
      keepArrangement();
    }
    await refreshSession();
    tell({ library: true });
    notify("Stopped: the graph as it was is kept, and says what is left out.");
  } catch (error) {
    notify(/** @type {Error} */ (error).message, "error");
  }
  return true;
}

/** What was arranged while the graph had no place to be kept at. */
function keepArrangement() {
  writeAddress("push");
  const { pins, supernodes, cards } = getState();
  keep({ pins, supernodes, ...(Object.keys(cards).length ? { cards } : {}) });
}

export async function openFile(file) {
  setState({ loading: `Reading ${file.name}` });
  try {
    let json;
    try {
      json = JSON.parse(await file.text());
    } catch {
      throw new Error(`${file.name} is not JSON. Choose a graph file (.json) of thoughtscope or another tool.`);
    }
    buildGraph(json);
    const { slug } = await source.upload(json);
    await Promise.all([openGraph(slug), refreshSession()]);
    tell({ library: true });
  } catch (error) {
    setState({ loading: null });
    notify(/** @type {Error} */ (error).message, "error");
  }
}

async function refreshSession() {
  const before = getState().session?.problems?.length ?? 0;
  const session = await source.session();
  setState({ session });
  if ((session.problems?.length ?? 0) > before) notifyProblems(session.problems);
}

export function closeGraph() {
  setState({ ...EMPTY, prune: 1, showErrors: true });
  writeAddress("push");
}

// --- the library ---------------------------------------------------------------------------------------------------

export async function renameGraph(slug, title) {
  await inLibrary(async () => {
    await source.rename(slug, title.trim().slice(0, 200));
  });
}

export async function removeGraph(slug) {
  const { session, graph } = getState();
  const entry = session?.graphs.find((g) => g.slug === slug);
  const removed = await inLibrary(() => source.remove(slug));
  if (!removed) return;
  if (graph?.slug === slug) closeGraph();
  const restore = () => inLibrary(() => source.restore(slug));
  notify(`Deleted “${entry?.title || entry?.prompt || slug}”.`, "info", { name: "Undo", run: restore });
}

async function inLibrary(act) {
  try {
    await act();
    await refreshSession();
    tell({ library: true });
    return true;
  } catch (error) {
    notify(/** @type {Error} */ (error).message, "error");
    return false;
  }
}

// --- files out -----------------------------------------------------------------------------------------------------

/** The graph's file with the pins, supernodes and labels as they stand now. */
export function graphFile() {
  const { graph, pins, supernodes, labels } = getState();
  const nodes = graph.json.nodes.map((raw, i) => {
    const label = labels[String(featureKey(graph.nodes[i]))];
    return label ? { ...raw, clerp: label } : raw;
  });
  const groups = supernodes.map((g) => [g.label, ...g.members]);
  const { score_curve, edge_influence, influence_share, named_by_rule, suggested, outcomes,
    ...file } = graph.json; // what the server adds is not the file's
  return { ...file, nodes, qParams: { ...file.qParams, pinnedIds: pins, supernodes: groups } };
}

export function downloadGraph() {
  const blob = new Blob([JSON.stringify(graphFile())], { type: "application/json" });
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = `${getState().graph?.slug || "graph"}.json`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}
