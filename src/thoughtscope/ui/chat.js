// @ts-check
// A page of its own: talk to the model, see its features on every token, turn them, and read both answers.
import { html } from "./html.js";
import { render } from "./vendor/preact.mjs";
import { useEffect } from "./vendor/hooks.mjs";
import { notify } from "./actions/notice.js";
import { source } from "./actions/source.js";
import { savedTheme } from "./actions/theme.js";
import { readAddress, writeAddress } from "./chat/address.js";
import { Composer } from "./chat/composer.js";
import { meet } from "./chat/features.js";
import { Panel } from "./chat/panel.js";
import { getChat, resetChat, setChat } from "./chat/state.js";
import { SpokenToken, Talk } from "./chat/talk.js";
import { BLANK, answerLast, read, stop } from "./chat/talking.js";
import { Notice } from "./components/notice.js";
import { Mark, Pages, ThemeButton } from "./components/pages.js";
import { Splitter } from "./components/splitter.js";
import { setState, useParts } from "./store.js";
import { plainText } from "./text.js";
import { Login } from "./views/login.js";

function App() {
  const { session, fatal, locked, theme } = useParts("session", "fatal", "locked", "theme");
  useEffect(() => { document.documentElement.dataset.theme = theme; }, [theme]);
  if (fatal) return html`<${Alone}><h1>The page cannot start</h1><p class="lead" role="alert">${fatal}</p><//>`;
  if (locked) return html`<${Alone}><${Login} start=${start} /><//>`;
  if (!session) return html`<${Alone}><p class="quiet" role="status">Waiting for the model to load…</p><//>`;
  if (!session.model) {
    return html`<${Alone}><h1>There is no model to talk to</h1><p class="lead">This server shows graph files only. Start
      it with <code>thoughtscope chat --page</code>, or go to <a href="./">the graphs</a>.</p><//>`;
  }
  return html`<div class="chat-app"><${Header} session=${session} />
    <main class="chat-work"><div class="chat-column"><${Talk} /><${Composer} /></div>
      <${Splitter} name="features-width" label="Width of the features" axis="x" panel=".chat-panel" least=${280} />
      <${Panel} /></main><${Notice} /><${SpokenToken} /></div>`;
}

function Alone({ children }) {
  return html`<main class="start alone"><div class="start-column">${children}</div></main>`;
}

function Header({ session }) {
  const { model, dictionary } = session;
  return html`<header class="bar top"><a class="brand" href="./" title="thoughtscope: the graphs"><${Mark} />
      <span>thoughtscope</span></a><${Pages} here="chat" />
    <p class="loaded"><b>${plainText(model.name)}</b> <span>${plainText(dictionary?.name)}</span></p>
    <button class="plain" onClick=${share} title="An address with the conversation in it">Share</button>
    <${ThemeButton} onChange=${() => writeAddress()} /></header>`;
}

/** Puts the conversation into the address, and the address where it can be pasted. */
async function share() {
  const fits = writeAddress({ withTalk: true });
  const what = fits ? "The address holds this conversation"
    : "The conversation is too long for an address, which holds what is turned";
  try {
    await navigator.clipboard.writeText(location.href);
    notify(`${what}, and is copied.`);
  } catch {
    notify(`${what}. Copy it from the browser’s address bar.`);
  }
}

async function start() {
  try {
    const session = await source.session();
    setState({ session, theme: savedTheme() });
    if (!session.model) return;
    followAddress();
  } catch (error) {
    const { code, message } = /** @type {any} */ (error);
    setState(code === "token_needed" ? { locked: true, theme: savedTheme() } : { fatal: message });
  }
}

async function followAddress() {
  const { theme, said, ...rest } = readAddress(location.hash);
  if (theme) setState({ theme });
  const shared = (text, turned) => (text ? { ...BLANK, text, ended: true, turned } : null);
  const exchanges = said.map(([user, plain, turned]) => ({ user, plain: shared(plain, []),
    turned: shared(turned, rest.turned) }));
  setChat({ ...rest, ...(said.length ? { exchanges } : {}) });
  await meet(rest.turned.map(({ id }) => id));
  for (const exchange of said.keys()) {
    await read({ exchange, side: "plain" });
    await read({ exchange, side: "turned" });
  }
  if (exchanges.length && !exchanges.at(-1)?.plain) await answerLast(); // a message without an answer asks for one
}

function onKey(event) {
  if (event.key !== "Escape") return;
  const { talking, editing, token } = getChat();
  if (talking) stop();
  else if (editing) setChat({ editing: false, draft: "" });
  else if (token) setChat({ token: null, pointed: null });
}

resetChat();
render(html`<${App} />`, /** @type {any} */ (document.getElementById("app")));
document.addEventListener("keydown", onKey);
window.addEventListener("hashchange", followAddress);
start();
