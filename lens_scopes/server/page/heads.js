// Heads and MLPs: a map of predicted changes, and what one head carries, where it looks, and what ablating it did.
import { h, rove, section } from "./dom.js";
import { grid } from "./layers.js";
import { cellClass, legend, number, scaleOf, short } from "./scale.js";
import { strip } from "./strip.js";

/** The section; `through(name)` explains the prediction through one head alone, `choose` a position. */
export function headsSection(result, { through, choose, chosen, select }) {
  const detail = h("div", { class: "head-detail" });
  const n = result.effect[0].length;
  const scale = scaleOf(result.effect.flat());
  const mlpScale = scaleOf(result.mlp_effect);
  const cells = [];
  const cell = (name, value, own, layer, head) => {
    const td = h(
      "td",
      {
        class: `${cellClass(value, false, own)}${head === null ? " apart" : ""}`,
        role: "gridcell",
        title: `${name} · ${number(value)}`,
        "aria-label": `${name} · ${number(value)}`,
        onclick: () => head !== null && open(layer, head),
      },
      h("span", {}, short(value)),
    );
    cells.push(td);
    return td;
  };
  const rows = result.effect.map((row, layer) =>
    h(
      "tr",
      {},
      h("th", { scope: "row" }, `L${layer}`),
      row.map((value, head) => cell(`L${layer}H${head}`, value, scale, layer, head)),
      result.mlp_effect.length ? cell(`L${layer} MLP`, result.mlp_effect[layer], mlpScale, layer, null) : null,
    ),
  );
  const heads = Array.from({ length: n }, (_, i) => h("th", { scope: "col" }, `H${i}`));
  if (result.mlp_effect.length) heads.push(h("th", { scope: "col", class: "apart" }, "MLP"));
  const table = h(
    "table",
    { class: "cells", role: "grid", "aria-label": "Predicted change by head and layer" },
    h("caption", {}, "Predicted change when a head or an MLP is set to its baseline"),
    h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "layer"), heads)),
    h("tbody", {}, rows),
  );
  rove(table, cells, n + (result.mlp_effect.length ? 1 : 0));
  table.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" && event.key !== " ") return;
    event.preventDefault();
    document.activeElement.click();
  });

  const open = (layer, head) => {
    select(`L${layer}H${head}`);
    show(layer, head);
  };
  const show = (layer, head) => {
    const name = `L${layer}H${head}`;
    const sources = result.by_source[layer][head];
    const own = scaleOf(sources, result.special);
    const ablated = result.ablations.find((item) => item.layer === layer && item.head === head);
    const kind = result.view.kinds[name];
    const pattern = result.patterns[name];
    detail.replaceChildren(
      h("h4", {}, name, kind ? h("small", {}, ` ${kind}`) : null),
      h(
        "p",
        { class: "note" },
        `Predicted ${number(result.effect[layer][head])}, `,
        ablated ? `actual ${number(ablated.actual)}` : "not ablated",
        `, direct ${number(result.direct_effect[layer][head])} (${result.view.unit}).`,
      ),
      h("p", { class: "note" }, "What it carries from each source token it attends to, against zero:"),
      strip({
        tokens: result.view.running,
        values: sources,
        special: result.special,
        scale: own,
        choose,
        what: (value) => `carries ${number(value)}`,
        label: `What ${name} carries`,
      }),
      legend(own, "these tokens", result.special),
      h("button", { type: "button", onclick: () => through(name) }, `Explain through ${name} alone`),
      pattern && result.tokens.length <= 48
        ? h(
            "details",
            {},
            h("summary", {}, "Its attention pattern"),
            grid({
              rows: result.view.labels.map((label, i) => `${i} ${label}`),
              corner: "attends",
              noun: "row",
              columns: result.view.labels,
              special: result.tokens.map(() => false),
              values: pattern.map((row, dest) => row.map((value, src) => (src > dest ? undefined : value))),
              caption: `Attention pattern of ${name}: rows attend to columns`,
              choose: (row) => choose(row),
              byRow: false,
            }),
          )
        : null,
    );
  };
  const best = result.effect.flat().reduce((most, value, i, all) => (Math.abs(value) > Math.abs(all[most]) ? i : most), 0);
  const wanted = /^L(\d+)H(\d+)$/.exec(chosen ?? "");
  if (wanted && result.effect[wanted[1]]?.[wanted[2]] !== undefined) show(Number(wanted[1]), Number(wanted[2]));
  else show(Math.floor(best / n), best % n);
  return section(
    "Heads",
    "full",
    h("p", { class: "lead" }, result.view.reading),
    h("p", { class: "lead caution" }, `${result.view.agreement} ${result.view.caution}`),
    h(
      "div",
      { class: "two" },
      h(
        "div",
        {},
        h("p", { class: "note" }, "Choose a head to see what it carries."),
        h("div", { class: "scroll" }, table),
        legend(scale, "all heads"),
        result.mlp_effect.length ? legend(mlpScale, "all MLPs, which have a scale of their own") : null,
      ),
      detail,
    ),
  );
}
