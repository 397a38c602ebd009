// The page: question → answers → sections, and the address that says all of it.
import { h, setLabels } from "../../views/page/scripts/dom.js";
import { contents, spacingOf, unfold } from "../../views/page/scripts/page.js";
import * as address from "./address.js";
import * as answer from "./answer.js";
import { ask, ProblemError, question } from "./api.js";
import { spelled } from "./combobox.js";
import { difference } from "./difference.js";
import { asRequest, settingsOf, Side } from "./form.js";

const at = (id) => document.getElementById(id);
const PLAIN_VIEW = { layer: "", fold: "", colour: "", apart: "", head: "", show: [] };
const EVERY = ["text", "chat", "model", "through", "freeze", "rules"];
const SCOPE = [...EVERY, "scope", "other", "rank"];
// What each further question takes of the fields: a matrix has a target in every row, unless two are contrasted.
const TAKEN = {
  heads: () => [...SCOPE, "target", "answer", "generate", "position", "against"],
  cells: () => [...SCOPE, "target", "answer", "generate", "position", "against", "points"],
  matrix: (fields) => [...SCOPE, "answer", "generate", "against", ...(fields.scope === "logit-diff" ? ["target"] : [])],
  influence: (fields) => (fields.generate || fields.answer ? TAKEN.matrix(fields) : []),
  modes: () => [...EVERY, "position"],
};
const DIFFERENCE = -1; // in place of the side that something is chosen on
const STAGES = { waiting: "waiting", forward: "forward, layer", backward: "backward, layer" };

let about;
let sides = [];
let answers = []; // one for each side: {attribution, heads, cells, matrix, influence, modes, page}, the last with what all of them draw
let drawn = []; // the drawing of each answer
let between = null; // the drawing of their difference, where there are two
let view = { ...PLAIN_VIEW };
let running = null;

async function start() {
  try {
    about = await ask("api/about");
  } catch (error) {
    return say(error);
  }
  setLabels(about.labels);
  at("model-name").textContent = about.models.map((model) => model.name).join(", ");
  examples();
  at("question").addEventListener("submit", (event) => {
    event.preventDefault();
    view = { ...view, head: "", show: [] };
    explain();
  });
  at("cancel").addEventListener("click", () => running?.abort());
  at("compare").addEventListener("click", () => {
    const fields = sides.map((side) => side.fields);
    arrange(fields.length > 1 ? fields.slice(0, 1) : [fields[0], fields[0]]);
    if (sides.length > 1) sides[1].element.querySelector("textarea").focus();
    else if (answers.length) show();
  });
  document.querySelector(".skip").addEventListener("click", (event) => {
    event.preventDefault(); // the part of the address after the # holds the view
    at("results").focus();
  });
  at("results").addEventListener("click", (event) => {
    const link = event.target.closest('a[href^="#"]');
    if (!link) return;
    event.preventDefault();
    visit(link.getAttribute("href").slice(1));
  });
  at("results").addEventListener("drawn", focusAgain);
  addEventListener("popstate", arrive);
  return arrive();
}

/** Shows what the address says: also after Back. */
function arrive() {
  const wanted = address.read(location.hash);
  const first = about.examples[0]?.request ?? { text: "" };
  view = { ...PLAIN_VIEW, ...wanted?.view };
  arrange(wanted?.sides ?? [first]);
  return sides[0].fields.text || sides[0].fields.chat ? explain(false) : undefined;
}

function examples() {
  const studies = new Map();
  for (const example of about.examples) studies.set(example.study, [...(studies.get(example.study) ?? []), example]);
  const groups = [...studies].map(([study, found]) =>
    h(
      "p",
      {},
      h("span", { class: "study" }, study),
      ...found.map((example) =>
        h("button", { type: "button", title: example.what, onclick: () => take(example) }, example.title),
      ),
    ),
  );
  at("examples").append(...groups);
}

function take(example) {
  view = { ...PLAIN_VIEW };
  arrange([example.request, example.compare].filter(Boolean));
  explain();
}

