// One head from token to token, on a canvas.

const FINEST = 1024; // pixels of a matrix along a side; beyond, a pixel shows the strongest of its cells

const rowIndex = (query) => (head.rows === 1 ? 0 : query);
const rowName = (query) => (head.rows === 1 && now().queries > 1 ? head.first : query);
const rowOf = (query) => head.values.subarray(rowIndex(query) * head.columns, (rowIndex(query) + 1) * head.columns);

// The matrix as a canvas with a pixel for each cell.
function pixelsOf({ values, rows, columns }, reach, dark) {
  const step = Math.ceil(Math.max(rows, columns) / FINEST);
  const [high, wide] = [Math.ceil(rows / step), Math.ceil(columns / step)];
  return smallCanvas(wide, high, (at) => {
    const [top, left] = [Math.floor(at / wide) * step, (at % wide) * step];
    let strongest = 0;
    for (let row = top; row < Math.min(top + step, rows); row++) {
      for (let column = left; column < Math.min(left + step, columns); column++) {
        const value = values[row * columns + column];
        if (Math.abs(value) > Math.abs(strongest)) strongest = value;
      }
    }
    return shade(strongest, reach, dark);
  });
}

// The same, remembered while only the cursor moves.
const remembered = { key: null, canvas: null };

function shownPixels(reach, dark) {
  const key = `${stamp} ${reach} ${dark}`;
  if (remembered.key !== key) Object.assign(remembered, { key, canvas: pixelsOf(head, reach, dark) });
  return remembered.canvas;
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

function drawMatrix() {
  if (!head) return;
  const canvas = find("matrix");
  const place = layoutOf(head, canvas.clientWidth || 600, now().tokens);
  const sharp = devicePixelRatio || 1;
  canvas.style.height = `${place.top + place.height + 4}px`;
  canvas.width = Math.round(canvas.clientWidth * sharp);
  canvas.height = Math.round((place.top + place.height + 4) * sharp);
  const context = canvas.getContext("2d");
  context.scale(sharp, sharp);
  const reach = reachOf(chosen.view, chosen.layer, chosen.head);
  context.imageSmoothingEnabled = false;
  context.drawImage(shownPixels(reach, isDark()), place.left, place.top, place.width, place.height);
  const ink = getComputedStyle(canvas).color;
  context.strokeStyle = ink;
  context.globalAlpha = 0.25;
  context.strokeRect(place.left - 0.5, place.top - 0.5, place.width + 1, place.height + 1);
  context.globalAlpha = 1;
  if (place.named) drawNames(context, place, ink);
  drawCursor(context, place, ink);
  canvas.dataset.place = JSON.stringify(place);
  legend(find("matrix-legend"), reach, `${data.views[chosen.view].name}${chosen.contrast ? "; beyond the range the colour stays" : ""}`);
}

function drawNames(context, place, ink) {
  context.font = `${Math.min(12, place.cell - 1)}px system-ui, sans-serif`;
  context.fillStyle = ink;
  context.textBaseline = "middle";
  context.textAlign = "right";
  for (let row = 0; row < head.rows; row++) {
    const name = head.rows === 1 ? queryName(head.first) : queryName(row);
    context.fillText(cut(name), place.left - 6, place.top + (row + 0.5) * place.high, place.left - 8);
  }
  context.textAlign = "left";
  now().tokens.forEach((token, column) => {
    context.save();
    context.translate(place.left + (column + 0.5) * place.cell, place.top - 6);
    context.rotate(-Math.PI / 2);
    context.fillText(cut(token), 0, 0, place.top - 8);
    context.restore();
  });
}

function drawCursor(context, place, ink) {
  const [row, column] = [rowIndex(chosen.query), chosen.key];
  context.strokeStyle = ink;
  context.globalAlpha = 0.45;
  context.strokeRect(place.left - 0.5, place.top + row * place.high - 0.5, place.width + 1, place.high + 1);
  context.globalAlpha = 1;
  context.lineWidth = 2;
  context.strokeRect(place.left + column * place.cell, place.top + row * place.high, place.cell, place.high);
}

function cellWords(query, key) {
  const value = head.values[rowIndex(query) * head.columns + key];
  return [queryName(rowName(query)), now().tokens[key], number(value)];
}

function tellCell(query, key) {
  const [from, to, value] = cellWords(query, key);
  find("matrix-readout").replaceChildren(element("b", {}, from), " looks at ", element("b", {}, to), `: ${value}`);
}

function cellAt(event) {
  const canvas = find("matrix");
  if (!head || !canvas.dataset.place) return null;
  const place = JSON.parse(canvas.dataset.place);
  const box = canvas.getBoundingClientRect();
  const row = Math.floor((event.clientY - box.top - place.top) / place.high);
  const column = Math.floor((event.clientX - box.left - place.left) / place.cell);
  return row >= 0 && row < head.rows && column >= 0 && column < head.columns ? [row, column] : null;
}

function chooseCell(query, key) {
  if (head.rows > 1) chosen.query = query;
  chosen.key = key;
  tellCell(chosen.query, key);
  showRow();
}

function listenToMatrix() {
  const canvas = find("matrix");
  canvas.addEventListener("pointermove", (event) => { const cell = cellAt(event); if (cell) tellCell(...cell); });
  canvas.addEventListener("pointerleave", () => { if (head) tellCell(chosen.query, chosen.key); });
  canvas.addEventListener("click", (event) => { const cell = cellAt(event); if (cell) chooseCell(...cell); });
  canvas.addEventListener("keydown", (event) => {
    const place = head && moved(event, [rowIndex(chosen.query), chosen.key], [head.rows, head.columns]);
    if (!place) return;
    chooseCell(...place);
    const [from, to, value] = cellWords(...place);
    say(`${from} looks at ${to}: ${value}`);
  });
  find("contrast").addEventListener("input", (event) => { chosen.contrast = +event.target.value; drawMatrix(); });
  for (const choice of document.querySelectorAll("input[name='range']")) {
    choice.addEventListener("change", () => { chosen.range = choice.value; drawMatrix(); });
  }
  new ResizeObserver(drawMatrix).observe(canvas.parentElement);
}
