// What is shown, saved: PNG and SVG are drawn by the same commands, always on white; JSON has the numbers.

const INK = "#1b1f27";
const FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Noto Sans', sans-serif";
const escaped = (text) => String(text).replace(/[&<>"]/g, (letter) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" })[letter]);
const measure = element("canvas").getContext("2d");

function widthOf(text, points) {
  measure.font = `${points}px ${FONT}`;
  return measure.measureText(text).width;
}

// Commands of a picture: ["rect", x, y, w, h, fill], ["text", x, y, text, points, fill, anchor, turned], ["image", canvas, x, y, w, h, smooth].
function asSvg({ width, height, commands }) {
  const write = {
    rect: (x, y, w, h, fill) => `<rect x="${x}" y="${y}" width="${w}" height="${h}" fill="${fill}"/>`,
    text: (x, y, text, points, fill = INK, anchor = "start", turned = false) =>
      `<text x="${x}" y="${y}" font-size="${points}" fill="${fill}" text-anchor="${anchor}" xml:space="preserve"${turned ? ` transform="rotate(-90 ${x} ${y})"` : ""}>${escaped(text)}</text>`,
    image: (canvas, x, y, w, h, smooth) => {
      const style = smooth ? "" : ' style="image-rendering:pixelated"';
      return `<image x="${x}" y="${y}" width="${w}" height="${h}" preserveAspectRatio="none"${style} href="${canvas.toDataURL()}"/>`;
    },
  };
  const body = commands.map(([name, ...rest]) => write[name](...rest)).join("\n");
  return `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}" font-family="${FONT}">\n<rect width="100%" height="100%" fill="#ffffff"/>\n${body}\n</svg>\n`;
}

function asPng({ width, height, commands }) {
  const canvas = element("canvas", { width: 2 * width, height: 2 * height });
  const context = canvas.getContext("2d");
  const draw = {
    rect: (x, y, w, h, fill) => { context.fillStyle = fill; context.fillRect(x, y, w, h); },
    text: (x, y, text, points, fill = INK, anchor = "start", turned = false) => {
      context.save();
      context.translate(x, y);
      if (turned) context.rotate(-Math.PI / 2);
      context.font = `${points}px ${FONT}`;
      context.fillStyle = fill;
      context.textAlign = anchor === "middle" ? "center" : anchor;
      context.fillText(text, 0, 0);
      context.restore();
    },
    image: (source, x, y, w, h, smooth) => { context.imageSmoothingEnabled = Boolean(smooth); context.drawImage(source, x, y, w, h); },
  };
  context.scale(2, 2);
  draw.rect(0, 0, width, height, "#ffffff");
  for (const [name, ...rest] of commands) draw[name](...rest);
  return new Promise((done) => { canvas.toBlob(done, "image/png"); });
}

// Title above and colours below what is drawn in between.
function framed(title, width, height, inner, reach, label) {
  const commands = [["text", 20, 30, title, 15], ["text", 20, 50, subtitle(), 12, "#59626f"]];
  commands.push(...inner);
  const strip = smallCanvas(181, 1, (at) => [...shade(at / 90 - 1, 1, false), 255]);
  const top = height + 76;
  commands.push(["image", strip, 20, top, 180, 10, false], ["text", 20, top + 24, number(-reach), 11], ["text", 110, top + 24, "0", 11, INK, "middle"]);
  commands.push(["text", 200, top + 24, number(reach), 11, INK, "end"], ["text", 214, top + 9, label, 11]);
  return { width: Math.ceil(Math.max(width, widthOf(title, 15), widthOf(subtitle(), 12), 214 + widthOf(label, 11)) + 40), height: Math.ceil(top + 36), commands };
}

const subtitle = () => `for “${now().target}”, probability ${size(now().probability)}, logit ${number(now().logit)}${now().model ? `, ${now().model}` : ""}`;

function evidencePicture() {
  const { texts, scores } = evidence();
  const reach = evidenceReach();
  const title = method() === ROW ? `${headName(chosen.layer, chosen.head)}, ${methodName()}` : methodName();
  if (now().grid) {
    const canvas = element("canvas", { width: find("picture").width, height: find("picture").height });
    drawPicture(canvas.getContext("2d"), canvas.width, canvas.height);
    return framed(title, canvas.width, canvas.height, [["image", canvas, 20, 64, canvas.width, canvas.height, true]], reach, methodName());
  }
  const inner = [];
  let [left, line] = [0, 0];
  texts.forEach((text, index) => {
    const wide = widthOf(text, 14) + 14;
    if (left && left + wide > 760) [left, line] = [0, line + 1];
    const colour = shade(scores[index], reach, false);
    inner.push(["rect", 20 + left, 64 + 30 * line, wide, 26, css(colour)], ["text", 27 + left, 82 + 30 * line, text, 14, inkOn(colour)]);
    left += wide + 4;
  });
  return framed(title, 760, 30 * (line + 1), inner, reach, methodName());
}

