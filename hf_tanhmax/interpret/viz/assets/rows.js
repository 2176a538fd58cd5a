// One row of the chosen head: the strongest keys as bars, and every number as a table.

const SHOWN = 12;

function paintBars() {
  const values = Array.from(rowOf(chosen.query));
  const reach = colourRange(largest(values), chosen.view, "weight"); // so that what hardly moves the logit is short
  const order = values.map((_, key) => key).sort((left, right) => Math.abs(values[right]) - Math.abs(values[left]) || left - right);
  const name = queryName(rowName(chosen.query));
  find("row-title").textContent = `What “${name}” looks at`;
  find("row-note").textContent = `${headName(chosen.layer, chosen.head)}, ${data.views[chosen.view].name}${values.length > SHOWN ? `; the ${SHOWN} strongest of ${values.length}` : ""}`;
  find("row").replaceChildren(...order.slice(0, SHOWN).map((key) => {
    const bar = element("i");
    const wide = (50 * Math.abs(values[key])) / reach;
    bar.style.width = `${wide}%`;
    bar.style.left = values[key] < 0 ? `${50 - wide}%` : "50%";
    bar.style.background = css(shade(Math.sign(values[key]) * 0.66, 1));
    return element("li", {}, element("span", { class: "name", dir: "auto" }, now().tokens[head.keys[key]]), element("span", { class: "track", "aria-hidden": "true" }, bar),
      element("span", { class: "value" }, number(values[key])));
  }));
}

// The columns of the table: a name, and a number for each token that is not hidden.
async function tableColumns(example, before) {
  const { layer, head: place, query } = chosen;
  const one = data.explanations[example];
  const views = await Promise.all(Object.keys(data.views).map(async (view) => {
    const found = await matrixOf(example, view, layer, place);
    return [`${before}${data.views[view].name}${isSingle(found) ? `, ${queryName(found.queries[0])}` : ""}`, rowOf(query, found)];
  }));
  const scores = Object.entries(one.scores).map(([name, values]) => [`${before}score: ${nameOf(name)}`, values.filter((_, place_) => isKept(place_))]);
  return [...views, ...scores];
}

async function paintTable() {
  if (!find("numbers").open) return;
  const wanted = stamp;
  const columns = await tableColumns(chosen.example, "");
  if (twin()) columns.push(...await tableColumns(now().twin, `${twinName()}, `));
  if (wanted !== stamp) return;
  const explanation = now();
  const caption = `${headName(chosen.layer, chosen.head)}: what ${queryName(chosen.query)} looks at, and the scores of every token.`;
  const top = element("tr", {}, element("th", { scope: "col" }, "position"), element("th", { scope: "col", class: "name" }, "token"),
    ...columns.map(([name]) => element("th", { scope: "col" }, name)));
  const rows = head.keys.map((key, at) => element("tr", {}, element("td", {}, `${key}`),
    element("th", { scope: "row", class: "name", dir: "auto" }, explanation.tokens[key]), ...columns.map(([, values]) => element("td", {}, number(values[at], 4)))));
  find("table").replaceChildren(element("caption", {}, caption), element("thead", {}, top), element("tbody", {}, ...rows));
  find("table").dataset.stamp = stamp;
}
