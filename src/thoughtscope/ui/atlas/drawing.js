// @ts-check
// The map's points as pixels. Tens of thousands of discs are written into one image a frame, without asking the canvas
// for each: that holds sixty frames a second on one core, with or without a graphics card.

/** A disc's coverage by pixel, from 0 to 255, with a soft rim. */
export function discOf(radius) {
  const reach = Math.ceil(radius);
  const side = 2 * reach + 1;
  const cover = new Uint8Array(side * side);
  for (let y = -reach; y <= reach; y += 1) {
    for (let x = -reach; x <= reach; x += 1) {
      const inside = Math.min(1, Math.max(0, radius + 0.5 - Math.hypot(x, y)));
      cover[(y + reach) * side + x + reach] = Math.round(255 * inside);
    }
  }
  return { reach, side, cover };
}

/** From a place on the map to a pixel: `x * size + left`, `top - y * size`. */
export function project(box, view, width, height) {
  const size = Math.min(width, height) * 0.94 * view.scale / box.size;
  return { size, left: width / 2 - (box.x + view.x * box.size) * size,
    top: height / 2 + (box.y + view.y * box.size) * size };
}

/** Writes every point into the image, in the order given. `colours` are 0xBBGGRR by feature; the faint ones of `dim`
 * come first, and are half mixed with the ground.
 * @param {{ pixels: Uint32Array, width: number, height: number }} image */
export function drawPoints(image, place, order, colours, to, disc) {
  const { pixels, width, height } = image;
  const { reach, side, cover } = disc;
  for (let n = 0; n < order.length; n += 1) {
    const feature = order[n];
    const x = Math.round(place[2 * feature] * to.size + to.left);
    const y = Math.round(to.top - place[2 * feature + 1] * to.size);
    if (!(x > -reach && x < width + reach && y > -reach && y < height + reach)) continue; // also where it is NaN
    const colour = colours[feature];
    const [red, green, blue] = [colour & 255, (colour >> 8) & 255, (colour >> 16) & 255];
    const [fromX, endX] = [Math.max(0, x - reach), Math.min(width, x + reach + 1)];
    for (let row = Math.max(0, y - reach); row < Math.min(height, y + reach + 1); row += 1) {
      let at = row * width + fromX;
      let part = (row - y + reach) * side + fromX - x + reach;
      for (let column = fromX; column < endX; column += 1, at += 1, part += 1) {
        const share = cover[part];
        if (share === 0) continue;
        const old = pixels[at];
        const rest = 255 - share;
        pixels[at] = 0xff000000
          | (((((old >> 16) & 255) * rest + blue * share) / 255) << 16)
          | (((((old >> 8) & 255) * rest + green * share) / 255) << 8)
          | (((old & 255) * rest + red * share) / 255);
      }
    }
  }
}

/** The feature whose point is nearest to a pixel, within `most` of it; null where there is none. */
export function nearestTo(place, order, to, x, y, most) {
  let best = null;
  let least = most * most;
  for (let n = 0; n < order.length; n += 1) {
    const across = place[2 * order[n]] * to.size + to.left - x;
    const down = to.top - place[2 * order[n] + 1] * to.size - y;
    const square = across * across + down * down;
    if (square < least) [best, least] = [order[n], square];
  }
  return best;
}

/** A style sheet's colour, or one of these, as 0xBBGGRR. */
export function pixelOf(css) {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = 1;
  const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d", { willReadFrequently: true }));
  context.fillStyle = css;
  context.fillRect(0, 0, 1, 1);
  const [red, green, blue] = context.getImageData(0, 0, 1, 1).data;
  return (blue << 16) | (green << 8) | red;
}

/** A mix of two pixels' colours; 0 is the first. */
export function mixed(one, other, share) {
  const part = (shift) => Math.round(((one >> shift) & 255) * (1 - share) + ((other >> shift) & 255) * share) << shift;
  return part(0) | part(8) | part(16);
}
