// Layers by heads: in each cell the head's matrix, small, and under it its one signed number as a colour.

const twinName = () => (twin().signed.some(Boolean) ? "twin" : "softmax twin");

function buildHeads() {
  buildGrid(find("heads"), now());
  find("twin-heads").replaceChildren();
  if (twin()) buildGrid(find("twin-heads"), twin());
  const { layers, signed, one_signed } = now();
  find("layer").replaceChildren(...layers.map((name, layer) => new Option(signed[layer] ? name : `${name} (softmax)`, layer)));
  find("head").replaceChildren(...one_signed[0].map((_, place) => new Option(place, place)));
}

function buildGrid(table, { layers, signed, one_signed }) {
  const heads = one_signed[0].length;
  const top = element("tr", {}, element("td", { class: "corner" }, "layer ╲ head"), ...Array.from({ length: heads }, (_, place) => element("th", { scope: "col" }, `${place}`)));
  const rows = layers.map((name, layer) => {
    const title = element("th", { scope: "row" });
    if (!signed[layer]) title.append(element("span", { class: "tag" }, "softmax"), " ");
    title.append(`${name}`);
    const cells = Array.from({ length: heads }, (_, place) => {
      const button = element("button", { type: "button", tabindex: "-1", "data-layer": layer, "data-head": place }, element("canvas", { "aria-hidden": "true" }));
      if (one_signed[layer][place] && signed[layer]) button.className = "one";
      return element("td", { role: "gridcell" }, button);
    });
    return element("tr", {}, title, ...cells);
  });
  table.replaceChildren(element("thead", {}, top), element("tbody", {}, ...rows));
}

const cellOf = (layer, place, table = find("heads")) => table.querySelector(`button[data-layer="${layer}"][data-head="${place}"]`);
const headUnit = () => (chosen.view === "contributions" ? "sum over all positions, in logits" : "sum of a row, mean over queries");
const shownGrids = () => [[find("heads"), chosen.example], ...(twin() ? [[find("twin-heads"), now().twin]] : [])];

// The end of the range of the heads' one numbers.
const headsReach = () => colourRange(Math.max(...[now(), twin()].filter(Boolean).map((one) => largest(headNumbers(one, chosen.view).flat()))), chosen.view, "head");

function paintHeads() {
  const reach = headsReach();
  for (const [table, example] of shownGrids()) {
    const one = data.explanations[example];
    const numbers = headNumbers(one, chosen.view);
    table.classList.toggle("drawn", chosen.cells === "matrices");
    for (const button of table.querySelectorAll("button")) {
      const [layer, place] = [+button.dataset.layer, +button.dataset.head];
      const value = numbers[layer][place];
      const isChosen = layer === chosen.layer && place === chosen.head;
      button.style.background = css(shade(value, reach));
      button.tabIndex = isChosen && table.id === "heads" ? 0 : -1;
      button.setAttribute("aria-pressed", isChosen);
      button.setAttribute("aria-label", `${headName(layer, place, one)}: ${number(value)}`);
      button.dataset.value = number(value, 4);
    }
  }
  legend(find("heads-legend"), reach, headUnit());
  find("view-note").textContent = data.views[chosen.view].note;
  [find("blue").textContent, find("orange").textContent] = chosen.view === "raw" ? ["is above zero", "below"] : ["speaks for the target", "against it"];
  tellHead(chosen.layer, chosen.head);
  paintThumbnails();
}

function tellHead(layer, place) {
  const { negative, orientation, signed } = now();
  const turned = chosen.view === "raw" || !signed[layer] ? "" : orientation[layer][place] < 0 ? ", orientation −1" : ", orientation +1";
  const beside = twin() ? `; ${twinName()} ${number(headNumbers(twin(), chosen.view)[layer][place])}` : "";
  find("heads-readout").replaceChildren(
    element("b", {}, headName(layer, place)),
    `  ${number(headNumbers(now(), chosen.view)[layer][place])}; ${(100 * negative[layer][place]).toFixed(1)} % of its raw weight is negative${turned}${beside}`,
  );
}

function chooseHead(layer, place) {
  [chosen.layer, chosen.head] = [layer, place];
  paintHeads();
  return showHead();
}

function listenToHeads() {
  const placeOfCell = (event) => {
    const button = event.target.closest?.("button");
    return button && [+button.dataset.layer, +button.dataset.head];
  };
  for (const table of [find("heads"), find("twin-heads")]) {
    table.addEventListener("click", (event) => { const place = placeOfCell(event); if (place) chooseHead(...place); });
    table.addEventListener("pointerover", (event) => { const place = placeOfCell(event); if (place) tellHead(...place); });
    table.addEventListener("pointerleave", () => tellHead(chosen.layer, chosen.head));
    table.addEventListener("keydown", (event) => {
      const place = moved(event, [chosen.layer, chosen.head], [now().layers.length, now().one_signed[0].length]);
      if (!place) return;
      chooseHead(...place);
      cellOf(...place, table).focus();
    });
  }
  for (const name of ["layer", "head"]) {
    find(name).addEventListener("change", () => chooseHead(+find("layer").value, +find("head").value));
  }
  find("strongest").addEventListener("click", () => chooseHead(...strongestHead()));
  for (const choice of document.querySelectorAll("input[name='cells']")) {
    choice.addEventListener("change", () => { chosen.cells = choice.value; paintHeads(); });
  }
}
