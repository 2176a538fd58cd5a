// What every part of the page uses: elements, numbers in words, and what is chosen.

const find = (id) => document.getElementById(id);
const data = JSON.parse(find("data").textContent);

// `method` is "" where words have the view's own scores; `hidden` has a bit for each kind of position that is left out.
const chosen = {
  example: 0, text: 0, method: "", unit: "words", view: "contributions", layer: 0, head: 0, query: 0, key: null, range: "head", contrast: 0, hidden: 0,
  cells: "matrices",
};
const now = () => data.explanations[chosen.example];
const twin = () => (now().twin === null ? null : data.explanations[now().twin]);

const isKept = (position) => !(now().kinds[position] & chosen.hidden);

// The one number of every head, [layer][head], without the keys that are hidden; and the largest number of every head likewise.
function headNumbers(one, view) {
  return merged(one, (part) => part.numbers[view], (total, value) => total + value);
}

function headReaches(one, view) {
  return merged(one, (part) => part.reach[kindOf(view)], Math.max);
}

function merged(one, numbersOf, merge) {
  const parts = Object.entries(one.parts).filter(([kind]) => !(kind & chosen.hidden)).map(([, part]) => numbersOf(part));
  return one.one_signed.map((row, layer) => row.map((_, head) => parts.reduce((total, part) => merge(total, part[layer][head]), 0)));
}

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "class") made.className = value;
    else made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}

function number(value, digits = 3) {
  if (value === 0) return "0";
  const size = Math.abs(value);
  const text = size < 1e-4 ? size.toExponential(digits - 1) : size.toPrecision(digits);
  return (value < 0 ? "−" : "+") + text;
}

const size = (value) => number(value).replace("+", "");
const percent = (share) => `${(100 * share).toPrecision(3)} %`;
const say = (text) => { find("live").textContent = text; };

// Arrow keys on a grid of `rows` by `columns`: the place they lead to, or null for any other key.
function moved(event, [row, column], [rows, columns]) {
  const steps = {
    ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0], PageUp: [-10, 0], PageDown: [10, 0],
    Home: [0, -columns], End: [0, columns],
  };
  const step = steps[event.key];
  if (!step || event.altKey || event.ctrlKey || event.metaKey) return null;
  event.preventDefault();
  const held = (place, end) => Math.min(Math.max(place, 0), end - 1);
  return [held(row + step[0], rows), held(column + step[1], columns)];
}

function headName(layer, head, one = now()) {
  const { layers, signed, one_signed } = one;
  const kind = signed[layer] ? (one_signed[layer][head] ? " (one-signed)" : "") : " (softmax)";
  return `layer ${layers[layer]}, head ${head}${kind}`;
}

// The name of a query; the row of all of them together has one too.
function queryName(query) {
  const { tokens, queries } = now();
  return query === null ? "all positions together" : tokens[tokens.length - queries + query];
}
