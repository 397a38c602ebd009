// One token replaced by another text: the edited prompt stands beside this one, and the page says what changes.
import { h } from "../../../views/page/scripts/shared/dom.js";

/** The text of an answer's prompt with one token replaced. Offsets count characters, as Python does. */
export function edited({ text, offsets }, index, replacement) {
  const characters = [...text];
  const [start, stop] = offsets[index];
  return characters.slice(0, start).join("") + replacement + characters.slice(stop).join("");
}

/** Whether single tokens of an answer's prompt can be replaced: it is a text, whose tokens have places in it. */
export function editable({ text, offsets, settings }) {
  return text !== null && offsets !== null && !settings.readout?.baseline_tokens && offsets.some(([a, b]) => b > a);
}

/** The fields that replace a token, which is the one that was last pointed at in the strip unless its number is given. */
export function editor({ text, offsets, position }, place, replace) {
  const characters = [...text];
  const own = (i) => characters.slice(...offsets[i]).join("");
  const can = (i) => Number.isInteger(i) && i >= 0 && i <= position && offsets[i][1] > offsets[i][0];
  const number = h("input", { type: "number", min: "0", max: String(position), step: "1", required: true, autocomplete: "off" });
  const becomes = h("input", { dir: "auto", autocomplete: "off", spellcheck: "false", maxlength: "400" });
  const button = h("button", { type: "submit" }, "See what changes");
  const fields = [h("label", {}, "Replace token ", number), h("label", {}, " by ", becomes), button];
  const form = h("form", { class: "edit", "aria-label": "Replace a token" }, ...fields);
  const choose = (i) => {
    number.value = String(i);
    becomes.value = own(i);
  };
  const follow = ({ target }) => {
    const cells = [...place.querySelectorAll(".colored-tokens>span>span")];
    const i = cells.indexOf(target.closest?.(".colored-tokens>span>span"));
    if (cells.length === offsets.length && can(i) && !form.contains(document.activeElement)) choose(i);
  };
  place.addEventListener("pointerover", follow);
  place.addEventListener("focusin", follow);
  number.addEventListener("change", () => can(Number(number.value)) && choose(Number(number.value)));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const i = Number(number.value);
    if (can(i)) replace(i, becomes.value);
  });
  const last = offsets.findLastIndex((_, i) => can(i));
  if (last >= 0) choose(last);
  return form;
}
