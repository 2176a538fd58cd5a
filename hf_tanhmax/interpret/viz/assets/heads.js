// Layers by heads, a signed number in each cell.

function buildHeads() {
  const { layers, signed, one_signed } = now();
  const heads = one_signed[0].length;
  const top = element("tr", {}, element("td", { class: "corner" }, "layer ╲ head"), ...Array.from({ length: heads }, (_, head) => element("th", { scope: "col" }, `${head}`)));
  const rows = layers.map((name, layer) => {
    const title = element("th", { scope: "row" });
    if (!signed[layer]) title.append(element("span", { class: "tag" }, "softmax"), " ");
    title.append(`${name}`);
    const cells = Array.from({ length: heads }, (_, head) => {
      const button = element("button", { type: "button", tabindex: "-1", "data-layer": layer, "data-head": head });
      if (one_signed[layer][head] && signed[layer]) button.className = "one";
      return element("td", { role: "gridcell" }, button);
    });
    return element("tr", {}, title, ...cells);
  });
  find("heads").replaceChildren(element("thead", {}, top), element("tbody", {}, ...rows));
  find("layer").replaceChildren(...layers.map((name, layer) => new Option(signed[layer] ? name : `${name} (softmax)`, layer)));
  find("head").replaceChildren(...Array.from({ length: heads }, (_, head) => new Option(head, head)));
}

const cellOf = (layer, head) => find("heads").querySelector(`button[data-layer="${layer}"][data-head="${head}"]`);
const headUnit = () => (chosen.view === "contributions" ? "sum over all positions, in logits" : "sum of a row, mean over queries");

function paintHeads() {
  const numbers = now().numbers[chosen.view];
  const reach = colourRange(largest(numbers.flat()));
  for (const button of find("heads").querySelectorAll("button")) {
    const [layer, head] = [+button.dataset.layer, +button.dataset.head];
    const value = numbers[layer][head];
    const isChosen = layer === chosen.layer && head === chosen.head;
    button.style.background = css(shade(value, reach));
    button.tabIndex = isChosen ? 0 : -1;
    button.setAttribute("aria-pressed", isChosen);
    button.setAttribute("aria-label", `${headName(layer, head)}: ${number(value)}`);
    button.dataset.value = number(value, 4);
  }
  legend(find("heads-legend"), reach, headUnit());
  find("view-note").textContent = data.views[chosen.view].note;
  tellHead(chosen.layer, chosen.head);
}

function tellHead(layer, head) {
  const { numbers, negative, orientation, signed } = now();
  const turned = chosen.view === "raw" || !signed[layer] ? "" : orientation[layer][head] < 0 ? ", orientation −1" : ", orientation +1";
  find("heads-readout").replaceChildren(
    element("b", {}, headName(layer, head)), `  ${number(numbers[chosen.view][layer][head])}; ${(100 * negative[layer][head]).toFixed(1)} % of its raw weight is negative${turned}`,
  );
}

function chooseHead(layer, head) {
  [chosen.layer, chosen.head] = [layer, head];
  paintHeads();
  return showHead();
}

function listenToHeads() {
  const table = find("heads");
  const placeOfCell = (event) => {
    const button = event.target.closest?.("button");
    return button && [+button.dataset.layer, +button.dataset.head];
  };
  table.addEventListener("click", (event) => { const place = placeOfCell(event); if (place) chooseHead(...place); });
  table.addEventListener("pointerover", (event) => { const place = placeOfCell(event); if (place) tellHead(...place); });
  table.addEventListener("pointerleave", () => tellHead(chosen.layer, chosen.head));
  table.addEventListener("keydown", (event) => {
    const place = moved(event, [chosen.layer, chosen.head], [now().layers.length, now().one_signed[0].length]);
    if (!place) return;
    chooseHead(...place);
    cellOf(...place).focus();
  });
  for (const name of ["layer", "head"]) {
    find(name).addEventListener("change", () => chooseHead(+find("layer").value, +find("head").value));
  }
}
