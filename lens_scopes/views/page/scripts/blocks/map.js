// Maps of numbers, layers × tokens, layers × heads, targets × sources: a table with a colour in every cell.
import { h, onPress, rove, say, tellBeside } from "../shared/dom.js";
import { measured, number, percent, short } from "../shared/numbers.js";
import { colouring, jointScale, legend, levelOf, overview, ranking, rowLegend, scaleOf } from "../shared/scale.js";
import { bars } from "./chart.js";
import { token } from "./prose.js";
import { region } from "./table.js";

const LARGE = 2000; // cells above which a browser lays the table out only when it comes into view

/** The map of a block; `choose` names what its cells choose, where the page offers that choice. */
export function map(page, block) {
  return block.plain ? plainMap(page, block) : colouredMap(page, block);
}

function colouredMap(page, block) {
  const { key, noun, rows } = block;
  const values = page.values(block.values);
  const columns = block.columns ?? page.part.labels;
  const special = () => block.special ?? page.outside;
  const frames = new Map((block.marks ?? []).map(([r, c, words]) => [`${r} ${c}`, words]));
  const cells = [];
  const cellRows = values.map(() => []);
  const body = values.map((row, r) => {
    const link = block.row_links?.[r];
    const name = link ? h("a", { href: `#${page.id(link)}` }, rows[r]) : h("bdi", {}, rows[r]);
    const rowCells = columns.map((_, c) => {
      if (row[c] === undefined) return h("td", { class: "none" });
      const element = h("td", {}, short(row[c]));
      cells.push({ element, value: row[c], r, c });
      cellRows[r].push(element);
      return element;
    });
    return h("tr", {}, h("th", { scope: "row", class: "name" }, name), h("td", { class: "top" }), ...rowCells);
  });
  const head = columns.map((name, c) =>
    h("th", { scope: "col", class: special()[c] && "special" }, h("span", {}, token(name))),
  );
  const corner = [h("th", { scope: "col", class: "name" }, noun), h("th", { scope: "col", class: "top" }, say("largest"))];
  const grid = h(
    "table",
    {},
    h("caption", {}, block.caption),
    h("thead", {}, h("tr", {}, ...corner, ...head)),
    h("tbody", {}, ...body),
  );
  const scroll = region(block.caption, rows.length, rows.length * columns.length > LARGE, grid);
  scroll.style.setProperty("--tokens", columns.length);
  scroll.style.setProperty("--name", rows.reduce((most, name) => Math.max(most, [...name].length), 0));

  // The colours, which follow the choice of a scale for each row or for all, its spacing, and the tokens outside it.
  const byRow = h("div", { class: "row-legend" });
  const byAll = h("div", { class: "all-legend" });
  const whole = overview((c) => head[c].scrollIntoView({ block: "nearest", inline: "center" }));
  const state = { byAll: Boolean(block.by_all), own: [] };
  const colour = () => {
    const { spacing } = page;
    const mask = special();
    const own = (state.own = values.map((row) => scaleOf(row.map((value) => value ?? NaN), mask)));
    const shared = jointScale(own);
    const levels = values.map(() => columns.map(() => "p0"));
    for (const { element, value, r, c } of cells) {
      levels[r][c] = levelOf(value, mask[c], state.byAll ? shared : own[r], spacing);
      element.className = levels[r][c] + (frames.has(`${r} ${c}`) ? " framed" : "");
    }
    body.forEach(({ cells: [, top] }, r) => {
      const best = ranking(values[r], mask)[0];
      top.replaceChildren(...(best === undefined ? ["—"] : [token(columns[best]), " ", h("span", {}, number(values[r][best]))]));
    });
    const broken = values.flat().some((value) => value === null);
    const outside = { special: mask.some(Boolean) && (block.special ? say("special") : page.told), broken, spacing };
    byRow.replaceChildren(rowLegend(noun, shared.signed, outside));
    byAll.replaceChildren(legend(shared, say("all_rows", { noun }), outside));
    whole.draw(levels);
  };
  colour();
  page.on("colour", colour);
  page.on("apart", colour);
  openAtEnd(scroll, head[0], whole);

  // What can be chosen of it, and what is told of its cells.
  const control = (type, name, label, more) => {
    const attributes = { type, id: page.id(`${key}-${name}`), class: name, ...more };
    return h("label", {}, h("input", attributes), label);
  };
  const radio = (name, label, checked) => {
    const onchange = () => {
      state.byAll = name === "by-all";
      colour();
    };
    return control("radio", name, label, { name: page.id(`${key}-scale`), checked, onchange });
  };
  const chosen = choosable(page, block, grid, cells, cellRows);
  const detail = block.readings && readings(page, block, columns, cells);
  if (detail && !chosen) rove(grid, ...cellRows);
  const placed = new Map(cells.map((cell) => [cell.element, cell]));
  tellBeside(grid, (element) => placed.has(element) && aboutCell(page, block, columns, frames, state.own, placed.get(element)));
  return h(
    "div",
    { class: "heat" },
    chosen && block.choose === "position" && h("p", { class: "note" }, say("choose_position")),
    radio("by-row", say("by_row", { noun }), !block.by_all),
    radio("by-all", say("by_all", { noun }), Boolean(block.by_all)),
    control("checkbox", "numbers", say("numbers"), {}),
    colouring(page, key, !block.special),
    byRow,
    byAll,
    whole.element,
    scroll,
    detail,
  );
}

