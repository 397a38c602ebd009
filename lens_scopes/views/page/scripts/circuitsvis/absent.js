// In place of blocks.js on a page without blocks that CircuitsVis draws.
export const circuitsvis = {};
export const drawWaiting = () => {};
