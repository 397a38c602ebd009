// Two results beside each other: the tokens of both aligned, and how much more of the whole each has in the second.
import { h, section } from "./dom.js";
import { cellClass, legend, percent, scaleOf, shares } from "./scale.js";

/** Pairs of indices [in a, in b] of two token lists, null where a token is in one alone: a longest common sequence. */
export function align(a, b) {
  const length = Array.from({ length: a.length + 1 }, () => new Uint16Array(b.length + 1));
  for (let i = a.length - 1; i >= 0; i--) {
    for (let j = b.length - 1; j >= 0; j--) {
      length[i][j] = a[i] === b[j] ? length[i + 1][j + 1] + 1 : Math.max(length[i + 1][j], length[i][j + 1]);
    }
  }
  const pairs = [];
  let [i, j] = [0, 0];
  while (i < a.length || j < b.length) {
    if (i < a.length && j < b.length && a[i] === b[j]) pairs.push([i++, j++]);
    else if (j >= b.length || (i < a.length && length[i + 1][j] >= length[i][j + 1])) pairs.push([i++, null]);
    else pairs.push([null, j++]);
  }
  return pairs;
}

/** The difference strip of two attributions at the scores that are looked at. */
export function differenceSection(a, b, scoresOfA, scoresOfB) {
  const [ofA, ofB] = [shares(scoresOfA, a.special), shares(scoresOfB, b.special)];
  const rows = align(a.tokens, b.tokens).map(([i, j]) => {
    const own = i ?? null;
    const special = own === null ? b.special[j] : a.special[own];
    const token = own === null ? b.view.running[j] : a.view.running[own];
    const [first, second] = [own === null ? null : ofA[own], j === null ? null : ofB[j]];
    const both = first !== null && second !== null;
    return { token, special, first, second, side: own === null ? "B" : j === null ? "A" : "", value: both ? second - first : null };
  });
  const scale = scaleOf(rows.map((row) => row.value));
  const say = (share) => (share === null ? "—" : percent(share));
  const change = (value) => (value === null ? "—" : `${value < 0 ? "−" : "+"}${percent(Math.abs(value))}`);
  const cells = rows.map((row) => {
    const alone = row.side ? `only in ${row.side}` : `A ${say(row.first)}, B ${say(row.second)}, ${change(row.value)}`;
    const about = `“${row.token.trim()}”: ${row.special ? "special token" : alone}`;
    return h("span", { class: `tok ${row.side ? "x" : cellClass(row.value, row.special, scale)}`, title: about }, row.token);
  });
  return section(
    "Difference",
    "full",
    h(
      "p",
      { class: "note" },
      "B against A: each token’s share of all |scores|, since scores of different scopes and prompts have different ",
      "units. Blue: a larger share in B; orange: a larger share in A; crossed: in one text alone.",
    ),
    h("div", { class: "strip difference" }, ...cells),
    scale.bound ? legend({ bound: scale.bound, signed: true }, "the differences of shares") : null,
    h(
      "details",
      {},
      h("summary", {}, "The differences as a table"),
      h(
        "div",
        { class: "scroll", role: "region", tabindex: "0", "aria-label": "Differences" },
        h(
          "table",
          { class: "scores" },
          h("caption", {}, "Share of each token in A and in B"),
          h("thead", {}, h("tr", {}, ...["token", "A", "B", "B − A"].map((name) => h("th", { scope: "col" }, name)))),
          h(
            "tbody",
            {},
            ...rows.map((row) =>
              h(
                "tr",
                { class: row.special ? "special" : null },
                h("td", { class: "token" }, h("bdi", {}, row.token)),
                ...[say(row.first), say(row.second), change(row.value)].map((text) => h("td", { class: "n" }, text)),
              ),
            ),
          ),
        ),
      ),
    ),
  );
}
