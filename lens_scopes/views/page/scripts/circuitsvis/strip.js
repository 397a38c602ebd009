// Texts with the influence of each token as its colour, drawn by CircuitsVis: one strip, or one for every head.
import { bars } from "../blocks/chart.js";
import { pieces } from "../blocks/prose.js";
import { h, onPress, rove, say } from "../shared/dom.js";
import { measured, number, percent } from "../shared/numbers.js";
import { colouring, legend, levelOf, overview, ranking, scaleOf, strength } from "../shared/scale.js";
import { later, NEGATIVE, POSITIVE, render, safe } from "./render.js";

const TOKENS = ".colored-tokens>span>span";
const POINTED = "pointed";
const LONG = 100; // tokens above which a strip has an overview
const LONGEST_WORD = 24; // characters that stay on one line
const IN_WORD = "(?![\\p{sc=Han}\\p{sc=Hira}\\p{sc=Kana}\\p{sc=Thai}\\p{sc=Laoo}\\p{sc=Khmr}\\p{sc=Mymr}])[\\p{L}\\p{M}\\p{N}]";
const ENDS_IN_WORD = new RegExp(`${IN_WORD}$`, "u");
const BEGINS_IN_WORD = new RegExp(`^${IN_WORD}`, "u");
const CLOSES = /^[.,;:!?%)\]}’”»…]/u;

/**
 * The strip of a block with its legend and its strongest tokens, and a switch where it has several rows of values. Another
 * switch folds it into segments of the text, whose values are sums. Where the page can explain a position, or the block says
 * something `about` its tokens, the text stands below the strip.
 */
export function strip(page, block) {
  const rows = [page.values(block.values), ...(block.choices ? page.values(block.choice_values) : [])];
  const place = h("div", {
    class: "circuitsvis",
    id: page.id(block.id),
    role: "group",
    "aria-label": block.label,
    dir: page.direction,
  });
  const readout = readoutOf(page, block);
  const below = h("div");
  const cellOf = (i) => place.querySelectorAll(TOKENS)[i];
  const whole = page.part.labels.length > LONG && overview((i) => cellOf(i)?.scrollIntoView({ block: "center" }));
  const state = { row: page.chosen(block.choose) + 1, fold: page.chosen("fold", block.fold) };
  const draw = () => {
    const fold = block.folds?.find(({ name }) => name === state.fold);
    const text = fold ? folded(page, rows[state.row], fold) : unfolded(page, rows[state.row]);
    place.classList.toggle("folded", Boolean(fold));
    if (readout) readout.textContent = invitation(page, block, fold);
    paint(page, place, readout, text, block);
    if (whole) drawWhole(page, whole, text, fold);
    const best = fold ? sums(page, text, fold.name, block.sum) : strongest(page, text, block.strongest, (i) => point(cellOf(i)));
    below.replaceChildren(legendOf(page, text, fold ? { ...block, of: say("segments_of", fold) } : block), ...best);
  };
  page.ready(draw);
  page.on("colour", draw);
  page.on("apart", draw);
  const layers = block.choices && choice(page, block, "row", block.choice_label, [block.first, ...block.choices], {
    first: state.row,
    act: (i) => page.act.layer(i - 1),
  });
  const names = ["token", ...(block.folds ?? []).map(({ name }) => name)];
  const shown = names.map((name) => (name === "token" ? say("unfolded") : name));
  const folds = names.length > 1 && choice(page, block, "fold", say("fold_by"), shown, {
    first: Math.max(0, names.indexOf(state.fold)),
    act: (i) => page.act.fold(names[i]),
    caption: say("fold_by"),
  });
  page.on(block.choose, (row) => {
    layers.check(row + 1);
    state.row = row + 1;
    draw();
  });
  page.on("fold", (name) => {
    folds?.check?.(Math.max(0, names.indexOf(name)));
    state.fold = name;
    draw();
  });
  const colours = colouring(page, block.id, !block.about);
  return h("div", {}, folds && folds.element, whole && whole.element, place, readout, layers && layers.element, colours, below);
}

/** The levels of all tokens; those of a segment have its level. */
function drawWhole(page, whole, { values, special }, fold) {
  const scale = scaleOf(values, special);
  const levels = values.map((value, i) => levelOf(value, special[i], scale, page.spacing));
  whole.draw([fold ? fold.spans.flatMap(([start, stop], i) => Array(stop - start).fill(levels[i])) : levels]);
}

/** Brings a token of a strip into view and sets it off until another one is. */
function point(cell) {
  if (!cell) return;
  for (const other of document.querySelectorAll(`.${POINTED}`)) other.classList.remove(POINTED);
  cell.classList.add(POINTED);
  cell.scrollIntoView({ block: "center" });
  if (cell.matches("[tabindex]")) cell.focus({ preventScroll: true });
}

