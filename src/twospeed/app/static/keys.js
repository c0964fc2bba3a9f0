// All shortcuts, in one table: what `?` shows is what runs.

export const SHORTCUTS = [
  ["Frames", [
    ["ArrowLeft", "← or D", "one frame back", "back", "KeyD"],
    ["ArrowRight", "→ or F", "one frame on", "next", "KeyF"],
    ["Shift+ArrowLeft", "Shift+← or C", "ten frames back", "back10", "KeyC"],
    ["Shift+ArrowRight", "Shift+→ or V", "ten frames on", "next10", "KeyV"],
    ["Home", "Home", "to the in point", "toIn"],
    ["End", "End", "to the out point", "toOut"],
    ["Space", "Space", "play, pause", "play"],
    ["KeyI", "I", "set the in point here", "setIn"],
    ["KeyO", "O", "set the out point here", "setOut"],
    ["KeyQ", "Q", "previous marked frame", "previousKey"],
    ["KeyW", "W", "next marked frame", "nextKey"],
    ["Comma", ",", "previous doubtful frame", "previousWorst"],
    ["Period", ".", "next doubtful frame", "nextWorst"],
  ]],
  ["Objects and marks", [
    ["KeyN", "N", "new object", "newObject"],
    [null, "1 to 9", "choose an object", null],
    ["KeyP", "P", "points: a click says what belongs to the object, Alt or right click what does not; drag a point to move it, click it to take it away", "tool:points"],
    ["KeyR", "R", "box", "tool:box"],
    ["KeyB", "B", "brush", "tool:brush"],
    ["KeyE", "E", "eraser", "tool:eraser"],
    ["KeyG", "G", "polygon: Enter closes it", "tool:polygon"],
    ["KeyS", "S", "move the image", "tool:move"],
    ["KeyK", "K", "crosshair: arrows move it, Enter marks, Shift+Enter unmarks", "crosshair"],
    ["BracketLeft", "[", "smaller brush", "smaller"],
    ["BracketRight", "]", "larger brush", "larger"],
    ["Enter", "Enter", "keep the preview, close the polygon", "accept"],
    ["Escape", "Esc", "drop the preview; stop tracking", "cancel"],
    ["KeyH", "H", "hide or show the object", "hide"],
    ["KeyL", "L", "lock or unlock the object", "lock"],
    ["Delete", "Del", "the object is gone on this frame", "clear"],
  ]],
  ["Tracking and the rest", [
    ["KeyT", "T", "track forward", "trackForward"],
    ["Shift+KeyT", "Shift+T", "track backward", "trackBackward"],
    ["KeyY", "Y", "track both ways", "trackBoth"],
    ["Ctrl+KeyZ", "Ctrl+Z", "undo", "undo"],
    ["Ctrl+Shift+KeyZ", "Ctrl+Shift+Z", "redo", "redo", "Ctrl+KeyY"],
    ["KeyM", "M", "masks on, off", "masks"],
    ["KeyX", "X", "outlines only", "outlines"],
    ["Ctrl+Digit0", "Ctrl+0", "fit the image", "fit"],
    [null, "wheel, middle drag", "zoom, move the image", null],
    ["Ctrl+KeyS", "Ctrl+S", "everything is saved already", "saved"],
    ["Shift+Slash", "?", "this list", "help"],
  ]],
];

const TABLE = new Map();
for (const [, rows] of SHORTCUTS) {
  for (const [code, , , action, other] of rows) {
    if (code) TABLE.set(code, action);
    if (other) TABLE.set(other, action);
  }
}

/** The action of a key press, or null: none while somebody types. */
export function actionOf(event) {
  const target = event.target;
  if (target.closest?.("dialog")) return null;
  const typing = target.matches?.("input:not([type=range]):not([type=checkbox]), textarea, select");
  if (typing) return null;
  if (target.matches?.("button, a, summary, input") && (event.code === "Space" || event.code === "Enter")) return null;
  const digit = /^Digit([1-9])$/.exec(event.code);
  if (digit && !event.ctrlKey && !event.metaKey && !event.altKey) return `object:${digit[1]}`;
  const ctrl = event.ctrlKey || event.metaKey ? "Ctrl+" : "";
  if (event.altKey) return null;
  return TABLE.get(`${ctrl}${event.shiftKey ? "Shift+" : ""}${event.code}`) ?? null;
}
