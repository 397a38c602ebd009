// Lists of bars, and charts of lines with their bands and of points over linear, square-root and logarithmic axes.
import { h, say, svg } from "../shared/dom.js";
import { pieces } from "./prose.js";

const [LEFT, TOP, GAP, LETTER, LINE] = [62, 12, 14, 9, 18];
const WARPS = {
  linear: (value) => value,
  root: (value) => Math.sign(value) * Math.sqrt(Math.abs(value)),
  log: (value) => Math.log10(value),
};

/** Where a value lies between the ends of an axis, from 0 to 1. */
export function place(axis, value) {
  const warp = WARPS[axis.scale];
  return (warp(value) - warp(axis.low)) / (warp(axis.high) - warp(axis.low));
}

/** Heights of names near the given ones, at least so far apart, in the order of the heights. */
export function apart(heights, least) {
  const order = heights.map((_, i) => i).sort((i, j) => heights[i] - heights[j]);
  const chosen = [...heights];
  let last = -Infinity;
  for (const i of order) last = chosen[i] = Math.max(heights[i], last + least);
  return chosen;
}

/** The drawing of a block, with its legend where it has points. */
export function chart(page, block) {
  const square = Boolean(block.points);
  const size = { width: square ? 340 : 420, height: square ? 340 : 270 };
  const x = (value) => LEFT + size.width * place(block.x, value);
  const y = (value) => TOP + size.height * (1 - place(block.y, value));
  const letters = block.names ? Math.max(0, ...block.lines.map((line) => line.name?.length ?? 0)) : 0;
  const view = `0 0 ${LEFT + size.width + GAP + LETTER * letters} ${TOP + size.height + 46}`;
  const drawing = svg(
    "svg",
    { class: "chart", viewBox: view, role: square ? "group" : "img", "aria-label": block.label },
    ...frame(block, size, x, y),
    ...(block.lines ?? []).flatMap((line) => lineOf(line, x, y)),
    ...nameLines(block, size, y),
    ...[...(block.points ?? [])].sort((a, b) => (a.shape === "dot") - (b.shape === "dot")).map((point) => pointOf(page, point, x, y)),
    ...(block.points ?? []).filter((point) => point.name).map((point) => nameOf(point, x, y)),
  );
  if (!square) return drawing;
  const mark = (shape, name) => h("span", { class: "mark" }, h("b", { class: shape }), say(name));
  const marks = block.marks.map(([name, shape]) => mark(shape, name));
  return h("div", {}, drawing, h("p", { class: "legend" }, ...marks, h("span", {}, block.note)));
}

/** The looks of lines with their names. */
export function lineLegend(page, { lines }) {
  return h(
    "p",
    { class: "legend" },
    ...lines.map((line) => {
      const path = svg("path", { d: "M1 5h24", style: stroke(line) });
      return h("span", { class: "mark" }, svg("svg", { width: 26, height: 10, "aria-hidden": "true" }, path), line.name);
    }),
  );
}

function frame(block, size, x, y) {
  const text = (attributes, content) => svg("text", { class: "quiet", ...attributes }, content);
  const css = (value, axis) => (value === 0 && axis.scale !== "log" ? "zero" : "tick");
  const bottom = TOP + size.height;
  const across = LEFT + size.width / 2;
  const middle = TOP + size.height / 2;
  return [
    ...block.x.ticks.flatMap(([value, label]) => [
      svg("path", { class: css(value, block.x), d: `M${x(value)} ${TOP}v${size.height}` }),
      text({ x: x(value), y: bottom + 16, "text-anchor": "middle" }, label),
    ]),
    ...block.y.ticks.flatMap(([value, label]) => [
      svg("path", { class: css(value, block.y), d: `M${LEFT} ${y(value)}h${size.width}` }),
      text({ x: LEFT - 6, y: y(value) + 4, "text-anchor": "end" }, label),
    ]),
    block.diagonal && svg("path", { class: "agree", d: `M${LEFT} ${bottom}L${LEFT + size.width} ${TOP}` }),
    Number.isFinite(block.mark) && svg("path", { class: "zero", d: `M${x(block.mark)} ${TOP}v${size.height}` }),
    svg("text", { x: across, y: bottom + 38, "text-anchor": "middle" }, block.x.label),
    svg("text", { x: 14, y: middle, "text-anchor": "middle", transform: `rotate(-90 14 ${middle})` }, block.y.label),
  ];
}

