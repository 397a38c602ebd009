// The blocks that CircuitsVis draws; a page without them has absent.js in place of this and of all that it imports.
import { attention } from "./attention.js";
import { stillWaiting } from "./render.js";
import { strip, strips } from "./strip.js";

export const circuitsvis = { strip, strips, attention };
export const drawWaiting = stillWaiting;
