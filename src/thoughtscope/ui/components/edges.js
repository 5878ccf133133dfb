// @ts-check
// Edges on a canvas: thousands of curves stay fast. Hue tells the sign, width grows with the root of the strength.
import { html } from "../html.js";
import { useLayoutEffect, useRef } from "../vendor/hooks.mjs";
import { themeColour } from "../colour.js";

const PER_NODE = 160;

/** The edges of the resting picture: those with most influence on the answers among the nodes on show. */
export function restingLinks(graph, shown, most) {
  const links = [];
  for (const link of graph.ranked) {
    if (links.length >= most) break;
    if (shown.has(link.source.id) && shown.has(link.target.id)) links.push(link);
  }
  return links;
}

export function focusLinks(graph, members, shown) {
  const first = (list) => list.slice(0, PER_NODE);
  const links = members.flatMap((node) => [...first(graph.inputs.get(node.id)), ...first(graph.outputs.get(node.id))]);
  return links.filter((link) => shown.has(link.source.id) && shown.has(link.target.id));
}

export function EdgeCanvas({ layout, jobs, theme, name }) {
  const canvas = useRef();
  useLayoutEffect(() => {
    const scale = Math.min(3, window.devicePixelRatio || 1);
    const element = canvas.current;
    element.width = Math.round(layout.width * scale);
    element.height = Math.round(layout.height * scale);
    const context = element.getContext("2d");
    context.scale(scale, scale);
    context.beginPath();
    const { plot, outputs, names } = layout;
    context.rect(plot.left, outputs.y, plot.right - plot.left + 8, names.y - outputs.y);
    context.clip();
    const colours = { raise: themeColour("--raise"), lower: themeColour("--lower") };
    for (const job of jobs) drawLinks(context, layout, job, colours);
  }, [layout, jobs, theme]);
  return html`<canvas ref=${canvas} class=${name} aria-hidden="true"
    style=${{ width: `${layout.width}px`, height: `${layout.height}px` }}></canvas>`;
}

/** Each link at the strength that the job gives it, the weakest first so that the strong ones lie on top. */
function drawLinks(context, layout, { links, faint, widest, strength }, colours) {
  const size = strength ?? ((link) => Math.abs(link.weight));
  const most = links.reduce((sofar, link) => Math.max(sofar, size(link)), 0) || 1;
  for (let i = links.length - 1; i >= 0; i -= 1) {
    const link = links[i];
    const from = layout.places.get(link.source.id);
    const to = layout.places.get(link.target.id);
    if (!from || !to) continue;
    const share = Math.sqrt(size(link) / most);
    context.globalAlpha = faint * (0.14 + 0.86 * share * share);
    context.lineWidth = 0.4 + widest * share;
    context.strokeStyle = link.weight < 0 ? colours.lower : colours.raise;
    const [y1, y2] = [from.y - from.r, to.y + to.r];
    const bend = (y1 - y2) * 0.5;
    context.beginPath();
    context.moveTo(from.x, y1);
    context.bezierCurveTo(from.x, y1 - bend, to.x, y2 + bend, to.x, y2);
    context.stroke();
  }
}
