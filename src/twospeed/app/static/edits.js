// What tools do: marks with a preview, strokes, imported masks; and edits that meet another or cannot be saved.
import { $, dialog, h, notify } from "./dom.js";
import { post, request } from "./api.js";
import { ERASED, PAINTED, UNNUMBERED } from "./stage.js";
import { encode, labelsOf, parse } from "./wire.js";

export class Edits {
  constructor(editor) {
    Object.assign(this, { editor, store: editor.store, path: editor.base, unsaved: [] });
    this.own = new Map(); // frame -> revision of the last edit of this tab
    this.pending = new Map(); // frame:object -> marks that are not kept yet; stage.draft is the one on the screen
  }

  get stage() {
    return this.editor.stage;
  }

  /** Add an object, which what is marked from now on belongs to. */
  newObject() {
    this.keepPreview();
    this.creating = this.add(() => this.addObject()).finally(() => (this.creating = null));
    return this.creating;
  }

  async addObject() {
    const { id } = await post(`${this.path}/objects`);
    this.store.object = id;
    await this.store.load();
    return id;
  }

  /** What is marked belongs to this object: its number, or a promise of it (of nothing, where it cannot be added). */
  chosen() {
    return this.creating ?? this.store.object ?? this.newObject();
  }

  locked() {
    if (this.creating || !this.store.selected?.locked) return false;
    notify(`${this.store.selected.name} is locked; unlock it (L) to change it.`);
    return true;
  }

  /**
   * A tool was used. What it makes belongs to the frame and the object of this moment, whenever its turn comes; and only
   * to a frame that is on the screen.
   */
  onTool(name, data) {
    if (name === "stroke-end") {
      const { painting } = this.stage;
      return this.add(() => this.endStroke(painting));
    }
    if (!this.stage.exact) {
      notify(this.stage.shown.bitmap ? `Frame ${this.store.frame} is still being decoded; mark it when it is shown.`
        : "This frame cannot be shown, and so not be marked.");
      return false;
    }
    if (name === "ready") return !this.locked();
    if (name === "stroke-begin") return this.beginStroke(data);
    if (this.locked()) return false;
    const { frame } = this.store, base = this.revOf(frame), chosen = this.chosen();
    return this.add(async () => {
      const marks = { frame, object: await chosen, base };
      if (!marks.object) return;
      if (name === "point") await this.addPoint(marks, data);
      else await this.sendMarks({ ...marks, ...data });
    });
  }

  /** One edit after the other; returns when this one is done. */
  add(edit) {
    this.queue = (this.queue ?? Promise.resolve()).then(edit).catch((error) => this.editor.fail(error));
    return this.queue;
  }

  /** Send a change of an object or of the range, after the edits that were made before it. */
  send(method, what, json) {
    return this.add(() => request(method, `${this.path}/${what}`, { json }));
  }

  /** The revision of a frame as it is on the screen. */
  revOf(frame) {
    return this.store.masks.get(frame)?.rev ?? this.store.rev;
  }

  /** What an edit that began at revision `base` is compared with: this tab's own edits are no surprise to it. */
  base(frame, base) {
    return Math.max(base, this.own.get(frame) ?? 0);
  }

  /** An edit was saved: `mask` is the frame's now. */
  took(mask) {
    this.own.set(mask.frame, mask.rev);
    this.store.put(mask);
    this.stage.draw();
  }

  marksOf(frame, object) {
    return this.store.state.marks.find((mark) => mark.frame === frame && mark.object === object);
  }

  /** Add a point; move the one that is there to `to`, or take it away where there is no such place. */
  async addPoint({ frame, object, base }, { x, y, sign, to = null }) {
    const open = this.pending.get(`${frame}:${object}`), before = open ?? this.marksOf(frame, object);
    const known = before?.points ?? [], { reach } = this.stage;
    const there = ([px, py]) => Math.hypot(px - x, py - y) <= reach;
    const points = !known.some(there) ? [...known, [...(to ?? [x, y]), sign]]
      : to ? known.map((point) => (point[0] === x && point[1] === y ? [...to, point[2]] : point))
      : known.filter((point) => !there(point));
    await this.preview({ frame, object, points, box: before?.box ?? null, polygon: before?.polygon ?? [],
      base: open ? open.base : base });
  }

