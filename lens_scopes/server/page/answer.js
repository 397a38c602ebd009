// One answer on the page: the sections of its report with what a reader can do from there, and its files.
import { h } from "../../views/page/scripts/shared/dom.js";
import { contents } from "../../views/page/scripts/page.js";
import { editable, editor } from "./parts/edit.js";
import { isSeries } from "./parts/series.js";
import { sources } from "./parts/sources.js";

const FURTHER = [
  ["heads", "Inspect heads", "every head and MLP, checked by ablation", "Heads"],
  ["cells", "Patch cells", "every layer and token set to its value under the other prompt, the strongest for real", "Cells"],
  ["matrix", "Source × target", "every token on every later prediction", "Source × target"],
  ["influence", "Through the generated text", "which sentences its end rests on, hop by hop down to the prompt", "Generated text"],
  ["flow", "Information flow", "how much each span of the prompt could tell the predictions", "Information flow"],
  ["series", "Series", "which past numbers the forecast rests on, and the forecast over values", "Series"],
  ["modes", "Fisher modes", "which next tokens trade places, and which word does it", "Fisher modes"],
];

/** The address of the page of an answer or of its report, which have the further results on them. */
export function address({ attribution, ...further }, kind) {
  const parameters = new URLSearchParams();
  for (const [name] of FURTHER) if (further[name]) parameters.append("with", further[name].id);
  return `api/results/${attribution.id}/${kind}?${parameters}`;
}

/**
 * The element of an answer, and its drawing, as `contents` gives it.
 *
 * letter: A or B where two stand beside each other; act: what its parts can do, as in `contents`, and `want` for more;
 * layer: the row of the layer that is looked at, −1 for none; looked: `fold`, `colour`, `apart`, as the address has them.
 */
export function draw(answer, { letter, act, layer, looked }) {
  const { want, edit, ...acts } = act;
  const prefix = letter === "B" ? "b-" : "a-";
  const drawn = contents(answer.page, { act: acts, prefix, choices: { ...looked, layer, fold: looked.fold || null }, level: 3 });
  const ofTokens = drawn.sections.find((section) => section.id === `${prefix}tokens`);
  if (edit && editable(answer.attribution)) {
    const place = ofTokens.querySelector(`#${prefix}token-strip`);
    place.parentElement.append(editor(answer.attribution, place, edit));
  }
  const traced = answer.matrix && drawSources(answer, prefix, looked);
  if (traced) drawn.sections.splice(drawn.sections.findIndex(({ id }) => id === `${prefix}matrix`), 0, ...traced.sections);
  const contract = drawn.sections.find((section) => section.id.endsWith("-contract"));
  const sections = h("div", { class: "sections" }, ...drawn.sections, files(`${prefix}files`, answer));
  sections.insertBefore(further(`${prefix}further`, answer, want) ?? new Comment(), contract);
  const mark = letter && h("p", { class: "letter" }, letter);
  const label = letter ? `Answer ${letter}` : "Answer";
  const element = h("article", { class: "answer", "aria-label": label }, mark, ...drawn.header, drawn.navigation, sections);
  const ready = () => {
    drawn.ready();
    traced?.ready();
  };
  return { ...drawn, ready, element };
}

/** The sources of each token of an answer, where there is one. */
function drawSources({ matrix, page }, prefix, looked) {
  const place = page.sections.find(({ key }) => key === "matrix")?.part;
  const content = place !== undefined && sources(matrix, page.parts[place]);
  return content && contents(content, { prefix, choices: { colour: looked.colour, apart: looked.apart }, level: 3 });
}

/** The layers of a page's content, by name; the first row of the switch stands for none. */
export function layers({ sections }) {
  return sections.flatMap((section) => section.blocks).find((block) => block.choices)?.choices ?? [];
}

/** The scores of every token that a page's content has at a row of its layers, or those of the tokens themselves. */
export function scoresAt({ parts: [{ data }] }, row) {
  return row < 0 ? data.scores : data.layers[row];
}

function section(id, title, ...children) {
  return h("section", { id, class: "full", "aria-label": title }, h("h3", { class: "title" }, title), ...children);
}

