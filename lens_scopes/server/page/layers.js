// Through the layers: a map of layers × tokens, and a strip of one layer at a time.
import { h, rove, section } from "./dom.js";
import { cellClass, legend, number, rowLegend, scaleOf, short } from "./scale.js";

let count = 0;

/** Where the tokens' scores are read: the embedding, or several sites together. */
export function place(result) {
  return result.settings.score_sites?.length ? "all sites" : "embedding";
}

/** The switcher: radio buttons for that place and each layer. */
export function switcher(result, chosen, choose) {
  const group = `layer-${count++}`;
  const options = ["", ...result.view.layer_labels].map((name) =>
    h(
      "label",
      {},
      h("input", {
        type: "radio",
        name: group,
        value: name,
        checked: name === chosen,
        onchange: () => choose(name),
      }),
      h("span", {}, name || place(result)),
    ),
  );
  return h("div", { class: "layer-switcher", role: "radiogroup", "aria-label": "Where influence is read" }, ...options);
}

/** The tokens' scores for "", else those of the layer of that name. */
export function scoresAt(result, name) {
  const row = result.view.layer_labels.indexOf(name);
  return row < 0 ? result.scores : result.layers[row];
}

/** The map; a cell leads to its layer, and its token is looked at. */
export function layerMap(result, shown, choose) {
  if (!result.layers?.length) return null;
  const table = grid({
    rows: result.view.layer_labels,
    corner: "layer",
    columns: result.view.labels,
    special: result.special,
    values: result.layers,
    caption: "Influence of each token, read at each layer",
    current: result.view.layer_labels.indexOf(shown),
    choose: (row, column) => choose(result.view.layer_labels[row], column),
  });
  return section(
    "Through the layers",
    "full",
    h(
      "p",
      { class: "note" },
      "Where the colour moves from a token to a later one, its information has moved along. A cell leads to its layer.",
    ),
    table,
  );
}

/** Sets off the row of a layer in its map. */
export function markLayer(map, result, name) {
  const chosen = result.view.layer_labels.indexOf(name);
  map?.querySelectorAll("tbody tr").forEach((row, i) => {
    if (i === chosen) row.setAttribute("aria-current", "true");
    else row.removeAttribute("aria-current");
  });
}

/** A map with a cell for each row and column, coloured by row or on one scale, its numbers at hand. */
export function grid({ rows, corner, columns, special, values, caption, choose, current = -1, byRow = true, noun = corner }) {
  const key = `grid-${count++}`;
  const own = values.map((row) => scaleOf(row, special));
  const shared = {
    bound: own.reduce((most, scale) => Math.max(most, scale.bound), 0),
    signed: own.some((scale) => scale.signed),
  };
  const cells = [];
  const recolour = (scaleOfRow) => {
    for (const { cell, value, r, c } of cells) cell.className = cellClass(value, special[c], scaleOfRow(r));
  };
  const body = values.map((row, r) =>
    h(
      "tr",
      { "aria-current": r === current ? "true" : null },
      h("th", { scope: "row", class: "name" }, h("bdi", {}, rows[r])),
      row.map((value, c) => {
        if (value === undefined) return h("td", { class: "none" });
        const about = `${rows[r]} · ${columns[c]} · ${number(value)}`;
        const cell = h("td", { title: about, "aria-label": about, role: "gridcell" }, short(value));
        cell.addEventListener("click", () => choose(r, c));
        cells.push({ cell, value, r, c });
        return cell;
      }),
    ),
  );
  const head = columns.map((name, c) =>
    h("th", { scope: "col", title: `#${c}`, class: special[c] ? "special" : null }, h("span", {}, h("bdi", {}, name))),
  );
  const table = h(
    "table",
    { role: "grid", "aria-label": caption },
    h("caption", {}, caption),
    h("thead", {}, h("tr", {}, h("th", { scope: "col", class: "name" }, corner), ...head)),
    h("tbody", {}, ...body),
  );
  recolour((r) => (byRow ? own[r] : shared));
  rove(table, cells.map(({ cell }) => cell), columns.length);
  table.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" && event.key !== " ") return;
    event.preventDefault();
    document.activeElement.click();
  });
  const choice = (name, label, checked, scaleOfRow) =>
    h("label", {}, h("input", { type: "radio", name: key, class: name, checked, onchange: () => recolour(scaleOfRow) }), label);
  const area = h("div", { class: "scroll", style: { "--tokens": columns.length, "--name": longest(rows) } }, table);
  return h(
    "div",
    { class: "heat" },
    choice("by-row", `colour by ${noun}`, byRow, (r) => own[r]),
    choice("by-all", "one scale for all", !byRow, () => shared),
    h("label", {}, h("input", { type: "checkbox", class: "numbers" }), "numbers"),
    area,
    h("div", { class: "row-legend" }, rowLegend(noun, shared.signed)),
    h("div", { class: "all-legend" }, legend(shared, `all ${noun}s`, special)),
  );
}

function longest(names) {
  return names.reduce((most, name) => Math.max(most, [...name].length), 0);
}
