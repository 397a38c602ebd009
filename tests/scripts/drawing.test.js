// What the page's scripts compute before they draw: scales and levels, places on axes, orders of tables, safe tokens.
import assert from "node:assert/strict";
import { test } from "node:test";
import { DEFAULTS, read, write } from "../../lens_scopes/server/page/address.js";
import { commands } from "../../lens_scopes/server/page/answer.js";
import { align, difference } from "../../lens_scopes/server/page/parts/difference.js";
import { editable, edited } from "../../lens_scopes/server/page/parts/edit.js";
import { latest } from "../../lens_scopes/server/page/memory.js";
import { asText, columnsOf, firstChoice, isSeries } from "../../lens_scopes/server/page/parts/series.js";
import { asSpans, freeName } from "../../lens_scopes/server/page/parts/spans.js";
import { sources } from "../../lens_scopes/server/page/parts/sources.js";
import { apart, place } from "../../lens_scopes/views/page/scripts/blocks/chart.js";
import { safe, sparse } from "../../lens_scopes/views/page/scripts/circuitsvis/render.js";
import { directionOf, say, setLabels } from "../../lens_scopes/views/page/scripts/shared/dom.js";
import { spacingOf } from "../../lens_scopes/views/page/scripts/page.js";
import { jointScale, levelOf, ranking, relative, scaleOf, strength, stripes } from "../../lens_scopes/views/page/scripts/shared/scale.js";
import { folded } from "../../lens_scopes/views/page/scripts/circuitsvis/strip.js";
import { compare } from "../../lens_scopes/views/page/scripts/blocks/table.js";

const scores = [100, 2, -4, null, 0];
const special = [true, false, false, false, false];

test("the scale is that of the tokens that count", () => {
  assert.deepEqual(scaleOf(scores, special), { bound: 4, signed: true });
  assert.deepEqual(scaleOf([1, 3]), { bound: 3, signed: false });
  assert.deepEqual(jointScale([scaleOf(scores, special), scaleOf([1, 9])]), { bound: 9, signed: true });
  assert.deepEqual(scaleOf([]), { bound: 0, signed: false });
});

test("levels go from −20 to 20, halves to the even one", () => {
  const scale = scaleOf(scores, special);
  assert.deepEqual(scores.map((score, i) => levelOf(score, special[i], scale)), ["s", "p10", "n20", "x", "p0"]);
  assert.equal(levelOf(0.5, false, { bound: 20 }), "p0");
  assert.equal(levelOf(1.5, false, { bound: 20 }), "p2");
  assert.equal(levelOf(-0.5, false, { bound: 20 }), "p0");
  assert.equal(levelOf(-2.5, false, { bound: 20 }), "n2");
  assert.equal(levelOf(7, false, { bound: 1 }), "p20");
  assert.equal(levelOf(7, false, { bound: 0 }), "p0");
});

test("square roots and logarithms give weak scores more colour", () => {
  const scale = { bound: 100, signed: true };
  assert.deepEqual([100, 25, -1, 0].map((score) => levelOf(score, false, scale, "root")), ["p20", "p10", "n2", "p0"]);
  // Three decades: a tenth of the largest has two thirds of the colour, a thousandth none.
  assert.deepEqual([100, 10, -1, 0.1, 0.001, 0].map((score) => levelOf(score, false, scale, "log")), [
    "p20", "p13", "n7", "p0", "p0", "p0",
  ]);
  assert.equal(strength(3, { bound: 0 }, "log"), 0);
  assert.equal(spacingOf([{ labels: Array(100) }]), "linear");
  assert.equal(spacingOf([{ labels: [] }, { labels: Array(101) }]), "root");
});

test("an overview has one stripe for neighbours of one level", () => {
  assert.equal(
    stripes(["s", "p0", "p0", "n3"]),
    "linear-gradient(90deg,var(--line) 0.000% 25.000%,var(--p0) 25.000% 75.000%,var(--n3) 75.000% 100.000%)",
  );
});

test("tokens rank by magnitude, relative to the strongest that counts", () => {
  assert.deepEqual(ranking(scores, special), [2, 1]);
  assert.deepEqual(relative(scores, special), [null, 1 / 2, 1, null, 0]);
  assert.deepEqual(relative([0, 0], [false, false]), [null, null]);
});

test("places on axes", () => {
  assert.equal(place({ scale: "linear", low: -1, high: 1 }, 0), 0.5);
  assert.equal(place({ scale: "root", low: -4, high: 4 }, 1), 0.75);
  assert.equal(place({ scale: "log", low: 0.01, high: 100 }, 1), 0.5);
  assert.deepEqual(apart([5, 5, 40, 4], 10), [14, 24, 40, 4]);
});

