// The colour scale of every view: levels −20 … 20 of the largest magnitude among the tokens that count. Its colours are in
// page.css, as the variables --n20 … --p20.
import { h, say } from "./dom.js";
import { number } from "./numbers.js";

const LEVELS = 20;

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

/** The CSS class of a score: `s` special, `x` not finite, else `p0` … `p20`, `n1` … `n20`. */
export function levelOf(score, isSpecial, scale) {
  if (isSpecial) return "s";
  if (!Number.isFinite(score)) return "x";
  if (!scale.bound) return "p0";
  const level = halfToEven((LEVELS * Math.max(-scale.bound, Math.min(scale.bound, score))) / scale.bound);
  return (level < 0 ? "n" : "p") + Math.abs(level);
}

/** Indices of the scores that differ from zero and are not special, from the largest magnitude on. */
export function ranking(scores, special) {
  return scores
    .map((_, i) => i)
    .filter((i) => !special[i] && Number.isFinite(scores[i]) && scores[i] !== 0)
    .sort((i, j) => Math.abs(scores[j]) - Math.abs(scores[i]) || i - j);
}

/** Each token's |score| over the sum of those that count; null for special tokens and what is not finite. */
export function shares(scores, special) {
  const counted = scores.map((score, i) => (!Number.isFinite(score) || special[i] ? null : Math.abs(score)));
  const total = counted.reduce((sum, score) => sum + (score ?? 0), 0);
  return counted.map((score) => (score === null || !total ? null : score / total));
}

/** The scale as a bar between its ends, and the marks for what lies outside it. */
export function legend(scale, of, { special = false, broken = false } = {}) {
  if (!scale.bound) return h("p", { class: "legend" }, h("span", {}, say("no_colour", { of })), marks(special, broken));
  const low = scale.signed ? number(-scale.bound) : "0";
  return ramp(low, say("bound", { number: number(scale.bound), of }), scale.signed, marks(special, broken));
}

/** The scale of maps that colour each row by its own largest magnitude. */
export function rowLegend(noun, signed, { special = false, broken = false } = {}) {
  return ramp(signed ? say("row_low", { noun }) : "0", say("row_bound", { noun }), signed, marks(special, broken));
}

function ramp(low, high, signed, outside) {
  const label = say(signed ? "ramp_signed" : "ramp");
  const colours = h("span", { class: `ramp ${signed ? "diverging" : "sequential"}`, role: "img", "aria-label": label });
  return h("p", { class: "legend" }, h("span", {}, low), colours, h("span", {}, high), outside);
}

function marks(special, broken) {
  return [
    special && h("span", { class: "mark" }, h("b", { class: "s" }), say("special")),
    broken && h("span", { class: "mark" }, h("b", { class: "x" }), broken === true ? say("broken") : broken),
  ];
}

/** Rounded as Python rounds. */
function halfToEven(value) {
  const below = Math.floor(value);
  if (value - below !== 0.5) return Math.round(value);
  return below % 2 ? below + 1 : below;
}
