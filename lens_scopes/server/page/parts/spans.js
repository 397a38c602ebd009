// Named parts of a prompt: the fields that name them, and what the server is asked about them.
import { h } from "../../../views/page/scripts/shared/dom.js";

/** The places of a passage in a text, each where its first character stands. */
export function places(text, passage) {
  const found = [];
  for (let at = text.indexOf(passage); passage && at >= 0; at = text.indexOf(passage, at + 1)) found.push(at);
  return found;
}

/**
 * Rows {name, text, start} as the API takes them: parts by their text, and those whose text stands in the prompt more than
 * once by their characters, which Python counts otherwise than JavaScript. A name given twice gets a number.
 */
export function asSpans(rows, prompt = "") {
  const [spans, characters] = [{}, {}];
  for (const { name, text, start } of rows) {
    let own = name;
    for (let i = 2; own in spans || own in characters; i++) own = `${name} ${i}`;
    const several = places(prompt, text).length > 1 && prompt.startsWith(text, start ?? prompt.length);
    const first = several && [...prompt.slice(0, start)].length;
    if (several) characters[own] = [first, first + [...text].length];
    else spans[own] = text;
  }
  return { spans, characters };
}

/** The first name that no row has: span 1, span 2, … */
export function freeName(rows) {
  const names = new Set(rows.map(({ name }) => name));
  let i = 1;
  while (names.has(`span ${i}`)) i++;
  return `span ${i}`;
}

/** The fields of all spans of a side, below each other. */
export class SpanRows {
  constructor(element, prompt) {
    this.element = element;
    this.prompt = prompt;
    this.list = element.querySelector(".rows");
    element.querySelector(".add-span").addEventListener("click", () => this.addSelected());
  }

  /** The rows with a name and a text. */
  get rows() {
    const all = [...this.list.children].map((row) => {
      const [name, text] = row.querySelectorAll("input");
      return { name: name.value.trim(), text: text.value, ...(row.dataset.start && { start: Number(row.dataset.start) }) };
    });
    return all.filter(({ name, text }) => name && text);
  }

  set rows(rows) {
    this.list.replaceChildren();
    for (const row of rows) this.add(row);
  }

  /** The passage that is selected in the prompt as a further row; without one, an empty row to write in. */
  addSelected() {
    const { value, selectionStart: from, selectionEnd: to } = this.prompt;
    const text = this.prompt.hidden ? "" : value.slice(from, to);
    const row = this.add({ name: freeName(this.rows), text, start: text ? from : undefined });
    const [name, passage] = row.querySelectorAll("input");
    (text ? name : passage).focus();
    if (text) name.select();
    row.dispatchEvent(new Event("input", { bubbles: true }));
  }

  add({ name, text, start }) {
    const attributes = { dir: "auto", autocomplete: "off", spellcheck: "false" };
    const named = h("input", { ...attributes, maxlength: "200", pattern: "[^=]+", "aria-label": "Name of the span" });
    const passage = h("input", { ...attributes, maxlength: "4000", "aria-label": "Text of the span", placeholder: "its text" });
    [named.value, passage.value] = [name, text];
    const remove = () => {
      const after = row.nextElementSibling ?? row.previousElementSibling;
      row.remove();
      (after?.querySelector("input") ?? this.element.querySelector(".add-span")).focus();
      this.list.dispatchEvent(new Event("input", { bubbles: true }));
    };
    const row = h(
      "li",
      {},
      named,
      passage,
      h("button", { type: "button", "aria-label": `Remove ${name}`, onclick: remove }, "Remove"),
    );
    if (start !== undefined) row.dataset.start = String(start);
    passage.addEventListener("input", () => delete row.dataset.start);
    this.list.append(row);
    return row;
  }
}
