// Maps of numbers, layers × tokens, layers × heads, targets × sources: a table with a colour in every cell.
import { bars } from "./chart.js";
import { h, onPress, rove, say } from "./dom.js";
import { measured, number, percent, short } from "./numbers.js";
import { token } from "./prose.js";
import { jointScale, legend, levelOf, ranking, rowLegend, scaleOf } from "./scale.js";
import { region } from "./table.js";

const LARGE = 2000; // cells above which a browser lays the table out only when it comes into view

/** The map of a block; `choose` names what its cells choose, where the page offers that choice. */
export function map(page, block) {
  return block.plain ? plainMap(page, block) : colouredMap(page, block);
}

function colouredMap(page, block) {
  const { key, noun, rows } = block;
  const values = page.values(block.values);
  const errors = block.errors && page.values(block.errors);
  const columns = block.columns ?? page.part.labels;
  const special = block.special ?? page.part.special;
  const own = values.map((row) => scaleOf(row.map((value) => value ?? NaN), special));
  const shared = jointScale(own);
  const cells = [];
  const cellRows = values.map(() => []);
  const frames = new Map((block.marks ?? []).map(([r, c, words]) => [`${r} ${c}`, words]));
  const recolour = (scaleOfRow) =>
    cells.forEach(({ element, value, r, c }) => {
      element.className = levelOf(value, special[c], scaleOfRow(r)) + (frames.has(`${r} ${c}`) ? " framed" : "");
    });
  const body = values.map((row, r) => {
    const best = ranking(row, special)[0];
    const top = best === undefined ? "—" : [token(columns[best]), " ", h("span", {}, number(row[best]))];
    const link = block.row_links?.[r];
    const name = link ? h("a", { href: `#${page.id(link)}` }, rows[r]) : h("bdi", {}, rows[r]);
    const rowCells = columns.map((column, c) => {
      const value = row[c];
      if (value === undefined) return h("td", { class: "none" });
      let about = `${rows[r]} · ${column} · ${measured(value, block.unit)}`;
      if (Number.isFinite(errors?.[r][c])) about += ` ± ${number(errors[r][c])}`;
      if (own[r].bound && !special[c] && Number.isFinite(value)) {
        about += ` · ${say("of_row", { percent: percent(Math.abs(value) / own[r].bound) })}`;
      }
      const best = block.readings?.tokens[r][c][0];
      if (best !== undefined) about += ` · ${say("reads_as")} ${best}`;
      if (frames.has(`${r} ${c}`)) about += ` · ${frames.get(`${r} ${c}`)}`;
      const element = h("td", { title: about }, short(value));
      cells.push({ element, value, r, c });
      cellRows[r].push(element);
      return element;
    });
    return h("tr", {}, h("th", { scope: "row", class: "name" }, name), h("td", { class: "top" }, top), ...rowCells);
  });
  recolour(block.by_all ? () => shared : (r) => own[r]);
  const outside = { special: special.some(Boolean), broken: values.flat().some((value) => value === null) };
  const control = (type, name, label, more) => {
    const attributes = { type, id: page.id(`${key}-${name}`), class: name, ...more };
    return h("label", {}, h("input", attributes), label);
  };
  const radio = (name, label, checked, scaleOfRow) =>
    control("radio", name, label, { name: page.id(`${key}-scale`), checked, onchange: () => recolour(scaleOfRow) });
  const head = columns.map((name, c) =>
    h("th", { scope: "col", title: `#${c}`, class: special[c] && "special" }, h("span", {}, token(name))),
  );
  const grid = h(
    "table",
    {},
    h("caption", {}, block.caption),
    h(
      "thead",
      {},
      h("tr", {}, h("th", { scope: "col", class: "name" }, noun), h("th", { scope: "col", class: "top" }, say("largest")), ...head),
    ),
    h("tbody", {}, ...body),
  );
  const scroll = region(block.caption, rows.length, rows.length * columns.length > LARGE, grid);
  scroll.style.setProperty("--tokens", columns.length);
  scroll.style.setProperty("--name", rows.reduce((most, name) => Math.max(most, [...name].length), 0));
  const chosen = choosable(page, block, grid, cells, cellRows);
  const detail = block.readings && readings(page, block, columns, cells);
  if (detail && !chosen) rove(grid, ...cellRows);
  return h(
    "div",
    { class: "heat" },
    chosen && block.choose === "position" && h("p", { class: "note" }, say("choose_position")),
    radio("by-row", say("by_row", { noun }), !block.by_all, (r) => own[r]),
    radio("by-all", say("by_all", { noun }), Boolean(block.by_all), () => shared),
    control("checkbox", "numbers", say("numbers"), {}),
    h("div", { class: "row-legend" }, rowLegend(noun, shared.signed, outside)),
    h("div", { class: "all-legend" }, legend(shared, say("all_rows", { noun }), outside)),
    scroll,
    detail,
  );
}

