// A token of the vocabulary, completed while it is typed (the ARIA combobox pattern).
import { ask } from "./api.js";
import { h } from "../../views/page/scripts/shared/dom.js";
import { percent } from "../../views/page/scripts/shared/numbers.js";

let count = 0;

/** A token as a question names it: its text where that cannot be mistaken, else its id. */
export function spelled({ token, token_id: id }) {
  return /^ ?[\p{L}\p{N}]+$/u.test(token) ? token : `#${id}`;
}

/** Tokens for what was typed: by their probability after a prompt, or in another order where there is none to read. */
async function suggestions(typed, { text, chat, model, position }) {
  const asked = { q: typed, text, chat, model, position };
  const options = { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(asked) };
  if (text || chat) return ask("api/suggestions", options);
  const parameters = new URLSearchParams({ q: typed });
  if (model) parameters.set("model", model);
  return ask(`api/vocabulary?${parameters}`);
}

/** A field for a token; `prompt()` gives what it is to follow: a text or chat, the model, the position. */
export function combobox(name, label, prompt) {
  const id = `token-${count++}`;
  const list = h("ul", { role: "listbox", id: `${id}-list`, class: "completions", "aria-label": label, hidden: true });
  const input = h("input", {
    name,
    id,
    role: "combobox",
    autocomplete: "off",
    spellcheck: "false",
    "aria-expanded": "false",
    "aria-autocomplete": "list",
    "aria-controls": list.id,
    maxlength: "200",
    placeholder: name === "target" ? "the most probable" : "",
  });
  let entries = [];
  let chosen = -1;
  let typed = 0;

  const close = () => {
    list.hidden = true;
    chosen = -1;
    input.setAttribute("aria-expanded", "false");
    input.removeAttribute("aria-activedescendant");
  };
  const take = (entry) => {
    input.value = spelled(entry);
    close();
    input.dispatchEvent(new Event("change", { bubbles: true }));
  };
  const mark = (index) => {
    chosen = index;
    [...list.children].forEach((item, i) => item.setAttribute("aria-selected", String(i === index)));
    if (index < 0) input.removeAttribute("aria-activedescendant");
    else {
      input.setAttribute("aria-activedescendant", list.children[index].id);
      list.children[index].scrollIntoView({ block: "nearest" });
    }
  };
  const show = (found) => {
    entries = found;
    list.replaceChildren(
      ...found.map((entry, i) =>
        h(
          "li",
          {
            role: "option",
            id: `${id}-${i}`,
            "aria-selected": "false",
            onpointerdown: (event) => {
              event.preventDefault();
              take(entry);
            },
          },
          h("bdi", {}, entry.label),
          h("small", {}, ` #${entry.token_id}`),
          typeof entry.probability === "number" && h("small", { class: "likely" }, percent(entry.probability)),
        ),
      ),
    );
    list.hidden = !found.length;
    input.setAttribute("aria-expanded", String(found.length > 0));
    mark(-1);
  };
  const complete = async () => {
    const mine = ++typed;
    const wanted = input.value;
    if (!wanted.trim() || wanted.startsWith("#")) return show([]);
    await new Promise((resolve) => setTimeout(resolve, 120));
    if (mine !== typed) return undefined;
    try {
      const found = await suggestions(wanted, prompt());
      if (mine === typed && document.activeElement === input) show(found);
    } catch {
      show([]);
    }
    return undefined;
  };
  input.addEventListener("input", complete);
  input.addEventListener("blur", () => {
    typed++;
    close();
  });
  input.addEventListener("keydown", (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step && entries.length) {
      event.preventDefault();
      if (list.hidden) show(entries);
      mark((chosen + step + entries.length) % entries.length);
    } else if (event.key === "Enter" && !list.hidden && chosen >= 0) {
      event.preventDefault();
      take(entries[chosen]);
    } else if (event.key === "Escape" && !list.hidden) {
      event.preventDefault();
      close();
    }
  });
  const element = h("div", { class: "combobox" }, h("label", { for: id }, label), input, list);
  return { element, input };
}
