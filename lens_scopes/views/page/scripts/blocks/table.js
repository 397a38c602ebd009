// Tables whose headings sort them: numbers from the largest, text from A.
import { h } from "../shared/dom.js";
import { bar } from "./chart.js";
import { pieces } from "./prose.js";

const LARGE = 100; // rows above which a browser lays the table out only when it comes into view

/** The table of a block, in a region that scrolls. */
export function table(page, { caption, columns, rows, special }) {
  const body = h("tbody", {}, ...rows.map((row, i) => line(page, row, special[i])));
  const head = columns.map(([name, kind]) => heading(name, kind, body));
  return region(
    caption,
    rows.length,
    rows.length > LARGE,
    h("table", { class: "scores" }, h("caption", {}, caption), h("thead", {}, h("tr", {}, ...head)), body),
  );
}

/** A part of the page that scrolls by itself, by keys too. */
export function region(label, rows, large, ...content) {
  const css = large ? "scroll large" : "scroll";
  return h("div", { class: css, role: "region", tabindex: "0", "aria-label": label, style: { "--rows": rows } }, ...content);
}

/** The order of two cells' values; what has no value comes last where the largest comes first. */
export function compare(a, b, isText) {
  if (isText) return String(a).localeCompare(String(b));
  const [first, second] = [a ?? -Infinity, b ?? -Infinity];
  return first === second ? 0 : first - second;
}

function heading(name, kind, body) {
  if (!kind) return h("td");
  if (kind === "plain") return h("th", { scope: "col" }, name);
  const cell = h("th", { scope: "col", class: kind === "number" && "n" });
  cell.append(h("button", { type: "button", onclick: () => sort(cell, kind === "text", body) }, name));
  return cell;
}

function sort(head, isText, body) {
  const first = isText ? "ascending" : "descending";
  const other = isText ? "descending" : "ascending";
  const direction = head.getAttribute("aria-sort") === first ? other : first;
  for (const cell of head.parentElement.cells) cell.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", direction);
  const column = head.cellIndex;
  const sign = direction === "ascending" ? 1 : -1;
  body.append(...[...body.rows].sort((a, b) => sign * compare(a.cells[column].value, b.cells[column].value, isText)));
}

function line(page, row, special) {
  return h("tr", { class: special && "special" }, ...row.map((cell) => drawn(page, cell)));
}

function drawn(page, cell) {
  const inside = "bar" in cell ? (cell.bar || cell.middle ? bar(cell.bar, cell.middle) : null) : pieces(cell.text);
  const content = cell.level ? h("span", { class: `cell ${cell.level}` }, inside) : inside;
  const linked = cell.link ? h("a", { href: `#${page.id(cell.link)}` }, content) : content;
  const element = h("td", { class: cell.css }, linked);
  element.value = cell.value;
  return element;
}
