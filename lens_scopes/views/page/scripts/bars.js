// Lists of bars: probabilities, the strongest tokens, contrasts of a mode, spans.
import { h, say } from "./dom.js";
import { pieces } from "./prose.js";

/** A bar of a share from −1 to 1: from the left end of its track, or from the middle to both sides. */
export function bar(share, middle = false) {
  const size = 100 * Math.min(1, Math.abs(share)) * (middle ? 0.5 : 1);
  const style = { width: `${size.toFixed(2)}%` };
  if (middle) style["margin-left"] = `${(share < 0 ? 50 - size : 50).toFixed(2)}%`;
  const inner = size > 0 && h("span", { class: share < 0 ? "bar negative" : "bar", style });
  return h("span", { class: middle ? "track middle" : "track" }, inner);
}

/** The list of a block; where the page can explain a token, its bar is a button that does. */
export function bars(page, { items, css }) {
  const list = h("ol", { class: `bars ${css}`.trim() }, ...items.map((item) => entry(page, item)));
  const offers = page.act.target && items.some((item) => item.choose);
  return offers ? h("div", {}, h("p", { class: "note" }, say("choose_bar")), list) : list;
}

function entry(page, item) {
  const tracks = item.shares.map((share) => bar(share, item.middle));
  const lines = item.values.flatMap((value, i) => (i ? [h("br"), value] : [value]));
  const inside = [
    h("span", { class: "token" }, h("bdi", {}, pieces(item.label))),
    tracks.length > 1 ? h("span", { class: "double" }, ...tracks) : tracks[0],
    h("span", { class: "value" }, ...lines),
  ];
  const { target } = page.act;
  const css = item.target ? "target" : null;
  if (!item.choose || !target) return h("li", { class: css }, ...inside);
  const label = say("choose_target", { token: item.label[0].token, percent: item.values[0] });
  const attributes = { type: "button", "aria-label": label, onclick: () => target(item.choose) };
  return h("li", { class: css }, h("button", attributes, ...inside));
}
