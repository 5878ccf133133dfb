// @ts-check
// What the header of every page of the server has: the mark, the way to the other page, the theme.
import { html } from "../html.js";
import { setTheme } from "../actions/theme.js";
import { useStore } from "../store.js";

const PAGES = [{ name: "graph", address: "./", title: "Trace a prompt: which features lead to the answer" },
  { name: "chat", address: "chat", title: "Talk to the model with its features in hand" },
  { name: "atlas", address: "atlas", title: "Every feature of the dictionary: search, map, examples" }];

/** The pages of the server, the one that is `here` marked. */
export function Pages({ here }) {
  return html`<nav class="pages" aria-label="Pages">${PAGES.map(({ name, address, title }) => html`<a key=${name}
    href=${address} title=${title} aria-current=${name === here ? "page" : null}>${name}</a>`)}</nav>`;
}

/** Light, dark, or as the system has it. `onChange` hears of it afterwards. */
export function ThemeButton({ onChange }) {
  const theme = useStore((s) => s.theme);
  const turn = () => {
    setTheme(nextTheme(theme));
    onChange();
  };
  return html`<button class="icon" onClick=${turn} aria-label=${`Theme: ${theme}. Change it.`}
    title=${`Theme: ${theme}`}>${themeGlyph(theme)}</button>`;
}

/** The sign of the project. */
export function Mark() {
  return html`<svg width="20" height="20" viewBox="-10 -10 20 20" aria-hidden="true">
    <circle r="6.5" fill="none" stroke="currentColor" stroke-width="1.4"/>
    <path d="M0-9.5V-4M0 9.5V4M-9.5 0H-4M9.5 0H4" stroke="currentColor" stroke-width="1.4"/>
    <circle class="accent-dot" r="1.8"/></svg>`;
}

function nextTheme(theme) {
  return { auto: "light", light: "dark", dark: "auto" }[theme] ?? "auto";
}

function themeGlyph(theme) {
  const fill = { auto: html`<path d="M0-6A6 6 0 0 1 0 6Z" fill="currentColor"/>`,
    dark: html`<circle r="6" fill="currentColor"/>` }[theme] ?? null;
  return html`<svg width="16" height="16" viewBox="-8 -8 16 16" aria-hidden="true">
    <circle r="6" fill="none" stroke="currentColor" stroke-width="1.4"/>${fill}</svg>`;
}
