// A text by sentence whose influence can be followed: choose a sentence, see what it rests on, go on to the next hop.
import { h, rove, say } from "../shared/dom.js";
import { percent } from "../shared/numbers.js";
import { levelOf } from "../shared/scale.js";
import { bar } from "./chart.js";

const FEW = 10; // sentences or hops up to which none is folded away
const WEAK = 0.01; // the share of the answer's influence below which a sentence of a longer text is folded away

/** The block: the sentences on one side, and on the other the way so far with the hops that lead on from its end. */
export function chain(page, block) {
  const { segments, flows, target: at } = block;
  let way = [at];
  const buttons = segments.map((segment, i) => {
    const name = h("small", {}, segment.name);
    const label = say("chain_share", { name: segment.name, percent: percent(segment.share) });
    return h("button", { type: "button", title: label, onclick: () => choose(i) }, name, h("bdi", {}, segment.text));
  });
  const text = h("div", { class: "sentences", role: "group", "aria-label": block.label }, ...folded(segments, buttons, at));
  const panel = h("div", { class: "hops", role: "region", "aria-live": "polite", "aria-label": say("chain_way") });
  rove(text, buttons);

  // A sentence of the text begins a way of its own from the answer; a hop goes on from the end of the way.
  const choose = (i) => follow(i === at ? [at] : [at, i]);
  const follow = (next, focus = false) => {
    way = next;
    const end = way.at(-1);
    const sources = hopsOf(flows, end, segments[end].generated);
    const most = Math.max(...sources.map(({ flow }) => flow), 0);
    buttons.forEach((button, i) => {
      const flow = sources.find((source) => source.index === i)?.flow ?? 0;
      button.className = levelOf(flow, false, { bound: most });
      if (i === end) button.setAttribute("aria-current", "true");
      else button.removeAttribute("aria-current");
      button.toggleAttribute("data-way", way.includes(i));
    });
    for (let fold = buttons[end].closest("details"); fold; fold = fold.parentElement.closest("details")) fold.open = true;
    panel.replaceChildren(...told(end, sources));
    if (focus) panel.querySelector("ol button, .way button:last-of-type")?.focus();
  };

  const told = (end, sources) => {
    const { name, text: sentence, generated } = segments[end];
    const total = sources.reduce((sum, { flow }) => sum + flow, 0);
    const steps = way.map((i, step) =>
      h("li", {}, h("button", { type: "button", onclick: () => follow(way.slice(0, step + 1), true) }, segments[i].name)),
    );
    const entries = sources.map(({ index, flow }) => {
      const share = total ? flow / total : 0;
      const inside = [
        h("span", { class: "token" }, segments[index].name),
        bar(share),
        h("span", { class: "value" }, percent(share)),
        h("bdi", { class: "sentence" }, segments[index].text),
      ];
      const title = say("chain_of_whole", { percent: percent(flow) });
      // Down from generated text; up from a sentence of the prompt to those that rest on it.
      const next = generated ? [...way, index] : [at, ...(index === at ? [] : [index])];
      return h("li", {}, h("button", { type: "button", title, onclick: () => follow(next, true) }, ...inside));
    });
    return [
      h("ol", { class: "way", "aria-label": say("chain_way") }, ...steps),
      h("blockquote", {}, h("bdi", {}, sentence)),
      h("p", { class: "note" }, say(generated ? "chain_rests" : "chain_ends", { name })),
      entries.length ? h("ol", { class: "bars" }, ...entries.splice(0, FEW)) : h("p", { class: "note" }, say("chain_none")),
      entries.length > 0 && more(entries, total && sources.slice(FEW).reduce((sum, { flow }) => sum + flow, 0) / total),
    ].filter(Boolean);
  };

  follow(way);
  return h("div", {}, h("p", { class: "note" }, say("chain_start")), h("div", { class: "chain" }, text, panel));
}

/** The weaker hops, which open when asked for. */
function more(entries, share) {
  const summary = h("summary", {}, say("chain_weak", { count: entries.length, percent: percent(share) }));
  return h("details", {}, summary, h("ol", { class: "bars" }, ...entries));
}

/** What a sentence of generated text rests on, or what rests on one of the prompt, the strongest first. */
function hopsOf(flows, end, generated) {
  return flows
    .filter(([from, to]) => (generated ? from : to) === end)
    .map(([from, to, flow]) => ({ index: generated ? to : from, flow }))
    .sort((a, b) => b.flow - a.flow);
}

/** The sentences under a heading for the prompt and one for the generated text; runs of weak ones are folded away. */
function folded(segments, buttons, at) {
  const parts = [];
  let weak = [];
  const close = () => {
    if (weak.length > 1) {
      const share = weak.reduce((sum, i) => sum + segments[i].share, 0);
      const summary = h("summary", {}, say("chain_weak", { count: weak.length, percent: percent(share) }));
      parts.push(h("details", {}, summary, ...weak.map((i) => buttons[i])));
    } else parts.push(...weak.map((i) => buttons[i]));
    weak = [];
  };
  segments.forEach((segment, i) => {
    if (i === 0 || segment.generated !== segments[i - 1].generated) {
      close();
      parts.push(h("p", { class: "kind" }, say(segment.generated ? "chain_made" : "chain_prompt")));
    }
    if (segments.length > FEW && segment.share < WEAK && i !== at) weak.push(i);
    else {
      close();
      parts.push(buttons[i]);
    }
  });
  close();
  return parts;
}
