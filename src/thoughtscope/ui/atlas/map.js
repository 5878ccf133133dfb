// @ts-check
// The map: every feature a point, next to those that write alike. Drag to move, turn the wheel to come nearer.
import { html } from "../html.js";
import { useEffect, useMemo, useRef, useState } from "../vendor/hooks.mjs";
import { themeColour } from "../colour.js";
import { Choice } from "../components/choice.js";
import { clip, plainText } from "../text.js";
import { subscribe, useParts } from "../store.js";
import { choices, clusterNames, coloursOf } from "./colours.js";
import { discOf, drawPoints, mixed, nearestTo, pixelOf, project } from "./drawing.js";
import { idOf, labelOf } from "./index.js";
import { openFeature } from "./opening.js";
import { getAtlas, setAtlas } from "./state.js";

const NAMES = 26; // names of clusters that are shown at once
const DARK = matchMedia("(prefers-color-scheme: dark)");
const FOUND = 2.8; // pixels that the point of a feature that was found is wide from its middle, at least
const REACH = 9; // pixels from a point at which the pointer means it

export function FeatureMap() {
  const { index, colour, found, theme } = useParts("index", "colour", "found", "theme");
  const holder = useRef(null);
  const scene = useRef(/** @type {any} */ (null));
  const names = useMemo(() => (index.cluster ? clusterNames(index, (i) => labelOf(index, {}, i)) : []), [index]);
  const [order, others] = useMemo(() => drawingOrder(index, found), [index, found]);
  useEffect(() => {
    scene.current = sceneOf(holder.current);
    const watch = new ResizeObserver(() => scene.current.draw());
    watch.observe(/** @type {any} */ (holder.current));
    // Not by an effect of what changed, which would come a frame later: a map that is dragged keeps up with the hand.
    const leave = subscribe(() => scene.current.follow());
    return () => { watch.disconnect(); leave(); };
  }, []);
  const [dark, setDark] = useState(DARK.matches);
  useEffect(() => {
    const turned = () => setDark(DARK.matches);
    DARK.addEventListener("change", turned);
    return () => DARK.removeEventListener("change", turned);
  }, []);
  useEffect(() => {
    const colours = faded(index, coloursOf(index, colour), found);
    Object.assign(scene.current, { index, names, order, others, colours });
    scene.current.draw();
  }, [index, names, order, colour, found, theme, dark]);
  return html`<section class="map panel" aria-label="Map of features">
    <div class="map-field" ref=${holder} ...${gestures(scene)}><canvas class="map-points" aria-hidden="true"></canvas>
      <canvas class="map-marks" aria-hidden="true"></canvas></div>
    <footer class="map-foot"><${Choice} label="Colours" lead="colour" options=${choices(index)} value=${colour}
        onChange=${(value) => setAtlas({ colour: value })} />
      <span class="spacer"></span>
      <button class="icon" onClick=${() => zoomed(1 / 1.6)} aria-label="Further away"
        title="Further away (-)">−</button>
      <button class="icon" onClick=${() => zoomed(1.6)} aria-label="Nearer" title="Nearer (+)">+</button>
      <button class="plain" onClick=${() => setAtlas({ place: { x: 0, y: 0, scale: 1 } })}
        title="Show the whole map (0)">All</button></footer>
  </section>`;
}

/** Features that were not found first, so that those that were lie on top; and how many those are. */
function drawingOrder(index, found) {
  const placed = Array.from({ length: index.n }, (_, i) => i).filter((i) => !Number.isNaN(index.place[2 * i]));
  if (!found) return [Uint32Array.from(placed), placed.length];
  const on = new Set(found.places);
  const others = placed.filter((i) => !on.has(i));
  return [Uint32Array.from([...others, ...placed.filter((i) => on.has(i))]), others.length];
}

/** What was not found pales. */
function faded(index, colours, found) {
  if (!found) return colours;
  const ground = pixelOf(themeColour("--surface"));
  const on = new Set(found.places);
  return colours.map((colour, i) => (on.has(i) ? colour : mixed(ground, colour, 0.22)));
}

/** The two canvases and what to draw on them; at most one drawing a frame. */
function sceneOf(holder) {
  const [points, marks] = holder.querySelectorAll("canvas");
  const image = { width: 0, height: 0, pixels: new Uint32Array(0), data: /** @type {any} */ (null) };
  const scene = { index: /** @type {any} */ (null), frame: 0, drawn: 0, to: /** @type {any} */ (null),
    seen: /** @type {any[]} */ ([]), draw: () => { scene.frame ||= requestAnimationFrame(paintNow); },
    follow: () => {
      const { place, feature, pointed, people } = getAtlas();
      const now = [place, feature, pointed, people];
      if (now.every((part, i) => part === scene.seen[i])) return;
      scene.seen = now;
      scene.draw();
    } };
  const paintNow = () => {
    scene.frame = 0;
    const ratio = Math.min(2, devicePixelRatio || 1);
    const [width, height] = [Math.round(holder.clientWidth * ratio), Math.round(holder.clientHeight * ratio)];
    if (!scene.index?.place || !width || !height) return;
    if (image.width !== width || image.height !== height) sized(image, points, marks, width, height);
    scene.to = { ...project(scene.index.box, getAtlas().place, width, height), ratio };
    paint(image, points, /** @type {any} */ (scene));
    mark(marks, /** @type {any} */ (scene), ratio);
    scene.drawn += 1;
    holder.dataset.drawn = String(scene.drawn);
  };
  return scene;
}

function sized(image, points, marks, width, height) {
  for (const canvas of [points, marks]) Object.assign(canvas, { width, height });
  const data = new ImageData(width, height);
  Object.assign(image, { width, height, data, pixels: new Uint32Array(data.data.buffer) });
}

