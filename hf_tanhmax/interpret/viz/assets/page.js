// The page as a whole: what follows when something else is chosen.

const TALL = 14; // layers, beyond which the row stands under the matrix

let stamp = 0; // of the newest choice, so that a matrix that was decoded for an older one is dropped

async function showHead() {
  const mine = ++stamp;
  const { layer, head: place, view } = chosen;
  const found = await matrixOf(chosen.example, view, layer, place);
  const beside = twin() ? await matrixOf(now().twin, view, layer, place) : null;
  if (mine !== stamp) return;
  [head, twinHead] = [found, beside];
  if (isSingle()) chosen.query ??= head.queries[0] ?? 0;
  else if (!head.queries.includes(chosen.query)) chosen.query = strongestQuery();
  if (!head.keys.includes(chosen.key)) chosen.key = strongestKey();
  find("layer").value = layer;
  find("head").value = place;
  find("head-title").textContent = headName(layer, place).replace(/^l/, "L");
  find("head-note").textContent = isSingle()
    ? `To keep this file small it holds contributions of ${queryName(head.queries[0])} only; save_page(…, contributions="all") keeps every row.`
    : "A row is a query, which looks; a column is a key, which is looked at.";
  const [, levels, error] = packing(chosen.example, view, layer, place);
  find("rounding").textContent = levels ? `Rounded to keep this file small: its numbers are off by at most ${size(error)}.` : "";
  const named = `${data.views[view].name}, ${head.rows} queries by ${head.columns} keys`;
  find("matrix").setAttribute("aria-label", `${headName(layer, place)}, ${named}`);
  if (twin()) find("twin-matrix").setAttribute("aria-label", `The same head of the ${twinName()}, ${named}; the table has its numbers`);
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

// The scores of the view come first, and are chosen again with every view; then those that no view has.
function showMethods() {
  const own = OWN_SCORES[chosen.view];
  const others = Object.keys(now().scores).filter((name) => !Object.values(OWN_SCORES).includes(name));
  const options = others.map((name) => new Option(nameOf(name), name));
  if (now().scores[own]) options.unshift(new Option(`${nameOf(own)}, as everywhere`, ""));
  options.push(new Option("one row of the head below", ROW));
  find("method").replaceChildren(...options);
  if (![...find("method").options].some((option) => option.value === chosen.method)) chosen.method = options[0].value;
  find("method").value = chosen.method;
}

// The tokens that a model wrote one after the other, each an explanation of its own.
function paintWritten() {
  find("written").hidden = !data.follows;
  if (!data.follows) return;
  find("written").replaceChildren(...data.texts.map(([example], text) => {
    const one = data.explanations[example];
    const button = element("button", { type: "button", "aria-pressed": text === chosen.text }, one.target, element("small", {}, percent(one.probability)));
    button.addEventListener("click", () => {
      showText(text);
      find("written").children[text].focus();
    });
    return button;
  }));
}

// Where to begin: the head of both signs that adds or takes most, or any head where none has both.
function strongestHead() {
  const { signed, one_signed } = now();
  const sizes = headNumbers(now(), "contributions").flatMap((row, layer) => row.map((value, place) => [Math.abs(value), layer, place]));
  const twoSigned = sizes.filter(([, layer, place]) => signed[layer] && !one_signed[layer][place]);
  return (twoSigned.length ? twoSigned : sizes).reduce((best, item) => (item[0] > best[0] ? item : best)).slice(1);
}

function strongestQuery() {
  const strongest = head.values.reduce((best, value, at, all) => (Math.abs(value) > Math.abs(all[best]) ? at : best), 0);
  return head.queries[Math.floor(strongest / Math.max(1, head.columns))] ?? 0;
}

function strongestKey() {
  if (!head.columns) return null;
  return head.keys[rowOf(chosen.query).reduce((best, value, key, row) => (Math.abs(value) > Math.abs(row[best]) ? key : best), 0)];
}

// Another text: its first target, and the head to begin with.
function showText(text) {
  chosen.text = text;
  chosen.example = data.texts[text][0];
  [chosen.layer, chosen.head] = strongestHead();
  chosen.query = chosen.key = null;
  const targets = data.texts[text].map((example) => data.explanations[example]);
  find("targets").hidden = targets.length < 2;
  find("target-choice").replaceChildren(...targets.map((one, index) => new Option(`${one.target} (${percent(one.probability)})`, data.texts[text][index])));
  find("text").value = text;
  return showExample();
}

function showExample() {
  const explanation = now();
  head = twinHead = null;
  find("target-choice").value = chosen.example;
  find(explanation.layers.length > TALL ? "right" : "left").append(find("row-card"));
  paintWritten();
  showFacts();
  showHiding();
  const isImage = Boolean(explanation.grid);
  find("tokens").hidden = find("units").hidden = isImage;
  find("image").hidden = find("image-tools").hidden = find("strengths").hidden = !isImage;
  for (const part of document.querySelectorAll(".twin")) part.hidden = !twin() || (part.dataset.of ?? (isImage ? "image" : "text")) !== (isImage ? "image" : "text");
  document.body.classList.toggle("beside", Boolean(twin()));
  find("evidence-readout").textContent = isImage ? "Point at a patch, or move with the arrow keys." : "Point at a token, or move with the arrow keys; a click makes it the query below.";
  showMethods();
  if (!isImage) buildTokens();
  buildHeads();
  paintHeads();
  return (isImage ? loadPhotograph() : Promise.resolve()).then(showHead);
}

function showFacts() {
  const one = now();
  find("target").textContent = `“${one.target}”`;
  find("model").textContent = [one.model, one.family].filter(Boolean).join(" · ");
  const facts = [["probability ", percent(one.probability)], ["logit ", number(one.logit)],
    ["", one.layers.length, " layers"], ["", one.one_signed[0].length, " heads"], ["", one.tokens.length, one.grid ? " positions" : " tokens"]];
  if (twin()) facts.push([`${twinName()}: probability `, percent(twin().probability)], ["logit ", number(twin().logit)]);
  find("facts").replaceChildren(...facts.map(([before, value, after = ""]) => element("span", {}, before, element("b", {}, `${value}`), after)));
  const notes = one.notes.map((note, index) => element("li", index < one.warnings ? { class: "warning" } : {}, note));
  const beside = (twin()?.notes ?? []).map((note) => element("li", {}, `${twinName()}: ${note}`));
  find("notes").replaceChildren(...notes, ...beside);
  for (const title of document.querySelectorAll(".twin-title")) {
    title.textContent = twin() ? `${twinName().replace(/^./, (letter) => letter.toUpperCase())}${twin().model ? `: ${twin().model}` : ""}` : "";
  }
}

// Which positions can be hidden here, and how many there are of each kind.
function showHiding() {
  const counts = Object.entries(data.hidden).map(([kind, bit]) => [kind, now().kinds.filter((of) => of & bit).length]);
  for (const [kind, count] of counts) {
    find(`hide-${kind}`).parentElement.hidden = !count;
    find(`hide-${kind}`).checked = Boolean(chosen.hidden & data.hidden[kind]);
    find(`count-${kind}`).textContent = count;
  }
  find("hiding").hidden = counts.every(([, count]) => !count);
}

function repaint() {
  find("theme").setAttribute("aria-checked", isDark());
  paintHeads();
  showRow();
  drawGeneration();
}

function chooseView(view) {
  chosen.view = view;
  chosen.method = "";
  showMethods();
  paintHeads();
  return showHead();
}

function chooseHidden() {
  chosen.hidden = Object.entries(data.hidden).reduce((bits, [kind, bit]) => bits | (find(`hide-${kind}`).checked ? bit : 0), 0);
  head = twinHead = null;
  if (!now().grid) buildTokens();
  paintHeads();
  return showHead().then(() => {
    const left = now().kinds.filter((_, place) => !isKept(place)).length;
    say(left ? `${left} positions are hidden` : "all positions are shown");
  });
}

function listenToChoices() {
  find("method").addEventListener("change", (event) => { chosen.method = event.target.value; paintTokens(); });
  find("text").addEventListener("change", (event) => showText(+event.target.value));
  find("target-choice").addEventListener("change", (event) => { chosen.example = +event.target.value; showExample(); });
  find("numbers").addEventListener("toggle", paintTable);
  find("theme").addEventListener("click", () => {
    document.documentElement.dataset.theme = isDark() ? "light" : "dark";
    repaint();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", repaint);
  for (const choice of document.querySelectorAll("input[name='unit']")) {
    choice.addEventListener("change", () => { chosen.unit = choice.value; buildTokens(); paintTokens(); });
  }
  for (const choice of document.querySelectorAll("input[name='view']")) choice.addEventListener("change", () => chooseView(choice.value));
  for (const kind of Object.keys(data.hidden)) find(`hide-${kind}`).addEventListener("change", chooseHidden);
}

function start() {
  if (!data.explanations[0].words.length) chosen.unit = "tokens";
  document.querySelector(`input[name='unit'][value='${chosen.unit}']`).checked = true;
  find("several").hidden = data.follows || data.texts.length < 2;
  find("text").replaceChildren(...data.text_names.map((name, text) => new Option(name, text)));
  for (const listen of [listenToTokens, listenToPicture, listenToHeads, listenToMatrix, listenToSaving, listenToChoices, listenToGeneration]) listen();
  find("theme").setAttribute("aria-checked", isDark());
  showText(0);
}

start();
