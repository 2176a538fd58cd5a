// The text or the image with a score on every token, word or patch.

const ROW = "row"; // the method that shows one row of the chosen head
const OWN_SCORES = { raw: "weights", oriented: "oriented", contributions: "contributions" }; // of each view

let head = null; // what is known of the chosen head: its matrix
let twinHead = null; // the same of the twin

// The name of the scores that are shown: those of the view, unless others were chosen.
const method = () => chosen.method || OWN_SCORES[chosen.view];
const methodName = () => (method() === ROW ? data.views[chosen.view].name : nameOf(method()));
const nameOf = (name) => data.methods[name]?.name ?? name.replaceAll("_", " ");
// As a colour's range needs it: one row has the numbers of the view.
const scaleName = () => (method() === ROW ? chosen.view : method());
const scaleOf = () => (method() === ROW ? "weight" : now().grid ? "patch" : "word");

// Scores of the chosen method, by tokens.
function tokenScores(one) {
  if (method() !== ROW) return one.scores[method()] ?? one.tokens.map(() => 0);
  const scores = one.tokens.map(() => 0);
  const of = one === now() ? head : twinHead;
  if (of) rowOf(chosen.query, of).forEach((value, at) => { scores[of.keys[at]] = value; });
  return scores;
}

// What is shown: texts, scores, and for each the positions of its tokens. Of a picture every patch is, so that it keeps its place.
function evidence(one = now()) {
  const scores = tokenScores(one);
  if (chosen.unit === "tokens" && !one.grid) {
    const kept = one.tokens.map((_, place) => place).filter(isKept);
    return { texts: kept.map((place) => one.tokens[place]), scores: kept.map((place) => scores[place]), places: kept.map((place) => [place]) };
  }
  const places = one.words.map(() => []);
  one.word_of.forEach((word, place) => { if (word !== null && isKept(place)) places[word].push(place); });
  const kept = one.words.map((_, word) => word).filter((word) => one.grid || places[word].length);
  return {
    texts: kept.map((word) => one.words[word]), places: kept.map((word) => places[word]),
    scores: kept.map((word) => places[word].reduce((sum, place) => sum + scores[place], 0)),
  };
}

const largest = (values) => values.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
const evidenceReach = () => colourRange(Math.max(...[now(), twin()].filter(Boolean).map((one) => largest(evidence(one).scores))), scaleName(), scaleOf());

// The query of a position of the text; an explanation may have fewer queries than positions.
const queryAt = (place) => Math.max(0, place - (now().tokens.length - now().queries));
const placeOf = (query) => query + now().tokens.length - now().queries;

function buildTokens() {
  const { texts, places } = evidence();
  const unknown = new Set(now().unknown);
  find("tokens").replaceChildren(...texts.map((text, index) => {
    const item = element("span", { role: "option", dir: "auto", tabindex: "-1", "data-index": index }, text);
    if (places[index].some((place) => unknown.has(place))) item.className = "unknown";
    return item;
  }));
  if (now().cut) find("tokens").append(element("span", { class: "next cut", role: "presentation" }, `✂ ${now().cut} tokens cut`));
  if (!data.follows && now().row !== null && now().row === now().tokens.length - 1) {
    find("tokens").append(element("span", { class: "next", role: "presentation" }, `→ ${now().target}  ${percent(now().probability)}`));
  }
  const beside = twin() ? evidence(twin()).texts : [];
  find("twin-tokens").replaceChildren(...beside.map((text) => element("span", { role: "listitem", dir: "auto" }, text)));
}

function paintItems(items, one, reach) {
  const { texts, scores } = evidence(one);
  texts.forEach((text, index) => {
    const item = items[index];
    const colour = shade(scores[index], reach);
    item.style.background = css(colour);
    item.style.color = inkOn(colour);
    item.setAttribute("aria-label", `${text}, ${number(scores[index])}${item.className === "unknown" ? ", not known to the tokenizer" : ""}`);
    item.title = item.className === "unknown" ? "The tokenizer does not know this word, so the model has not read it." : "";
    item.dataset.value = number(scores[index], 4);
  });
}