  /** Show what marks give, without keeping it. */
  async preview(marks) {
    this.pending.set(`${marks.frame}:${marks.object}`, marks);
    const shown = () => this.store.frame === marks.frame && this.store.object === marks.object;
    if (!shown()) return; // leaving a frame keeps its marks: that is next
    this.stage.draft = marks;
    this.stage.draw();
    const { base, ...json } = marks;
    const response = await request("POST", `${this.path}/marks`, { json: { ...json, preview: true } });
    const mask = parse(await response.arrayBuffer());
    if (this.stage.draft !== marks || !shown()) return;
    this.store.preview = mask;
    this.editor.progress.textContent = "preview: Enter keeps it, Esc drops it, Ctrl+Z takes the last point back";
    this.stage.draw();
  }

  /** Take the last point of a preview back; returns whether there was one. */
  undoPoint() {
    const { draft } = this.stage;
    if (!draft?.points.length) return false;
    const points = draft.points.slice(0, -1);
    if (points.length) this.add(() => this.preview({ ...draft, points }));
    else this.dropPreview();
    return true;
  }

  hidePreview() {
    if (this.store.preview || this.stage.draft) this.editor.progress.textContent = "";
    this.stage.draft = this.store.preview = null;
    this.stage.draw();
  }

  dropPreview() {
    const { frame } = this.store;
    this.hidePreview();
    return this.add(() => {
      this.take(frame);
      this.hidePreview();
    });
  }

  /** Keep the previews of a frame, if there are any. */
  keepPreview(frame = this.store.frame) {
    this.hidePreview();
    return this.add(async () => {
      for (const marks of this.take(frame)) await this.sendMarks(marks);
    });
  }

  /** The marks of a frame that are not kept yet; they are no longer here. */
  take(frame) {
    const found = [...this.pending].filter(([, marks]) => marks.frame === frame);
    for (const [key] of found) this.pending.delete(key);
    return found.map(([, marks]) => marks);
  }

  async sendMarks({ base, ...marks }, { overwrite = false } = {}) {
    const json = { points: [], box: null, polygon: [], ...marks, base_rev: overwrite ? null : this.base(marks.frame, base) };
    const again = (options) => this.sendMarks({ base, ...marks }, options);
    try {
      const response = await request("POST", `${this.path}/marks`, { json });
      const others = this.store.state.marks.filter((one) => one.frame !== marks.frame || one.object !== marks.object);
      this.store.state.marks = [...others, { points: [], box: null, polygon: [], ...marks }];
      this.took(parse(await response.arrayBuffer()));
    } catch (error) {
      if (!this.offer(error, marks.frame, again, { overwrite })) throw error;
    }
  }

  beginStroke({ erase }) {
    if (this.locked() || (erase && !this.creating && this.store.object === null)) return false;
    const { width, height } = this.store.state, { frame } = this.store, now = this.stage.labels(), chosen = this.chosen();
    const empty = () => new Uint8Array(width * height);
    const painting = { frame, labels: now?.slice() ?? empty(), touched: empty(), base: this.revOf(frame) };
    painting.object = typeof chosen === "number" ? chosen : UNNUMBERED;
    painting.numbered = Promise.resolve(chosen).then((object) => {
      painting.object = object;
      painting.labels.forEach((label, i) => label === UNNUMBERED && (painting.labels[i] = object));
      this.stage.draw();
    });
    this.stage.painting = painting;
    return true;
  }

  async endStroke(painting, { overwrite = false } = {}) {
    await painting.numbered;
    const { width, height } = this.store.state, { frame, object, base } = painting;
    const query = { object, base_rev: overwrite ? null : this.base(frame, base) };
    const done = () => {
      if (this.stage.painting === painting) this.stage.painting = null;
    };
    if (!object) return done();
    try {
      const body = encode(await this.painted(painting), height, width, frame);
      const response = await request("PUT", `${this.path}/mask/${frame}`, { body, query });
      done();
      this.took(parse(await response.arrayBuffer()));
    } catch (error) {
      const offered = this.offer(error, frame, (options) => this.endStroke(painting, options), { overwrite });
      if (offered !== "kept") done(); // else the stroke stays on the screen
      if (!offered) throw error;
    }
    this.stage.draw();
  }

