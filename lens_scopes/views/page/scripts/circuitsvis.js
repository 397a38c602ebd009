// Views of CircuitsVis: it draws its tokens as HTML, so every token goes through `safe`; it draws one view after another,
// when they come near the window, so that the page answers in between.

export const POSITIVE = "#65a1fb";
export const NEGATIVE = "#f9971f";

const WORD_JOINER = "\u2060";
const waiting = new Map();
const queue = [];
let count = 0;
let drawing = false;
let near = null;

/** The token with a word joiner, which has no width, after each < and &, so that no markup is read in it. */
export function safe(token) {
  return token.replace(/[<&]/g, `$&${WORD_JOINER}`);
}

/** Draws a component into a place that is on the page, in place of what is there, and then tells `done`. */
export function render(place, component, props, done = () => {}) {
  const inner = document.createElement("div");
  inner.id = `view-${count++}`;
  const observer = new MutationObserver(() => {
    observer.disconnect();
    done(inner);
  });
  observer.observe(inner, { childList: true, subtree: true });
  place.replaceChildren(inner);
  const colours = { positiveColor: POSITIVE, negativeColor: NEGATIVE };
  globalThis.CircuitsVis.render(inner.id, globalThis.CircuitsVis[component], { ...colours, ...props });
}

/** Runs `act` once, when its place comes near the window. */
export function later(place, act) {
  near ??= new IntersectionObserver(arrive, { rootMargin: "200px" });
  waiting.set(place, act);
  near.observe(place);
}

/**
 * Rows of a lower triangle with holes for its zeros: the chart leaves those cells out, since its time goes into cells. It
 * needs one cell at least.
 */
export function sparse(rows) {
  const thin = rows.map((row) => {
    const cells = [...row];
    row.forEach((value, i) => value === 0 && delete cells[i]);
    return cells;
  });
  if (!thin.some((row) => row.some(() => true))) thin[0][0] = 0;
  return thin;
}

function arrive(entries) {
  for (const entry of entries) {
    if (!entry.isIntersecting) continue;
    near.unobserve(entry.target);
    queue.push(waiting.get(entry.target));
    waiting.delete(entry.target);
    if (!drawing) next();
  }
}

function next() {
  drawing = queue.length > 0;
  if (!drawing) return;
  queue.shift()();
  setTimeout(next, 20);
}
