// Matrices of heads, decoded when they are first looked at: base64 of deflated float16 (low bytes before high ones), or of signed bytes, each
// a level q of n: sign(q) (q / n)^2 of the largest number.

const FLOATS = Float32Array.from({ length: 65536 }, (_, bits) => {
  const [sign, exponent, fraction] = [bits >> 15 ? -1 : 1, (bits >> 10) & 31, bits & 1023];
  return sign * (exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024) : 2 ** -14 * (fraction / 1024));
});
const KEPT = 16;
const decoded = new Map();

async function inflated(text) {
  const letters = atob(text);
  const bytes = new Uint8Array(letters.length);
  for (let at = 0; at < letters.length; at++) bytes[at] = letters.charCodeAt(at);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

const holderOf = (example, kind) => (kind === "weights" ? data.explanations[example].weights_of : example);

// [scale, levels, error] of one matrix.
const packing = (example, view, layer, head) => data.explanations[holderOf(example, kindOf(view))].packed[kindOf(view)][layer][head];

// The numbers of one head, a row after the other. `kind` is "weights" or "contributions".
async function block(example, kind, layer, head) {
  const name = `${kind}-${holderOf(example, kind)}-${layer}-${head}`;
  if (decoded.has(name)) return decoded.get(name);
  const bytes = await inflated(find(name).textContent);
  const [scale, levels] = data.explanations[holderOf(example, kind)].packed[kind][layer][head];
  const numbers = levels ? ofLevels(bytes, scale, levels) : ofHalves(bytes, scale);
  decoded.set(name, numbers);
  if (decoded.size > KEPT) decoded.delete(decoded.keys().next().value);
  return numbers;
}

function ofHalves(bytes, scale) {
  const half = bytes.length / 2;
  const numbers = new Float32Array(half);
  for (let at = 0; at < half; at++) numbers[at] = FLOATS[bytes[at] | (bytes[half + at] << 8)] * scale;
  return numbers;
}

function ofLevels(bytes, scale, levels) {
  const meant = Float32Array.from({ length: 256 }, (_, byte) => {
    const level = byte < 128 ? byte : byte - 256;
    return scale * Math.sign(level) * (level / levels) ** 2;
  });
  const numbers = new Float32Array(bytes.length);
  for (let at = 0; at < bytes.length; at++) numbers[at] = meant[bytes[at]];
  return numbers;
}

// One view of one head, of the positions that are not hidden: numbers a row after the other, the position of each column, and the query of
// each row. A single row of everything together has the query null. The row that the logit is read from is never hidden.
async function matrixOf(example, view, layer, head) {
  const one = data.explanations[example];
  const all = await block(example, kindOf(view), layer, head);
  const sign = view === "oriented" ? one.orientation[layer][head] : 1;
  const columns = one.tokens.length;
  const isRow = view === "contributions" && !one.whole;
  const before = columns - one.queries;
  const queries = isRow ? [one.row === null ? null : one.row - before] : [...Array(one.queries).keys()].filter((query) => isKept(query + before) || query + before === one.row);
  const keys = [...Array(columns).keys()].filter(isKept);
  if (sign === 1 && keys.length === columns && queries.length * columns === all.length) return { values: all, rows: queries.length, columns, keys, queries };
  const values = new Float32Array(queries.length * keys.length);
  queries.forEach((query, row) => {
    const start = isRow ? 0 : query * columns;
    for (let at = 0; at < keys.length; at++) values[row * keys.length + at] = sign * all[start + keys[at]];
  });
  return { values, rows: queries.length, columns: keys.length, keys, queries };
}

const kindOf = (view) => (view === "contributions" ? "contributions" : "weights");

// The end of the range of colours; a twin has that of its model, or its own where that is larger.
function reachOf(view, layer, head) {
  const reaches = [now(), twin()].filter(Boolean).map((one) => headReaches(one, view));
  const most = Math.max(...reaches.map((reach) => (chosen.range === "head" ? reach[layer][head] : Math.max(...reach.flat()))));
  return colourRange(most, view, "weight") / 2 ** chosen.contrast;
}