/** The further questions that an answer has a place for. */
export function offered({ attribution: { settings, spec, text, answer: whole, other_answer: other } }) {
  const contrasts = Boolean(settings.readout?.baseline_tokens) && settings.readout.name === "dot";
  // Modes are those of one prediction; cells take another prompt; influence goes through an answer. Heads and cells are
  // checked by ablations of the whole model, which predictions within a part of it are not to be compared with.
  const within = Boolean(spec?.through?.length);
  const placed = { modes: !whole, cells: contrasts && !within, heads: !within, influence: Boolean(whole && !other), series: isSeries(text) };
  return FURTHER.map(([kind]) => kind).filter((kind) => placed[kind] ?? true);
}

function further(id, answer, want) {
  const kinds = offered(answer);
  const wanted = FURTHER.filter(([kind]) => !answer[kind] && kinds.includes(kind));
  if (!wanted.length) return null;
  const items = wanted.map(([kind, name, what]) =>
    h("li", {}, h("button", { type: "button", onclick: () => want(kind) }, name), h("span", {}, ` ${what}`)),
  );
  return section(id, "More views", h("ul", { class: "further" }, ...items));
}

function files(id, answer) {
  const further = FURTHER.filter(([kind]) => answer[kind]).map(([kind, , , name]) => filesOf(answer[kind], name));
  const report = h("a", { href: `${address(answer, "html")}&download=true`, download: true }, "Report (HTML)");
  const { python, shell } = commands(answer);
  const code = (title, text) => {
    const button = h("button", { type: "button", onclick: () => copy(text, button) }, "Copy");
    const pre = h("pre", { tabindex: "0", "aria-label": title }, text);
    return h("div", { class: "code" }, h("h4", { class: "part" }, title), button, pre);
  };
  return section(
    id,
    "Export",
    h("p", { class: "files" }, h("b", {}, "Everything shown"), report),
    filesOf(answer.attribution, "Tokens"),
    ...further,
    h(
      "div",
      { class: "codes" },
      code("Python", python),
      shell === null ? h("p", { class: "note" }, "A shell cannot pass this prompt.") : code("Command line", shell),
    ),
  );
}

const FILES = [
  ["png", "Picture (PNG)"],
  ["svg", "Picture (SVG)"],
  ["safetensors", "Result (safetensors)"],
  ["csv", "Table (CSV)"],
  ["json", "JSON"],
];

/** The files of one of the results of an answer. */
function filesOf({ id }, name) {
  const links = FILES.map(([kind, words]) =>
    h("a", { href: `api/results/${id}/${kind}?download=true`, download: true, "aria-label": `${name}: ${words}` }, words),
  );
  return h("p", { class: "files" }, h("b", {}, name), ...links);
}

/** What gives everything that is shown without a server: one model, a line for each result; the shell null where it cannot. */
export function commands({ attribution, ...further }) {
  const others = FURTHER.filter(([kind]) => further[kind]).map(([kind]) => [kind, further[kind].command]);
  const lines = ({ python }) => python.split(/\n(?=(?:result|attribution) = )/); // the first part loads the model
  const [setup, ...own] = lines(attribution.command);
  const named = others.flatMap(([kind, command]) =>
    lines(command)
      .slice(1)
      .map((line) => line.replace(/^result = /, `${kind} = `)),
  );
  const statements = [...own.map((line) => line.replace(/^result = /, "attribution = ")), ...named].map((line) => line.trimEnd());
  const python = others.length ? `${[setup, ...new Set(statements)].join("\n")}\n` : attribution.command.python;
  const shells = [attribution.command.shell, ...others.map(([, { shell }]) => shell)];
  return { python, shell: shells.includes(null) ? null : shells.join("\n") };
}

/** Copies a text and has a button say so. Browsers give their clipboard to pages of this machine and of https alone. */
export async function copy(text, button) {
  const name = button.textContent;
  button.textContent = (await copied(text)) ? "Copied" : "Not copied";
  setTimeout(() => (button.textContent = name), 2000);
}

async function copied(text) {
  if (navigator.clipboard) {
    return navigator.clipboard.writeText(text).then(
      () => true,
      () => false,
    );
  }
  const area = document.body.appendChild(h("textarea", { class: "unseen", "aria-hidden": "true" }));
  area.value = text;
  area.select();
  const done = document.execCommand("copy");
  area.remove();
  return done;
}
