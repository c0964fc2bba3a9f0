// What tools do: marks with a preview, strokes, imported masks; and edits that meet another or cannot be saved.
import { $, dialog, h, notify } from "./dom.js";
import { post, request } from "./api.js";
import { encode, parse } from "./wire.js";

export class Edits {
  constructor(editor) {
    this.editor = editor;
    this.store = editor.store;
    this.base = editor.base;
  }

  get stage() {
    return this.editor.stage;
  }

  async ensureObject() {
    if (this.store.object !== null) return true;
    const { id } = await post(`${this.base}/objects`);
    this.store.object = id;
    await this.store.load();
    return true;
  }

  locked() {
    if (!this.store.selected?.locked) return false;
    notify(`${this.store.selected.name} is locked; unlock it (L) to change it.`);
    return true;
  }

  onTool(name, data) {
    if (name === "stroke-begin") return this.beginStroke();
    this.queue = (this.queue ?? Promise.resolve()).then(() => this.apply(name, data)).catch((error) => this.editor.fail(error));
    return true;
  }

  async apply(name, data) {
    if (this.locked()) return;
    await this.ensureObject();
    if (name === "point") await this.addPoint(data);
    else if (name === "stroke-end") await this.endStroke();
    else await this.sendMarks({ ...data, frame: this.store.frame, object: this.store.object });
  }

  marksHere() {
    const { frame, object, state } = this.store;
    return state.marks.find((mark) => mark.frame === frame && mark.object === object);
  }

  async addPoint({ x, y, sign }) {
    const { frame, object } = this.store;
    const before = this.stage.draft?.frame === frame ? this.stage.draft : this.marksHere();
    const points = [...(before?.points ?? []), [x, y, sign]];
    this.stage.draft = { frame, object, points, box: before?.box ?? null, polygon: before?.polygon ?? [] };
    this.stage.draw();
    await this.previewMarks();
  }

  async previewMarks() {
    const { draft } = this.stage;
    const response = await request("POST", `${this.base}/marks`, { json: { ...draft, preview: true } });
    const mask = parse(await response.arrayBuffer());
    if (this.stage.draft !== draft || this.store.frame !== draft.frame) return;
    this.store.preview = mask;
    this.editor.progress.textContent = "preview: Enter keeps it, Esc drops it, Ctrl+Z takes the last point back";
    this.stage.draw();
  }

  /** Keep the preview of a frame, if there is one. */
  async keepPreview(frame = this.store.frame) {
    const { draft } = this.stage;
    this.stage.draft = null;
    this.store.preview = null;
    if (draft && draft.frame === frame) {
      this.editor.progress.textContent = "";
      await this.sendMarks(draft).catch((error) => this.editor.fail(error));
    }
  }

  async sendMarks(marks, { overwrite = false } = {}) {
    const known = this.store.masks.get(marks.frame);
    const json = { points: [], box: null, polygon: [], ...marks, base_rev: overwrite ? null : known?.rev ?? this.store.rev };
    try {
      const response = await request("POST", `${this.base}/marks`, { json });
      this.store.put(parse(await response.arrayBuffer()));
      this.stage.draw();
    } catch (error) {
      if (error.body?.conflict) this.conflict(error, () => this.sendMarks(marks, { overwrite: true }));
      else if (!this.offerAgain(error, () => this.sendMarks(marks, { overwrite }))) throw error;
    }
  }

  beginStroke() {
    if (this.locked()) return false;
    if (this.store.object === null) {
      this.ensureObject().then(() => notify("An object was added; paint it now."));
      return false;
    }
    const { width, height } = this.store.state, { frame } = this.store;
    const now = this.stage.labels();
    this.stage.painting = { frame, labels: now ? now.slice() : new Uint8Array(width * height), base: this.store.masks.get(frame)?.rev ?? null };
    return true;
  }

  async endStroke({ overwrite = false } = {}) {
    const { painting } = this.stage, { width, height } = this.store.state, object = this.store.object;
    const body = encode(painting.labels, height, width, painting.frame);
    const query = { object, base_rev: overwrite ? null : painting.base ?? this.store.rev };
    try {
      const response = await request("PUT", `${this.base}/mask/${painting.frame}`, { body, query });
      this.store.put(parse(await response.arrayBuffer()));
      if (this.stage.painting === painting) this.stage.painting = null;
    } catch (error) {
      const again = (options) => {
        this.stage.painting = painting;
        return this.endStroke(options);
      };
      if (this.offerAgain(error, () => again({ overwrite }))) return; // the stroke stays on the screen
      this.stage.painting = null;
      if (!error.body?.conflict) throw error;
      this.conflict(error, () => again({ overwrite: true }));
    }
    this.stage.draw();
  }

  /** An edit could not be saved, as the disk is full or the server gone: keep it, to save it again. */
  offerAgain(error, again) {
    if (error.status !== 507 && error.status !== 0) return false;
    notify(error.message, { error: true, action: h("button", { text: "Save again", onclick: () => {
      $("banner").hidden = true;
      again().catch((failure) => this.editor.fail(failure));
    } }) });
    return true;
  }

  /** Two edits met: mine or theirs. */
  conflict(error, again) {
    const box = dialog("This frame was changed meanwhile", h("p", { text: error.message }),
      h("div", { class: "row" },
        h("button", { text: "Keep mine", onclick: () => {
          box.close();
          again().catch((failure) => this.editor.fail(failure));
        } }),
        h("button", { text: "Keep theirs", onclick: async () => {
          box.close();
          await this.store.refetch([this.store.frame]);
        } })));
  }

  async importMask(input) {
    const [file] = input.files;
    input.value = "";
    if (!file) return;
    const put = (snap) => request("PUT", `${this.base}/import/${this.store.frame}`, { body: file, query: { snap } });
    try {
      await put(false);
    } catch (error) {
      if (error.body?.option !== "snap") return this.editor.fail(error);
      notify(error.message, { error: true, action: h("button", { text: "Clean and import", onclick: () => put(true)
        .then(() => ($("banner").hidden = true), (failure) => this.editor.fail(failure)) }) });
    }
  }

  setBrush(size) {
    this.stage.brush = Math.max(1, Math.min(100, size));
    this.editor.size.value = this.stage.brush;
    this.stage.draw();
  }
}
