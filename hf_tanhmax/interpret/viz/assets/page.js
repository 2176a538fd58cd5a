// The page as a whole: what follows when something else is chosen.

const TALL = 14; // layers, beyond which the row stands under the matrix

let stamp = 0; // of the newest choice, so that a matrix that was decoded for an older one is dropped

async function showHead() {
  const mine = ++stamp;
  const { layer, head: place, view } = chosen;
  const found = await matrixOf(view, layer, place);
  if (mine !== stamp) return;
  head = found;
  find("layer").value = layer;
  find("head").value = place;
  find("head-title").textContent = headName(layer, place).replace(/^l/, "L");
  find("head-note").textContent = head.rows === 1 && now().queries > 1
    ? `To keep this file small it holds contributions of ${queryName(head.first)} only; save_page(…, contributions="all") keeps every row.`
    : "A row is a query, which looks; a column is a key, which is looked at.";
  find("matrix").setAttribute("aria-label", `${headName(layer, place)}, ${data.views[view].name}, ${head.rows} queries by ${head.columns} keys`);
  if (chosen.key === null) chosen.key = strongestKey();
  showRow();
  say(`${headName(layer, place)}, ${data.views[view].name}`);
}

function showRow() {
  if (!head) return;
  drawMatrix();
  tellCell(chosen.query, chosen.key);
  paintBars();
  paintTokens();
  paintTable();
  document.documentElement.dataset.shown = `${chosen.example}/${chosen.view}/${chosen.layer}/${chosen.head}/${chosen.query}`;
}

function showMethods() {
  const names = Object.keys(now().scores);
  if (!names.includes(chosen.method) && chosen.method !== ROW) chosen.method = names.includes("contributions") ? "contributions" : names[0] ?? ROW;
  const options = names.map((name) => new Option(data.methods[name]?.name ?? name.replaceAll("_", " "), name));
  find("method").replaceChildren(...options, new Option("one row of the head below", ROW));
  find("method").value = chosen.method;
}

// The tokens that a model wrote one after the other, each an explanation of its own.
function paintWritten() {
  find("written").hidden = !data.follows;
  if (!data.follows) return;
  find("written").replaceChildren(...data.explanations.map((one, index) => {
    const button = element("button", { type: "button", "aria-pressed": index === chosen.example }, one.target, element("small", {}, percent(one.probability)));
    button.addEventListener("click", () => {
      chosen.example = index;
      showExample();
      find("written").children[index].focus();
    });
    return button;
  }));
}

// Where to begin: the head that adds or takes most.
function strongestHead() {
  const flat = now().numbers.contributions.flatMap((row, layer) => row.map((value, place) => [Math.abs(value), layer, place]));
  return flat.reduce((best, item) => (item[0] > best[0] ? item : best)).slice(1);
}

function strongestKey() {
  return rowOf(chosen.query).reduce((best, value, key, row) => (Math.abs(value) > Math.abs(row[best]) ? key : best), 0);
}

function showExample() {
  const explanation = now();
  head = null;
  [chosen.layer, chosen.head] = strongestHead();
  chosen.query = explanation.row === null ? 0 : queryAt(explanation.row);
  chosen.key = null;
  find(explanation.layers.length > TALL ? "right" : "left").append(find("row-card"));
  paintWritten();
  find("target").textContent = `“${explanation.target}”`;
  find("model").textContent = [explanation.model, explanation.family].filter(Boolean).join(" · ");
  const facts = [["probability ", percent(explanation.probability)], ["logit ", number(explanation.logit)],
    ["", explanation.layers.length, " layers"], ["", explanation.one_signed[0].length, " heads"], ["", explanation.tokens.length, explanation.grid ? " positions" : " tokens"]];
  find("facts").replaceChildren(...facts.map(([before, value, after = ""]) => element("span", {}, before, element("b", {}, `${value}`), after)));
  find("notes").replaceChildren(...explanation.notes.map((note, index) => element("li", index === 0 && explanation.unknown ? { class: "warning" } : {}, note)));
  const isImage = Boolean(explanation.grid);
  find("tokens").hidden = find("units").hidden = isImage;
  find("image").hidden = find("image-tools").hidden = find("strengths").hidden = !isImage;
  find("evidence-readout").textContent = isImage ? "Point at a patch, or move with the arrow keys." : "Point at a token, or move with the arrow keys; a click makes it the query below.";
  showMethods();
  if (!isImage) buildTokens();
  buildHeads();
  paintHeads();
  return (isImage ? loadPhotograph() : Promise.resolve()).then(showHead);
}

function repaint() {
  find("theme").setAttribute("aria-checked", isDark());
  paintHeads();
  showRow();
}

function listenToChoices() {
  find("method").addEventListener("change", (event) => { chosen.method = event.target.value; paintTokens(); });
  find("example").addEventListener("change", (event) => { chosen.example = +event.target.value; showExample(); });
  find("numbers").addEventListener("toggle", paintTable);
  find("theme").addEventListener("click", () => {
    document.documentElement.dataset.theme = isDark() ? "light" : "dark";
    repaint();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", repaint);
  for (const choice of document.querySelectorAll("input[name='unit']")) {
    choice.addEventListener("change", () => { chosen.unit = choice.value; buildTokens(); paintTokens(); });
  }
  for (const choice of document.querySelectorAll("input[name='view']")) {
    choice.addEventListener("change", () => { chosen.view = choice.value; paintHeads(); showHead(); });
  }
}

function start() {
  if (!data.explanations[0].words.length) chosen.unit = "tokens";
  document.querySelector(`input[name='unit'][value='${chosen.unit}']`).checked = true;
  find("examples").hidden = data.follows || data.explanations.length < 2;
  find("example").replaceChildren(...data.explanations.map((one, index) => new Option(`${index + 1}: ${one.target}`, index)));
  for (const listen of [listenToTokens, listenToPicture, listenToHeads, listenToMatrix, listenToSaving, listenToChoices]) listen();
  find("theme").setAttribute("aria-checked", isDark());
  showExample();
}

start();
