// The fields of one side of the question.
import { DEFAULTS } from "./address.js";
import { combobox } from "./combobox.js";
import { h } from "./dom.js";

const WITH_TARGET = ["semantic", "logprob", "logit-diff"];
const ROLES = ["user", "assistant", "system"];

/** The fields of a side, filled from `fields`; `about` is what the server says of itself. */
export class Side {
  constructor(about, fields, legend) {
    this.about = about;
    this.element = document.getElementById("side").content.firstElementChild.cloneNode(true);
    this.element.querySelector("legend").textContent = legend;
    const chosenModel = () => this.get("model").value;
    this.target = combobox("target", "Target", chosenModel);
    this.other = combobox("other", "against", chosenModel);
    this.element.querySelector(".target").append(this.target.element);
    this.element.querySelector(".other").append(this.other.element);
    const models = about.models.map((model) => h("option", { value: model.name }, model.name));
    this.get("model").append(...models);
    this.element.querySelector(".model").hidden = models.length < 2;
    const readouts = about.readouts.map((one) => h("option", { value: one.name }, `${one.name} — ${one.summary}`));
    this.get("readout").append(...readouts);
    const offered = new Set([...this.get("scope").options].map((option) => option.value));
    const others = about.scopes.filter((name) => !offered.has(name)); // those of other packages
    this.get("scope").append(...others.map((name) => h("option", { value: name }, name)));
    this.kinds = [...this.element.querySelectorAll(".prompt-kind input")];
    this.kinds.forEach((kind) => (kind.name = `kind-${legend}`));
    this.element.addEventListener("change", () => this.adapt());
    this.element.querySelector("textarea").addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) this.element.form.requestSubmit();
    });
    this.fields = fields;
  }

  get(name) {
    return this.element.querySelector(`[name="${name}"]`);
  }

  /** What is asked, under the names of the API; what is as by default is left out. */
  get fields() {
    const fields = { scope: this.get("scope").value };
    if (this.isChat) fields.chat = this.chat();
    else fields.text = this.get("text").value;
    const names = ["position", "through", "readout"];
    if (WITH_TARGET.includes(fields.scope)) names.push("target");
    if (fields.scope === "logit-diff") names.push("other");
    if (fields.scope.startsWith("fisher")) names.push("rank");
    for (const name of names) if (this.get(name).value !== "") fields[name] = this.get(name).value;
    const freeze = [...this.element.querySelectorAll("[name=freeze]:checked")].map((box) => box.value);
    if (freeze.length) fields.freeze = freeze;
    if (this.about.models.length > 1) fields.model = this.get("model").value;
    return fields;
  }

  set fields(fields) {
    const all = { ...DEFAULTS, ...fields };
    for (const name of ["text", "target", "other", "rank", "position", "through"]) {
      this.get(name).value = all[name] ?? "";
    }
    for (const name of ["scope", "readout"]) this.choose(this.get(name), all[name]);
    if (all.model) this.choose(this.get("model"), all.model);
    for (const box of this.element.querySelectorAll("[name=freeze]")) {
      box.checked = (all.freeze ?? []).includes(box.value);
    }
    this.kinds[all.chat ? 1 : 0].checked = true;
    this.turns(all.chat ?? [{ role: "user", content: "" }]);
    this.element.querySelector(".more").open ||= Boolean(all.through || all.freeze?.length || all.readout);
    this.adapt();
  }

  /** A value that the list lacks is offered all the same: the server says what is wrong with it. */
  choose(select, value) {
    if (![...select.options].some((option) => option.value === value)) select.append(h("option", { value }, value));
    select.value = value;
  }

  get isChat() {
    return this.kinds[1].checked;
  }

  chat() {
    return [...this.element.querySelectorAll(".turn")].map((turn) => ({
      role: turn.querySelector("select").value,
      content: turn.querySelector("textarea").value,
    }));
  }

  turns(messages) {
    const add = h("button", { type: "button", onclick: () => this.add("user", "") }, "Add a turn");
    this.element.querySelector(".chat").replaceChildren(add);
    messages.forEach((message) => this.add(message.role, message.content));
  }

  add(role, content) {
    const box = this.element.querySelector(".chat");
    const select = h("select", { "aria-label": "Role" }, ...ROLES.map((name) => h("option", { value: name }, name)));
    this.choose(select, String(role));
    const text = h("textarea", { rows: "2", "aria-label": "Content", spellcheck: "false" });
    text.value = String(content);
    const remove = h("button", { type: "button", onclick: () => turn.remove() }, "Remove");
    const turn = h("div", { class: "turn" }, select, text, remove);
    box.lastElementChild.before(turn);
  }

  /** Shows the fields that the chosen scope has, and the chat where the model takes one. */
  adapt() {
    const scope = this.get("scope").value;
    const shown = (selector, when) => (this.element.querySelector(selector).hidden = !when);
    shown(".target", WITH_TARGET.includes(scope));
    shown(".other", scope === "logit-diff");
    shown(".rank", scope.startsWith("fisher"));
    const model = this.about.models.find((one) => one.name === this.get("model").value) ?? this.about.models[0];
    shown(".prompt-kind", model.chat !== false || this.isChat);
    shown(".text", !this.isChat);
    shown(".chat", this.isChat);
  }
}

/** Those fields as the server takes them. */
export function asRequest(fields) {
  const { position, ...rest } = fields;
  return position === undefined || position === "" ? rest : { ...rest, position: Number(position) };
}
