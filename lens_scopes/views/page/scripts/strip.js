// Texts with the influence of each token as its colour, drawn by CircuitsVis: one strip, or one for every head.
import { bars } from "./chart.js";
import { later, render, safe } from "./circuitsvis.js";
import { h, onPress, rove, say } from "./dom.js";
import { number, percent } from "./numbers.js";
import { pieces } from "./prose.js";
import { legend, ranking, scaleOf, shares } from "./scale.js";

/**
 * The strip of a block with its legend and its strongest tokens, and a switch where it has several rows of values. Where
 * the page can explain a position, or the block says something `about` its tokens, the text stands below the strip.
 */
export function strip(page, block) {
  const rows = [page.values(block.values), ...(block.choices ? page.values(block.choice_values) : [])];
  const place = h("div", { class: "circuitsvis", id: page.id(block.id), role: "group", "aria-label": block.label });
  const readout = readoutOf(page, block);
  const below = h("div");
  const draw = (row) => {
    paint(page, place, readout, rows[row], block);
    below.replaceChildren(legendOf(page, rows[row], block), ...strongest(page, rows[row], block.strongest));
  };
  const first = page.chosen(block.choose) + 1;
  page.ready(() => draw(first));
  if (!block.choices) return h("div", {}, place, readout, below);
  const names = [block.first, ...block.choices];
  const inputs = names.map((name, i) =>
    h("input", { type: "radio", name: page.id(`${block.id}-row`), value: name, checked: i === first, onchange: () => page.act.layer(i - 1) }),
  );
  page.on(block.choose, (row) => {
    inputs[row + 1].checked = true;
    draw(row + 1);
  });
  const options = names.map((name, i) => h("label", {}, inputs[i], h("span", {}, name)));
  const group = { class: "switch", role: "radiogroup", "aria-label": block.choice_label };
  return h("div", {}, place, readout, h("div", group, ...options), below);
}

/** A fold with a strip for every item, the first of them open; each is drawn when it comes into view. */
export function strips(page, block) {
  const folds = block.items.map((item, i) => {
    const values = page.values(item.values);
    const place = h("div", { class: "circuitsvis", id: page.id(`${item.key}-strip`) });
    const readout = readoutOf(page, item);
    page.ready(() => later(place, () => paint(page, place, readout, values, item)));
    const { through } = page.act;
    return h(
      "details",
      { class: "fold", id: page.id(item.key), open: i < block.open },
      h("summary", {}, pieces(item.summary)),
      ...page.draw(item.blocks),
      place,
      readout,
      legendOf(page, values, block),
      through && h("button", { type: "button", onclick: () => through(item.name) }, say("through", { name: item.name })),
    );
  });
  const others = folds.splice(block.open);
  const more = others.length > 0 && h("details", { class: "more" }, h("summary", {}, block.more), ...others);
  return h("div", { id: page.id(block.id) }, ...folds, more);
}

function readoutOf(page, { about }) {
  return (about || page.act.position) && h("p", { class: "readout" }, say(about ? "point_token" : "choose_token"));
}

function legendOf(page, values, { of, broken }) {
  const { special } = page.part;
  const unknown = values.some((value, i) => !special[i] && !Number.isFinite(value)) && (broken ?? true);
  return legend(scaleOf(values, special), of, { special: special.some(Boolean), broken: unknown });
}

function strongest(page, values, most) {
  const best = ranking(values, page.part.special).slice(0, most ?? 0);
  const largest = Math.abs(values[best[0]]);
  const items = best.map((i) => ({
    label: [{ token: page.part.labels[i] }],
    values: [number(values[i])],
    shares: [values[i] / largest],
  }));
  return items.length ? [page.heading(say("strongest")), bars(page, { items, css: "" })] : [];
}

/** Has CircuitsVis colour the tokens; those outside the scale are hatched. */
function paint(page, place, readout, values, block) {
  const { running, special } = page.part;
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
    const cells = [...view.querySelectorAll(".colored-tokens>span>span")];
    cells.forEach((cell, i) => outside[i] && cell.classList.add(outside[i]));
    const about = readout && (block.about ?? aboutTokens(page, values));
    if (page.act.position) choosable(page, view, cells, about, block.later ?? []);
    if (readout) tellAbout(readout, view.querySelectorAll(".colored-tokens>span>span,.later"), about);
    place.dispatchEvent(new Event("drawn", { bubbles: true }));
  });
}

/** What is said of each token: its number and its share of all. */
function aboutTokens(page, values) {
  const { running, special } = page.part;
  const share = shares(values, special);
  return running.map((token, i) => {
    const parts = [say("token_value", { index: i, token: token.trim() || token, number: number(values[i]) })];
    if (share[i] !== null) parts.push(say("token_share", { percent: percent(share[i]) }));
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
