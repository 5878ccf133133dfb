// @ts-check
// A page of its own: every feature of a dictionary, to be searched, seen on a map, and looked at one by one.
import { html } from "./html.js";
import { render } from "./vendor/preact.mjs";
import { useLayoutEffect } from "./vendor/hooks.mjs";
import { notify } from "./actions/notice.js";
import { canTrace, canWrite, source } from "./actions/source.js";
import { savedTheme } from "./actions/theme.js";
import { readAddress, writeAddress } from "./atlas/address.js";
import { Feature } from "./atlas/feature.js";
import { readIndex } from "./atlas/index.js";
import { FeatureList, stepped } from "./atlas/list.js";
import { FeatureMap, zoomed } from "./atlas/map.js";
import { openFeature } from "./atlas/opening.js";
import { forget, piece } from "./atlas/pieces.js";
import { Search, runSearch } from "./atlas/search.js";
import { getAtlas, resetAtlas, setAtlas } from "./atlas/state.js";
import { textOf } from "./atlas/details.js";
import { Notice } from "./components/notice.js";
import { Mark, Pages, ThemeButton } from "./components/pages.js";
import { Splitter } from "./components/splitter.js";
import { setState, subscribe, useParts } from "./store.js";
import { plainText } from "./text.js";
import { Login } from "./views/login.js";

function App() {
  const { index, fatal, locked, theme, mapping } = useParts("index", "fatal", "locked", "theme", "mapping");
  useLayoutEffect(() => { document.documentElement.dataset.theme = theme; }, [theme]); // before the map is coloured
  if (fatal) return html`<${Alone}><h1>The page cannot start</h1><p class="lead" role="alert">${fatal}</p><//>`;
  if (locked) return html`<${Alone}><${Login} start=${start} /><//>`;
  if (!index) return html`<${Alone}><p class="quiet" role="status">Reading the features…</p><//>`;
  return html`<div class="atlas-app"><${Header} index=${index} />
    <main class=${index.place || mapping ? "atlas-work" : "atlas-work bare"}><${FeatureList} />
      ${index.place && html`<${FeatureMap} />`}
      ${!index.place && mapping && html`<section class="map panel"><p class="quiet pad" role="status">Making
        the map, this once. The list can be used meanwhile.</p></section>`}
      <${Splitter} name="atlas-width" label="Width of the feature" axis="x" panel=".atlas-feature" least=${320} />
      <${Feature} /></main><${Notice} /></div>`;
}

function Alone({ children }) {
  return html`<main class="start alone"><div class="start-column">${children}</div></main>`;
}

function Header({ index }) {
  return html`<header class="bar top">${canWrite() ? html`<a class="brand" href="./"
      title="thoughtscope: the graphs"><${Mark} /><span>thoughtscope</span></a><${Pages} here="atlas" />`
    : html`<span class="brand"><${Mark} /><span>thoughtscope</span></span>`}
    <${Search} /><p class="loaded"><b>${plainText(index.name)}</b> <span>${plainText(index.kind)}</span></p>
    <button class="plain" onClick=${share} title="Copy an address of what you see">Share</button>
    <${ThemeButton} onChange=${writeAddress} /></header>`;
}

async function share() {
  try {
    await navigator.clipboard.writeText(location.href);
    notify("The address of what you see is copied.");
  } catch {
    notify("The address bar holds what you see; copy it from there.");
  }
}

async function start() {
  try {
    const session = await source.session();
    setState({ session, theme: savedTheme() });
    const json = await piece("index");
    const index = readIndex(json);
    setAtlas({ index, people: json.people, locked: false });
    await follow();
    await textOf(index);
    setAtlas({ index: { ...index } }); // peaks can be named now
    if (!index.place && canWrite()) await awaitMap();
  } catch (error) {
    const { code, message } = /** @type {any} */ (error);
    setState(code === "token_needed" ? { locked: true, theme: savedTheme() } : { fatal: message });
  }
}

/** The server makes the map the first time that somebody wants it; all else can be used meanwhile. */
async function awaitMap() {
  try {
    setAtlas({ mapping: true });
    await piece("map");
    forget();
    const { index } = getAtlas();
    const fresh = readIndex(await piece("index"));
    setAtlas({ index: { ...fresh, scanned: index?.scanned ?? null } });
  } catch (error) {
    notify(`There is no map: ${/** @type {Error} */ (error).message}`, "error");
  } finally {
    setAtlas({ mapping: false });
  }
}

/** Goes where the address says. */
async function follow() {
  const { index } = getAtlas();
  if (!index) return;
  const { theme, ...rest } = readAddress(location.hash, index);
  const live = ["sentence", "effect"].includes(rest.find.mode);
  if (theme) setState({ theme });
  setAtlas({ ...rest, find: live && !canTrace() ? { ...rest.find, mode: "words" } : rest.find });
  if (rest.find.text || rest.find.mode === "near") await runSearch();
}

function onKey(event) {
  const state = getAtlas();
  if (!state.index || event.altKey || event.ctrlKey || event.metaKey) return;
  const typing = event.target.closest?.("input:not([type=range]), select, textarea");
  if (event.key === "Escape") return act(event, () => escape(event.target, typing));
  if (typing || event.target.closest?.("[type=range], [role=radiogroup], [role=separator]")) return;
  const step = { j: 1, ArrowDown: 1, k: -1, ArrowUp: -1 }[event.key];
  const does = step ? () => openFeature(stepped(state, step), { follow: true }) : {
    "/": () => /** @type {HTMLInputElement} */ (document.getElementById("search")).select(),
    "+": () => zoomed(1.6), "=": () => zoomed(1.6), "-": () => zoomed(1 / 1.6),
    0: () => setAtlas({ place: { x: 0, y: 0, scale: 1 } }),
  }[event.key];
  if (does) act(event, does);
}

function act(event, does) {
  event.preventDefault();
  does();
}

/** Escape takes back one thing at a time: the field, the feature, the search. */
function escape(target, typing) {
  const { feature, found } = getAtlas();
  if (typing) return target.blur();
  if (feature !== null) return openFeature(null);
  if (found) setAtlas({ found: null, find: { ...getAtlas().find, text: "" } });
}

resetAtlas();
render(html`<${App} />`, /** @type {any} */ (document.getElementById("app")));
document.addEventListener("keydown", onKey);
window.addEventListener("hashchange", follow);
subscribe(writeAddress);
start();
