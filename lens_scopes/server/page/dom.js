// Elements are made here and nowhere else from markup: every text reaches the page as text.

/** An element with attributes, listeners (`onclick`) and children; `null` and `false` are left out. */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "style") for (const [key, item] of Object.entries(value)) element.style.setProperty(key, item);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** A section of the page, as the report has them. */
export function section(title, layout, ...children) {
  const heading = h("h3", {}, title);
  return h("section", { class: layout, "aria-label": title }, heading, ...children);
}

/** Lets the arrow keys move between elements of which the Tab key reaches one: rows of a width, or one row. */
export function rove(container, elements, width = elements.length) {
  const focus = (index) => {
    if (index < 0 || index >= elements.length) return;
    container.querySelector('[tabindex="0"]')?.setAttribute("tabindex", "-1");
    elements[index].setAttribute("tabindex", "0");
    elements[index].focus();
  };
  elements.forEach((element, index) => element.setAttribute("tabindex", index ? "-1" : "0"));
  container.addEventListener("keydown", (event) => {
    const index = elements.indexOf(document.activeElement);
    const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: width, ArrowUp: -width };
    if (index < 0 || event.altKey || event.ctrlKey || event.metaKey) return;
    let to = index + (steps[event.key] ?? 0);
    if (width === elements.length && (event.key === "ArrowDown" || event.key === "ArrowUp")) {
      to = index + (event.key === "ArrowDown" ? 1 : -1);
    }
    if (event.key === "Home") to = index - (index % width);
    if (event.key === "End") to = index - (index % width) + width - 1;
    if (to === index) return;
    event.preventDefault();
    focus(to);
  });
  container.addEventListener("click", (event) => {
    const index = elements.indexOf(event.target.closest("[tabindex]"));
    if (index >= 0) {
      container.querySelector('[tabindex="0"]')?.setAttribute("tabindex", "-1");
      elements[index].setAttribute("tabindex", "0");
    }
  });
}
