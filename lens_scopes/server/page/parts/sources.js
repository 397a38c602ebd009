// An answer token by token: the whole text in the colours of the sources of one of its tokens, chosen by pointing at it.

/**
 * The content of a page with the sources of each token of an answer; null for a matrix without one.
 *
 * matrix: as the API gives it: a row for every token of the answer, over the tokens before it.
 */
export function sources({ matrix, tokens, special, destinations, targets, predicted, answer, generated }, part) {
  if (!answer && !generated) return null;
  const names = destinations.map((at, row) => part.labels[at + 1] ?? (targets[row] ?? predicted[row]).token);
  // What comes after a token cannot be a source of it; there is no number for it.
  const rows = matrix.map((row, i) => row.map((value, j) => (j <= destinations[i] ? value : null)));
  const mean = tokens.map((_, j) => {
    const known = rows.map((row) => row[j]).filter((value) => value !== null);
    return known.length ? known.reduce((sum, value) => sum + value, 0) / known.length : null;
  });
  const strip = {
    type: "strip",
    id: "sources-strip",
    values: mean,
    of: "the tokens before it",
    label: "The text, coloured by its influence on a token of the answer",
    strongest: 6,
    broken: "not before it",
    choices: names.map((name, i) => `${destinations[i] + 1} ${name}`),
    choice_values: rows,
    first: "mean of all",
    choice_label: "The token of the answer whose sources are shown",
    choose: "layer",
    pointing: true,
  };
  const note = "Hover over a token of the answer, or go to it with the arrow keys: the text shows where it comes from.";
  const blocks = [{ type: "note", text: note }, strip];
  const shown = { ...part, labels: part.labels.slice(0, tokens.length), special, position: null, data: {} };
  return {
    header: [],
    sections: [{ key: "sources", title: "The answer, token by token", layout: "full", part: 0, blocks }],
    parts: [shown],
  };
}