function paint(image, canvas, scene) {
  const { index, order, others, colours, to } = scene;
  image.pixels.fill(0xff000000 | pixelOf(themeColour("--surface")));
  const crowd = Math.min(2.4, Math.max(1.1, 2.2 * Math.sqrt(4000 / Math.max(1, order.length))));
  const radius = Math.min(5, crowd * getAtlas().place.scale ** 0.35) * to.ratio;
  drawPoints(image, index.place, order.subarray(0, others), colours, to, discOf(radius));
  drawPoints(image, index.place, order.subarray(others), colours, to, discOf(Math.max(radius, FOUND * to.ratio)));
  canvas.getContext("2d").putImageData(image.data, 0, 0);
}

/** Names of clusters, the open feature, and the one under the pointer. */
function mark(canvas, scene, ratio) {
  const context = canvas.getContext("2d");
  context.clearRect(0, 0, canvas.width, canvas.height);
  const { index, names, to } = scene;
  const { feature, pointed, people } = getAtlas();
  const at = (x, y) => [x * to.size + to.left, to.top - y * to.size];
  const taken = /** @type {number[][]} */ ([]);
  for (const one of [feature, pointed]) {
    if (one === null || Number.isNaN(index.place[2 * one])) continue;
    const [x, y] = at(index.place[2 * one], index.place[2 * one + 1]);
    context.beginPath();
    context.arc(x, y, 7 * ratio, 0, 2 * Math.PI);
    context.strokeStyle = themeColour(one === feature ? "--accent" : "--ink");
    context.lineWidth = (one === feature ? 2.2 : 1.4) * ratio;
    context.stroke();
    const text = clip(plainText(labelOf(index, people, one) || idOf(index, one)), 36);
    write(context, text, x, y - 15 * ratio, taken, ratio, `600 ${12 * ratio}px`, "--ink");
  }
  if (getAtlas().found) return; // what was found speaks for itself
  let shown = 0;
  for (const { x, y, name } of names) {
    if (shown >= NAMES) break;
    const [left, top] = at(x, y);
    if (left < 0 || top < 0 || left > canvas.width || top > canvas.height) continue;
    shown += Number(write(context, clip(plainText(name), 22), left, top, taken, ratio, `${11 * ratio}px`, "--ink"));
  }
}

/** Writes a text in the middle of a place, unless another one stands there; whether it did. */
function write(context, text, x, y, taken, ratio, font, colour) {
  context.font = `${font} ${themeColour("--sans")}`;
  const [half, high] = [context.measureText(text).width / 2 + 3 * ratio, 8 * ratio];
  const box = [x - half, y - high, x + half, y + high];
  const hits = (other) => box[0] < other[2] && box[2] > other[0] && box[1] < other[3] && box[3] > other[1];
  if (taken.some(hits)) return false;
  taken.push(box);
  context.textAlign = "center";
  context.textBaseline = "middle";
  context.lineJoin = "round";
  context.lineWidth = 3.5 * ratio;
  context.strokeStyle = themeColour("--surface");
  context.strokeText(text, x, y);
  context.fillStyle = themeColour(colour);
  context.fillText(text, x, y);
  return true;
}

// --- gestures -----------------------------------------------------------------------------------------------------

/** Comes nearer by a factor, with what is in the middle, or at a pixel's offset from it, staying where it is. */
export function zoomed(factor, across = 0, down = 0) {
  const { place } = getAtlas();
  const scale = Math.min(400, Math.max(0.6, place.scale * factor));
  const shift = (1 / place.scale - 1 / scale) / 0.94;
  setAtlas({ place: { x: place.x + across * shift, y: place.y - down * shift, scale } });
}

function gestures(scene) {
  const from = { at: /** @type {number[] | null} */ (null), moved: false };
  const under = (event) => {
    const { index, order, to } = scene.current;
    const box = event.currentTarget.getBoundingClientRect();
    if (!to) return null;
    const [x, y] = [(event.clientX - box.left) * to.ratio, (event.clientY - box.top) * to.ratio];
    return nearestTo(index.place, order, to, x, y, REACH * to.ratio);
  };
  return {
    onPointerDown: (event) => {
      Object.assign(from, { at: [event.clientX, event.clientY], moved: false });
      event.currentTarget.setPointerCapture?.(event.pointerId);
    },
    onPointerMove: (event) => {
      if (!from.at) {
        const pointed = under(event);
        if (pointed !== getAtlas().pointed) setAtlas({ pointed });
        event.currentTarget.style.cursor = pointed === null ? "" : "pointer";
        return;
      }
      const [across, down] = [event.clientX - from.at[0], event.clientY - from.at[1]];
      if (!from.moved && Math.hypot(across, down) < 3) return;
      Object.assign(from, { at: [event.clientX, event.clientY], moved: true });
      panned(event.currentTarget, across, down);
    },
    onPointerUp: (event) => {
      const chosen = from.at && !from.moved ? under(event) : null;
      from.at = null;
      if (chosen !== null) openFeature(chosen);
    },
    onPointerCancel: () => { from.at = null; },
    onPointerLeave: () => { if (!from.at) setAtlas({ pointed: null }); },
    onWheel: (event) => {
      event.preventDefault();
      const box = event.currentTarget.getBoundingClientRect();
      const side = Math.min(box.width, box.height);
      zoomed(Math.exp(-event.deltaY / 400), (event.clientX - box.left - box.width / 2) / side,
        (event.clientY - box.top - box.height / 2) / side);
    },
  };
}

function panned(field, across, down) {
  const { place } = getAtlas();
  const side = Math.min(field.clientWidth, field.clientHeight) * 0.94 * place.scale;
  setAtlas({ place: { ...place, x: place.x - across / side, y: place.y + down / side } });
}