  /** A frame's labels with a stroke: on what edits of this tab made of them that were on their way when it began. */
  async painted({ frame, object, labels, touched, base }) {
    const own = this.own.get(frame) ?? 0;
    if (own <= base) return labels;
    let now = this.store.masks.get(frame);
    if (now?.rev !== own) { // undone, and not told of it yet
      const response = await request("GET", `${this.path}/mask/${frame}`);
      now = response.status === 204 ? null : parse(await response.arrayBuffer());
    }
    if (now && now.rev > own) return labels; // another tab's: the server says so
    const before = now ? labelsOf(now) : new Uint8Array(labels.length);
    return before.map((label, i) => (touched[i] === PAINTED ? object : touched[i] === ERASED && label === object ? 0 : label));
  }

  /** The object is gone from this frame on. */
  clear() {
    const { frame } = this.store, base = this.revOf(frame), chosen = this.creating ?? this.store.object;
    if (chosen === null || this.locked()) return;
    if (!this.stage.exact) {
      notify(`Frame ${frame} is still being decoded.`);
      return;
    }
    const send = async (base_rev) => {
      const object = await chosen;
      if (!object) return;
      const response = await request("DELETE", `${this.path}/mask/${frame}`, { query: { object, base_rev } });
      this.took(parse(await response.arrayBuffer()));
    };
    this.add(() => send(this.base(frame, base)).catch((error) => {
      if (!this.offer(error, frame, () => send(null), {})) throw error;
    }));
  }

  /** An edit was refused: offer to repeat it where that can help. Returns whether, and how. */
  offer(error, frame, again, options) {
    if (error.body?.conflict) {
      this.conflict(error, frame, () => again({ overwrite: true }));
      return "conflict";
    }
    if (![0, 401, 507].includes(error.status)) return null;
    this.unsaved.push(() => again(options)); // the disk is full, the server gone or started anew
    this.editor.showSaved();
    if (error.status === 401) this.editor.logIn(); // connected again, it is saved by itself
    else notify(error.message, { error: true, action: h("button", { text: "Save again", onclick: () => this.saveAgain() }) });
    return "kept";
  }

  /** Repeat the edits that could not be saved, in their order. */
  saveAgain() {
    $("banner").hidden = true;
    for (const edit of this.unsaved.splice(0)) this.add(edit);
    return this.add(async () => this.editor.showSaved());
  }

  /** Two edits met: mine or theirs. */
  conflict(error, frame, again) {
    const box = dialog("This frame was changed meanwhile", h("p", { text: error.message }),
      h("div", { class: "row" },
        h("button", { text: "Keep mine", onclick: () => {
          box.close();
          again().catch((failure) => this.editor.fail(failure));
        } }),
        h("button", { text: "Keep theirs", onclick: async () => {
          box.close();
          await this.store.refetch([frame]);
        } })));
  }

  /** Undo or redo; a change of another tab only after asking. */
  undo(which, { anyway = false } = {}) {
    return this.add(() => this.sendUndo(which, anyway));
  }

  async sendUndo(which, anyway) {
    try {
      const response = await request("POST", `${this.path}/${which}`, { json: {}, query: { anyway } });
      const { frames, rev } = await response.json();
      for (const frame of frames ?? []) this.own.set(frame, rev);
    } catch (error) {
      if (!error.body?.conflict) throw error;
      const box = dialog("The last change is of another tab", h("p", { text: error.message }),
        h("div", { class: "row" }, h("button", { text: which === "undo" ? "Undo it" : "Redo it", onclick: () => {
          box.close();
          this.undo(which, { anyway: true });
        } })));
    }
  }

  importMask(input) {
    const [file] = input.files, { frame } = this.store, base = this.revOf(frame);
    input.value = "";
    if (!file) return;
    const put = async (snap, { overwrite = false } = {}) => {
      const query = { snap, base_rev: overwrite ? null : this.base(frame, base) };
      try {
        const response = await request("PUT", `${this.path}/import/${frame}`, { body: file, query });
        this.own.set(frame, (await response.json()).rev);
        $("banner").hidden = true;
      } catch (error) {
        if (error.body?.conflict) this.conflict(error, frame, () => put(snap, { overwrite: true }));
        else if (error.body?.option !== "snap") throw error;
        else {
          notify(error.message, { error: true, action: h("button", { text: "Clean and import",
            onclick: () => put(true).catch((failure) => this.editor.fail(failure)) }) });
        }
      }
    };
    this.add(() => put(false));
  }

  setBrush(size) {
    this.stage.brush = Math.max(1, Math.min(100, size));
    this.editor.size.value = this.stage.brush;
    this.stage.draw();
  }
}
