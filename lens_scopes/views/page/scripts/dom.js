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

/** Lets the arrow keys move between elements of which the Tab key reaches one: rows of a width, or one row. */
export function rove(container, elements, width = elements.length) {
  const single = width === elements.length;
  let current = 0;
  const move = (index, focus) => {
    if (index < 0 || index >= elements.length) return;
    elements[current].setAttribute("tabindex", "-1");
    current = index;
    elements[current].setAttribute("tabindex", "0");
    if (focus) elements[current].focus();
  };
  elements.forEach((element, index) => element.setAttribute("tabindex", index ? "-1" : "0"));
  container.addEventListener("keydown", (event) => {
    const index = elements.indexOf(document.activeElement);
    if (index < 0 || event.altKey || event.ctrlKey || event.metaKey) return;
    const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: single ? 1 : width, ArrowUp: single ? -1 : -width };
    let to = index + (steps[event.key] ?? 0);
    if (event.key === "Home") to = index - (index % width);
    if (event.key === "End") to = index - (index % width) + width - 1;
    if (to === index) return;
    event.preventDefault();
    move(to, true);
  });
  container.addEventListener("click", (event) => move(elements.indexOf(event.target.closest("[tabindex]")), false));
}

/** Has Enter and Space act on an element as a click does. */
export function onPress(element, act) {
  element.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" && event.key !== " ") return;
    event.preventDefault();
    act(event);
  });
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
