// Attention patterns of heads, drawn by CircuitsVis within the sizes that it draws without delay.
import { h } from "../shared/dom.js";
import { levelOf } from "../shared/scale.js";
import { later, render, sparse } from "./render.js";

const LONGEST_LABEL = 14;

/** Several matrices of every head beside each other, and a small picture of each head to choose it by. */
export function attention(page, { tokens, heads, views }) {
  const labels = page.part.labels.slice(-tokens);
  const places = views.map((view) => frame(page, view.id, view.title));
  let chosen = 0;
  const drawn = (v, head) => draw(places[v], labels, views[v].matrices[head], views[v].bound);
  const buttons = heads.map((name, head) =>
    h(
      "button",
      { type: "button", "aria-pressed": String(head === 0), onclick: () => choose(head) },
      picture(views[0].matrices[head], views[0].bound),
      name,
    ),
  );
  const choose = (head) => {
    buttons[chosen].setAttribute("aria-pressed", "false");
    buttons[head].setAttribute("aria-pressed", "true");
    chosen = head;
    views.forEach((_, v) => drawn(v, head));
  };
  const switcher = h("div", { class: "thumbnails", role: "group", "aria-label": views[0].title }, ...buttons);
  page.ready(() =>
    views.forEach((view, v) => later(places[v], () => drawn(v, chosen), () => picture(view.matrices[chosen], view.bound))),
  );
  const columns = views.map((view, v) =>
    h("div", { class: "charts" }, page.heading(view.title), h("p", { class: "note" }, view.note), places[v]),
  );
  return h("div", {}, switcher, h("div", { class: "two even" }, ...columns));
}

/** The place of a chart: nothing of a canvas is read out, so the table beside it has what matters. */
function frame(page, id, label) {
  return h("div", { class: "circuitsvis", id: page.id(id), role: "img", "aria-label": label });
}

function draw(place, labels, rows, bound) {
  const tokens = labels.map((text) => {
    const characters = [...text];
    return characters.length <= LONGEST_LABEL ? text : `${characters.slice(0, LONGEST_LABEL - 1).join("")}…`;
  });
  const props = { tokens, attention: sparse(rows), maxValue: bound, minValue: -bound };
  render(place, "AttentionPattern", props);
  place.firstElementChild.setAttribute("aria-hidden", "true");
}

/** A picture with one dot per cell, in the colours of the scale on white. */
function picture(rows, bound) {
  const canvas = h("canvas", { width: rows.length, height: rows.length, "aria-hidden": "true" });
  const brush = canvas.getContext("2d");
  const colours = getComputedStyle(document.documentElement);
  rows.forEach((row, dest) =>
    row.forEach((value, src) => {
      brush.fillStyle = colours.getPropertyValue(`--${levelOf(value, false, { bound })}`);
      if (value) brush.fillRect(src, dest, 1, 1);
    }),
  );
  return canvas;
}
