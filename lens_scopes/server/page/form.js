// The fields of one side of the question.
import { DEFAULTS } from "./address.js";
import { ask } from "./api.js";
import { combobox } from "./combobox.js";
import { h } from "../../views/page/scripts/shared/dom.js";
import { contents } from "../../views/page/scripts/page.js";
import { seriesFields } from "./parts/series.js";
import { asSpans, SpanRows } from "./parts/spans.js";

const SCOPE_FIELDS = ["target", "other", "rank"]; // those of the options of a scope that the page has a field for
const ROLES = ["user", "assistant", "system"];
const PAUSE = 300; // milliseconds without typing until the two prompts are compared

/** The fields of a side, filled from `fields`; `about` is what the server says of itself. */
export class Side {
  constructor(about, fields, legend) {
    this.about = about;
    this.element = document.getElementById("side").content.firstElementChild.cloneNode(true);
    this.element.querySelector("legend").textContent = legend;
    const prompt = () => {
      const { text, chat, position } = asRequest(this.fields);
      return { text, chat, position, model: this.get("model").value };
    };
    this.target = combobox("target", "Target", prompt);
    this.other = combobox("other", "against", prompt);
    this.element.querySelector(".target").append(this.target.element);
    this.element.querySelector(".other").append(this.other.element);
    const models = about.models.map((model) => h("option", { value: model.name }, model.name));
    this.get("model").append(...models);
    const offered = (entries) => entries.map(({ name, explains }) => h("option", { value: name }, `${name} — ${explains}`));
    this.get("scope").append(...offered(about.scopes));
    this.get("score_site").append(...offered(about.score_sites));
    this.get("readout").append(...offered(about.readouts));
    this.get("lens").append(...offered(about.lenses));
    this.get("rules").append(...offered(about.rules));
    this.element.querySelector(".freeze").append(
      ...about.freezable.map(({ name, explains }) =>
        h("label", {}, h("input", { type: "checkbox", name: "freeze", value: name }), ` ${explains}`),
      ),
    );
    this.element.querySelector(".model").hidden = models.length < 2;
    this.kinds = [...this.element.querySelectorAll(".prompt-kind input")];
    this.kinds.forEach((kind) => (kind.name = `kind-${legend}`));
    this.element.addEventListener("change", () => this.adapt());
    [this.messages, this.others] = this.element.querySelectorAll(".chat");
    const compared = "[name=text], [name=against], .turn textarea";
    this.element.addEventListener("input", (event) => event.target.matches(compared) && this.compare(PAUSE));
    seriesFields(this.element.querySelector(".numbers-in"), (text) => {
      this.kinds[0].checked = true;
      this.get("text").value = text;
      this.get("text").focus();
      this.adapt();
      this.get("text").dispatchEvent(new Event("input", { bubbles: true }));
    });
    this.spans = new SpanRows(this.element.querySelector(".spans"), this.get("text"));
    this.element.querySelector(".measure").addEventListener("click", () => {
      if (!this.spans.rows.length && !this.isChat) return this.spans.addSelected();
      return this.element.dispatchEvent(new CustomEvent("measure", { bubbles: true }));
    });
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
    if (this.isChat) fields.chat = turnsOf(this.messages);
    else fields.text = this.get("text").value;
    const names = ["answer", "position", "through", "score_site", "readout", "lens", "sigma"];
    const { spans } = this.spanFields;
    if (spans.length) fields.spans = spans;
    if (this.generates) names.push("generate");
    names.push(...SCOPE_FIELDS.filter((name) => settingsOf(this.about, fields.scope).includes(name)));
    if (this.contrasts) names.push("steps");
    for (const name of names) if (this.get(name).value !== "") fields[name] = this.get(name).value;
    if (this.contrasts) fields.against = this.against;
    const freeze = [...this.element.querySelectorAll("[name=freeze]:checked")].map((box) => box.value);
    if (freeze.length) fields.freeze = freeze;
    const rules = this.get("rules").value;
    if (rules) fields.rules = rules.split(",");
    if (this.about.models.length > 1) fields.model = this.get("model").value;
    return fields;
  }

  set fields(fields) {
    const all = { ...DEFAULTS, ...fields };
    for (const name of ["text", "answer", "generate", "target", "other", "rank", "position", "through", "against", "steps", "sigma"]) {
      this.get(name).value = all[name] ?? "";
    }
    for (const name of ["scope", "score_site", "readout", "lens"]) this.choose(this.get(name), all[name]);
    this.choose(this.get("rules"), (all.rules ?? []).join(","));
    if (all.model) this.choose(this.get("model"), all.model);
    for (const box of this.element.querySelectorAll("[name=freeze]")) {
      box.checked = (all.freeze ?? []).includes(box.value);
    }
    this.kinds[all.chat ? 1 : 0].checked = true;
    this.turns(this.messages, all.chat ?? [{ role: "user", content: "" }]);
    const others = all.chat && asTurns(all.against);
    if (others) this.get("against").value = "";
    this.turns(this.others, others || []);
    const more = all.through || all.freeze?.length || all.rules?.length || all.score_site || all.readout || all.steps || all.lens;
    this.element.querySelector(".choices").open ||= Boolean(more);
    this.spans.rows = all.spans ?? [];
    this.element.querySelector(".spans").open ||= Boolean(all.spans || all.sigma);
    this.adapt();
    this.compare(0);
  }

  /** A value that the list lacks is offered all the same: the server says what is wrong with it. */
  choose(select, value) {
    if (![...select.options].some((option) => option.value === value)) select.append(h("option", { value }, value));
    select.value = value;
  }

  /** Whether the model may choose the answer: not where the scope contrasts two that are given. */
  get generates() {
    return !settingsOf(this.about, this.get("scope").value).includes("answer");
  }