function stroke(line) {
  return { fill: "none", stroke: line.colour, "stroke-width": "2", "stroke-dasharray": line.dashes || "none" };
}

function lineOf(line, x, y) {
  const corner = ([across, up]) => `${x(across).toFixed(1)},${y(up).toFixed(1)}`;
  const band = line.band ?? [];
  const edge = [...band.map(([at, , high]) => [at, high]), ...[...band].reverse().map(([at, low]) => [at, low])];
  return [
    band.length > 1 && svg("polygon", { points: edge.map(corner).join(" "), style: { fill: line.colour, opacity: ".12" } }),
    svg("polyline", { points: line.points.map(corner).join(" "), style: stroke(line) }),
    ...(line.titles ?? []).map((title, i) => {
      const [across, up] = line.points[i];
      const r = line.sizes ? 2.5 + 5.5 * Math.sqrt(line.sizes[i]) : 3;
      const fill = line.levels?.[i] ? `var(--${line.levels[i]})` : line.colour;
      return svg("circle", { class: line.levels && "sized", cx: x(across), cy: y(up), r, style: { fill } }, svg("title", {}, title));
    }),
  ];
}

/** Names at the right ends of lines, none over another. */
function nameLines(block, size, y) {
  const lines = block.names ? block.lines.filter((line) => line.name && line.points.length) : [];
  const bottom = TOP + size.height;
  const heights = apart(lines.map((line) => bottom - y(line.points.at(-1)[1])), LINE);
  return lines.map((line, i) =>
    svg("text", { x: LEFT + size.width + 8, y: bottom - heights[i] + 4, style: { fill: line.colour } }, line.name),
  );
}

function pointOf(page, point, x, y) {
  const [across, up] = [x(point.x), y(point.y)];
  const title = svg("title", {}, point.title);
  const mark =
    point.shape === "square"
      ? svg("rect", { class: "square", x: across - 4, y: up - 4, width: 8, height: 8 }, title)
      : svg("circle", { class: "dot", cx: across, cy: up, r: 4.5 }, title);
  // The table has the same links for the keyboard.
  return point.link ? svg("a", { href: `#${page.id(point.link)}`, tabindex: "-1", "aria-label": point.title }, mark) : mark;
}

function nameOf(point, x, y) {
  const anchor = point.side < 0 ? "end" : "start";
  return svg("text", { x: x(point.x) + 8 * point.side, y: y(point.y) + 4, "text-anchor": anchor }, point.name);
}

/** A bar of a share from −1 to 1: from the left end of its track, or from the middle to both sides. */
export function bar(share, middle = false) {
  const size = 100 * Math.min(1, Math.abs(share)) * (middle ? 0.5 : 1);
  const style = { width: `${size.toFixed(2)}%` };
  if (middle) style["margin-left"] = `${(share < 0 ? 50 - size : 50).toFixed(2)}%`;
  const inner = size > 0 && h("span", { class: share < 0 ? "bar negative" : "bar", style });
  return h("span", { class: middle ? "track middle" : "track" }, inner);
}

/** The list of a block; an entry with something to `press` is a button, and where the page can explain a token, its bar is one. */
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
  const press = item.press ?? (item.choose && target && (() => target(item.choose)));
  if (!press) return h("li", { class: css }, ...inside);
  const label = item.title ?? say("choose_target", { token: item.label[0].token, percent: item.values[0] });
  const attributes = { type: "button", "aria-label": label, onclick: press };
  return h("li", { class: css }, h("button", attributes, ...inside));
}