function paintTokens() {
  if (now().grid) {
    paintPicture();
  } else {
    const reach = evidenceReach();
    const at = placeOf(chosen.query);
    paintItems(find("tokens").children, now(), reach);
    evidence().places.forEach((places, index) => {
      const item = find("tokens").children[index];
      const isChosen = places.includes(at);
      item.setAttribute("aria-selected", isChosen);
      item.tabIndex = isChosen ? 0 : -1;
    });
    if (!find("tokens").querySelector("[tabindex='0']")) find("tokens").firstElementChild?.setAttribute("tabindex", "0");
    if (twin()) paintItems(find("twin-tokens").children, twin(), reach);
    legend(find("evidence-legend"), reach, methodName());
  }
  paintMethodNote();
}

// What the method is, and what its scores add up to where that is known.
function paintMethodNote() {
  const note = method() === ROW
    ? `One row of ${headName(chosen.layer, chosen.head)}: what ${queryName(head ? rowName(chosen.query) : chosen.query)} looks at.`
    : data.methods[method()]?.note || "Positive speaks for the target.";
  const sum = now().sums[method()];
  find("method-note").replaceChildren(note, ...(sum ? [" ", element("span", { class: sum.far ? "sum far" : "sum" }, sum.text)] : []));
}

function tellToken(index) {
  const { texts, scores } = evidence();
  if (texts[index] === undefined) return;
  const beside = twin() ? [`; twin ${number(evidence(twin()).scores[index])}`] : [];
  find("evidence-readout").replaceChildren(element("b", {}, texts[index]), `  ${number(scores[index])}  ${methodName()}`, ...beside);
}

function chooseToken(index, { speak = false } = {}) {
  const { texts, scores, places } = evidence();
  if (!places[index]?.length) return;
  chosen.query = queryAt(places[index][0]);
  tellToken(index);
  if (speak) say(`${texts[index]}, ${number(scores[index])}`);
  showRow();
}

// The token above or below on the screen, for the arrow keys.
function neighbour(items, index, down) {
  const here = items[index].getBoundingClientRect();
  const middle = (box) => box.left + box.width / 2;
  const beyond = items.map((item, at) => [at, item.getBoundingClientRect()]).filter(([, box]) => (down ? box.top > here.bottom - 2 : box.bottom < here.top + 2));
  if (!beyond.length) return index;
  const line = down ? Math.min(...beyond.map(([, box]) => box.top)) : Math.max(...beyond.map(([, box]) => box.top));
  const near = beyond.filter(([, box]) => Math.abs(box.top - line) < 2);
  return near.reduce((best, item) => (Math.abs(middle(item[1]) - middle(here)) < Math.abs(middle(best[1]) - middle(here)) ? item : best))[0];
}

function listenToTokens() {
  const list = find("tokens");
  const indexOf = (event) => event.target.dataset?.index;
  list.addEventListener("click", (event) => { if (indexOf(event) !== undefined) chooseToken(+indexOf(event)); });
  list.addEventListener("pointerover", (event) => { if (indexOf(event) !== undefined) tellToken(+indexOf(event)); });
  list.addEventListener("keydown", (event) => {
    const items = [...list.querySelectorAll("[role='option']")];
    const index = items.indexOf(document.activeElement);
    if (index < 0) return;
    const vertical = event.key === "ArrowUp" || event.key === "ArrowDown";
    const rightToLeft = getComputedStyle(list).direction === "rtl";
    const place = moved(event, [0, index], [1, items.length]);
    if (!place) return;
    const next = vertical ? neighbour(items, index, event.key === "ArrowDown") : rightToLeft ? 2 * index - place[1] : place[1];
    items[next]?.focus();
    chooseToken(next, { speak: true });
  });
}
