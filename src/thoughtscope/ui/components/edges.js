// Edges on a canvas: thousands of curves stay fast. Hue tells the sign, width grows with the root of the strength.
import { html } from "../html.js";
import { useLayoutEffect, useRef } from "../vendor/hooks.mjs";
import { themeColour } from "../colour.js";

const AT_REST = 300; // only the strongest edges are drawn when nothing is selected
const PER_NODE = 160;

/** The edges of the resting picture, and those of the selected or hovered nodes, as jobs for the canvas. */
export function edgeJobs(graph, shown, connections, members) {
  const inView = (node) => shown.has(node.id);
  const rest = [];
  for (const link of graph.links) {
    if (rest.length >= AT_REST) break;
    if (inView(link.source) && inView(link.target)) rest.push(link);
  }
  const focus = connections ? focusLinks(graph, members, inView) : [];
  return { rest, focus };
}

export function focusLinks(graph, members, inView) {
  const links = members.flatMap((node) => [...graph.inputs.get(node.id).slice(0, PER_NODE), ...graph.outputs.get(node.id).slice(0,
    PER_NODE)]);
  return links.filter((link) => inView(link.source) && inView(link.target));
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
    const colours = { raise: themeColour("--raise"), lower: themeColour("--lower") };
    for (const job of jobs) drawLinks(context, layout, job, colours);
  }, [layout, jobs, theme]);
  return html`<canvas ref=${canvas} class=${name} style=${{ width: `${layout.width}px`, height: `${layout.height}px` }}
    aria-hidden="true"></canvas>`;
}

function drawLinks(context, layout, { links, faint, widest }, colours) {
  const most = links.reduce((sofar, link) => Math.max(sofar, Math.abs(link.weight)), 0) || 1;
  for (let i = links.length - 1; i >= 0; i -= 1) {
    const link = links[i];
    const from = layout.places.get(link.source.id);
    const to = layout.places.get(link.target.id);
    if (!from || !to) continue;
    const strength = Math.sqrt(Math.abs(link.weight) / most);
    context.globalAlpha = faint * (0.1 + 0.9 * strength * strength);
    context.lineWidth = 0.35 + widest * strength;
    context.strokeStyle = link.weight < 0 ? colours.lower : colours.raise;
    const [y1, y2] = [from.y - from.r, to.y + to.r];
    const bend = (y1 - y2) * 0.5;
    context.beginPath();
    context.moveTo(from.x, y1);
    context.bezierCurveTo(from.x, y1 - bend, to.x, y2 + bend, to.x, y2);
    context.stroke();
  }
}
