// @ts-check
// The two axes: tokens below, layers at the left. They stay in view however far the graph is zoomed.
import { html } from "../html.js";
import { clip, tokenText } from "../text.js";

/** Lines between columns and rows; they lie under the edges. */
export function Grid({ layout }) {
  const { plot, inputs, columns, rows } = layout;
  const within = columns.filter((column) => column.x >= plot.left - 0.5 && column.x <= plot.right);
  return html`<svg class="grid" width=${layout.width} height=${layout.height} aria-hidden="true">
    ${within.map((column) => html`<line key=${`c${column.position}`} class="column" data-position=${column.position}
      x1=${column.x} x2=${column.x} y1=${plot.top} y2=${inputs.y + inputs.height}/>`)}
    ${rows.filter((row) => row.y >= plot.top - 0.5 && row.y < plot.bottom).map((row) => html`<line
      key=${`r${row.layer}`}
      x1=${plot.left - 4} x2=${plot.right} y1=${row.y} y2=${row.y}/>`)}
    <line x1=${plot.left - 4} x2=${plot.right} y1=${plot.bottom} y2=${plot.bottom}/>
    <line class="edge" x1=${plot.right} x2=${plot.right} y1=${plot.top} y2=${inputs.y + inputs.height}/>
  </svg>`;
}

/** The names of layers and tokens. */
export function Axes({ layout }) {
  const { plot, inputs, outputs } = layout;
  return html`<g class="axes" aria-hidden="true">
    ${namedRows(layout).map((row) => html`<text key=${`r${row.layer}`} class="row-name" x=${plot.left - 8}
      y=${row.y + row.height / 2 + 4}>${row.layer}</text>`)}
    <text class="row-name" x=${plot.left - 8} y=${outputs.y + 12}>out</text>
    <text class="row-name" x=${plot.left - 8} y=${inputs.y + inputs.height / 2 + 4}>in</text>
    ${namedColumns(layout).map((column) => html`<${ColumnName} key=${`n${column.position}`} column=${column}
      layout=${layout} />`)}
    ${layout.columns.filter((c) => c.folded && c.x + c.width / 2 > plot.left && c.x + c.width / 2 < plot.right)
      .map((column) => html`<${FoldedName} key=${`f${column.position}`} column=${column} layout=${layout} />`)}
    ${layout.turns.map((turn, i) => html`<${Role} key=${`t${i}`} turn=${turn} layout=${layout} />`)}
  </g>`;
}

/** The rows in view whose names do not touch: the lowest and the highest, and every second, fifth or tenth between. */
function namedRows({ rows, plot }) {
  const inView = rows.filter((row) => row.y + row.height / 2 > plot.top && row.y + row.height / 2 < plot.bottom);
  const every = [1, 2, 5, 10, 20, 50].find((n) => inView.length * 12 <= n * (plot.bottom - plot.top)) ?? 100;
  const named = [];
  for (const row of inView) {
    const clear = named.length === 0 || named.at(-1).y - row.y >= 11;
    if (row.layer % every === 0 && clear) named.push(row);
  }
  return named;
}

function namedColumns({ columns, plot }) {
  const inView = columns.filter((c) => !c.folded && c.x + c.width / 2 > plot.left && c.x + c.width / 2 < plot.right);
  const named = [];
  for (const column of inView) {
    const before = named.at(-1);
    if (!before || column.x + column.width / 2 - before.x - before.width / 2 >= 11) named.push(column);
  }
  return named;
}

function ColumnName({ column, layout }) {
  const { lettering, names } = layout;
  const text = tokenText(column.token);
  const level = lettering === "level" || column.width > 60;
  const room = level ? Math.max(3, Math.floor((column.width - 2) / 7.2)) : 8;
  const x = column.x + column.width / 2;
  const y = names.y + (level ? 14 : 9);
  const turn = { slanted: `rotate(-52 ${x + 4} ${y})`, upright: `rotate(-90 ${x + 4} ${y})` }[lettering];
  return html`<text class=${level ? "column-name" : "column-name slanted"} x=${level ? x : x + 4} y=${y}
    transform=${level ? null : turn}>${clip(text, room)}<title>${`token ${column.position}: ${text}`}</title></text>`;
}

/** A token of the template: a thin mark in place of its name. */
function FoldedName({ column, layout }) {
  const x = column.x + column.width / 2;
  return html`<line class="folded-name" x1=${x} x2=${x} y1=${layout.names.y + 2} y2=${layout.names.y + 8}><title>${
    `token ${column.position}, of the template: ${tokenText(column.token)}`}</title></line>`;
}

/** Who speaks: a line under a turn's tokens, and the role where it finds room. */
function Role({ turn, layout }) {
  const { columns, plot, roles } = layout;
  if (turn.start === turn.end) return null;
  const left = Math.max(plot.left, columns[turn.start].x);
  const right = Math.min(plot.right, columns[turn.end - 1].x + columns[turn.end - 1].width);
  if (right - left < 4) return null;
  const room = Math.floor((right - left - 2) / 6.4);
  return html`<g class=${turn.added ? "role added" : "role"}>
    <line x1=${left + 1} x2=${right - 1} y1=${roles.y + 2} y2=${roles.y + 2}/>
    ${room >= 3 && html`<text x=${(left + right) / 2} y=${roles.y + 13}>${clip(turn.role, room)}</text>`}
    <title>${turn.added ? `${turn.role}: the template brings this along` : turn.role}</title></g>`;
}
