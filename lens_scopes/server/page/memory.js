// What this browser remembers: the question that is being written, through a reload, and the last questions that were answered.
// Nothing of it is sent anywhere; where the browser keeps nothing, nothing is remembered.

const DRAFT = "lens_scopes draft";
const RECENT = "lens_scopes recent";
const MOST = 12;

/** Keeps what the fields of the sides say, beside the address that they were written at. */
export function keepDraft(sides, address) {
  put(sessionStorage, DRAFT, { sides, address });
}

/** The fields that were being written at an address when the page was left; null where they had been answered. */
export function draftAt(address) {
  const draft = take(sessionStorage, DRAFT);
  return draft?.address === address && Array.isArray(draft.sides) && draft.sides.length ? draft.sides : null;
}

/** What was written has been answered. */
export function dropDraft() {
  put(sessionStorage, DRAFT, null);
}

/** The last questions, from the latest on: {address, title}. */
export function recent() {
  const known = take(localStorage, RECENT);
  return Array.isArray(known) ? known.filter((one) => one && String(one.address).startsWith("#") && one.title) : [];
}

/** Adds a question to the last ones, or moves it to their head. */
export function remember(address, title) {
  put(localStorage, RECENT, latest(recent(), { address, title }));
}

/** Forgets the last questions. */
export function forget() {
  put(localStorage, RECENT, []);
}

/** A list with one more at its head, each address once. */
export function latest(list, one) {
  return [one, ...list.filter(({ address }) => address !== one.address)].slice(0, MOST);
}

function put(store, name, value) {
  try {
    store.setItem(name, JSON.stringify(value));
  } catch {
    // Full or forbidden: a page without a memory is a page all the same.
  }
}

function take(store, name) {
  try {
    return JSON.parse(store.getItem(name));
  } catch {
    return null;
  }
}
