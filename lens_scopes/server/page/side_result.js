// What one side of the question was answered: prediction, strip, layers, heads, matrix, modes, numbers, downloads.
import { spelled } from "./combobox.js";
import { h, section } from "./dom.js";
import { headsSection } from "./heads.js";
import { layerMap, place, scoresAt, switcher } from "./layers.js";
import { matrixSection } from "./matrix.js";
import { bar, cellClass, legend, number, percent, scaleOf, shares } from "./scale.js";
import { scored, strip } from "./strip.js";

/** The sections of one side; `act` holds what its parts can do: explain, layer, want, head. */
export function sideSections(answers, view, act) {
  const { attribution, heads, matrix, modes } = answers;
  const shown = attribution.view.layer_labels.includes(view.layer) ? view.layer : "";
  const parts = [
    tokens(attribution, shown, act),
    prediction(attribution, act),
    layerMap(attribution, shown, act.layer),
    heads &&
      headsSection(heads, {
        through: (name) => act.explain({ through: name }),
        choose: (position) => act.explain({ position }),
        chosen: view.head,
        select: act.head,
      }),
    matrix && matrixSection(matrix, (position) => act.explain({ position })),
    modes && modesSection(modes),
    more(answers, act),
    table(attribution, shown),
    terms(attribution),
    files(answers),
    circuitsvis(answers),
  ];
  return parts.filter(Boolean);
}

/** The sections that change with the layer that is looked at. */
export function layerSections({ attribution }, view, act) {
  const shown = attribution.view.layer_labels.includes(view.layer) ? view.layer : "";
  return [tokens(attribution, shown, act), table(attribution, shown)];
}

function tokens(result, shown, act) {
  const values = scoresAt(result, shown);
  const scale = scaleOf(values, result.special);
  const notes = [...result.warnings, ...result.view.oddities];
  return section(
    "Tokens",
    "wide",
    notes.length ? h("ul", { class: "alert" }, ...notes.map((note) => h("li", {}, note))) : null,
    strip({
      tokens: result.view.running,
      values,
      special: result.special,
      scale,
      share: shares(values, result.special),
      choose: (position) => act.explain({ position }),
      what: scored,
      later: result.view.later,
      label: "The prompt, coloured by influence",
      current: result.position,
    }),
    result.layers?.length ? switcher(result, shown, act.layer) : null,
    legend(scale, "the other tokens", result.special),
    strongest(result, values, scale),
    h("p", { class: "lead" }, result.view.reading),
    h("p", { class: "lead caution" }, result.view.caution),
  );
}

function strongest(result, values, scale) {
  const ranked = values
    .map((value, i) => [value, i])
    .filter(([value, i]) => value && !result.special[i])
    .sort(([a, i], [b, j]) => Math.abs(b) - Math.abs(a) || i - j)
    .slice(0, 5);
  const bars = ranked.map(([value, i]) =>
    h(
      "li",
      {},
      h("span", { class: "token" }, h("bdi", {}, result.view.labels[i])),
      bar(Math.abs(value) / scale.bound, value < 0),
      h("span", { class: "value" }, number(value)),
    ),
  );
  return bars.length ? h("div", { class: "strongest" }, h("h4", {}, "Strongest"), h("ol", { class: "bars" }, ...bars)) : null;
}

function prediction(result, act) {
  const bars = result.view.likely.map((token) =>
    h(
      "li",
      { class: token.target ? "target" : null },
      h(
        "button",
        {
          type: "button",
          title: "Explain this token",
          "aria-label": `${token.label}, ${percent(token.probability)}: explain this token`,
          onclick: () => act.explain({ target: spelled(token) }),
        },
        h("span", { class: "token" }, h("bdi", {}, token.label)),
        bar(token.probability),
        h("span", { class: "value" }, percent(token.probability)),
      ),
    ),
  );
  return section(
    "Prediction",
    "side",
    h("p", { class: "note" }, "The next token. Choose one to explain it; the target is set off."),
    h("ol", { class: "bars" }, ...bars),
    h(
      "dl",
      { class: "facts" },
      h("dt", {}, "entropy"),
      h("dd", {}, `${number(result.prediction.entropy)} nats`),
      h("dt", {}, "β = ‖y‖"),
      h("dd", {}, number(result.prediction.beta)),
    ),
  );
}

