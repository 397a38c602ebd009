// Elements are made here and nowhere else from markup: every text reaches the page as text. And the labels of all views.

const SVG = "http://www.w3.org/2000/svg";
const labels = {};

/** An element with attributes, listeners (`onclick`) and children; `null` and `false` are left out. */
export function h(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** The same for the elements of a drawing. */
export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

/** Takes over the labels that Python and JavaScript share, by name. */
export function setLabels(given) {
  Object.assign(labels, given);
}

/** A label with its gaps filled: `say("bound", { number: "2", of: "these tokens" })`. */
export function say(name, gaps = {}) {
  return labels[name].replace(/\{(\w+)\}/g, (_, gap) => gaps[gap]);
}

/** Lets the arrow keys move between elements, given row by row, of which the Tab key reaches one. */
export function rove(container, ...rows) {
  const elements = rows.flat();
  let current = elements[0];
  const move = (element) => {
    current.setAttribute("tabindex", "-1");
    current = element;
    current.setAttribute("tabindex", "0");
  };
  elements.forEach((element) => element.setAttribute("tabindex", element === current ? "0" : "-1"));
  container.addEventListener("keydown", (event) => {
    const r = rows.findIndex((row) => row.includes(document.activeElement));
    if (r < 0 || event.altKey || event.ctrlKey || event.metaKey) return;
    const row = rows[r];
    const c = row.indexOf(document.activeElement);
    const [below, above] = rows.length > 1 ? [rows[r + 1]?.[c], rows[r - 1]?.[c]] : [row[c + 1], row[c - 1]];
    const to = { ArrowRight: row[c + 1], ArrowLeft: row[c - 1], ArrowDown: below, ArrowUp: above, Home: row[0], End: row.at(-1) };
    if (!to[event.key]) return;
    event.preventDefault();
    move(to[event.key]);
    current.focus();
  });
  container.addEventListener("click", (event) => {
    const chosen = event.target.closest("[tabindex]");
    if (elements.includes(chosen)) move(chosen);
  });
}

/** Has Enter and Space act on an element as a click does. */
export function onPress(element, act) {
  element.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" && event.key !== " ") return;
    event.preventDefault();
    act(event);
  });
}

const STRONG = /\p{L}/u;
const RIGHT_TO_LEFT = /[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc\u{10800}-\u{10fff}\u{1e800}-\u{1efff}]/u;

/** The direction of a text, `rtl` or `ltr`: that of its first letter, as for `dir="auto"`. */
export function directionOf(text) {
  return RIGHT_TO_LEFT.test(text.match(STRONG)?.[0] ?? "") ? "rtl" : "ltr";
}

let card = null;

/**
 * Has a small card tell at once of the cell of a table that is pointed at or has the focus: `about(cell)` gives its lines,
 * the first of them its title. Escape closes it. A cell that has the focus is named by the same words.
 */
export function tellBeside(grid, about) {
  const hide = () => card && (card.hidden = true);
  const tell = ({ target }) => {
    const cell = target.closest("td");
    const lines = cell && about(cell);
    if (!lines) return hide();
    if (cell === document.activeElement) cell.setAttribute("aria-label", lines.join(" · "));
    card ??= document.body.appendChild(h("div", { class: "hover-card", "aria-hidden": "true" }));
    card.replaceChildren(...lines.map((line, i) => h(i ? "span" : "b", {}, h("bdi", {}, line))));
    card.hidden = false;
    place(card, cell.getBoundingClientRect());
    return undefined;
  };
  grid.addEventListener("pointerover", tell);
  grid.addEventListener("focusin", tell);
  grid.addEventListener("pointerleave", hide);
  grid.addEventListener("focusout", hide);
  grid.addEventListener("keydown", ({ key }) => key === "Escape" && hide());
}

/** Puts an element below a place in the window, or above it where there is no room, and within the sides. */
function place(element, { left, right, top, bottom }) {
  const { width, height } = element.getBoundingClientRect();
  const { clientWidth, clientHeight } = document.documentElement;
  const across = Math.max(6, Math.min(clientWidth - width - 6, (left + right - width) / 2));
  const down = bottom + 8 + height <= clientHeight ? bottom + 8 : top - 8 - height;
  element.style.setProperty("left", `${across}px`);
  element.style.setProperty("top", `${Math.max(4, down)}px`);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "style") for (const [key, item] of Object.entries(value)) element.style.setProperty(key, item);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(3).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}
