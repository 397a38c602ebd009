// A text with the influence of each token as its colour; every token is a button.
import { h, rove } from "./dom.js";
import { cellClass, number, percent } from "./scale.js";

/**
 * A strip of tokens.
 *
 * tokens: as running text; values: one a token, null where there is none; special: outside the scale; scale: of the
 * values; choose: called with the index of a token that is clicked; what: how a value is said; share: each token's
 * share of all, or null; later: tokens after the position, without a value; label: what the strip shows.
 */
export function strip({ tokens, values, special, scale, choose, what, share, later = [], label, current }) {
  const readout = h("p", { class: "readout" }, "Point at a token for its number; choose one to explain what follows it.");
  const describe = (i) => {
    const part = share?.[i] === null || share?.[i] === undefined ? "" : ` · ${percent(share[i])} of all`;
    return `${i} “${tokens[i].trim() || tokens[i]}”: ${what(values[i])}${part}${special[i] ? " · special token" : ""}`;
  };
  const buttons = tokens.map((token, i) =>
    h(
      "button",
      {
        type: "button",
        class: `tok ${cellClass(values[i], special[i], scale)}`,
        title: describe(i),
        "aria-label": describe(i),
        "aria-current": current === i ? "true" : null,
        onclick: () => choose(i),
        onpointerenter: () => (readout.textContent = describe(i)),
        onfocus: () => (readout.textContent = describe(i)),
      },
      token.replace(/\n$/, ""),
    ),
  );
  const rest = later.map((token) =>
    h(
      "button",
      {
        type: "button",
        class: "tok later",
        "aria-label": `${token.index} “${token.label.trim()}”: after the position explained`,
        title: "after the position explained; choose it to explain what follows it",
        onclick: () => choose(token.index),
      },
      token.label.replace(/\n$/, ""),
    ),
  );
  const text = h("div", { class: "strip", role: "group", "aria-label": label });
  const all = [...tokens, ...later.map((token) => token.label)];
  [...buttons, ...rest].forEach((button, i) => {
    text.append(button);
    if (all[i].endsWith("\n")) text.append(h("br"));
  });
  rove(text, [...buttons, ...rest]);
  return h("div", {}, text, readout);
}

/** What a score is called: its number. */
export function scored(value) {
  return value === null ? "not finite" : `score ${number(value)}`;
}
