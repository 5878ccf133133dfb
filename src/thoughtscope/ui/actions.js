// Everything a person can do: each action changes the state, keeps the address in step and can be undone where it edits.
import { openSource } from "./api.js";
import { buildGraph, featureKey } from "./model.js";
import { getState, setState } from "./store.js";
import { tokenText } from "./text.js";
import { readHash, writeHash } from "./url.js";

export const source = openSource();
export const canWrite = () => source.kind === "server" && !getState().session?.read_only;
export const canTrace = () => canWrite() && Boolean(getState().session?.model);

const features = new Map(); // "layer/index" -> promise of the detail
let undone = [];
let done = [];
let opening = 0;

// --- starting and the address --------------------------------------------------------------------------------------

export async function start() {
  try {
    const session = await source.session();
    setState({ session, theme: savedTheme() });
    window.addEventListener("popstate", followAddress);
    await followAddress();
  } catch (error) {
    setState({ fatal: error.message });
  }
}

async function followAddress() {
  const view = readHash(location.hash);
  const { graph, session } = getState();
  if (view.theme) setState({ theme: view.theme });
  const slug = source.kind === "report" ? session.graphs[0].slug : view.slug;
  if (!slug) return setState({ graph: null, selected: null, hovered: null, outcomes: [] });
  if (graph?.slug !== slug) return openGraph(slug, view, "none");
  return setState({ ...knownView(graph, view), hovered: null });
}

