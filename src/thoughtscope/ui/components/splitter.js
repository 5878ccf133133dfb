// @ts-check
// A bar between two panels that is dragged, or moved with the arrow keys, to share their room differently.
import { html } from "../html.js";
import { useLayoutEffect, useRef } from "../vendor/hooks.mjs";

const KEY = "thoughtscope-panels";

function saved() {
  try {
    return JSON.parse(localStorage.getItem(KEY) ?? "{}");
  } catch {
    return {};
  }
}

function setSize(name, size) {
  const root = document.documentElement;
  if (size === null) root.style.removeProperty(`--${name}`);
  else root.style.setProperty(`--${name}`, `${Math.round(size)}px`);
  const { [name]: _, ...others } = saved();
  try {
    localStorage.setItem(KEY, JSON.stringify(size === null ? others : { ...others, [name]: size }));
  } catch { /* a private window: the size lasts for this page */ }
}

/** Sizes the panel beside or below it, kept as the style sheet's variable `name`. A double click undoes that.
 * @param {{ name: string, label: string, axis: "x" | "y", panel: string, least: number }} props */
export function Splitter({ name, label, axis, panel, least }) {
  const from = useRef(null);
  const bar = useRef();
  const size = () => {
    const box = bar.current.parentElement.querySelector(panel).getBoundingClientRect();
    return axis === "x" ? box.width : box.height;
  };
  const most = () => (axis === "x" ? innerWidth * 0.7 : innerHeight * 0.7);
  const resize = (wanted) => setSize(name, Math.min(most(), Math.max(least, wanted)));
  useLayoutEffect(() => {
    const kept = saved()[name];
    if (Number.isFinite(kept)) document.documentElement.style.setProperty(`--${name}`, `${Math.min(most(), kept)}px`);
  }, []);
  const keys = (event) => {
    const grow = axis === "x" ? { ArrowLeft: 24, ArrowRight: -24 } : { ArrowUp: 24, ArrowDown: -24 };
    if (!(event.key in grow)) return;
    event.preventDefault();
    event.stopPropagation();
    resize(size() + grow[event.key]);
  };
  const at = (event) => (axis === "x" ? event.clientX : event.clientY);
  return html`<div class=${`splitter ${axis}`} ref=${bar} role="separator" tabindex="0" aria-label=${label}
    aria-orientation=${axis === "x" ? "vertical" : "horizontal"} title="Drag to resize; double click for the usual size"
    onKeyDown=${keys} onDblClick=${() => setSize(name, null)}
    onPointerDown=${(event) => {
      from.current = { at: at(event), size: size() };
      event.currentTarget.setPointerCapture(event.pointerId);
      event.preventDefault();
    }}
    onPointerMove=${(event) => { if (from.current) resize(from.current.size + from.current.at - at(event)); }}
    onPointerUp=${() => { from.current = null; }} onPointerCancel=${() => { from.current = null; }}></div>`;
}
