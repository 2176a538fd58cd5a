// One head from token to token, on a canvas; beside it the same head of the twin.

const FINEST = 1024; // pixels of a matrix along a side; beyond, a pixel shows the strongest of its cells

// Rows and columns of the matrix by query and position, and the name of a row.
const isSingle = (of = head) => of.rows === 1 && now().queries > 1;
const rowIndex = (query, of = head) => (of.rows === 1 ? 0 : Math.max(0, of.queries.indexOf(query)));
const columnIndex = (key) => Math.max(0, head.keys.indexOf(key));
const rowName = (query) => (isSingle() ? head.queries[0] : query);
const rowOf = (query, of = head) => of.values.subarray(rowIndex(query, of) * of.columns, (rowIndex(query, of) + 1) * of.columns);

// The matrix as a canvas with a pixel for each cell.
function pixelsOf(of, reach, dark) {
  const { values, rows, columns } = strongestCells(of, FINEST);
  return smallCanvas(columns, rows, (at) => shade(values[at], reach, dark));
}

// The same, remembered while only the cursor moves.
const remembered = new Map();

function shownPixels(of, name, reach, dark) {
  const key = `${stamp} ${reach} ${dark}`;
  if (remembered.get(name)?.key !== key) remembered.set(name, { key, canvas: pixelsOf(of, reach, dark) });
  return remembered.get(name).canvas;
}

// Where the matrix lies in a picture of a given width: names stand beside it if there is room for them.
function layoutOf({ rows, columns }, width, names) {
  const room = Math.min(130, 12 + Math.max(0, ...names.map((name) => 6.6 * Math.min(name.length, 18))));
  const named = (width - room) / columns >= 11;
  const margin = named ? room : 4;
  const cell = Math.min(named ? 44 : 64, (width - margin - 2) / columns);
  const high = Math.max(cell, rows === 1 ? 24 : 0);
  return { named, left: margin, top: margin, cell, high, width: cell * columns, height: high * rows };
}

const cut = (name) => (name.length > 18 ? `${name.slice(0, 17)}…` : name);
const keyNames = () => head.keys.map((key) => now().tokens[key]);

function drawMatrix() {
  if (!head) return;
  const reach = reachOf(chosen.view, chosen.layer, chosen.head);
  drawOn(find("matrix"), head, reach);
  if (twinHead) drawOn(find("twin-matrix"), twinHead, reach);
  legend(find("matrix-legend"), reach, `${data.views[chosen.view].name}${chosen.contrast ? "; beyond the range the colour stays" : ""}`);
}

function drawOn(canvas, of, reach) {
  const place = layoutOf(of, canvas.clientWidth || 600, keyNames());
  const sharp = devicePixelRatio || 1;
  canvas.style.height = `${place.top + place.height + 4}px`;
  canvas.width = Math.round(canvas.clientWidth * sharp);
  canvas.height = Math.round((place.top + place.height + 4) * sharp);
  const context = canvas.getContext("2d");
  context.scale(sharp, sharp);
  context.imageSmoothingEnabled = false;
  context.drawImage(shownPixels(of, canvas.id, reach, isDark()), place.left, place.top, place.width, place.height);
  const ink = getComputedStyle(canvas).color;
  context.strokeStyle = ink;
  context.globalAlpha = 0.25;
  context.strokeRect(place.left - 0.5, place.top - 0.5, place.width + 1, place.height + 1);
  context.globalAlpha = 1;
  if (place.named) drawNames(context, place, ink, of);
  drawCursor(context, place, ink);
  canvas.dataset.place = JSON.stringify(place);
}

function drawNames(context, place, ink, of) {
  context.font = `${Math.min(12, place.cell - 1)}px system-ui, sans-serif`;
  context.fillStyle = ink;
  context.textBaseline = "middle";
  context.textAlign = "right";
  of.queries.forEach((query, row) => context.fillText(cut(queryName(query)), place.left - 6, place.top + (row + 0.5) * place.high, place.left - 8));
  context.textAlign = "left";
  keyNames().forEach((token, column) => {
    context.save();
    context.translate(place.left + (column + 0.5) * place.cell, place.top - 6);
    context.rotate(-Math.PI / 2);
    context.fillText(cut(token), 0, 0, place.top - 8);
    context.restore();
  });
}

function drawCursor(context, place, ink) {
  const [row, column] = [rowIndex(chosen.query), columnIndex(chosen.key)];
  context.strokeStyle = ink;
  context.globalAlpha = 0.45;
  context.strokeRect(place.left - 0.5, place.top + row * place.high - 0.5, place.width + 1, place.high + 1);
  context.globalAlpha = 1;
  context.lineWidth = 2;
  context.strokeRect(place.left + column * place.cell, place.top + row * place.high, place.cell, place.high);
}

// What looks, what is looked at, the number, and the number of the twin after a word.
function cellWords(query, key) {
  const column = columnIndex(key);
  const beside = twinHead ? `; ${twinName()} ${number(rowOf(query, twinHead)[column])}` : "";
  return [queryName(rowName(query)), now().tokens[key], number(rowOf(query)[column]), beside];
}

function tellCell(query, key) {
  if (!head.columns) return;
  const [from, to, value, beside] = cellWords(query, key);
  find("matrix-readout").replaceChildren(element("b", {}, from), " looks at ", element("b", {}, to), `: ${value}${beside}`);
}

// The query and the position under a pointer.
function cellAt(event) {
  const canvas = event.currentTarget;
  if (!head || !canvas.dataset.place) return null;
  const place = JSON.parse(canvas.dataset.place);
  const box = canvas.getBoundingClientRect();
  const row = Math.floor((event.clientY - box.top - place.top) / place.high);
  const column = Math.floor((event.clientX - box.left - place.left) / place.cell);
  return row >= 0 && row < head.rows && column >= 0 && column < head.columns ? [head.queries[row], head.keys[column]] : null;
}

function chooseCell(query, key) {
  if (!isSingle()) chosen.query = query;
  chosen.key = key;
  tellCell(chosen.query, key);
  showRow();
}

function listenToMatrix() {
  for (const canvas of [find("matrix"), find("twin-matrix")]) {
    canvas.addEventListener("pointermove", (event) => { const cell = cellAt(event); if (cell) tellCell(...cell); });
    canvas.addEventListener("pointerleave", () => { if (head) tellCell(chosen.query, chosen.key); });
    canvas.addEventListener("click", (event) => { const cell = cellAt(event); if (cell) chooseCell(...cell); });
  }
  find("matrix").addEventListener("keydown", (event) => {
    const place = head?.columns && moved(event, [rowIndex(chosen.query), columnIndex(chosen.key)], [head.rows, head.columns]);
    if (!place) return;
    chooseCell(head.queries[place[0]], head.keys[place[1]]);
    const [from, to, value, beside] = cellWords(chosen.query, chosen.key);
    say(`${from} looks at ${to}: ${value}${beside}`);
  });
  find("contrast").addEventListener("input", (event) => { chosen.contrast = +event.target.value; drawMatrix(); paintThumbnails(); });
  for (const choice of document.querySelectorAll("input[name='range']")) {
    choice.addEventListener("change", () => { chosen.range = choice.value; drawMatrix(); paintThumbnails(); });
  }
  new ResizeObserver(drawMatrix).observe(find("matrix").parentElement);
}