test("tables sort numbers and text, and put what has no value last", () => {
  const sorted = (values, isText) => [...values].sort((a, b) => compare(a, b, isText));
  assert.deepEqual(sorted([3, null, -1, 20], false), [null, -1, 3, 20]);
  assert.deepEqual(sorted(["b", "a", "C"], true), ["a", "b", "C"]);
});

test("tokens hold no markup, and zeros no cells", () => {
  assert.equal(safe("<b>&amp;"), "<\u2060b>&\u2060amp;");
  const rows = sparse([[0], [0, 0.5]]);
  assert.deepEqual(Object.keys(rows[0]).concat(Object.keys(rows[1])), ["1"]);
  assert.equal(rows[1][1], 0.5);
  assert.deepEqual(sparse([[0], [0, 0]])[0], [0]);
});

test("labels fill their gaps", () => {
  setLabels({ bound: "{number} of {of}" });
  assert.equal(say("bound", { number: "2", of: "these" }), "2 of these");
});

test("two texts align at a longest common sequence of tokens", () => {
  const pairs = align(["The", " dog", " sleeps", " on"], ["The", " sofa", " sleeps"]);
  assert.deepEqual(pairs, [[0, 0], [1, null], [null, 1], [2, 2], [3, null]]);
});

test("a difference is of scores relative to the strongest, and of what both texts have", () => {
  const part = (running) => ({ running, labels: running, special: running.map((token) => token === "<bos>") });
  const page = difference(part(["<bos>", "a", "b"]), part(["<bos>", "a", "c"]), [9, 1, 3], [9, -3, 1]);
  const [, strip] = page.sections[0].blocks;
  assert.deepEqual(strip.values, [null, 1 - 1 / 3, null, null]);
  assert.deepEqual(strip.about.slice(1), ["“a”: A 33.3%, B 100.0%, +66.7%", "“b”: only in A", "“c”: only in B"]);
});

test("a text is folded into segments with their sums", () => {
  setLabels({ segment_value: "{first}-{last} {text}: {number}" });
  const special = [true, false, false, false];
  const page = { part: { running: ["<s>", "A", " b.", " C\n"], labels: [], special }, outside: special };
  const fold = { name: "sentence", spans: [[0, 1], [1, 3], [3, 4]], labels: ["<s>", "A b.", "C"] };
  const text = folded(page, [9, 1, -3, null], fold);
  assert.deepEqual(text.running, ["<s>", "A b.", " C\n"]);
  assert.deepEqual(text.values, [9, -2, null]);
  assert.deepEqual(text.special, [true, false, false]);
  assert.equal(text.about[1], "1-2 A b.: -2.000");
});

test("the fold and the colours are part of the address", () => {
  const sides = [{ ...DEFAULTS, text: "a" }];
  const view = { layer: "", fold: "sentence", colour: "log", apart: "last", head: "", show: [] };
  const hash = write({ sides, ...view });
  assert.equal(hash, "#text=a&fold=sentence&colour=log&apart=last");
  assert.deepEqual(read(hash), { sides, view });
});

test("the direction of a text is that of its first letter", () => {
  assert.equal(directionOf("« 12 عاصمة Paris"), "rtl");
  assert.equal(directionOf("Paris שלום"), "ltr");
  assert.equal(directionOf("12, 13"), "ltr");
});

test("a token is replaced where its characters are, beyond the first plane too", () => {
  const attribution = { text: "🛋 Sofa 🛋.", offsets: [[0, 0], [0, 1], [1, 6], [6, 8], [8, 9]], settings: {} };
  assert.equal(edited(attribution, 3, " bed"), "🛋 Sofa bed.");
  assert.equal(editable(attribution), true);
  assert.equal(editable({ ...attribution, text: null }), false);
});

test("the last questions hold each address once, the latest first", () => {
  const many = Array.from({ length: 12 }, (_, i) => ({ address: `#${i}`, title: "" }));
  assert.deepEqual(latest(many, { address: "#3", title: "new" }).map(({ address }) => address).slice(0, 4), ["#3", "#0", "#1", "#2"]);
  assert.equal(latest(many, { address: "#99", title: "" }).length, 12);
});