/** The part of an address that fits this graph; what the address leaves open comes from the file. */
function knownView(graph, view) {
  const known = (ids) => [...new Set(ids)].filter((id) => graph.byId.has(id));
  const query = graph.json.qParams ?? {};
  const filed = Array.isArray(query.supernodes) ? query.supernodes : [];
  const groups = view.supernodes ?? filed.filter(Array.isArray).map(([label, ...members]) => ({ label: String(label), members }));
  const supernodes = uniqueNames(groups.map((g) => ({ label: g.label, members: known(g.members.map(String)) })).filter((g) => g.members.length));
  const pins = known(view.pins ?? (Array.isArray(query.pinnedIds) ? query.pinnedIds.map(String) : []));
  const named = view.selected?.startsWith("group:") && supernodes.some((g) => `group:${g.label}` === view.selected);
  return {
    pins, supernodes, prune: view.prune, showErrors: view.showErrors,
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

function writeAddress(how) {
  if (how === "none") return;
  const state = getState();
  const fromAddress = readHash(location.hash).theme;
  const filed = state.graph?.json.qParams;
  const hash = writeHash({
    ...state, slug: state.graph?.slug, theme: fromAddress ? state.theme : null,
    bare: !filed?.pinnedIds?.length && !filed?.supernodes?.length, // then an empty circuit need not be said
  });
  if (hash === (location.hash || "#")) return;
  history[how === "push" ? "pushState" : "replaceState"](null, "", hash);
}

/** Changes the view, the address, and (for edits) the list of what can be undone. */
function change(patch, { how = "push", undo = false } = {}) {
  if (undo) {
    const { pins, supernodes, prune, showErrors } = getState();
    remember({ view: { pins, supernodes, prune, showErrors } });
  }
  setState(patch);
  writeAddress(how);
  if ("pins" in patch || "supernodes" in patch) saveSoon();
}

// --- graphs --------------------------------------------------------------------------------------------------------

export async function openGraph(slug, view = readHash(""), how = "push") {
  const ticket = (opening += 1);
  setState({ loading: true });
  try {
    const graph = buildGraph(await source.graph(slug));
    if (ticket !== opening) return;
    graph.slug = slug ?? graph.slug;
    done = [];
    undone = [];
    setState({
      graph, loading: false, marked: [], query: "", undoable: 0, redoable: 0, hovered: null, labels: {}, traceError: null,
      outcomes: source.outcomes ?? [], outcomeShown: 0, ...knownView(graph, view),
    });
    writeAddress(how === "none" ? "replace" : how);
  } catch (error) {
    if (ticket === opening) setState({ loading: false });
    notify(error.message, "error");
  }
}

export async function tracePrompt(prompt) {
  if (!prompt.trim() || getState().trace) return;
  setState({ trace: { prompt, stage: "Starting", done: 0, total: 0 }, traceError: null });
  try {
    const slug = await source.trace({ prompt }, (progress) => setState({ trace: { prompt, ...progress } }));
    setState({ trace: null });
    await Promise.all([openGraph(slug), refreshSession()]);
  } catch (error) {
    setState({ trace: null, traceError: error.message });
  }
}

export async function openFile(file) {
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
  } catch (error) {
    notify(error.message, "error");
  }
}

async function refreshSession() {
  setState({ session: await source.session() });
}

export function closeGraph() {
  setState({ graph: null, selected: null, hovered: null, pins: [], supernodes: [], prune: 1, showErrors: true, outcomes: [] });
  writeAddress("push");
}

/** The graph's file with the pins, supernodes and labels as they stand now. */
export function graphFile() {
  const { graph, pins, supernodes, labels } = getState();
  const nodes = graph.json.nodes.map((raw) => {
    const label = labels[featureKey(graph.byId.get(String(raw.node_id)))];
    return label ? { ...raw, clerp: label } : raw;
  });
  const qParams = { ...graph.json.qParams, pinnedIds: pins, supernodes: supernodes.map((g) => [g.label, ...g.members]) };
  return { ...graph.json, nodes, qParams };
}

export function downloadGraph() {
  const blob = new Blob([JSON.stringify(graphFile())], { type: "application/json" });
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = `${getState().graph.slug || "graph"}.json`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

// --- looking -------------------------------------------------------------------------------------------------------

export function select(id) {
  if (id === getState().selected) return;
  change({ selected: id });
}

export function hover(id, by = "pointer") {
  const { hovered } = getState();
  if ((hovered?.id ?? null) === id && (hovered === null || hovered.by === by)) return;
  setState({ hovered: id === null ? null : { id, by } });
}

export function setPrune(prune) {
  change({ prune }, { how: "replace" });
}

export function setShowErrors(showErrors) {
  change({ showErrors }, { undo: true });
}

/** Called when the slider is let go, so that one drag is one step to undo. */
export function prunedFrom(before) {
  const { pins, supernodes, showErrors, prune } = getState();
  if (before !== prune) remember({ view: { pins, supernodes, showErrors, prune: before } });
}

// --- pins and supernodes -------------------------------------------------------------------------------------------

export function togglePin(id) {
  const { pins, graph } = getState();
  if (!graph?.byId.has(id)) return;
  change({ pins: pins.includes(id) ? pins.filter((pin) => pin !== id) : [...pins, id] }, { undo: true });
}

export function toggleMark(id) {
  const { marked, graph } = getState();
  if (!graph?.byId.has(id)) return;
  setState({ marked: marked.includes(id) ? marked.filter((mark) => mark !== id) : [...marked, id] });
}

/** The nodes that "group" would take: the marked ones, or else the pinned ones that are in no supernode yet. */
export function groupable() {
  const { marked, pins, supernodes, graph } = getState();
  const inside = new Set(supernodes.flatMap((group) => group.members));
  const free = pins.filter((id) => !inside.has(id) && ["feature", "error"].includes(graph?.byId.get(id)?.kind));
  return marked.length ? marked : free;
}

export function group(label) {
  const name = label.trim().slice(0, 200);
  const members = groupable();
  if (!name || !members.length) return;
  const { supernodes, pins } = getState();
  const rest = without(supernodes, members);
  const old = rest.find((g) => g.label === name);
  const next = old
    ? rest.map((g) => (g === old ? { label: name, members: [...g.members, ...members] } : g))
    : [...rest, { label: name, members }];
  change({ supernodes: next, pins: [...new Set([...pins, ...members])], selected: `group:${name}` }, { undo: true });
  setState({ marked: [], dialog: null });
}

/** A first thing to change: the features at the token where they hold most of the influence, the last token only if
 * there are no others: changed there, the answer follows without saying anything about the way to it. */
export function suggestedGroup(graph) {
  const last = graph.tokens.length - 1;
  const places = new Map();
  for (const node of graph.nodes) {
    if (node.kind !== "feature") continue;
    const place = places.get(node.position) ?? { token: node.token, position: node.position, members: [], share: 0 };
    places.set(node.position, { ...place, members: [...place.members, node.id], share: place.share + node.share });
  }
  const late = (place) => Number(place.position === last);
  return [...places.values()].sort((a, b) => late(a) - late(b) || b.share - a.share)[0] ?? null;
}

/** Makes the suggestion a supernode, pins it between its token and the answer, and selects it. */
export function takeSuggestion() {
  const { graph } = getState();
  const { token, position, members } = suggestedGroup(graph);
  const label = `at ${token.trim() || tokenText(token)}`;
  const ends = graph.nodes.filter((node) => node.isTarget || (node.kind === "token" && node.position === position));
  change({ supernodes: [{ label, members }], pins: [...members, ...ends.map((node) => node.id)], selected: `group:${label}` },
    { undo: true });
}

function without(groups, members) {
  const gone = new Set(members);
  return groups.map((g) => ({ ...g, members: g.members.filter((id) => !gone.has(id)) })).filter((g) => g.members.length);
}

export function ungroup(label) {
  const { supernodes, selected } = getState();
  change({ supernodes: supernodes.filter((g) => g.label !== label), selected: selected === `group:${label}` ? null : selected }, { undo: true });
}

export function renameGroup(label, wanted) {
  const name = wanted.trim().slice(0, 200);
  const { supernodes, selected } = getState();
  if (!name || name === label) return;
  if (supernodes.some((g) => g.label === name)) return notify(`There is already a supernode named “${name}”.`, "error");
  const next = supernodes.map((g) => (g.label === label ? { ...g, label: name } : g));
  change({ supernodes: next, selected: selected === `group:${label}` ? `group:${name}` : selected }, { undo: true });
}

let saving = 0;
function saveSoon() {
  if (!canWrite()) return;
  clearTimeout(saving);
  const { graph, pins, supernodes } = getState();
  saving = setTimeout(() => {
    Promise.all([
      source.savePins(graph.slug, pins.slice(0, 200)),
      source.saveSupernodes(graph.slug, supernodes.map((g) => [g.label, ...g.members])),
    ]).catch((error) => notify(`Not saved: ${error.message}`, "error"));
  }, 400);
}

// --- labels and features -------------------------------------------------------------------------------------------

/** Whether the loaded dictionary is the one that this graph's features belong to. */
export function hasFeatures() {
  const { graph, session } = getState();
  if (source.kind === "report") return true;
  const name = graph?.ours?.dictionary?.name ?? graph?.ours?.dictionary;
  return Boolean(name) && name === session?.dictionary?.name;
}

export function featureDetail(node) {
  const key = featureKey(node);
  if (!features.has(key)) {
    const promise = source.feature(node.layer, node.index);
    promise.catch(() => features.delete(key));
    features.set(key, promise);
  }
  return features.get(key);
}

export async function editLabel(node, label, { undo = true } = {}) {
  const key = featureKey(node);
  const { labels } = getState();
  const before = labels[key] || node.clerp;
  const next = label.trim().slice(0, 200);
  if (key === null || next === before) return;
  if (undo) remember({ label: { node, text: before } });
  setState({ labels: { ...labels, [key]: next } });
  try {
    if (canWrite() && hasFeatures()) await source.saveLabel(node.layer, node.index, next);
    features.delete(key);
  } catch (error) {
    setState({ labels: { ...getState().labels, [key]: before } });
    notify(`The label was not saved: ${error.message}`, "error");
  }
}

// --- undo ----------------------------------------------------------------------------------------------------------

function remember(entry) {
  done.push(entry);
  undone = [];
  setState({ undoable: done.length, redoable: 0 });
}

export const undo = () => stepBack(done, undone);
export const redo = () => stepBack(undone, done);

function stepBack(from, to) {
  const entry = from.pop();
  if (!entry) return;
  const state = getState();
  if (entry.view) {
    to.push({ view: { pins: state.pins, supernodes: state.supernodes, prune: state.prune, showErrors: state.showErrors } });
    const gone = state.selected?.startsWith("group:") && !entry.view.supernodes.some((g) => `group:${g.label}` === state.selected);
    change({ ...entry.view, selected: gone ? null : state.selected });
  } else {
    const { node, text } = entry.label;
    to.push({ label: { node, text: state.labels[featureKey(node)] || node.clerp } });
    editLabel(node, text, { undo: false });
  }
  setState({ undoable: done.length, redoable: undone.length });
}

// --- interventions -------------------------------------------------------------------------------------------------

export async function runIntervention({ edits, attention, maxNewTokens, title }) {
  const { graph, running } = getState();
  if (running) return;
  setState({ running: true });
  try {
    const body = { slug: graph.slug, edits, attention, max_new_tokens: maxNewTokens };
    const outcome = await source.intervene(body);
    if (getState().graph === graph) setState({ outcomes: [{ ...outcome, title, attention }, ...getState().outcomes], outcomeShown: 0 });
  } catch (error) {
    notify(error.message, "error");
  } finally {
    setState({ running: false });
  }
}

// --- small things --------------------------------------------------------------------------------------------------

let noticeTimer = 0;
export function notify(text, kind = "info") {
  clearTimeout(noticeTimer);
  setState({ notice: { text, kind } });
  noticeTimer = setTimeout(() => setState({ notice: null }), kind === "error" ? 9000 : 4000);
}

function savedTheme() {
  try {
    return localStorage.getItem("thoughtscope-theme") ?? "auto";
  } catch {
    return "auto";
  }
}

export function setTheme(theme) {
  setState({ theme });
  try {
    localStorage.setItem("thoughtscope-theme", theme);
  } catch { /* a private window: the choice lasts for this page */ }
  writeAddress("replace");
}
