// The view in the address: everything that was asked and looked at, after the #, which is never sent to a server.

const PLAIN = ["text", "answer", "generate", "scope", "target", "other", "rank", "position", "through", "score_site", "readout", "lens", "model", "against", "steps", "sigma"];
const LISTS = ["freeze", "rules"];
const WRITTEN = ["chat", "spans"]; // lists of objects, as JSON

/** What the fields of one side are by default, which the address leaves out. */
export const DEFAULTS = { scope: "semantic", score_site: "", readout: "", lens: "" };

/** What is looked at in an answer. */
const LOOKED_AT = ["layer", "fold", "colour", "apart", "head"];

/** {sides: [fields…], layer, fold, colour, apart, head, show: [kinds…]} as the part of an address after the #. */
export function write(view) {
  const parameters = new URLSearchParams();
  view.sides.forEach((side, index) => {
    const prefix = index ? "b." : "";
    for (const name of PLAIN) if (side[name] && side[name] !== DEFAULTS[name]) parameters.set(prefix + name, side[name]);
    for (const name of WRITTEN) if (side[name]?.length) parameters.set(prefix + name, JSON.stringify(side[name]));
    for (const name of LISTS) if (side[name]?.length) parameters.set(prefix + name, side[name].join(","));
  });
  for (const name of LOOKED_AT) if (view[name]) parameters.set(name, view[name]);
  if (view.show.length) parameters.set("show", view.show.join(","));
  return `#${parameters}`;
}

/** The view in an address; null where there is none. What does not fit is left to the server to refuse. */
export function read(hash) {
  const parameters = new URLSearchParams(hash.slice(1));
  const sides = [side(parameters, ""), side(parameters, "b.")].filter(Boolean);
  if (!sides.length) return null;
  const show = (parameters.get("show") ?? "").split(",").filter(Boolean);
  const lookedAt = Object.fromEntries(LOOKED_AT.map((name) => [name, parameters.get(name) ?? ""]));
  return { sides, view: { ...lookedAt, show } };
}

function side(parameters, prefix) {
  if (!parameters.has(`${prefix}text`) && !parameters.has(`${prefix}chat`)) return null;
  const fields = { ...DEFAULTS };
  for (const name of PLAIN) if (parameters.has(prefix + name)) fields[name] = parameters.get(prefix + name);
  for (const name of LISTS) if (parameters.get(prefix + name)) fields[name] = parameters.get(prefix + name).split(",");
  for (const name of WRITTEN) {
    try {
      const list = JSON.parse(parameters.get(prefix + name) ?? "null");
      if (Array.isArray(list) && list.every((one) => one && typeof one === "object")) fields[name] = list;
    } catch {
      return null;
    }
  }
  return fields;
}