/** One of several names to choose: its element, and what checks the one that was chosen elsewhere. */
function choice(page, block, key, label, names, { first, act, caption }) {
  const inputs = names.map((name, i) =>
    h("input", { type: "radio", name: page.id(`${block.id}-${key}`), value: name, checked: i === first, onchange: () => act(i) }),
  );
  const point = (i) => block.pointing && key === "row" && (inputs[i].checked || inputs[i].click());
  const options = names.map((name, i) =>
    h("label", { onpointerenter: () => point(i) }, inputs[i], h("span", {}, h("bdi", {}, name))),
  );
  const attributes = { class: caption ? "folds" : "switch", role: "radiogroup", "aria-label": label };
  const element = h("div", attributes, caption && h("b", { "aria-hidden": "true" }, caption), ...options);
  return { element, check: (i) => (inputs[i].checked = true) };
}

/** The tokens of a page with values, as a text to paint. */
function unfolded(page, values) {
  const { running, labels } = page.part;
  return { running, labels, special: page.outside, values, about: null };
}

/** The text in segments, each with the sum of its tokens' values; what is not finite leaves its sum out. */
export function folded(page, values, { spans, labels }) {
  const { part, outside: special } = page;
  const { running } = part;
  const text = { running: [], labels, special: [], values: [], about: [] };
  for (const [start, stop] of spans) {
    const own = values.slice(start, stop);
    const known = own.every(Number.isFinite);
    const token = running.slice(start, stop).join("");
    const sum = known ? own.reduce((total, value) => total + value, 0) : null;
    text.running.push(token);
    text.special.push(special.slice(start, stop).every(Boolean));
    text.values.push(sum);
    text.about.push(say("segment_value", { first: start, last: stop - 1, text: token.trim() || token, number: number(sum) }));
  }
  return text;
}

/** A fold with a strip for every item, the first of them open; each is drawn when it comes into view. */
export function strips(page, block) {
  const folds = block.items.map((item, i) => {
    const values = page.values(item.values);
    const place = h("div", { class: "circuitsvis", id: page.id(`${item.key}-strip`), dir: page.direction });
    const told = { ...item, unit: block.unit };
    const readout = readoutOf(page, told);
    const painted = () => paint(page, place, readout, unfolded(page, values), told);
    page.ready(() => later(place, painted, () => still(page, unfolded(page, values))));
    const { through } = page.act;
    return h(
      "details",
      { class: "fold", id: page.id(item.key), open: i < block.open },
      h("summary", {}, pieces(item.summary)),
      ...page.draw(item.blocks),
      place,
      readout,
      legendOf(page, unfolded(page, values), block),
      through && h("button", { type: "button", onclick: () => through(item.name) }, say("through", { name: item.name })),
    );
  });
  const others = folds.splice(block.open);
  const more = others.length > 0 && h("details", { class: "more" }, h("summary", {}, block.more), ...others);
  return h("div", { id: page.id(block.id) }, ...folds, more);
}

/** A text on paper, in the colours of the scale. */
function still(page, { running, special, values }) {
  const scale = scaleOf(values, special);
  const level = (value, i) => levelOf(value, special[i], scale, page.spacing);
  const starts = lineStarts(running);
  const tokens = values.map((value, i) => [starts[i] && h("wbr"), h("span", { class: level(value, i) }, running[i].replace(/^ /, "\u00a0"))]);
  return h("p", { class: "still", dir: page.direction }, ...tokens.flat());
}

/** Whether a line may begin with each token: not inside a word or a number, nor with the mark that closes one. */
function lineStarts(tokens) {
  let length = 0;
  return tokens.map((token, i) => {
    const before = tokens[i - 1] ?? " ";
    const inWord = ENDS_IN_WORD.test(before) && BEGINS_IN_WORD.test(token);
    const inNumber = /\.$/.test(before) && /^\p{N}/u.test(token);
    const joined = length < LONGEST_WORD && (inWord || inNumber || (/\S$/.test(before) && CLOSES.test(token)));
    length = token.length + (joined ? length : 0);
    return !joined;
  });
}

function readoutOf(page, block) {
  return (block.about || block.unit || page.act.position) && h("p", { class: "readout" }, invitation(page, block));
}

/** What a reader can do with a strip, as long as nothing was pointed at. */
function invitation(page, { about }, fold) {
  if (page.act.position && !about) return say(fold ? "point_segment" : "choose_token");
  return say(fold ? "point_sum" : "point_token");
}

function legendOf(page, { values, special }, { of, broken }) {
  const unknown = values.some((value, i) => !special[i] && !Number.isFinite(value)) && (broken ?? true);
  const outside = { special: special.some(Boolean) && page.told, broken: unknown, spacing: page.spacing };
  return legend(scaleOf(values, special), of, outside);
}