/** What the cell that is pointed at, has the focus or was chosen last reads as, below the map. */
function readings(page, block, columns, cells) {
  const probabilities = page.values(block.readings.probabilities);
  const panel = h("div", { class: "reading", "aria-live": "polite" }, h("p", { class: "note" }, say("point_cell")));
  const tell = ({ value, r, c }) => {
    const tokens = block.readings.tokens[r][c];
    const place = [h("b", {}, block.rows[r]), " · ", token(columns[c]), ` · ${number(value)} · `];
    const items = tokens.map((text, i) => ({
      label: [{ token: text }],
      values: [percent(probabilities[r][c][i])],
      shares: [probabilities[r][c][i]],
    }));
    const head = h("p", { class: "readout" }, ...place, say(tokens.length ? "reads_as" : "not_read"));
    panel.replaceChildren(head, items.length ? bars(page, { items, css: "" }) : "");
  };
  for (const cell of cells) {
    for (const event of ["pointerenter", "focus", "click"]) cell.element.addEventListener(event, () => tell(cell));
  }
  return panel;
}

/** Cells that choose a layer, a head or a position: the arrow keys move between them, Enter chooses. */
function choosable(page, block, grid, cells, cellRows) {
  const act = page.act[block.choose];
  if (!act || !cells.length) return false;
  const chosen = ({ r, c }) => act(block.positions ? block.positions[r] : r, c);
  grid.setAttribute("role", "grid");
  grid.setAttribute("aria-label", block.caption);
  grid.classList.add("choosable");
  cells.forEach((cell) => {
    cell.element.setAttribute("role", "gridcell");
    cell.element.addEventListener("click", () => chosen(cell));
  });
  rove(grid, ...cellRows);
  onPress(grid, () => document.activeElement.matches("td") && document.activeElement.click());
  const mark = (row) => [...grid.tBodies[0].rows].forEach((line, r) => line.toggleAttribute("data-chosen", r === row));
  page.on(block.choose, mark);
  mark(page.chosen(block.choose));
  return true;
}

/** Numbers in sight and one scale, with a further column apart: heads and MLPs. */
function plainMap(page, block) {
  const values = page.values(block.values);
  const scale = scaleOf(values.flat());
  const apart = block.apart && page.values(block.apart.values);
  const apartScale = apart && scaleOf(apart);
  const act = page.act[block.choose];
  const active = values.map(() => []);
  const cell = (r, name, value, own, link, css, choose) => {
    const about = `${block.rows[r]}${name} · ${measured(value, block.unit)}`;
    const text = short(value);
    let inner = h("span", {}, text);
    if (choose) inner = h("button", { type: "button", "aria-label": about, onclick: choose }, text);
    else if (link) inner = h("a", { href: `#${page.id(link)}`, "aria-label": about }, text);
    if (choose || link) active[r].push(inner);
    return h("td", { class: `${css}${levelOf(value, false, own)}`, title: about }, inner);
  };
  const body = values.map((row, r) =>
    h(
      "tr",
      { id: block.row_ids && page.id(block.row_ids[r]) },
      h("th", { scope: "row" }, h("bdi", {}, block.rows[r])),
      ...row.map((value, c) =>
        cell(r, block.columns[c], value, scale, block.cell_links?.[r][c], "", act && block.cell_links?.[r][c] && (() => act(r, c))),
      ),
      apart && cell(r, ` ${block.apart.name}`, apart[r], apartScale, "", "apart "),
    ),
  );
  const names = block.columns.map((name) => h("th", { scope: "col" }, h("bdi", {}, name)));
  if (apart) names.push(h("th", { scope: "col", class: "apart" }, block.apart.name));
  const head = h("thead", {}, h("tr", {}, h("th", { scope: "col" }, block.noun), ...names));
  const grid = h("table", { class: "cells" }, h("caption", {}, block.caption), head, h("tbody", {}, ...body));
  if (active.some((row) => row.length)) rove(grid, ...active);
  return region(block.caption, values.length, false, grid);
}
