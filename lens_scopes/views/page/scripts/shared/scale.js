// The colour scale of every view: levels −20 … 20 of the largest magnitude among the tokens that count, spaced evenly, by
// square roots or by logarithms. Its colours are in page.css, as the variables --n20 … --p20.
import { h, say } from "./dom.js";
import { number, percent } from "./numbers.js";

const LEVELS = 20;
const DECADES = 3; // of the logarithmic spacing; what is weaker has no colour
const SPACINGS = {
  linear: (share) => share,
  root: Math.sqrt,
  log: (share) => Math.max(0, 1 + Math.log10(share) / DECADES),
};
const HALVES = { root: 1 / 4, log: 10 ** (-DECADES / 2) }; // the share of the largest magnitude that has half the colour

/** The largest magnitude among finite scores of tokens that are not special, and whether any is negative. */
export function scaleOf(scores, special = []) {
  const counted = scores.filter((score, i) => Number.isFinite(score) && !special[i]);
  return {
    bound: counted.reduce((most, score) => Math.max(most, Math.abs(score)), 0),
    signed: counted.some((score) => score < 0),
  };
}

/** One scale for several rows. */
export function jointScale(scales) {
  return {
    bound: scales.reduce((most, scale) => Math.max(most, scale.bound), 0),
    signed: scales.some((scale) => scale.signed),
  };
}

/** How much of the full colour a finite score has, from −1 to 1. */
export function strength(score, { bound }, spacing = "linear") {
  if (!bound || !score) return 0;
  return Math.sign(score) * SPACINGS[spacing](Math.min(1, Math.abs(score) / bound));
}

/** The CSS class of a score: `s` special, `x` not finite, else `p0` … `p20`, `n1` … `n20`. */
export function levelOf(score, isSpecial, scale, spacing) {
  if (isSpecial) return "s";
  if (!Number.isFinite(score)) return "x";
  const level = halfToEven(LEVELS * strength(score, scale, spacing));
  return (level < 0 ? "n" : "p") + Math.abs(level);
}

/** Indices of the scores that differ from zero and are not special, from the largest magnitude on. */
export function ranking(scores, special) {
  return scores
    .map((_, i) => i)
    .filter((i) => !special[i] && Number.isFinite(scores[i]) && scores[i] !== 0)
    .sort((i, j) => Math.abs(scores[j]) - Math.abs(scores[i]) || i - j);
}

/** Each token's |score| over the largest of those that count; null for special tokens and what is not finite. */
export function relative(scores, special) {
  const { bound } = scaleOf(scores, special);
  return scores.map((score, i) => (!bound || special[i] || !Number.isFinite(score) ? null : Math.abs(score) / bound));
}

/** The scale as a bar between its ends, and the marks for what lies outside it: `special` and `broken` say what they mark. */
export function legend(scale, of, { special, broken, spacing } = {}) {
  if (!scale.bound) return h("p", { class: "legend" }, h("span", {}, say("no_colour", { of })), marks(special, broken));
  const low = scale.signed ? number(-scale.bound) : "0";
  const high = say("bound", { number: number(scale.bound), of });
  const half = spacing in HALVES && say("half_colour", { number: number(HALVES[spacing] * scale.bound) });
  return ramp(low, high, scale.signed, [half && h("span", {}, half), marks(special, broken)]);
}

/** The scale of maps that colour each row by its own largest magnitude. */
export function rowLegend(noun, signed, { special, broken, spacing } = {}) {
  const half = spacing in HALVES && say("half_colour_of_row", { percent: percent(HALVES[spacing]) });
  const outside = [half && h("span", {}, half), marks(special, broken)];
  return ramp(signed ? say("row_low", { noun }) : "0", say("row_bound", { noun }), signed, outside);
}

function ramp(low, high, signed, more) {
  const label = say(signed ? "ramp_signed" : "ramp");
  const colours = h("span", { class: `ramp ${signed ? "diverging" : "sequential"}`, role: "img", "aria-label": label });
  return h("p", { class: "legend" }, h("span", {}, low), colours, h("span", {}, high), more);
}

function marks(special, broken) {
  const mark = (css, words) => h("span", { class: "mark" }, h("b", { class: css }), words);
  return [
    special && mark("s", special === true ? say("special") : special),
    broken && mark("x", broken === true ? say("broken") : broken),
  ];
}

/** A choice of the spacing of all colours of a page and, where these are of its tokens, whether the last sets the scale. */
export function colouring(page, name, ofTokens) {
  const options = Object.keys(SPACINGS).map((spacing) => h("option", { value: spacing }, say(spacing)));
  const select = h("select", { id: page.id(`${name}-colour`), onchange: () => page.act.colour(select.value) }, ...options);
  const box = h("input", {
    type: "checkbox",
    id: page.id(`${name}-apart`),
    onchange: () => page.act.apart(box.checked ? "last" : ""),
  });
  const check = () => {
    select.value = page.spacing;
    box.checked = page.chosen("apart", "") === "last";
  };
  page.on("colour", check);
  page.on("apart", check);
  check();
  return h("p", { class: "colouring" }, h("label", {}, say("colour"), " ", select), ofTokens && h("label", {}, box, say("apart")));
}

/**
 * A picture of rows of levels that is as wide as the page, one column for each token, for what is wider or longer itself.
 * `go(i)` brings a column into view when it is pressed.
 */
export function overview(go) {
  const lines = h("div", { class: "lines" });
  const frame = h("div", { class: "seen", hidden: true });
  const element = h("div", { class: "overview", "aria-hidden": "true" }, lines, frame);
  let count = 1;
  const press = (event) => {
    if (!(event.buttons & 1)) return;
    const { left, width } = lines.getBoundingClientRect();
    go(Math.max(0, Math.min(count - 1, Math.floor((count * (event.clientX - left)) / width))));
  };
  element.addEventListener("pointerdown", press);
  element.addEventListener("pointermove", press);
  return {
    element,
    /** Draws the CSS classes of levels, row by row. */
    draw: (rows) => {
      count = rows[0].length;
      lines.replaceChildren(...rows.map((row) => h("div", { style: { "background-image": stripes(row) } })));
    },
    /** Frames the columns that are in view, from one share of the width to another. */
    frame: (from, to) => {
      frame.hidden = false;
      frame.style.setProperty("left", `${100 * from}%`);
      frame.style.setProperty("width", `${100 * (to - from)}%`);
    },
  };
}

/** Levels from left to right as a picture; neighbours of one level are one stripe. Colours follow light and dark. */
export function stripes(levels) {
  const parts = [];
  levels.forEach((level, i) => {
    if (level === levels[i - 1]) return;
    let end = i + 1;
    while (levels[end] === level) end++;
    const colour = level === "s" || level === "x" ? "--line" : `--${level}`;
    parts.push(`var(${colour}) ${percentage(i, levels)} ${percentage(end, levels)}`);
  });
  return `linear-gradient(90deg,${parts.join(",")})`;
}

function percentage(i, levels) {
  return `${((100 * i) / levels.length).toFixed(3)}%`;
}

/** Rounded as Python rounds. */
function halfToEven(value) {
  const below = Math.floor(value);
  if (value - below !== 0.5) return Math.round(value);
  return below % 2 ? below + 1 : below;
}