function more(answers, act) {
  const wanted = [
    ["heads", "Inspect heads", "every head and MLP, checked by ablation"],
    ["matrix", "Source × target", "every token on every later prediction"],
    ["modes", "Fisher modes", "which next tokens trade places, and which word does it"],
  ].filter(([kind]) => !answers[kind]);
  if (!wanted.length) return null;
  return section(
    "Look further",
    "full",
    h(
      "ul",
      { class: "further" },
      ...wanted.map(([kind, name, what]) =>
        h("li", {}, h("button", { type: "button", onclick: () => act.want(kind) }, name), h("span", {}, ` ${what}`)),
      ),
    ),
  );
}

function modesSection(result) {
  return section(
    "Fisher modes",
    "full",
    h("iframe", { sandbox: "allow-scripts", src: `api/results/${result.id}/html`, title: "Fisher modes" }),
  );
}

function table(result, shown) {
  const values = scoresAt(result, shown);
  const scale = scaleOf(values, result.special);
  const share = shares(values, result.special);
  const rows = values.map((value, i) =>
    h(
      "tr",
      { class: result.special[i] ? "special" : null },
      h("td", { class: "n" }, String(i)),
      h("td", { class: "token" }, h("bdi", {}, result.view.labels[i])),
      h("td", { class: "n" }, h("span", { class: `cell ${cellClass(value, result.special[i], scale)}` }, number(value))),
      h("td", { class: "n" }, share[i] === null ? "—" : percent(share[i])),
    ),
  );
  return section(
    "Scores",
    "wide",
    h(
      "details",
      {},
      h("summary", {}, `Every number: ${shown || place(result)}`),
      h(
        "div",
        { class: "scroll", role: "region", tabindex: "0", "aria-label": "Scores" },
        h(
          "table",
          { class: "scores" },
          h("caption", {}, "Score of every token"),
          h("thead", {}, h("tr", {}, ...["#", "token", "score", "share"].map((name) => h("th", { scope: "col" }, name)))),
          h("tbody", {}, ...rows),
        ),
      ),
    ),
  );
}

function terms(result) {
  const pairs = Object.entries(result.contract).map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]);
  return section("Contract", "side", h("details", {}, h("summary", {}, "What this claims"), h("dl", {}, ...pairs.flat())));
}

function address(answers, kind, download) {
  const parameters = new URLSearchParams();
  if (kind === "html") {
    for (const name of ["heads", "matrix", "modes"]) if (answers[name]) parameters.append("with", answers[name].id);
  }
  if (download) parameters.set("download", "true");
  return `api/results/${answers.attribution.id}/${kind}?${parameters}`;
}

function files(answers) {
  const link = (kind, name) => h("a", { href: address(answers, kind, true), download: `attribution.${kind}` }, name);
  const { python, shell } = answers.attribution.view.command;
  const code = (name, text) => {
    const button = h("button", { type: "button" }, "Copy");
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(text);
      button.textContent = "Copied";
    });
    const pre = h("pre", { tabindex: "0", "aria-label": name }, text);
    return h("div", { class: "code" }, h("h4", {}, name), button, pre);
  };
  return section(
    "Take it with you",
    "full",
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

function circuitsvis(answers) {
  const details = h("details", {}, h("summary", {}, "The report with its CircuitsVis views, in a sandboxed frame"));
  details.addEventListener("toggle", () => {
    if (!details.open || details.querySelector("iframe")) return;
    details.append(
      h("iframe", { sandbox: "allow-scripts", src: address(answers, "html", false), title: "Report with CircuitsVis" }),
    );
  });
  return section("CircuitsVis", "full", details);
}
