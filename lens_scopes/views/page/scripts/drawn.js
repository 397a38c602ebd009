// The blocks that CircuitsVis draws; a page without them has undrawn.js in place of this and of all that it imports.
import { attention } from "./attention.js";
import { stillWaiting } from "./circuitsvis.js";
import { strip, strips } from "./strip.js";

export const drawn = { strip, strips, attention };
export const drawWaiting = stillWaiting;