test("the commands of all that is shown load the model once", () => {
  const command = (call, name = "result") => ({
    command: { python: `import lens_scopes as ls\n\nmodel = ls.load_model('m')\n${name} = ${call}\n`, shell: call },
  });
  const cells = command("ls.attribute(model)", "attribution");
  cells.command.python += "result = ls.patch_cells(model, attribution, 10)\n";
  const { python, shell } = commands({ attribution: command("ls.attribute(model)"), heads: command("ls.inspect_heads(model)"), cells });
  assert.equal(
    python,
    "import lens_scopes as ls\n\nmodel = ls.load_model('m')\nattribution = ls.attribute(model)\n" +
      "heads = ls.inspect_heads(model)\ncells = ls.patch_cells(model, attribution, 10)\n",
  );
  assert.equal(shell.split("\n").length, 3);
  assert.equal(commands({ attribution: { command: { python: "p", shell: null } } }).shell, null);
});

test("sources of a token are what stands before it", () => {
  const matrix = {
    matrix: [[1, 2, 0], [3, 4, 5]], tokens: ["a", "b", "c"], special: [false, false, false], destinations: [1, 2],
    targets: [{ token: "c" }, null], predicted: [{ token: "x" }, { token: "y" }], answer: 0, generated: 2,
  };
  const part = { labels: ["a", "b", "c"], running: ["a", "b", "c"], special: [] };
  const [, strip] = sources(matrix, part).sections[0].blocks;
  assert.deepEqual(strip.choice_values, [[1, 2, null], [3, 4, 5]]);
  assert.deepEqual(strip.values, [2, 3, 5]);
  assert.deepEqual(strip.choices, ["2 c", "3 y"]);
  assert.equal(sources({ ...matrix, generated: 0 }, part), null);
});

test("spans are asked for by their text, and by their characters where it stands there twice", () => {
  const prompt = "🛋 dog, dog.";
  const rows = [
    { name: "first", text: "dog", start: 3 },
    { name: "last", text: "dog", start: 8 },
    { name: "sofa", text: "🛋", start: 0 },
    { name: "sofa", text: "cat" },
  ];
  const { spans, characters } = asSpans(rows, prompt);
  assert.deepEqual(characters, { first: [2, 5], last: [7, 10] });
  assert.deepEqual(spans, { sofa: "🛋", "sofa 2": "cat" });
  // A place where the text no longer stands is none: the server says that the text is there twice.
  assert.deepEqual(asSpans([{ name: "a", text: "dog", start: 4 }], prompt), { spans: { a: "dog" }, characters: {} });
  assert.equal(freeName([{ name: "span 1" }, { name: "span 3" }]), "span 2");
});

test("spans are part of the address", () => {
  const sides = [{ ...DEFAULTS, text: "a", spans: [{ name: "b=", text: "&c", start: 1 }], sigma: "0.2" }];
  const view = { layer: "", fold: "", colour: "", apart: "", head: "", show: ["flow"] };
  assert.deepEqual(read(write({ sides, ...view })), { sides, view });
  assert.equal("spans" in read("#text=a&spans=[1]").sides[0], false);
});

test("numbers are read from a line, from lines and from columns", () => {
  assert.deepEqual(columnsOf("12, 17, 25,"), [{ name: "numbers", cells: ["12", "17", "25"] }]);
  assert.deepEqual(columnsOf("12 17 25")[0].cells, ["12", "17", "25"]);
  assert.deepEqual(columnsOf("1\r\n2\r\n\r\n3"), [{ name: "column 1", cells: ["1", "2", "3"] }]);
  const columns = columnsOf('day,"price",note\n1,0.5,a\n2,0.75,b');
  assert.deepEqual(columns.map(({ name }) => name), ["day", "price", "note"]);
  assert.deepEqual(columns[1].cells, ["0.5", "0.75"]);
  assert.equal(firstChoice(columns), 1);
  assert.deepEqual(columnsOf(" \n"), []);
});

test("a column is written as a series, in two digits or as it is", () => {
  const column = { name: "price", cells: ["0.5", "0.75", "1.0"] };
  assert.equal(asText(column, false), "0.5,0.75,1.0,");
  assert.equal(asText(column, true), "10,55,99,");
  assert.equal(asText({ name: "flat", cells: ["3", "3"] }, true), "55,55,");
  assert.throws(() => asText({ name: "price", cells: ["1", "n/a"] }, true), /Number 2 of “price” is “n\/a”/);
  assert.throws(() => asText({ name: "price", cells: ["1"] }, true), /two numbers/);
  assert.ok(isSeries(asText(column, true)) && isSeries("1, -2.5, 3, ") && !isSeries("1,2") && !isSeries("The 1, 2,"));
});