/** What is told of a cell: its row and column, its number, and what else is known of it. */
function aboutCell(page, block, columns, frames, scales, { value, r, c }) {
  const about = [`${block.rows[r]} · #${c} ${columns[c]}`];
  const error = block.errors && page.values(block.errors)[r][c];
  about.push(Number.isFinite(error) ? `${measured(value, block.unit)} ± ${number(error)}` : measured(value, block.unit));
  const { bound } = scales[r];
  if (bound && Number.isFinite(value)) about.push(say("of_row", { percent: percent(Math.abs(value) / bound) }));
  const best = block.readings?.tokens[r][c][0];
  if (best !== undefined) about.push(`${say("reads_as")} ${best}`);
  const words = frames.get(`${r} ${c}`);
  return words === undefined ? about : [...about, words];
}

/** Has a map that is wider than its place open at its end, where the token explained is, and its overview follow it. */
function openAtEnd(scroll, first, whole) {
  let opened = false;
  const follow = () => {
    const before = first.offsetLeft; // columns that stay in their place when the map is scrolled
    const [width, visible] = [scroll.scrollWidth - before, scroll.clientWidth - before];
    whole.element.hidden = width <= visible + 1;
    if (whole.element.hidden || visible <= 0) return;
    if (!opened) scroll.scrollLeft = width;
    opened = true;
    whole.frame(scroll.scrollLeft / width, (scroll.scrollLeft + visible) / width);
  };
  whole.element.hidden = true;
  scroll.addEventListener("scroll", follow, { passive: true });
  new ResizeObserver(follow).observe(scroll.firstElementChild);
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
  const told = new Map();
  const cell = (r, name, value, own, link, css, choose) => {
    const about = `${block.rows[r]}${name} · ${measured(value, block.unit)}`;
    const text = short(value);
    let inner = h("span", {}, text);
    if (choose) inner = h("button", { type: "button", "aria-label": about, onclick: choose }, text);
    else if (link) inner = h("a", { href: `#${page.id(link)}`, "aria-label": about }, text);
    if (choose || link) active[r].push(inner);
    const element = h("td", { class: `${css}${levelOf(value, false, own)}` }, inner);
    told.set(element, [`${block.rows[r]}${name}`, measured(value, block.unit)]);
    return element;
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
  tellBeside(grid, (element) => told.get(element));
  return region(block.caption, values.length, false, grid);
}