  /** What the fields of spans say, under the names of `fields`. */
  get spanFields() {
    return { spans: this.spans.rows, sigma: this.get("sigma").value };
  }

  /** The other prompt that this one is contrasted with, as the API takes it: a text, or the JSON of a chat; "" for none. */
  get against() {
    const turns = this.isChat ? turnsOf(this.others) : [];
    return turns.length ? JSON.stringify(turns) : this.get("against").value;
  }

  get contrasts() {
    return this.against !== "";
  }

  /** Shows where the two prompts differ, or why they do not stand beside each other, after a pause. */
  compare(pause) {
    clearTimeout(this.pending);
    const box = this.element.querySelector(".alignment");
    if (!this.contrasts || !(this.isChat || this.get("text").value)) return void (box.hidden = true);
    this.pending = setTimeout(async () => {
      const { text, chat, model, against } = this.fields;
      const asked = { text, chat, model, against };
      const options = { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(asked) };
      let found;
      try {
        found = await ask("api/alignment", options);
      } catch {
        return void (box.hidden = true); // asking the question itself says what is wrong
      }
      const now = this.fields;
      if (JSON.stringify([now.text, now.chat, now.against]) !== JSON.stringify([text, chat, against])) return;
      const problem = found.problem && h("p", { class: "problem" }, found.problem);
      const drawn = contents({ header: found.blocks, sections: [], parts: [] }).header;
      box.replaceChildren(...(problem ? [problem] : []), ...drawn);
      box.hidden = found.aligned === null;
    }, pause);
  }

  get isChat() {
    return this.kinds[1].checked;
  }

  /** Fills one of the two chats; the other one may have no turns, and begins as a copy of the first. */
  turns(box, messages) {
    const button = (name, act) => h("button", { type: "button", onclick: act }, name);
    const changed = (turns) => {
      this.turns(this.others, turns);
      this.adapt();
      this.compare(0);
    };
    const buttons = [button("Add a turn", () => this.add(box, "user", ""))];
    if (box === this.others && messages.length) buttons.push(button("Contrast with nothing", () => changed([])));
    if (box === this.others && !messages.length) {
      buttons[0] = button("Another chat of as many tokens", () => changed(turnsOf(this.messages)));
    }
    box.replaceChildren(h("div", { class: "chat-buttons" }, ...buttons));
    messages.forEach((message) => this.add(box, message.role, message.content));
  }

  add(box, role, content) {
    const select = h("select", { "aria-label": "Role" }, ...ROLES.map((name) => h("option", { value: name }, name)));
    this.choose(select, String(role));
    const text = h("textarea", { rows: "2", dir: "auto", "aria-label": "Content", spellcheck: "false" });
    text.value = String(content);
    const remove = h("button", { type: "button", onclick: () => this.remove(box, turn) }, "Remove");
    const turn = h("div", { class: "turn" }, select, text, remove);
    box.lastElementChild.before(turn);
  }

  remove(box, turn) {
    turn.remove();
    if (box === this.others && !turnsOf(box).length) this.turns(box, []);
    this.adapt();
    this.compare(0);
  }

  /** Shows the fields that the chosen scope has, and the chat where the model takes one. */
  adapt() {
    const scope = this.get("scope").value;
    const shown = (selector, when) => (this.element.querySelector(selector).hidden = !when);
    for (const name of SCOPE_FIELDS) shown(`.${name}`, settingsOf(this.about, scope).includes(name));
    const model = this.about.models.find((one) => one.name === this.get("model").value) ?? this.about.models[0];
    this.get("target").placeholder = this.get("position").value ? "the token that follows" : "the most probable";
    shown(".generate", this.generates);
    shown(".prompt-kind", model.chat !== false || this.isChat);
    shown(".text", !this.isChat);
    shown(".contrast", !this.isChat || this.get("against").value !== "");
    shown(".contrast-chat", this.isChat);
    shown(".steps", this.contrasts);
    if (!this.contrasts) shown(".alignment", false);
    shown(".chat", this.isChat);
    shown(".of-chat", this.isChat);
  }

  /** Opens the fields of spans: with the passage that is selected in the prompt, where none was named. */
  nameSpans() {
    const place = this.element.querySelector(".spans");
    place.open = true;
    place.scrollIntoView({ block: "center" });
    this.spans.addSelected();
  }
}

/** The messages that are typed in the turns of a chat. */
function turnsOf(box) {
  return [...box.querySelectorAll(".turn")].map((turn) => ({
    role: turn.querySelector("select").value,
    content: turn.querySelector("textarea").value,
  }));
}

/** The messages of a chat's JSON; null for any other text. */
function asTurns(text) {
  try {
    const turns = JSON.parse(text ?? "");
    return Array.isArray(turns) && turns.length && turns.every((turn) => turn?.role && "content" in turn) ? turns : null;
  } catch {
    return null;
  }
}

/** The options that a scope takes; none for a name that the server does not know. */
export function settingsOf(about, scope) {
  return about.scopes.find((one) => one.name === scope)?.settings ?? [];
}

/** Those fields as the server takes them. */
export function asRequest(fields) {
  const { steps, spans, sigma, ...others } = fields;
  const numbers = ["position", "generate"].filter((name) => fields[name]);
  const request = { ...others, ...Object.fromEntries(numbers.map((name) => [name, Number(fields[name])])) };
  return steps ? { ...request, points: `path@${steps}` } : request;
}

/** What is asked of the spans of a side beside that. */
export function spansOf({ spans, sigma, text }) {
  return { ...asSpans(spans ?? [], text), ...(sigma && { sigma: Number(sigma) }) };
}
