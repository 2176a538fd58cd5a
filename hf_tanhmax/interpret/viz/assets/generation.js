// A whole generation: a row for each token that the model wrote, a column for each token before it.

const WRITTEN_ROOM = 150; // pixels for the names of the rows

const written = { row: 0, column: 0 };

function generationLayout(width) {
  const { scores, tokens } = data.generation;
  const cell = Math.min(30, Math.max(2, (width - WRITTEN_ROOM - 4) / tokens.length));
  const named = cell >= 11;
  return { left: WRITTEN_ROOM, top: named ? 96 : 6, cell, high: Math.min(24, Math.max(cell, 14)), named, rows: scores.length, columns: tokens.length };
}

function generationReach() {
  return Math.max(data.full_colour.word, largest(data.generation.scores.flat()));
}

function drawGeneration() {
  if (!data.generation) return;
  const { scores, tokens, prompt, probabilities } = data.generation;
  const canvas = find("generation");
  const width = canvas.clientWidth || 900;
  const place = generationLayout(width);
  const height = place.top + place.high * place.rows + 4;
  const sharp = devicePixelRatio || 1;
  canvas.style.height = `${height}px`;
  [canvas.width, canvas.height] = [Math.round(width * sharp), Math.round(height * sharp)];
  const context = canvas.getContext("2d");
  context.scale(sharp, sharp);
  const reach = generationReach();
  const ink = getComputedStyle(canvas).color;
  context.font = "12px system-ui, sans-serif";
  context.textBaseline = "middle";
  scores.forEach((row, at) => {
    const top = place.top + at * place.high;
    row.forEach((score, column) => {
      context.fillStyle = css(shade(score, reach));
      context.fillRect(place.left + column * place.cell, top, place.cell + 0.5, place.high - 1);
    });
    context.fillStyle = ink;
    context.textAlign = "right";
    context.fillText(`${cut(tokens[prompt + at])}  ${percent(probabilities[at])}`, place.left - 8, top + place.high / 2, place.left - 12);
  });
  context.textAlign = "left";
  if (place.named) tokens.slice(0, -1).forEach((token, column) => {
    context.save();
    context.translate(place.left + (column + 0.5) * place.cell, place.top - 6);
    context.rotate(-Math.PI / 2);
    context.fillText(cut(token), 0, 0, place.top - 8);
    context.restore();
  });
  context.strokeStyle = ink;
  context.globalAlpha = 0.4;
  context.strokeRect(place.left + prompt * place.cell, place.top - 2, 0, place.high * place.rows + 3); // where writing begins
  context.globalAlpha = 1;
  context.lineWidth = 2;
  context.strokeRect(place.left + written.column * place.cell, place.top + written.row * place.high, place.cell, place.high - 1);
  legend(find("generation-legend"), reach, "logits");
}

function tellWritten({ speak = false } = {}) {
  const { scores, tokens, prompt, sums } = data.generation;
  const { row, column } = written;
  const told = `${tokens[prompt + row]} by ${tokens[column]}: ${number(scores[row][column])}`;
  find("generation-readout").replaceChildren(element("b", {}, told), "  ", element("span", { class: sums[row].far ? "sum far" : "sum" }, sums[row].text));
  if (speak) say(told);
}

function chooseWritten(row, column, options) {
  [written.row, written.column] = [row, Math.min(column, data.generation.scores[row].length - 1)];
  drawGeneration();
  tellWritten(options);
}

function listenToGeneration() {
  find("generation-card").hidden = !data.generation;
  if (!data.generation) return;
  const { name, notes, scores, tokens, prompt } = data.generation;
  const canvas = find("generation");
  canvas.setAttribute("aria-label", `${name}: ${scores.length} written tokens by the ${tokens.length - 1} tokens before the last`);
  find("generation-note").textContent = [`${name}. A row is a token that the model wrote, a column a token before it; the line is where the model begins to write.`, ...notes].join(" ");
  canvas.addEventListener("click", (event) => {
    const box = canvas.getBoundingClientRect();
    const place = generationLayout(canvas.clientWidth);
    const [row, column] = [Math.floor((event.clientY - box.top - place.top) / place.high), Math.floor((event.clientX - box.left - place.left) / place.cell)];
    if (row >= 0 && row < scores.length && column >= 0 && column < scores[row].length) chooseWritten(row, column);
  });
  canvas.addEventListener("keydown", (event) => {
    const place = moved(event, [written.row, written.column], [scores.length, tokens.length - 1]);
    if (place) chooseWritten(...place, { speak: true });
  });
  find("generation-table").replaceChildren(
    element("caption", {}, `${name} of every written token, in logits`),
    element("thead", {}, element("tr", {}, element("th", { scope: "col", class: "name" }, "written"), ...tokens.slice(0, -1).map((token) => element("th", { scope: "col" }, token)))),
    element("tbody", {}, ...scores.map((row, at) => element("tr", {}, element("th", { scope: "row", class: "name" }, tokens[prompt + at]), ...row.map((score) => element("td", {}, number(score)))))),
  );
  new ResizeObserver(drawGeneration).observe(canvas.parentElement);
  tellWritten();
}
