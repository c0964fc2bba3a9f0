// Every button and shortcut is one of these.
import { dialog, h, notify } from "./dom.js";
import { request } from "./api.js";
import { SHORTCUTS } from "./keys.js";

export function makeActions(editor) {
  const { store, stage, edits, player, base } = editor;
  const seekTo = (frame) => {
    editor.follow = false;
    player.pause();
    if (frame !== null && frame !== undefined) store.seek(frame);
  };
  const patch = (changes) => store.selected && edits.send("PATCH", `objects/${store.object}`, changes);
  const worst = (step) => {
    const frames = store.worst();
    if (!frames.length) return notify("There is no doubtful frame yet: track the object first.");
    editor.worstAt = (((editor.worstAt ?? (step > 0 ? -1 : 0)) + step) % frames.length + frames.length) % frames.length;
    seekTo(frames[editor.worstAt]);
  };
  const range = (first, last) => {
    if (first > last) return notify("The in point lies before the out point.");
    return edits.send("PATCH", "range", { first, last });
  };
  const track = (direction) => (options = {}) => editor.startJob({ kind: "track", direction, ...options });
  return {
    back: () => seekTo(store.frame - 1), next: () => seekTo(store.frame + 1),
    back10: () => seekTo(store.frame - 10), next10: () => seekTo(store.frame + 10),
    toIn: () => seekTo(store.state.in), toOut: () => seekTo(store.state.out),
    play: () => player.play(),
    setIn: () => range(store.frame, Math.max(store.frame, store.state.out)),
    setOut: () => range(Math.min(store.frame, store.state.in), store.frame),
    previousKey: () => seekTo(store.keyBeside(-1)), nextKey: () => seekTo(store.keyBeside(1)),
    previousWorst: () => worst(-1), nextWorst: () => worst(1),
    newObject: () => edits.newObject(),
    accept: () => {
      if (stage.cross) return edits.onTool("point", { x: stage.cross[0], y: stage.cross[1], sign: 1 });
      if (stage.polygon.length) return stage.closePolygon();
      return edits.keepPreview();
    },
    cancel: async () => {
      if (stage.polygon.length || stage.draft || stage.cross) {
        stage.polygon = [];
        stage.cross = null;
        await edits.dropPreview();
      } else if (store.job) await request("DELETE", `${base}/jobs/${store.job.id}`);
    },
    hide: () => patch({ hidden: !store.selected?.hidden }),
    lock: () => patch({ locked: !store.selected?.locked }),
    clear: () => edits.clear(),
    trackForward: track("forward"), trackBackward: track("backward"), trackBoth: track("both"),
    undo: async () => {
      await edits.queue;
      if (edits.undoPoint()) return undefined;
      return edits.undo("undo");
    },
    redo: () => edits.undo("redo"),
    masks: () => {
      stage.showMasks = !stage.showMasks;
      stage.draw();
    },
    outlines: () => {
      stage.outlines = !stage.outlines;
      stage.draw();
    },
    crosshair: () => {
      const { width, height } = store.state;
      stage.cross = stage.cross ? null : [Math.round(width / 2), Math.round(height / 2)];
      stage.canvas.focus({ preventScroll: true });
      stage.draw();
    },
    fit: () => stage.fit(),
    smaller: () => edits.setBrush(stage.brush - Math.max(1, Math.round(stage.brush / 8))),
    larger: () => edits.setBrush(stage.brush + Math.max(1, Math.round(stage.brush / 8))),
    saved: () => notify("Everything is saved already, at every change."),
    help: () => helpDialog(),
  };
}

function helpDialog() {
  dialog("Shortcuts", h("div", { class: "shortcuts" }, SHORTCUTS.map(([title, rows]) =>
    h("section", {}, h("h3", { text: title }), h("table", {}, rows.map(([, keys, what]) =>
      h("tr", {}, h("td", {}, h("kbd", { text: keys })), h("td", { text: what }))))))));
}
