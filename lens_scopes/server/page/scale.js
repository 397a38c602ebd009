// The colour scale of every view, as the reports have it: levels -20 … 20 of the largest magnitude among the tokens that
// count.
import { h } from "./dom.js";
import { number } from "./numbers.js";

export { number, percent, short } from "./numbers.js";

const LEVELS = 20;

/** The largest magnitude among finite scores of tokens that are not special, and whether any is negative. */
export function scaleOf(scores, special = []) {
  const counted = scores.filter((score, i) => Number.isFinite(score) && !special[i]);
  return {
    bound: counted.reduce((most, score) => Math.max(most, Math.abs(score)), 0),
    signed: counted.some((score) => score < 0),
  };
}

/** The CSS class of a score: `s` special, `x` not finite, else `p0` … `p20`, `n1` … `n20`. */
export function cellClass(score, isSpecial, scale) {
  if (isSpecial) return "s";
  if (score === null) return "x";
  if (!scale.bound) return "p0";
  const level = Math.round((LEVELS * Math.max(-scale.bound, Math.min(scale.bound, score))) / scale.bound);
  return (level < 0 ? "n" : "p") + Math.abs(level);
}

/** Each token's |score| over the sum of those that count; null for special tokens and what is not finite. */
export function shares(scores, special) {
  const counted = scores.map((score, i) => (score === null || special[i] ? null : Math.abs(score)));
  const total = counted.reduce((sum, score) => sum + (score ?? 0), 0);
  return counted.map((score) => (score === null || !total ? null : score / total));
}

/** The scale as a bar between its ends. */
export function legend(scale, of, special = [], signed = scale.signed) {
  if (!scale.bound) return h("p", { class: "legend" }, `No colour: no score of ${of} differs from zero.`);
  return h(
    "p",
    { class: "legend" },
    h("span", {}, signed ? number(-scale.bound) : "0"),
    h("span", {
      class: `ramp ${signed ? "diverging" : "sequential"}`,
      role: "img",
      "aria-label": signed ? "from orange through no colour to blue" : "from no colour to blue",
    }),
    h("span", {}, `${number(scale.bound)} = largest magnitude of ${of}`),
    special.some(Boolean) && h("span", { class: "mark" }, h("b", { class: "s" }), "special token, outside the scale"),
  );
}

/** The scale of maps that colour each row by its own largest magnitude. */
export function rowLegend(noun, signed) {
  return h(
    "p",
    { class: "legend" },
    h("span", {}, signed ? `−largest of the ${noun}` : "0"),
    h("span", {
      class: `ramp ${signed ? "diverging" : "sequential"}`,
      role: "img",
      "aria-label": signed ? "from orange through no colour to blue" : "from no colour to blue",
    }),
    h("span", {}, `largest magnitude in the same ${noun}, so colours of different ${noun}s do not compare`),
  );
}

/** A bar that fills a share of its track. */
export function bar(share, negative = false) {
  const inner = h("span", { class: negative ? "bar negative" : "bar", style: { width: `${100 * share}%` } });
  return h("span", { class: "track" }, inner);
}
