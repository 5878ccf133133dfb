// @ts-check
// Which nodes of the picture can carry their names: the most influential first, wherever a name meets nothing else.
import { byInfluence, givenLabel, nodeLabel } from "./model.js";
import { clip, plainText } from "./text.js";

const CELL = 5; // size of the squares in which room is counted
const LETTER = 5.9;
const HEIGHT = 13;
const LONGEST = 24;

/** Names by node id: { x, y, anchor, text }, relative to the node.
 * @param {Layout} layout @param {GraphNode[]} nodes */
export function placeNames(layout, nodes, labels, { always, most }) {
  const taken = new Taken(layout);
  for (const node of nodes) taken.takeNode(layout.places.get(node.id));
  const names = new Map();
  const features = nodes.filter((node) => node.kind === "feature");
  const order = features.sort((a, b) => Number(always.has(b.id)) - Number(always.has(a.id))
    || Number(Boolean(givenLabel(b, labels))) - Number(Boolean(givenLabel(a, labels))) || byInfluence(a, b));
  for (const node of order) {
    if (names.size >= most) break;
    const text = clip(plainText(nodeLabel(node, labels)), LONGEST);
    const name = taken.find(layout.places.get(node.id), width(text));
    if (name) names.set(node.id, { ...name, text });
  }
  return names;
}

/** Letters of other scripts are about twice as wide. */
function width(text) {
  return [...text].reduce((sum, c) => sum + ((c.codePointAt(0) ?? 0) > 0x2e80 ? 2 * LETTER : LETTER), 0);
}

/** The squares of the plot that a node or a name covers. */
class Taken {
  constructor(layout) {
    this.plot = layout.plot;
    this.across = Math.ceil((layout.plot.right - layout.plot.left) / CELL) + 1;
    this.squares = new Set();
  }

  * over(left, top, right, bottom) {
    const { plot } = this;
    for (let y = Math.floor((top - plot.top) / CELL); y <= Math.floor((bottom - plot.top) / CELL); y += 1) {
      for (let x = Math.floor((left - plot.left) / CELL); x <= Math.floor((right - plot.left) / CELL); x += 1) {
        yield y * this.across + x;
      }
    }
  }

  take(left, top, right, bottom) {
    for (const square of this.over(left, top, right, bottom)) this.squares.add(square);
  }

  takeNode({ x, y, r }) {
    this.take(x - r, y - r, x + r, y + r);
  }

  free(left, top, right, bottom) {
    const { plot } = this;
    if (left < plot.left + 1 || right > plot.right - 1 || top < plot.top || bottom > plot.bottom) return false;
    for (const square of this.over(left, top, right, bottom)) if (this.squares.has(square)) return false;
    return true;
  }

  /** Beside the node, or above or below one that stands alone; null where there is no room. */
  find({ x, y, r }, wide) {
    const half = HEIGHT / 2;
    const side = r + 5;
    const places = [
      { anchor: "start", x: side, y: 0, box: [x + side, y - half, x + side + wide, y + half] },
      { anchor: "end", x: -side, y: 0, box: [x - side - wide, y - half, x - side, y + half] },
      { anchor: "middle", x: 0, y: -side - half, box: [x - wide / 2, y - side - HEIGHT, x + wide / 2, y - side] },
      { anchor: "middle", x: 0, y: side + half, box: [x - wide / 2, y + side, x + wide / 2, y + side + HEIGHT] },
    ];
    for (const place of places) {
      const [l, t, rr, b] = place.box;
      const beside = place.anchor !== "middle";
      if (!beside && !(this.free(x - side - 14, y, x - side, y) && this.free(x + side, y, x + side + 14, y))) continue;
      if (!this.free(l, t, rr, b)) continue;
      this.take(l - 3, t, rr + 3, b);
      return { anchor: place.anchor, x: place.x, y: place.y + 4 };
    }
    return null;
  }
}
