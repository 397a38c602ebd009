// The page: question → answers → sections, and the address that says all of it.
import { h, setLabels } from "../../views/page/scripts/shared/dom.js";
import { contents, spacingOf, unfold } from "../../views/page/scripts/page.js";
import * as address from "./address.js";
import * as answer from "./answer.js";
import { ask, ProblemError, question } from "./api.js";
import { spelled } from "./combobox.js";
import { difference } from "./parts/difference.js";
import { edited } from "./parts/edit.js";
import { isSeries } from "./parts/series.js";
import { asRequest, settingsOf, Side, spansOf } from "./form.js";
import * as memory from "./memory.js";

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
  series: ({ text }) => (isSeries(text) ? [...SCOPE, "target", "answer", "generate", "score_site", "readout"] : []),
  flow: (fields) => (fields.chat || hasSpans(fields) ? [...EVERY, ...FLOW] : []),
};
const FLOW = ["answer", "generate", "position", "spans", "characters", "sigma"];
const DIFFERENCE = -1; // in place of the side that something is chosen on
const STAGES = { waiting: "waiting", forward: "forward, layer", backward: "backward, layer" };

let about;
let sides = [];
let asked = []; // the fields of each side that the answers are to, whatever has been written since
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
    memory.keepDraft(written(), location.hash);
    if (sides.length > 1) return sides[1].element.querySelector("textarea").focus();
    if (!answers.length) return undefined;
    [answers, asked] = [answers.slice(0, 1), asked.slice(0, 1)];
    write(true);
    return show();
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
  at("sides").addEventListener("measure", () => {
    view = { ...view, show: [...new Set([...view.show, "flow"])] };
    explain();
  });
  at("sides").addEventListener("input", () => memory.keepDraft(written(), location.hash));
  at("link").addEventListener("click", () => answer.copy(location.href, at("link")));
  at("recent").querySelector("button").addEventListener("click", () => {
    memory.forget();
    showRecent();
  });
  addEventListener("popstate", () => arrive());
  const draft = memory.draftAt(location.hash);
  showRecent();
  return arrive(draft);
}

/** Shows what the address says, also after Back; over it the question that was being written when the page was left. */
function arrive(draft = null) {
  const wanted = address.read(location.hash);
  const first = about.examples[0]?.request ?? { text: "" };
  view = { ...PLAIN_VIEW, ...wanted?.view };
  arrange(wanted?.sides ?? [first]);
  const work = sides[0].fields.text || sides[0].fields.chat ? explain(false) : undefined;
  if (draft) {
    arrange(draft);
    memory.keepDraft(written(), location.hash);
  }
  return work;
}

/** What the fields of all sides say. */
function written() {
  return sides.map((side) => side.fields);
}

/** The last questions as links, the latest first. */
function showRecent() {
  const links = memory.recent().map((one) => h("li", {}, h("a", { href: one.address }, h("bdi", {}, one.title))));
  at("recent").hidden = !links.length;
  at("recent").querySelector("ol").replaceChildren(...links);
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

/** Asks what the fields say, and shows the answers as they come. Gives whether there are any. */
async function explain(push = true) {
  running?.abort();
  const mine = (running = new AbortController());
  at("problem").hidden = true;
  const fields = written();
  memory.keepDraft(fields, location.hash);
  stale(JSON.stringify(fields) !== JSON.stringify(asked));
  busy(true);
  try {
    const found = [];
    for (const one of fields) {
      const attribution = await question("attribute", { ...asRequest(one), layers: true }, tell, mine.signal);
      found.push(await paged({ attribution }, mine.signal));
    }
    if (mine !== running) return false;
    const unchanged = JSON.stringify(written()) === JSON.stringify(fields);
    [answers, asked] = [found, fields];
    view.show = view.show.filter((kind) => answers.some((one) => answer.offered(one).includes(kind)));
    write(push);
    if (unchanged) memory.dropDraft();
    else memory.keepDraft(written(), location.hash);
    stale(false);
    show();
    memory.remember(location.hash, recentTitle());
    showRecent();
    for (const kind of view.show) await add(kind, mine);
    return true;
  } catch (error) {
    if (mine === running) say(error);
    return false;
  } finally {
    if (mine === running) busy(false);
  }
}

/** What a question is called among the last ones. */
function recentTitle() {
  return answers.map(({ page }) => page.title.replace(/ · lens_scopes$/, "")).join(" ⟷ ");
}

/** Sets the answers back that are not to the question asked now, and says what they are to. */
function stale(is) {
  const old = is && answers.length > 0;
  at("stale").hidden = !old;
  at("results").classList.toggle("old", old);
  if (old) at("stale").querySelector("bdi").textContent = recentTitle();
}

/** Adds heads, cells, the matrix, the influence or the modes to what is shown, for each side that has a place for them. */
async function add(kind, mine) {
  for (const [i, one] of answers.entries()) {
    if (!answer.offered(one).includes(kind)) continue;
    const fields = { ...asRequest(asked[i]), ...spansOf(asked[i]) };
    const names = TAKEN[kind](fields);
    if (!names.length) continue;
    const wanted = Object.fromEntries(names.filter((name) => name in fields).map((name) => [name, fields[name]]));
    if (wanted.scope) wanted.scope = about.scopes.find(({ name }) => name === wanted.scope)?.elsewhere ?? wanted.scope;
    const found = await paged({ ...answers[i], [kind]: await question(kind, wanted, tell, mine.signal) }, mine.signal);
    if (mine !== running) return;
    answers[i] = found;
    show();
  }
}

function hasSpans({ spans, characters }) {
  return Object.keys({ ...spans, ...characters }).length > 0;
}

/** An answer with the sections of all its results. */
async function paged(found, signal) {
  return { ...found, page: await ask(answer.address(found, "page"), { signal }) };
}

/** What the parts of a side can do. */
function actions(i) {
  const explainChanged = (change) => {
    const fields = { ...asked[i], ...change };
    if (change.target !== undefined && !settingsOf(about, fields.scope).includes("target")) fields.scope = "semantic";
    if (change.position !== undefined) delete fields.target;
    // A token chosen is explained alone: an answer would follow the whole prompt.
    if (change.through === undefined) for (const name of ["answer", "generate"]) delete fields[name];
    sides[i].fields = fields;
    return explain();
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
    // The tokens alone: predictions within a path are not to be compared with ablations of the whole model.
    through: async (name) => {
      view = { ...view, head: "", show: [] };
      if (await explainChanged({ through: name })) visit(`${"ab"[i]}-tokens`);
    },
    edit: (index, text) => {
      arrange([asked[i], { ...asked[i], text: edited(answers[i].attribution, index, text) }]);
      explain();
    },
    want: async (kind) => {
      if (kind === "flow") asked[i] = { ...asked[i], ...sides[i].spanFields };
      if (kind === "flow" && !TAKEN.flow({ ...asked[i], ...spansOf(asked[i]) }).length) return sides[i].nameSpans();
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
  const both = answers.length > 1;
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
  if (target) setFocus(target);
}

function setFocus(target) {
  target.setAttribute("tabindex", "-1");
  target.focus({ preventScroll: true });
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
  if (part && focused.index < 0) setFocus(part); // which a link had led to
  else if (elements.length) elements[Math.min(focused.index, elements.length - 1)].focus({ preventScroll: true });
  else return;
  focused = null;
}

function write(push) {
  const hash = address.write({ ...view, sides: asked });
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
