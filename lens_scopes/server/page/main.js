// The page: question → answers → sections, and the address that says all of it.
import * as address from "./address.js";
import { ask, ProblemError, question } from "./api.js";
import { differenceSection } from "./difference.js";
import { h } from "./dom.js";
import { asRequest, settingsOf, Side } from "./form.js";
import { markLayer, scoresAt } from "./layers.js";
import { layerSections, sideSections } from "./side_result.js";

const at = (id) => document.getElementById(id);
const PLAIN_VIEW = { layer: "", head: "", show: [] };
const EVERY = ["text", "chat", "model", "through", "freeze"];
const SCOPE = [...EVERY, "scope", "other", "rank"];
// What each further question takes of the fields: a matrix has a target in every row, unless two are contrasted.
const TAKEN = {
  heads: () => [...SCOPE, "target", "position"],
  matrix: (fields) => (fields.scope === "logit-diff" ? [...SCOPE, "target"] : SCOPE),
  modes: () => [...EVERY, "position"],
};
const STAGES = { waiting: "waiting", forward: "forward, layer", backward: "backward, layer" };

let about;
let sides = [];
let answers = []; // one for each side: {attribution, heads, matrix}
let view = { ...PLAIN_VIEW };
let running = null;

async function start() {
  try {
    about = await ask("api/about");
  } catch (error) {
    return say(error);
  }
  at("model-name").textContent = about.models.map((model) => model.name).join(", ");
  examples();
  at("question").addEventListener("submit", (event) => {
    event.preventDefault();
    view = { ...PLAIN_VIEW, layer: view.layer };
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
  addEventListener("popstate", arrive);
  return arrive();
}

/** Shows what the address says: also after Back. */
function arrive() {
  const wanted = address.read(location.hash);
  const first = about.examples[0]?.request ?? { text: "" };
  view = { layer: wanted?.layer ?? "", head: wanted?.head ?? "", show: wanted?.show ?? [] };
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
      found.push({ attribution: await question("attribute", { ...asRequest(one), layers: true }, tell, mine.signal) });
    }
    if (mine !== running) return;
    answers = found;
    write(push);
    show();
    for (const kind of view.show.filter((kind) => kind in TAKEN)) await add(kind, mine);
  } catch (error) {
    if (mine === running) say(error);
  } finally {
    if (mine === running) busy(false);
  }
}

/** Adds heads, the matrix or the modes to what is shown, for each side. */
async function add(kind, mine) {
  for (const [i, side] of sides.entries()) {
    const fields = asRequest(side.fields);
    const names = TAKEN[kind](fields);
    const asked = Object.fromEntries(names.filter((name) => name in fields).map((name) => [name, fields[name]]));
    if (asked.scope) asked.scope = about.scopes.find((one) => one.name === asked.scope)?.elsewhere ?? asked.scope;
    const found = await question(kind, asked, tell, mine.signal);
    if (mine !== running) return;
    answers[i] = { ...answers[i], [kind]: found };
    show();
  }
}

/** What the parts of a side can do. */
function actions(i) {
  return {
    layer: (name) => {
      view.layer = name;
      write(false);
      changeLayer();
    },
    head: (name) => {
      view.head = name;
      write(false);
    },
    explain: (change) => {
      const fields = sides[i].fields;
      if (change.target !== undefined) {
        fields.target = change.target;
        if (!settingsOf(about, fields.scope).includes("target")) fields.scope = "semantic";
      }
      for (const name of ["position", "through"]) if (change[name] !== undefined) fields[name] = String(change[name]);
      if (change.position !== undefined) delete fields.target;
      sides[i].fields = fields;
      explain();
    },
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
  const focused = whereFocusIs();
  const blocks = shown.map((answer, i) =>
    h(
      "article",
      { class: "answer", "aria-label": both ? "AB"[i] : "Answer" },
      h("h2", {}, both ? h("span", { class: "letter" }, "AB"[i]) : null, h("bdi", {}, answer.attribution.view.title)),
      h(
        "p",
        { class: "kind" },
        h("b", {}, answer.attribution.objective),
        ` · ${answer.attribution.model.name} · position ${answer.attribution.position}`,
        answer.attribution.settings.path ? ` · through ${answer.attribution.settings.path}` : "",
      ),
      h("div", { class: "sections" }, ...sideSections(answer, view, actions(i))),
    ),
  );
  const results = at("results");
  results.classList.toggle("both", both);
  results.replaceChildren(...blocks);
  if (both) results.prepend(difference());
  focusAgain(focused);
  const { title } = answers[0].attribution.view;
  document.title = `${title} · lens_scopes`;
  at("status").textContent = `Answered: ${title}`;
}

function difference() {
  const [a, b] = answers.map((answer) => answer.attribution);
  return differenceSection(a, b, scoresAt(a, view.layer), scoresAt(b, view.layer));
}

/** Another layer is looked at: what depends on it is drawn again, and the rest stays as the reader left it. */
function changeLayer() {
  const focused = whereFocusIs();
  const swap = (old, fresh) => {
    const open = [...old.querySelectorAll("details")].map((fold) => fold.open);
    fresh.querySelectorAll("details").forEach((fold, i) => (fold.open = open[i]));
    old.replaceWith(fresh);
  };
  document.querySelectorAll(".answer").forEach((article, i) => {
    const named = (label) => article.querySelector(`section[aria-label="${label}"]`);
    for (const fresh of layerSections(answers[i], view, actions(i))) swap(named(fresh.getAttribute("aria-label")), fresh);
    markLayer(named("Through the layers"), answers[i].attribution, view.layer);
  });
  const old = document.querySelector("#results > section");
  if (old) swap(old, difference());
  focusAgain(focused);
}

const FOCUSABLE = "button,input,summary,a,td[tabindex]";

/** The place of the focus in the results, to be found again in results drawn anew. */
function whereFocusIs() {
  const element = document.activeElement;
  const article = element?.closest(".answer");
  const part = element?.closest("section");
  if (!article || !part) return null;
  return {
    article: [...document.querySelectorAll(".answer")].indexOf(article),
    part: part.getAttribute("aria-label"),
    index: [...part.querySelectorAll(FOCUSABLE)].indexOf(element),
  };
}

function focusAgain(place) {
  if (!place || document.activeElement?.closest(".answer")) return;
  const part = document.querySelectorAll(".answer")[place.article]?.querySelector(`section[aria-label="${place.part}"]`);
  const elements = part?.querySelectorAll(FOCUSABLE) ?? [];
  elements[Math.min(place.index, elements.length - 1)]?.focus({ preventScroll: true });
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
