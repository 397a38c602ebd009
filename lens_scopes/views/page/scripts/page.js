// The page: results as plain data → sections on the page. The report, the notebook and the server draw with it.
import { chain } from "./blocks/chain.js";
import { bars, chart, lineLegend } from "./blocks/chart.js";
import { map } from "./blocks/map.js";
import { pieces, prose } from "./blocks/prose.js";
import { table } from "./blocks/table.js";
import { circuitsvis, drawWaiting } from "./circuitsvis/blocks.js";
import { directionOf, h, say, setLabels } from "./shared/dom.js";

const BLOCKS = { ...prose, bars, table, map, chain, chart, ...circuitsvis, "line-legend": lineLegend };

const LONG = 100; // tokens above which few scores come near the largest, so that square roots show more of the others

/** What blocks are drawn with: the result they are of, ids, and what a reader can choose. */
class Context {
  /** `part` holds the tokens and numbers of a result, `shared` what all parts of a page have in common. */
  constructor(part, shared) {
    this.part = part;
    this.shared = shared;
  }

  /** An id of this page. */
  id(name) {
    return this.shared.prefix + name;
  }

  /** What a reader can do here: `layer`, `fold`, `colour`, `apart`, `position`, `target`, `head`, `through`. */
  get act() {
    return this.shared.act;
  }

  /** A heading within a section. */
  heading(...content) {
    return h(`h${this.shared.level + 1}`, { class: "part" }, ...content);
  }

  /** The numbers that a block gives or refers to. */
  values(numbers) {
    return Array.isArray(numbers) ? numbers : numbers.at.reduce((value, key) => value[key], this.part.data);
  }

  /** What was last chosen of a kind. */
  chosen(kind, otherwise = -1) {
    return this.shared.choices[kind] ?? otherwise;
  }

  /** How the colours of scores are spaced: `linear`, `root` or `log`. */
  get spacing() {
    return this.chosen("colour");
  }

  /** Which tokens lie outside the colour scale: special ones, and the last where it is set apart. */
  get outside() {
    const { special } = this.part;
    const last = this.chosen("apart", "") === "last" ? special.length - 1 : -1;
    return special.map((isSpecial, i) => isSpecial || i === last);
  }

  /** The direction of the text, without its special tokens. */
  get direction() {
    const { running, special } = this.part;
    return directionOf(running.filter((_, i) => !special[i]).join(""));
  }

  /** What the mark of tokens outside the scale stands for. */
  get told() {
    return this.chosen("apart", "") === "last" ? say("special_or_last") : say("special");
  }

  /** Calls back when something of a kind is chosen. */
  on(kind, tell) {
    this.shared.listeners.push([kind, tell]);
  }

  /** Calls back when everything is on the page. */
  ready(act) {
    this.shared.waiting.push(act);
  }

  /** The elements of blocks. */
  draw(blocks) {
    return blocks.map((block) => BLOCKS[block.type](this, block));
  }
}

/**
 * The elements of a page's content: `header`, `sections`, `navigation`; `ready` is to be called when they are in place, and
 * `choose(kind, chosen)` when something is chosen elsewhere. `folds` says whether sections may be folded.
 */
