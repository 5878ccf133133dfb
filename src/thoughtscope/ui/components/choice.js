// @ts-check
// One of a few: a radio group of buttons. The arrow keys choose within it, Tab passes it as one stop.
import { html } from "../html.js";
import { useRef } from "../vendor/hooks.mjs";

const STEPS = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 };

/** @param {{ label: string, options: { value: string, name: string, title?: string }[], value: string,
 *   onChange: (value: string) => void, title?: string, lead?: string }} props */
export function Choice({ label, options, value, onChange, title, lead }) {
  const group = useRef();
  const onKeyDown = (event) => {
    const step = STEPS[event.key];
    if (!step) return;
    event.preventDefault();
    event.stopPropagation();
    const at = options.findIndex((option) => option.value === value);
    const next = (at + step + options.length) % options.length;
    onChange(options[next].value);
    group.current.querySelectorAll("[role=radio]")[next].focus();
  };
  return html`<span class="choice" role="radiogroup" aria-label=${label} title=${title} ref=${group}
    onKeyDown=${onKeyDown}>
    ${lead && html`<span>${lead}</span>`}
    ${options.map((option) => html`<button key=${option.value} type="button" role="radio" title=${option.title}
      aria-checked=${option.value === value ? "true" : "false"} tabindex=${option.value === value ? 0 : -1}
      onClick=${() => onChange(option.value)}>${option.name}</button>`)}
  </span>`;
}