function headsPicture() {
  const numbers = headNumbers(now(), chosen.view);
  const reach = headsReach();
  const inner = [];
  numbers.forEach((row, layer) => {
    inner.push(["text", 128, 98 + 28 * layer, `${now().signed[layer] ? "layer" : "softmax"} ${now().layers[layer]}`, 11, INK, "end"]);
    row.forEach((value, place) => {
      const colour = shade(value, reach, false);
      if (layer === 0) inner.push(["text", 160 + 48 * place, 76, `${place}`, 11, INK, "middle"]);
      inner.push(["rect", 137 + 48 * place, 80 + 28 * layer, 46, 26, css(colour)], ["text", 160 + 48 * place, 97 + 28 * layer, number(value, 2), 10, inkOn(colour), "middle"]);
    });
  });
  return framed(`${data.views[chosen.view].name} of every head`, 120 + 48 * numbers[0].length, 24 + 28 * numbers.length, inner, reach, headUnit());
}

function headPicture() {
  const place = layoutOf(head, 720, keyNames());
  const reach = reachOf(chosen.view, chosen.layer, chosen.head);
  const [left, top] = [20 + place.left, 64 + place.top];
  const inner = [["image", pixelsOf(head, reach, false), left, top, place.width, place.height, false]];
  if (place.named) {
    head.queries.forEach((query, row) => inner.push(["text", left - 6, top + (row + 0.5) * place.high + 4, cut(queryName(query)), 11, INK, "end"]));
    keyNames().forEach((token, column) => inner.push(["text", left + (column + 0.5) * place.cell + 4, top - 6, cut(token), 11, INK, "start", true]));
  }
  return framed(`${headName(chosen.layer, chosen.head)}, ${data.views[chosen.view].name}`, place.left + place.width, place.top + place.height, inner, reach, data.views[chosen.view].name);
}

const PICTURES = { evidence: evidencePicture, heads: headsPicture, head: headPicture };

function shownNumbers(name) {
  const { target, logit, probability, model, layers } = now();
  const hidden = Object.keys(data.hidden).filter((kind) => chosen.hidden & data.hidden[kind]);
  const about = { model, target, logit, probability, hidden };
  if (name === "evidence") {
    const { texts, scores } = evidence();
    return { ...about, method: method(), unit: now().grid ? "patches" : chosen.unit, texts, scores };
  }
  if (name === "heads") return { ...about, view: chosen.view, unit: headUnit(), layers, numbers: headNumbers(now(), chosen.view) };
  const error = packing(chosen.example, chosen.view, chosen.layer, chosen.head)[2];
  const values = Array.from({ length: head.rows }, (_, row) => Array.from(head.values.subarray(row * head.columns, (row + 1) * head.columns)));
  return { ...about, view: chosen.view, layer: layers[chosen.layer], head: chosen.head, tokens: keyNames(), queries: head.queries.map(queryName), error, values };
}

async function savePicture(name, kind) {
  const made = {
    json: () => new Blob([JSON.stringify(shownNumbers(name), null, 1)], { type: "application/json" }),
    svg: () => new Blob([asSvg(PICTURES[name]())], { type: "image/svg+xml" }),
    png: () => asPng(PICTURES[name]()),
  };
  const part = { evidence: method(), heads: chosen.view, head: `layer${now().layers[chosen.layer]}-head${chosen.head}-${chosen.view}` }[name];
  const link = element("a", { download: `${name}-${part}.${kind}`, href: URL.createObjectURL(await made[kind]()) });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  say(`saved ${link.download}`);
}

function listenToSaving() {
  for (const place of document.querySelectorAll(".save")) {
    for (const kind of ["png", "svg", "json"]) {
      const button = element("button", { type: "button", "aria-label": `Save as ${kind.toUpperCase()}` }, kind.toUpperCase());
      button.addEventListener("click", () => savePicture(place.dataset.picture, kind));
      place.append(button);
    }
  }
}
