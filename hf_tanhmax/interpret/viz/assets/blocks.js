// Matrices of heads, decoded when they are first looked at: base64 of deflated float16, low bytes before high ones.

const FLOATS = Float32Array.from({ length: 65536 }, (_, bits) => {
  const [sign, exponent, fraction] = [bits >> 15 ? -1 : 1, (bits >> 10) & 31, bits & 1023];
  return sign * (exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024) : 2 ** -14 * (fraction / 1024));
});
const KEPT = 16;
const decoded = new Map();

async function inflated(text) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

// The numbers of one head, a row after the other. `kind` is "weights" or "contributions".
async function block(example, kind, layer, head) {
  const name = `${kind}-${example}-${layer}-${head}`;
  if (decoded.has(name)) return decoded.get(name);
  const bytes = await inflated(find(name).textContent);
  const scale = data.explanations[example].scales[kind][layer][head];
  const half = bytes.length / 2;
  const numbers = new Float32Array(half);
  for (let at = 0; at < half; at++) numbers[at] = FLOATS[bytes[at] | (bytes[half + at] << 8)] * scale;
  decoded.set(name, numbers);
  if (decoded.size > KEPT) decoded.delete(decoded.keys().next().value);
  return numbers;
}

// One view of one head. `first` is the query of its first row; a single row of everything together has null.
async function matrixOf(view, layer, head) {
  const explanation = now();
  const columns = explanation.tokens.length;
  if (view === "contributions") {
    const values = await block(chosen.example, "contributions", layer, head);
    return { values, columns, rows: values.length / columns, first: explanation.whole ? 0 : explanation.row };
  }
  const weights = await block(chosen.example, "weights", layer, head);
  const sign = view === "oriented" ? explanation.orientation[layer][head] : 1;
  const values = sign === 1 ? weights : weights.map((weight) => sign * weight);
  return { values, columns, rows: values.length / columns, first: 0 };
}

const kindOf = (view) => (view === "contributions" ? "contributions" : "weights");

// The end of the range of colours.
function reachOf(view, layer, head) {
  const reach = now().reach[kindOf(view)];
  const found = chosen.range === "head" ? reach[layer][head] : Math.max(...reach.flat());
  return colourRange((found || 1) / 2 ** chosen.contrast);
}
