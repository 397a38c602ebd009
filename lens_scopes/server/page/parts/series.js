// A series of numbers as a prompt: read from pasted text or from a file with columns, and written as a model reads it.
import { h } from "../../../views/page/scripts/shared/dom.js";

const NUMBER = /^-?\d+(\.\d+)?$/;
const MOST_BYTES = 1_000_000;
const [LOWEST, HIGHEST] = [10, 99]; // of a series in two digits

/** Whether a prompt is a series that a next number can follow. */
export function isSeries(text) {
  return /^\s*(-?\d+(\.\d+)?\s*,\s*){2,}$/.test(text ?? "");
}

/** The columns of a text {name, cells}: one for each cell of a line, or one of all numbers where there is one line. */
export function columnsOf(text) {
  const lines = text.trim().split(/\r\n|\r|\n/).filter((line) => line.trim());
  const mark = [";", "\t", ","].find((one) => lines[0]?.includes(one)) ?? /\s+/;
  const rows = lines.map((line) => line.trim().replace(/[;,]+$/, "").split(mark).map((cell) => cell.trim().replace(/^"(.*)"$/, "$1")));
  if (!rows.length) return [];
  if (rows.length === 1 || (rows.every((row) => row.length > 1 && row.every((cell) => NUMBER.test(cell))) && !sameLength(rows))) {
    return [{ name: "numbers", cells: rows.flat() }];
  }
  const named = rows[0].some((cell) => !NUMBER.test(cell));
  return rows[0].map((cell, i) => ({
    name: named && cell ? cell : `column ${i + 1}`,
    cells: rows.slice(named ? 1 : 0).map((row) => row[i] ?? ""),
  }));
}

function sameLength(rows) {
  return rows.every((row) => row.length === rows[0].length);
}

/**
 * A column as the text of a prompt, in two digits or as it is written; throws an Error that says which cell is no number.
 */
export function asText({ name, cells }, scaled) {
  const wrong = cells.findIndex((cell) => !NUMBER.test(cell));
  if (wrong >= 0) throw new Error(`Number ${wrong + 1} of “${name}” is “${cells[wrong].slice(0, 40)}”: write numbers such as 12 or -0.5.`);
  if (cells.length < 2) throw new Error("A series has two numbers or more.");
  if (!scaled) return `${cells.join(",")},`;
  const values = cells.map(Number);
  const low = values.reduce((a, b) => Math.min(a, b));
  const span = values.reduce((a, b) => Math.max(a, b)) - low;
  const digits = values.map((value) => Math.round(LOWEST + (span ? (value - low) / span : 0.5) * (HIGHEST - LOWEST)));
  return `${digits.join(",")},`;
}

/** The column to begin with: the last that holds nothing but numbers, else the last. */
export function firstChoice(columns) {
  const whole = columns.findLastIndex(({ cells }) => cells.length > 1 && cells.every((cell) => NUMBER.test(cell)));
  return whole >= 0 ? whole : columns.length - 1;
}

/** Lets the fields of a series fill in a prompt: `use` takes its text. */
export function seriesFields(element, use) {
  const get = (name) => element.querySelector(`.${name}`);
  const [pasted, file, column, scaled, told] = ["pasted", "file", "column", "scaled", "told"].map(get);
  let columns = [];
  const write = () => {
    try {
      return asText(columns[column.selectedIndex], scaled.checked);
    } catch (error) {
      told.textContent = error.message;
      return null;
    }
  };
  const tell = () => {
    const text = columns.length ? write() : null;
    get("use").disabled = text === null;
    if (!columns.length) told.textContent = "";
    else if (text !== null) {
      const { length } = columns[column.selectedIndex].cells;
      told.textContent = `${length} numbers: ${text.length > 60 ? `${text.slice(0, 59)}…` : text}`;
    }
  };
  const read = () => {
    columns = columnsOf(pasted.value);
    column.replaceChildren(...columns.map(({ name }) => h("option", {}, name)));
    column.selectedIndex = firstChoice(columns);
    column.parentElement.hidden = columns.length < 2;
    tell();
  };
  pasted.addEventListener("input", read);
  column.addEventListener("change", tell);
  scaled.addEventListener("change", tell);
  file.addEventListener("change", async () => {
    const [chosen] = file.files;
    if (!chosen) return;
    if (chosen.size > MOST_BYTES) return void (told.textContent = "That file is larger than 1 MB; take the part that matters.");
    pasted.value = await chosen.text();
    read();
  });
  get("use").addEventListener("click", () => use(write()));
  read();
}
