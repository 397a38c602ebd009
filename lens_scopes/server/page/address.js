// The view in the address: everything that was asked and looked at, after the #, which is never sent to a server.

const PLAIN = ["text", "answer", "generate", "scope", "target", "other", "rank", "position", "through", "score_site", "readout", "lens", "model", "against", "steps"];
const LISTS = ["freeze", "rules"];

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
    if (side.chat) parameters.set(`${prefix}chat`, JSON.stringify(side.chat));
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
  try {
    const chat = JSON.parse(parameters.get(`${prefix}chat`) ?? "null");
    if (Array.isArray(chat)) fields.chat = chat;
  } catch {
    return null;
  }
  return fields;
}
