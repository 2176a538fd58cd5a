// The matrices of all heads, small: each pixel is the strongest of the cells under it. They are drawn one after the other, between whatever
// else the page has to do, and what was worked out is kept.

const SIDE = 32; // pixels of a thumbnail along a side, at most
const pooled = new Map();
let round = 0; // of the newest painting, which ends older ones

async function thumbnail(example, layer, place) {
  const kind = kindOf(chosen.view);
  const name = `${kind}-${holderOf(example, kind)}-${layer}-${place}-${chosen.hidden}`;
  if (!pooled.has(name)) pooled.set(name, strongestCells(await matrixOf(example, kind === "weights" ? "raw" : "contributions", layer, place), SIDE));
  return pooled.get(name);
}

// A matrix with at most so many cells along a side: of each block the number with the largest absolute value.
function strongestCells({ values, rows, columns }, side) {
  const step = Math.ceil(Math.max(rows, columns) / side);
  const [high, wide] = [Math.ceil(rows / step), Math.ceil(columns / step)];
  const strongest = new Float32Array(high * wide);
  for (let row = 0; row < rows; row++) {
    const start = Math.floor(row / step) * wide;
    for (let column = 0; column < columns; column++) {
      const value = values[row * columns + column];
      const at = start + Math.floor(column / step);
      if (Math.abs(value) > Math.abs(strongest[at])) strongest[at] = value;
    }
  }
  return { values: strongest, rows: high, columns: wide };
}

const pause = () => new Promise((done) => { setTimeout(done); });

async function paintThumbnails() {
  const mine = ++round;
  delete document.documentElement.dataset.drawn;
  if (chosen.cells !== "matrices") return;
  let since = performance.now();
  for (const [table, example] of shownGrids()) {
    for (const button of table.querySelectorAll("button")) {
      const [layer, place] = [+button.dataset.layer, +button.dataset.head];
      const small = await thumbnail(example, layer, place);
      if (mine !== round) return;
      drawThumbnail(button.firstElementChild, small, data.explanations[example].orientation[layer][place], reachOf(chosen.view, layer, place));
      if (performance.now() - since > 12) {
        await pause();
        since = performance.now();
        if (mine !== round) return;
      }
    }
  }
  document.documentElement.dataset.drawn = chosen.view;
}

function drawThumbnail(canvas, { values, rows, columns }, orientation, reach) {
  const sign = chosen.view === "oriented" ? orientation : 1;
  const small = smallCanvas(columns, rows, (at) => shade(sign * values[at], reach));
  [canvas.width, canvas.height] = [small.width, small.height];
  canvas.getContext("2d").drawImage(small, 0, 0);
}
