// The text or the image with a score on every token, word or patch.

const ROW = "row"; // the method that shows one row of the chosen head

let head = null; // what is known of the chosen head: its matrix

// Scores of the chosen method, by tokens.
function tokenScores() {
  const explanation = now();
  if (chosen.method !== ROW) return explanation.scores[chosen.method];
  if (!head) return explanation.tokens.map(() => 0);
  return Array.from(rowOf(chosen.query));
}

// What is shown: texts, scores, and for each the positions of its tokens.
function evidence() {
  const explanation = now();
  const scores = tokenScores();
  if (chosen.unit === "tokens" && !explanation.grid) {
    return { texts: explanation.tokens, scores, places: scores.map((_, place) => [place]) };
  }
  const places = explanation.words.map(() => []);
  explanation.word_of.forEach((word, place) => { if (word !== null) places[word].push(place); });
  return { texts: explanation.words, scores: places.map((at) => at.reduce((sum, place) => sum + scores[place], 0)), places };
}

const largest = (values) => values.reduce((most, value) => Math.max(most, Math.abs(value)), 0) || 1;

// The query of a position of the text; an explanation may have fewer queries than positions.
const queryAt = (place) => Math.max(0, place - (now().tokens.length - now().queries));
const placeOf = (query) => query + now().tokens.length - now().queries;

function buildTokens() {
  const { texts } = evidence();
  const list = find("tokens");
  list.replaceChildren(...texts.map((text, index) => element("span", { role: "option", dir: "auto", tabindex: "-1", "data-index": index }, text)));
  if (!data.follows && now().row !== null && now().row === now().tokens.length - 1) {
    list.append(element("span", { class: "next", role: "presentation" }, `→ ${now().target}  ${percent(now().probability)}`));
  }
}

function paintTokens() {
  const explanation = now();
  if (explanation.grid) {
    paintPicture();
  } else {
    const { texts, scores, places } = evidence();
    const reach = colourRange(largest(scores), chosen.method);
    const at = placeOf(chosen.query);
    [...find("tokens").children].slice(0, texts.length).forEach((item, index) => {
      const colour = shade(scores[index], reach);
      item.style.background = css(colour);
      item.style.color = inkOn(colour);
      const isChosen = places[index].includes(at);
      item.setAttribute("aria-selected", isChosen);
      item.tabIndex = isChosen ? 0 : -1;
      item.setAttribute("aria-label", `${texts[index]}, ${number(scores[index])}`);
      item.dataset.value = number(scores[index], 4);
    });
    if (!find("tokens").querySelector("[tabindex='0']")) find("tokens").firstElementChild?.setAttribute("tabindex", "0");
    legend(find("evidence-legend"), reach, methodName());
  }
  find("method-note").textContent = chosen.method === ROW
    ? `One row of ${headName(chosen.layer, chosen.head)}: what ${queryName(head ? rowName(chosen.query) : chosen.query)} looks at.`
    : data.methods[chosen.method]?.note ?? "Positive speaks for the target.";
}

const methodName = () => (chosen.method === ROW ? data.views[chosen.view].name : data.methods[chosen.method]?.name ?? chosen.method);

function tellToken(index) {
  const { texts, scores } = evidence();
  if (texts[index] === undefined) return;
  find("evidence-readout").replaceChildren(element("b", {}, texts[index]), `  ${number(scores[index])}  ${methodName()}`);
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