/** One form for each side. */
function arrange(fields) {
  const legends = fields.length > 1 ? ["A", "B"] : ["Question"];
  sides = fields.map((one, i) => new Side(about, one, legends[i]));
  at("sides").replaceChildren(...sides.map((side) => side.element));
  at("sides").classList.toggle("both", fields.length > 1);
  at("compare").textContent = fields.length > 1 ? "Stop comparing" : "Compare with…";
  at("compare").setAttribute("aria-pressed", String(fields.length > 1));
}

/** Asks what the fields say, and shows the answers as they come. */
async function explain(push = true) {
  running?.abort();
  const mine = (running = new AbortController());
  at("problem").hidden = true;
  busy(true);
  try {
    const fields = sides.map((side) => side.fields);
    const found = [];
    for (const one of fields) {
      const attribution = await question("attribute", { ...asRequest(one), layers: true }, tell, mine.signal);
      found.push(await paged({ attribution }, mine.signal));
    }
    if (mine !== running) return;
    answers = found;
    view.show = view.show.filter((kind) => answers.some((one) => answer.offered(one).includes(kind)));
    write(push);
    show();
    for (const kind of view.show) await add(kind, mine);
  } catch (error) {
    if (mine === running) say(error);
  } finally {
    if (mine === running) busy(false);
  }
}

/** Adds heads, cells, the matrix, the influence or the modes to what is shown, for each side that has a place for them. */
async function add(kind, mine) {
  for (const [i, side] of sides.slice(0, answers.length).entries()) {
    if (!answer.offered(answers[i]).includes(kind)) continue;
    const fields = asRequest(side.fields);
    const names = TAKEN[kind](fields);
    if (!names.length) continue;
    const asked = Object.fromEntries(names.filter((name) => name in fields).map((name) => [name, fields[name]]));
    if (asked.scope) asked.scope = about.scopes.find((one) => one.name === asked.scope)?.elsewhere ?? asked.scope;
    const found = await paged({ ...answers[i], [kind]: await question(kind, asked, tell, mine.signal) }, mine.signal);
    if (mine !== running) return;
    answers[i] = found;
    show();
  }
}

/** An answer with the sections of all its results. */
async function paged(found, signal) {
  return { ...found, page: await ask(answer.address(found, "page"), { signal }) };
}

/** What the parts of a side can do. */
function actions(i) {
  const explainChanged = (change) => {
    const fields = { ...sides[i].fields, ...change };
    if (change.target !== undefined && !settingsOf(about, fields.scope).includes("target")) fields.scope = "semantic";
    if (change.position !== undefined) delete fields.target;
    // A token chosen is explained alone: an answer would follow the whole prompt.
    if (change.through === undefined) for (const name of ["answer", "generate"]) delete fields[name];
    sides[i].fields = fields;
    explain();
  };
  return {
    layer: (row) => changeLayer(i, row),
    fold: (name) => look(i, "fold", name, name === "token" ? "" : name),
    colour: (spacing) => look(i, "colour", spacing),
    apart: (which) => look(i, "apart", which),
    head: (layer, head) => {
      view.head = `L${layer}H${head}`;
      write(false);
      visit(headId(i));
    },
    position: (index) => explainChanged({ position: String(index) }),
    target: (token) => explainChanged({ target: spelled(token) }),
    through: (name) => explainChanged({ through: name }),
    want: async (kind) => {
      view.show = [...view.show, kind];
      write(false);
      running?.abort();
      const mine = (running = new AbortController());
      at("problem").hidden = true;
      busy(true);
      try {
        await add(kind, mine);
      } catch (error) {
        view.show = view.show.filter((shown) => shown !== kind);
        if (mine === running) say(error);
      } finally {
        if (mine === running) busy(false);
      }
    },
  };
}

function show() {
  const both = answers.length > 1 && sides.length > 1;
  const shown = both ? answers : answers.slice(0, 1);
  keepFocus();
  drawn = shown.map((one, i) =>
    answer.draw(one, { letter: both ? "AB"[i] : "", act: actions(i), layer: layerRow(one), looked: lookedAt() }),
  );
  const results = at("results");
  results.classList.toggle("both", both);
  results.replaceChildren(...drawn.map(({ element }) => element));
  drawn.forEach(({ ready }) => ready());
  between = null;
  if (both) showDifference();
  if (view.head) drawn.forEach((_, i) => unfold(headId(i)));
  focusAgain();
  document.title = answers[0].page.title;
  at("status").textContent = `Answered: ${document.title}`;
}

