// In place of drawn.js on a page without blocks that CircuitsVis draws.
export const drawn = {};
export const drawWaiting = () => {};
