// Text and what holds it: paragraphs, headings, alerts, definitions, folds, columns, cards, marked text.
import { directionOf, h } from "../shared/dom.js";
import { legend } from "../shared/scale.js";

const MARKS = /([␣↵⇥])/;
const LONG_RUN = /(\S{25,})/u; // without a space to break a line at

/** Text in pieces, as elements: strings, tokens, bold and small text. */
export function pieces(text) {
  return [text].flat().map((piece) => {
    if (typeof piece === "string") return piece;
    if ("token" in piece) return token(piece.token);
    return "bold" in piece ? h("b", {}, piece.bold) : h("small", {}, piece.small);
  });
}

/** A token with its marks for white space set back. */
export function token(text) {
  const parts = text.split(MARKS).filter(Boolean);
  return h("bdi", {}, ...parts.map((part) => (MARKS.test(part) ? h("i", {}, part) : part)));
}

/** A text whose lines may end behind the commas of a long series, and not within its numbers. */
function breakable(text) {
  const parts = text.split(LONG_RUN).map((part, i) => (i % 2 ? part.match(/[^,;]+[,;]*|[,;]+/gu) : [part]));
  return parts.flatMap((run) => run.flatMap((piece, i) => (i ? [h("wbr"), piece] : [piece])));
}

export const prose = {
  kind: (_, { text }) => h("p", { class: "kind" }, pieces(text)),
  prompt: (page, block) =>
    h(
      `h${page.shared.level - 1}`,
      { class: "prompt", dir: directionOf(block.text) },
      h("bdi", {}, breakable(block.text)),
      block.token !== undefined && " ",
      block.token !== undefined &&
        h("span", { class: "chip", title: block.title }, token(block.token), h("small", {}, block.small)),
    ),
  lead: (_, { text, quiet }) => h("p", { class: quiet ? "lead caution" : "lead" }, pieces(text)),
  note: (_, { text }) => h("p", { class: "note" }, pieces(text)),
  heading: (page, { text, small }) => page.heading(h("bdi", {}, text), small && h("small", {}, ` ${small}`)),
  alert: (_, { title, items }) =>
    h("div", { class: "alert", role: "note" }, h("b", {}, title), h("ul", {}, ...items.map((item) => h("li", {}, item)))),
  definitions: (_, { pairs, compact }) =>
    h(
      "dl",
      { class: compact && "facts" },
      ...pairs.map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]),
    ),
  fold: (page, { summary, blocks }) => h("details", {}, h("summary", {}, pieces(summary)), ...page.draw(blocks)),
  columns: (page, { items, even }) =>
    h("div", { class: even ? "two even" : "two" }, ...items.map((blocks) => h("div", {}, ...page.draw(blocks)))),
  cards: (page, { items }) =>
    h("div", { class: "cards" }, ...items.map((blocks) => h("div", { class: "card" }, ...page.draw(blocks)))),
  marked: (_, block) => h("p", { class: "marked" }, ...block.pieces.map(markedPiece)),
  legend: (_, { scale, of, special, broken }) => legend(scale, of, { special, broken }),
};

/** A piece of a text: set off with its name where it is a span, underlined where it is of the answer. */
function markedPiece({ text, name, answer }) {
  const inner = name ? h("mark", {}, h("small", {}, name), ` ${text}`) : text;
  return answer ? h("u", {}, inner) : inner;
}
