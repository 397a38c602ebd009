// One answer on the page: the sections of its report with what a reader can do from there, and its files.
import { h } from "../../views/page/scripts/dom.js";
import { contents } from "../../views/page/scripts/page.js";

const FURTHER = [
  ["heads", "Inspect heads", "every head and MLP, checked by ablation"],
  ["cells", "Patch cells", "every layer and token set to its value under the other prompt, the strongest for real"],
  ["matrix", "Source × target", "every token on every later prediction"],
  ["influence", "Through the generated text", "which sentences its end rests on, hop by hop down to the prompt"],
  ["modes", "Fisher modes", "which next tokens trade places, and which word does it"],
];

/** The address of a file of an answer; the report and the page have the further results on them. */
export function address({ attribution, ...further }, kind, download = false) {
  const parameters = new URLSearchParams();
  if (kind === "html" || kind === "page") {
    for (const [name] of FURTHER) if (further[name]) parameters.append("with", further[name].id);
  }
  if (download) parameters.set("download", "true");
  return `api/results/${attribution.id}/${kind}?${parameters}`;
}

/**
 * The element of an answer, and its drawing, as `contents` gives it.
 *
 * letter: A or B where two stand beside each other; act: what its parts can do, as in `contents`, and `want` for more;
 * layer: the row of the layer that is looked at, −1 for none; looked: `fold`, `colour`, `apart`, as the address has them.
 */
export function draw(answer, { letter, act, layer, looked }) {
  const { want, ...acts } = act;
  const prefix = letter === "B" ? "b-" : "a-";
  const drawn = contents(answer.page, { act: acts, prefix, choices: { ...looked, layer, fold: looked.fold || null }, level: 3 });
  const contract = drawn.sections.find((section) => section.id.endsWith("-contract"));
  const sections = h("div", { class: "sections" }, ...drawn.sections, files(`${prefix}files`, answer));
  sections.insertBefore(further(`${prefix}further`, answer, want) ?? new Comment(), contract);
  const mark = letter && h("p", { class: "letter" }, letter);
  const label = letter ? `Answer ${letter}` : "Answer";
  const element = h("article", { class: "answer", "aria-label": label }, mark, ...drawn.header, drawn.navigation, sections);
  return { ...drawn, element };
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
export function offered({ attribution: { settings, answer: whole, other_answer: other } }) {
  const contrasts = Boolean(settings.readout?.baseline_tokens) && settings.readout.name === "dot";
  // Modes are those of one prediction; cells take another prompt; influence goes through an answer.
  const placed = { modes: !whole, cells: contrasts, influence: Boolean(whole && !other) };
  return FURTHER.map(([kind]) => kind).filter((kind) => placed[kind] ?? true);
}

function further(id, answer, want) {
  const kinds = offered(answer);
  const wanted = FURTHER.filter(([kind]) => !answer[kind] && kinds.includes(kind));
  if (!wanted.length) return null;
  const items = wanted.map(([kind, name, what]) =>
    h("li", {}, h("button", { type: "button", onclick: () => want(kind) }, name), h("span", {}, ` ${what}`)),
  );
  return section(id, "Look further", h("ul", { class: "further" }, ...items));
}

function files(id, answer) {
  const link = (kind, name) => h("a", { href: address(answer, kind, true), download: `attribution.${kind}` }, name);
  const { python, shell } = answer.attribution.command;
  const code = (name, text) => {
    const button = h("button", { type: "button" }, "Copy");
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(text);
      button.textContent = "Copied";
    });
    const pre = h("pre", { tabindex: "0", "aria-label": name }, text);
    return h("div", { class: "code" }, h("h4", { class: "part" }, name), button, pre);
  };
  return section(
    id,
    "Take it with you",
    h(
      "p",
      { class: "files" },
      link("html", "Report (HTML)"),
      link("safetensors", "Result (safetensors)"),
      link("csv", "Table (CSV)"),
      link("json", "JSON"),
    ),
    h(
      "div",
      { class: "codes" },
      code("Python", python),
      shell === null ? h("p", { class: "note" }, "A shell cannot pass this prompt.") : code("Command line", shell),
    ),
  );
}
