// Source × target: every prediction of the text as a row, every token it was made from as a column.
import { h, section } from "./dom.js";
import { grid } from "./layers.js";

const MOST = 64;

/** The section; a cell leads to the prediction of its row. */
export function matrixSection(result, choose) {
  const firstRow = Math.max(0, result.destinations.length - MOST);
  const firstColumn = Math.max(0, result.tokens.length - MOST);
  const destinations = result.destinations.slice(firstRow);
  const cropped = firstRow || firstColumn;
  return section(
    "Source × target",
    "full",
    h("p", { class: "lead" }, result.view.reading),
    h(
      "p",
      { class: "note" },
      "A row is a prediction: the token it was made after → the token explained. A column is a token of the text. ",
      "Choose a cell to explain the prediction of its row.",
      cropped ? ` The last ${MOST} predictions and tokens are shown; the downloads have all.` : "",
    ),
    grid({
      rows: result.view.rows.slice(firstRow),
      corner: "prediction",
      columns: result.view.labels.slice(firstColumn),
      special: result.special.slice(firstColumn),
      values: destinations.map((dest, i) =>
        result.matrix[firstRow + i].slice(firstColumn).map((value, c) => (firstColumn + c > dest ? undefined : value)),
      ),
      caption: "Influence of each token on each prediction",
      choose: (row) => choose(destinations[row]),
    }),
  );
}