export function contents({ header, sections, parts }, { act = {}, prefix = "", choices = {}, level = 2, folds = false } = {}) {
  const shared = { act: {}, prefix, choices, level, listeners: [], waiting: [] };
  const choose = (kind, chosen) => {
    choices[kind] = chosen;
    for (const [listened, tell] of shared.listeners) if (listened === kind) tell(chosen);
  };
  choices.colour ||= spacingOf(parts);
  shared.act.colour = (spacing) => choose("colour", spacing);
  shared.act.apart = (which) => choose("apart", which);
  const offered = (what) => sections.some(({ blocks }) => blocks.some((block) => block[what]?.length));
  if (offered("choices")) shared.act.layer = (index) => choose("layer", index);
  if (offered("folds")) shared.act.fold = (name) => choose("fold", name);
  for (const [kind, more] of Object.entries(act)) {
    const own = shared.act[kind];
    shared.act[kind] = (...chosen) => {
      own?.(...chosen);
      more(...chosen);
    };
  }
  const of = (part) => new Context(parts[part] ?? { labels: [], running: [], special: [], data: {} }, shared);
  const link = ({ key, title }) => h("a", { href: `#${prefix}${key}` }, title);
  return {
    header: of(0).draw(header),
    sections: sections.map((section) => {
      const id = prefix + section.key;
      const title = h(`h${level}`, { id: `${id}-title`, class: "title" }, section.title);
      const attributes = { id, class: section.layout, "aria-labelledby": `${id}-title` };
      const blocks = of(section.part).draw(section.blocks);
      if (!folds || !section.folded) return h("section", attributes, title, ...blocks);
      const summary = h("summary", {}, title, h("p", { class: "note" }, pieces(section.summary)));
      return h("section", attributes, h("details", { class: "whole" }, summary, ...blocks));
    }),
    navigation: sections.length > 1 ? h("nav", { "aria-label": say("sections") }, ...sections.map(link)) : null,
    ready: () => shared.waiting.splice(0).forEach((ready) => ready()),
    choose,
  };
}

/** How colours are spaced at first: by square roots where a text is long. */
export function spacingOf(parts) {
  return parts.some(({ labels }) => labels.length > LONG) ? "root" : "linear";
}

/** Draws a whole document, whose header and main are there and empty. */
export function draw(data) {
  setLabels(data.labels);
  const page = contents(data, { folds: true });
  const header = document.querySelector("body>header");
  header.append(...page.header, page.navigation ?? "");
  header.hidden = !header.childElementCount;
  document.querySelector("body>main").append(...page.sections);
  page.ready();
  followLinks();
  printWhole();
  if (parent !== window) tellHeight();
}

/** Tells the page around a frame how tall its content is. */
function tellHeight() {
  const tell = () => {
    const { width, height } = document.body.getBoundingClientRect();
    if (width && height) parent.postMessage({ lensScopes: Math.ceil(height) }, "*");
    return Boolean(width && height);
  };
  tell();
  new ResizeObserver(tell).observe(document.body);
  // A frame out of sight is not observed, and would grow when it is scrolled to: it is measured for some seconds from the
  // time on that it has a size.
  let left = 20;
  const clock = setInterval(() => tell() && (left -= 1) === 0 && clearInterval(clock), 250);
}

/** Has paper show what folds hold, and what is drawn only when it comes near the window. */
function printWhole() {
  const opened = [];
  const open = () => {
    const folds = [...document.querySelectorAll("details:not([open])")];
    opened.push(...folds);
    for (const fold of folds) fold.open = true;
    drawWaiting();
  };
  const close = () => {
    for (const fold of opened.splice(0)) fold.open = false;
  };
  addEventListener("beforeprint", open);
  addEventListener("afterprint", close);
  matchMedia("print").addEventListener("change", ({ matches }) => (matches ? open() : close()));
}

/** Opens the folds around the element of an id, and that of a folded section, and gives it back. */
export function unfold(id) {
  const target = document.getElementById(id);
  for (let fold = (target?.querySelector(":scope>.whole") ?? target)?.closest("details"); fold; fold = fold.parentElement.closest("details")) fold.open = true;
  return target;
}

/** A frame without an address of its own, as in a notebook, would resolve links against the page around it. */
function followLinks() {
  const arrive = () => unfold(decodeURIComponent(location.hash.slice(1)))?.scrollIntoView();
  addEventListener("hashchange", arrive);
  document.addEventListener("click", (event) => {
    const link = event.target.closest('a[href^="#"]');
    if (!link) return;
    const hash = link.getAttribute("href");
    if (hash === location.hash) arrive();
    else if (location.protocol === "about:") location.hash = hash;
    else return;
    event.preventDefault();
  });
  if (location.hash) arrive();
}