/** The strongest tokens with their indices, from the largest magnitude on; `go(i)` leads to a token in the text. */
function strongest(page, { values, labels, special }, most, go) {
  const best = ranking(values, special).slice(0, most ?? 0);
  const largest = Math.abs(values[best[0]]);
  const items = best.map((i) => ({
    label: [{ small: `#${i} ` }, { token: labels[i] }],
    values: [number(values[i])],
    shares: [values[i] / largest],
    press: () => go(i),
    title: say("go_to_token", { index: i, token: labels[i], number: number(values[i]) }),
  }));
  return items.length ? [page.heading(say("strongest")), bars(page, { items, css: "" })] : [];
}

const MOST_SEGMENTS = 12;

/** All segments by their sums, the weakest of many of them in a fold. */
function sums(page, { values, labels, special }, name, meaning) {
  const best = ranking(values, special);
  const { bound, signed } = scaleOf(values, special);
  const items = best.map((i) => ({
    label: [{ token: labels[i] }],
    values: [number(values[i])],
    shares: [values[i] / bound],
    middle: signed,
  }));
  if (!items.length) return [];
  const list = (some) => bars(page, { items: some, css: "segments" });
  const rest = items.splice(MOST_SEGMENTS);
  const more = rest.length > 0 && h("details", {}, h("summary", {}, say("other_segments", { count: rest.length })), list(rest));
  const note = h("p", { class: "note" }, meaning);
  return [page.heading(say("segments", { name })), note, list(items), ...(more ? [more] : [])];
}

/** Has CircuitsVis colour the tokens or segments; those outside the scale are hatched. */
function paint(page, place, readout, text, block) {
  const { running, special, values } = text;
  const scale = scaleOf(values, special);
  const bound = scale.bound || 1;
  const outside = values.map((value, i) => (special[i] ? "s" : Number.isFinite(value) ? "" : "x"));
  const props = {
    tokens: running.map(safe),
    values: values.map((value, i) => (outside[i] === "x" ? number(value) : Number(number(value)))),
    minValue: -bound,
    maxValue: bound,
  };
  render(place, "ColoredTokens", props, (view) => {
    const cells = [...view.querySelectorAll(TOKENS)];
    cells.forEach((cell, i) => outside[i] && cell.classList.add(outside[i]));
    if (page.spacing !== "linear") cells.forEach((cell, i) => outside[i] || tint(cell, strength(values[i], scale, page.spacing)));
    if (text.about) cells.forEach(breakable);
    else lineStarts(running).forEach((may, i) => cells[i].parentElement.classList.toggle("start", may));
    const about = readout && (text.about ?? block.about ?? aboutTokens(page, values, block.unit));
    if (page.act.position && !text.about) choosable(page, view, cells, about, block.later ?? []);
    if (readout) tellAbout(readout, view.querySelectorAll(`${TOKENS},.later`), about);
    place.dispatchEvent(new Event("drawn", { bubbles: true }));
  });
}

/** A colour of the scale, which CircuitsVis itself spaces evenly, in the space in which it blends. */
function tint(cell, amount) {
  const end = amount < 0 ? NEGATIVE : POSITIVE;
  cell.style.backgroundColor = `color-mix(in lab, ${end} ${(100 * Math.abs(amount)).toFixed(1)}%, #fff)`;
}

/** CircuitsVis joins words by spaces that do not break; a segment's text is to be broken between its words. */
function breakable(cell) {
  for (const node of cell.childNodes) if (node.nodeType === Node.TEXT_NODE) node.data = node.data.replaceAll("\u00a0", " ");
}

/** What is said of each token: its number, and how it compares with the strongest. */
function aboutTokens(page, values, unit) {
  const { special, running } = page.part;
  const scale = scaleOf(values, page.outside);
  return running.map((token, i) => {
    const parts = [say("token_value", { index: i, token: token.trim() || token, number: measured(values[i], unit) })];
    if (scale.bound && Number.isFinite(values[i]) && !special[i])
      parts.push(say("token_relative", { percent: percent(Math.abs(values[i]) / scale.bound) }));
    if (special[i]) parts.push(say("token_special"));
    return parts.join(" · ");
  });
}

/** Makes every token a button that explains what follows it, the later ones too. */
function choosable(page, view, cells, about, later) {
  const rest = later.map((token) => {
    const element = h("span", { class: "later" }, token.token.replace(/\n$/, ""));
    view.querySelector(".colored-tokens").append(element);
    about.push(say("token_later", { index: token.index, token: token.token.trim() }));
    return element;
  });
  const all = [...cells, ...rest];
  all.forEach((cell, i) => {
    const index = i < cells.length ? i : later[i - cells.length].index;
    cell.setAttribute("role", "button");
    cell.setAttribute("aria-label", about[i]);
    if (index === page.part.position) cell.setAttribute("aria-current", "true");
    cell.addEventListener("click", () => page.act.position(index));
    onPress(cell, () => cell.click());
  });
  rove(view, all);
}

/** Has the line below a strip tell of the token that is pointed at or has the focus. */
function tellAbout(readout, cells, about) {
  cells.forEach((cell, i) => {
    const tell = () => (readout.textContent = about[i]);
    cell.addEventListener("pointerenter", tell);
    cell.addEventListener("focus", tell);
  });
}
