// Two answers beside each other: the tokens of both aligned, and how much stronger each is in the second.
import { percent } from "../../../views/page/scripts/shared/numbers.js";
import { relative } from "../../../views/page/scripts/shared/scale.js";

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

/** The content of a page with the difference of two parts at the scores that are looked at. */
export function difference(a, b, scoresOfA, scoresOfB) {
  const [ofA, ofB] = [relative(scoresOfA, a.special), relative(scoresOfB, b.special)];
  const rows = align(a.running, b.running).map(([i, j]) => {
    const [part, index] = i === null ? [b, j] : [a, i];
    const [first, second] = [ofA[i] ?? null, ofB[j] ?? null];
    const change = first === null || second === null ? null : second - first;
    const told = [first, second].map((value) => (value === null ? "—" : percent(value)));
    told.push(change === null ? "—" : `${change < 0 ? "−" : "+"}${percent(Math.abs(change))}`);
    const numbers = j === null ? "only in A" : i === null ? "only in B" : `A ${told[0]}, B ${told[1]}, ${told[2]}`;
    const special = part.special[index];
    const about = `“${part.running[index].trim()}”: ${special ? "special token" : numbers}`;
    return { label: part.labels[index], running: part.running[index], special, about, told, sorted: [first, second, change] };
  });
  const each = (name) => rows.map((row) => row[name]);
  const strip = {
    type: "strip",
    id: "difference-strip",
    values: rows.map((row) => row.sorted[2]),
    of: "the differences",
    label: "The tokens of both texts, coloured by difference",
    about: each("about"),
    broken: "only in one prompt",
  };
  const cells = rows.map(({ label, told, sorted }) => [
    { text: [{ token: label }], value: label, css: "token" },
    ...told.map((text, i) => ({ text, value: sorted[i], css: "n" })),
  ]);
  const columns = [["token", "text"], ["A", "number"], ["B", "number"], ["B − A", "number"]];
  const table = { type: "table", caption: "Each token’s score in A and in B, relative to the strongest", columns, rows: cells, special: each("special") };
  const note =
    "B against A: each token’s |score| relative to the strongest of its text, since scores of different scopes have " +
    "different units. Blue: stronger in B; orange: stronger in A; hatched: only in one prompt.";
  const fold = { type: "fold", summary: "The differences as a table", blocks: [table] };
  const blocks = [{ type: "note", text: note }, strip, fold];
  return {
    header: [],
    sections: [{ key: "difference", title: "Difference", layout: "full", part: 0, blocks }],
    parts: [{ labels: each("label"), running: each("running"), special: each("special"), position: null, data: {} }],
  };
}