/** How the texts are folded and coloured: two beside each other alike. */
function lookedAt() {
  const colour = view.colour || spacingOf(answers.flatMap(({ page }) => page.parts));
  return { fold: view.fold, colour, apart: view.apart };
}

function showDifference() {
  const [a, b] = answers.map(({ page }) => page);
  const scores = answers.map((one) => answer.scoresAt(one.page, layerRow(one)));
  const open = document.querySelector("#difference details")?.open;
  const choices = { colour: lookedAt().colour };
  const act = { colour: (spacing) => look(DIFFERENCE, "colour", spacing) };
  between = contents(difference(a.parts[0], b.parts[0], ...scores), { act, choices, level: 2 });
  at("difference")?.remove();
  at("results").prepend(...between.sections);
  if (open) document.querySelector("#difference details").open = true;
  between.ready();
}

/** The row of the layer that is looked at in an answer, −1 where it has none of that name. */
function layerRow({ page }) {
  return answer.layers(page).indexOf(view.layer);
}

/** Another layer is looked at on one side: the other side follows. */
function changeLayer(i, row) {
  view.layer = answer.layers(answers[i].page)[row] ?? "";
  write(false);
  drawn.forEach(({ choose }, other) => other !== i && choose("layer", layerRow(answers[other])));
  if (drawn.length > 1) showDifference();
}

/** The text is folded or coloured otherwise on one side: the other side and the difference follow. */
function look(i, kind, chosen, written = chosen) {
  view[kind] = written;
  write(false);
  drawn.forEach(({ choose }, other) => other !== i && choose(kind, chosen));
  if (i !== DIFFERENCE) between?.choose(kind, chosen);
}

function headId(i) {
  return `${"ab"[i]}-head-${view.head.toLowerCase()}`;
}

/** Brings a part of the results into view, and the focus to it. */
function visit(id) {
  const target = unfold(id);
  target?.scrollIntoView();
  target?.setAttribute("tabindex", "-1");
  target?.focus({ preventScroll: true });
}

const FOCUSABLE = "button,input,summary,a,[tabindex],[role=button]";
let focused = null; // where the focus was in the results before they were drawn anew

/** What can have the focus in a section or a strip; strips, which are drawn later, are counted by themselves. */
function focusable(part) {
  return [...part.querySelectorAll(FOCUSABLE)].filter((element) => element.closest(".circuitsvis,section") === part);
}

function keepFocus() {
  const element = document.activeElement;
  const part = element?.closest("#results") && element.closest(".circuitsvis,section");
  focused = part && { id: part.id, index: focusable(part).indexOf(element) };
}

/** Sets the focus to the same place of the new results, as soon as it is drawn there. */
function focusAgain() {
  if (!focused || document.activeElement !== document.body) return;
  const part = at(focused.id);
  const elements = part ? focusable(part) : [];
  if (!elements.length) return;
  elements[Math.min(focused.index, elements.length - 1)].focus({ preventScroll: true });
  focused = null;
}

function write(push) {
  const hash = address.write({ ...view, sides: sides.map((side) => side.fields) });
  if (hash === location.hash) return;
  if (push) history.pushState(null, "", hash);
  else history.replaceState(null, "", hash);
}

function tell(progress) {
  const bar = at("progress");
  bar.hidden = false;
  const { stage, done, total, waiting } = progress;
  bar.firstElementChild.value = stage === "waiting" ? 0 : done / total;
  bar.lastElementChild.textContent = waiting
    ? `${waiting} ahead in the queue`
    : stage === "waiting"
      ? ""
      : `${STAGES[stage] ?? stage} ${done} of ${total}`;
}

function busy(is) {
  at("cancel").hidden = !is;
  at("progress").hidden = !is;
  at("results").setAttribute("aria-busy", String(is));
  if (is) at("progress").firstElementChild.removeAttribute("value");
}

function say(error) {
  if (error.name === "AbortError") return void (at("status").textContent = "Cancelled.");
  const known = error instanceof ProblemError;
  at("problem").textContent = known ? error.message : `The page failed: ${error.message}`;
  at("problem").hidden = false;
  return undefined;
}

start();
