// Views of CircuitsVis: it draws its tokens as HTML, so every token goes through `safe`; it draws one view after another,
// those near the window first, so that the page answers in between.

export const POSITIVE = "#65a1fb";
export const NEGATIVE = "#f9971f";

const WORD_JOINER = "\u2060";
const waiting = new Map();
const queue = [];
let count = 0;
let drawing = false;
let near = null;

const idle = globalThis.requestIdleCallback ?? ((act) => setTimeout(act, 200));

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

/**
 * Runs `act` once: when its place comes near the window, or, outside closed folds, as soon as there is nothing else to do.
 * `still` makes what stands there on paper when the page is printed before that.
 */
export function later(place, act, still) {
  near ??= watch();
  waiting.set(place, { act, still });
  near.observe(place);
  idle(arriveOpen);
}

/** Fills the places that wait with what stands there on paper: CircuitsVis draws too late for a page that is printed. */
export function stillWaiting() {
  for (const [place, { still }] of [...waiting, ...queue]) place.replaceChildren(still());
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

function watch() {
  document.addEventListener("toggle", () => idle(arriveOpen), true);
  const arriveNear = (entries) => entries.forEach((entry) => entry.isIntersecting && arrive(entry.target));
  return new IntersectionObserver(arriveNear, { rootMargin: "200px" });
}

function arriveOpen() {
  for (const place of waiting.keys()) if (!place.closest("details:not([open])")) arrive(place);
}

function arrive(place) {
  if (!waiting.has(place)) return;
  near.unobserve(place);
  queue.push([place, waiting.get(place)]);
  waiting.delete(place);
  if (!drawing) next();
}

function next() {
  drawing = queue.length > 0;
  if (!drawing) return;
  const [place, { act }] = queue.shift();
  if (place.isConnected) act(); // a served page may have drawn another answer since
  setTimeout(next, 20);
}
