// A project: picture, timeline and panel, and what joins them. Every button and shortcut is one action of `actions`.
import { $, announce, clock, dialog, h, notify } from "./dom.js";
import { getJson, post, request, tab } from "./api.js";
import { actionOf, SHORTCUTS } from "./keys.js";
import { Live, Store } from "./store.js";
import { Stage } from "./stage.js";
import { Timeline } from "./timeline.js";
import { exportDialog } from "./exports.js";
import { Panel } from "./panel.js";
import { encode, labelsOf, parse } from "./wire.js";

const TOOLS = [["move", "Move", "S"], ["points", "Points", "P"], ["box", "Box", "R"], ["brush", "Brush", "B"],
  ["eraser", "Eraser", "E"], ["polygon", "Polygon", "G"]];

export async function openEditor(project, home, leave) {
  const store = new Store(project);
  await store.load();
  const editor = new Editor(store, home, leave);
  editor.start();
  return editor;
}

class Editor {
  constructor(store, home, leave) {
    Object.assign(this, { store, home, leave, base: `p/${store.project}`, follow: false, exports: new Map() });
    this.stage = new Stage(store, (name, data) => this.onTool(name, data));
    this.timeline = new Timeline(store);
    this.panel = new Panel(this);
    this.actions = this.makeActions();
    this.build();
    store.addEventListener("frame", () => this.onFrame());
    store.addEventListener("leave", (event) => this.keepPreview(event.detail));
    store.addEventListener("scrub", () => (this.follow = false));
    store.addEventListener("mask", () => this.drawSoon());
    store.addEventListener("state", () => this.render());
    this.onKey = (event) => this.key(event);
    addEventListener("keydown", this.onKey);
  }

  start() {
    document.title = `${this.store.state.name} · twospeed`;
    $("page").replaceChildren(this.element);
    this.live = new Live(this.store, tab, {
      mask: (mask) => this.onMask(mask),
      message: (message) => this.onMessage(message),
      state: (state) => this.onConnection(state),
    });
    this.stage.setTool("box");
    this.render();
    this.stage.seek();
    this.store.need(0);
    if (this.store.state.problem) {
      notify(this.store.state.problem, { error: true,
        action: h("button", { text: "Locate file…", onclick: () => this.locate() }) });
    }
    const shown = { classify: "classify", detect: "detect", segment: "segment" }[this.store.state.run];
    if (shown) this.panel.choose(shown);
    this.stage.canvas.focus({ preventScroll: true });
    this.loadSound();
  }

  close() {
    this.live.close();
    this.stage.close();
    this.timeline.close();
    this.pause();
    clearTimeout(this.loading);
    removeEventListener("keydown", this.onKey);
  }

  // --- layout ---

  build() {
    const act = (name, label, title, extra = {}) =>
      h("button", { ...extra, title, "aria-label": title, onclick: () => this.run(name) }, label);
    this.saved = h("span", { class: "quiet", text: "saved" });
    this.undo = act("undo", "Undo", "Undo (Ctrl+Z)");
    this.redo = act("redo", "Redo", "Redo (Ctrl+Shift+Z)");
    const header = h("header", { class: "bar" },
      h("button", { class: "plain", title: "All videos", onclick: () => this.leave() }, h("strong", { text: "twospeed" })),
      h("span", { class: "name", text: this.store.state.name }), this.saved, h("span", { class: "grow" }),
      this.undo, this.redo, h("button", { class: "main", text: "Export…", onclick: () => exportDialog(this) }),
      act("help", "?", "Shortcuts (?)"));
    this.toolButtons = new Map(TOOLS.map(([name, label, key]) => [name,
      h("button", { title: `${label} (${key})`, "aria-pressed": "false", onclick: () => this.run(`tool:${name}`) },
        h("span", { text: label }), h("kbd", { text: key }))]));
    const importer = h("input", { type: "file", accept: "image/*", hidden: true });
    importer.addEventListener("change", () => this.importMask(importer));
    this.size = h("input", { type: "range", min: 1, max: 100, value: 12, "aria-label": "Brush size",
      title: "Brush size ([ and ])", oninput: () => this.setBrush(Number(this.size.value)) });
    const tools = h("nav", { class: "tools", "aria-label": "Tools" }, [...this.toolButtons.values()], this.size,
      h("button", { text: "Import…", title: "Import a mask image for this frame", onclick: () => importer.click() }), importer);
    this.where = h("output", { class: "where" });
    this.progress = h("span", { class: "grow progress" });
    this.stop = act("cancel", "Stop", "Stop tracking (Esc)", { class: "stop" });
    this.playButton = act("play", "Play", "Play, pause (Space)");
    this.soundButton = h("button", { text: "Sound", title: "Sound while playing", "aria-pressed": "true", hidden: true, onclick: () => {
      this.audio.muted = !this.audio.muted;
      this.soundButton.setAttribute("aria-pressed", !this.audio.muted);
    } });
    const opacity = h("input", { type: "range", min: 0, max: 100, value: 50, "aria-label": "Opacity of masks",
      title: "Opacity of masks", oninput: () => {
        this.stage.opacity = Number(opacity.value) / 100;
        this.stage.draw();
      } });
    const transport = h("div", { class: "transport" },
      act("toIn", "|◀", "To the in point (Home)"), act("back", "◀", "One frame back (←)"), this.playButton,
      act("next", "▶", "One frame on (→)"), this.soundButton, act("toOut", "▶|", "To the out point (End)"), this.where,
      act("setIn", "In", "Set the in point here (I)"), act("setOut", "Out", "Set the out point here (O)"),
      h("label", { class: "row" }, "masks", opacity), this.progress, this.stop);
    this.worst = h("div", { class: "worst row" });
    this.element = h("main", { class: "editor" }, header,
      h("div", { class: "work" }, tools, this.stage.element, this.panel.element),
      transport, this.timeline.element, this.worst);
  }

  render() {
    const { store } = this, { state } = store;
    this.undo.disabled = !state.undo;
    this.redo.disabled = !state.redo;
    for (const [name, button] of this.toolButtons) button.setAttribute("aria-pressed", name === this.stage.tool);
    this.size.hidden = this.stage.tool !== "brush" && this.stage.tool !== "eraser";
    const job = store.job;
    this.stop.hidden = !job;
    if (job) this.showProgress(job);
    else if (this.progress.dataset.job) this.endProgress();
    this.renderWhere();
    const worst = store.worst(8);
    this.worst.replaceChildren(h("span", { class: "quiet", text: worst.length
      ? `Least certain frames of ${store.selected?.name ?? ""} (keys , and .):`
      : "Confidence appears here when an object has been tracked." }),
      ...worst.map((frame) => h("button", { class: "small", text: frame, onclick: () => store.seek(frame) })));
    this.panel.render();
    this.timeline.draw();
    this.stage.draw();
  }

  renderWhere() {
    const { frame, state, times } = this.store;
    const digits = String(state.frames - 1).length;
    this.where.textContent = `${String(frame).padStart(digits, "0")} / ${state.frames - 1}   ${clock(times[frame] ?? 0)}`;
  }

  showProgress(job) {
    this.progress.dataset.job = job.id;
    this.stop.hidden = false;
    const rate = job.done && job.seconds ? job.done / job.seconds : 0;
    const left = rate ? Math.ceil((job.total - job.done) / rate) : null;
    const what = job.kind === "track" ? "tracked" : job.kind;
    this.progress.textContent = this.note && !job.done ? this.note : job.state === "queued" ? "waiting"
      : `${what} ${job.done} of ${job.total}${rate ? ` · ${rate.toFixed(1)} frames/s · ${left} s left` : " · starting"}`;
    if (job.done % 20 === 0) announce(`${what} ${job.done} of ${job.total}`);
  }

  endProgress() {
    const id = Number(this.progress.dataset.job);
    delete this.progress.dataset.job;
    this.note = null;
    const job = this.store.state.jobs.find((entry) => entry.id === id);
    this.follow = false;
    if (!job) return;
    const text = job.state === "done" ? `done: ${job.done ? `${job.done} frames ` : ""}in ${job.seconds.toFixed(1)} s`
      : job.state === "failed" ? `failed: ${job.error}` : `${job.state} after ${job.done} of ${job.total} frames`;
    this.progress.textContent = text;
    announce(text);
    if (job.state === "failed") notify(job.error, { error: true });
  }

  drawSoon() {
    this.stage.draw();
    this.timeline.draw();
  }

  onFrame() {
    this.stage.polygon = [];
    this.stage.draft = null;
    this.stage.seek({ playing: !!this.playing });
    this.timeline.draw();
    this.renderWhere();
    this.panel.onFrame();
  }

  // --- the server's word ---

  onMask(mask) {
    this.store.put(mask);
    this.timeline.draw();
    this.panel.onMask(mask);
    if (this.follow && mask.frame !== this.store.frame) this.store.seek(mask.frame);
  }

  async onMessage(message) {
    const { store } = this;
    if (message.t === "job") {
      const at = store.state.jobs.findIndex((job) => job.id === message.id);
      const was = store.state.jobs[at]?.state;
      if (at >= 0) store.state.jobs[at] = { ...store.state.jobs[at], ...message };
      else store.state.jobs.unshift(message);
      if (message.state !== was) this.reload();
      if (message.state === "running") this.showProgress(message);
      this.timeline.draw();
    } else if (message.t === "changed") {
      await store.refetch(message.frames);
      this.reload();
    } else if (message.t === "hello") {
      for (const [first, last] of message.ranges) {
        for (let frame = first; frame <= last; frame++) store.forget(frame);
      }
      store.need(store.frame);
      this.reload();
    } else if (message.t === "progress") {
      this.note = message.text;
      if (store.job) this.showProgress(store.job);
    } else if (message.t === "export") {
      this.exports.set(message.file, message);
      store.emit("export", message);
      if (message.state === "done") announce(`${message.file} is written`);
    } else if (message.t === "result") {
      this.panel.onResult(message);
    }
  }

  onConnection(state) {
    if (state === "open") {
      this.saved.textContent = "saved";
      if (this.lost) notify("Connected again.");
      this.lost = false;
    } else if (!this.lost) {
      this.lost = true;
      this.saved.textContent = "not connected";
      notify("The connection is lost; trying again. If `twospeed app` was started anew, open its new address.",
        { error: true });
    }
  }

  /** Fetch the state, soon and once for many changes. */
  reload() {
    clearTimeout(this.loading);
    this.loading = setTimeout(async () => {
      try {
        await this.store.load();
      } catch (error) {
        if (error.status === 401) notify("Log in again: open the address that `twospeed app` printed.", { error: true });
      }
    }, 60);
  }

  // --- tools ---

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
    this.queue = (this.queue ?? Promise.resolve()).then(() => this.apply(name, data)).catch((error) => this.fail(error));
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
    this.progress.textContent = "preview: Enter keeps it, Esc drops it, Ctrl+Z takes the last point back";
    this.stage.draw();
  }

  /** Keep the preview of a frame, if there is one. */
  async keepPreview(frame = this.store.frame) {
    const { draft } = this.stage;
    this.stage.draft = null;
    this.store.preview = null;
    if (draft && draft.frame === frame) {
      this.progress.textContent = "";
      await this.sendMarks(draft).catch((error) => this.fail(error));
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
      again().catch((failure) => this.fail(failure));
    } }) });
    return true;
  }

  /** Two edits met: mine or theirs. */
  conflict(error, again) {
    const box = dialog("This frame was changed meanwhile", h("p", { text: error.message }),
      h("div", { class: "row" },
        h("button", { text: "Keep mine", onclick: () => {
          box.close();
          again().catch((failure) => this.fail(failure));
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
      if (error.body?.option !== "snap") return this.fail(error);
      notify(error.message, { error: true, action: h("button", { text: "Clean and import", onclick: () => put(true)
        .then(() => ($("banner").hidden = true), (failure) => this.fail(failure)) }) });
    }
  }

  /** The video moved: choose it from the folder's. */
  async locate() {
    const { videos } = await getJson("home"), { name } = this.store.state;
    const box = dialog("Where is the video now?",
      h("p", { class: "quiet", text: "Only the file that the project was made of is taken, or one with the same frames." }),
      h("ul", { class: "videos" }, videos.filter((video) => !video.outside).sort((a, b) => (b.name === name) - (a.name === name)).map((video) =>
        h("li", {}, h("span", { class: "grow", text: video.name }),
          h("button", { text: "Take", "aria-label": `Take ${video.name}`, onclick: () => take(video.id, false) })))));
    const take = async (video, anyway) => {
      try {
        await post(`${this.base}/locate`, { video, anyway });
        box.close();
        $("banner").hidden = true;
        await this.store.load();
        this.stage.frames.bitmaps.clear();
        this.stage.seek();
      } catch (error) {
        if (error.body?.option !== "anyway") return this.fail(error);
        if (confirm(error.message)) await take(video, true);
      }
    };
  }

  setBrush(size) {
    this.stage.brush = Math.max(1, Math.min(100, size));
    this.size.value = this.stage.brush;
    this.stage.draw();
  }

  fail(error) {
    notify(error.message, { error: true });
  }

  // --- playing ---

  async loadSound() {
    try {
      if (!(await getJson(`${this.base}/sound`)).sound) return;
      this.audio = h("audio", { src: `/api/${this.base}/audio`, preload: "auto" });
      this.soundButton.hidden = false;
    } catch { /* it is played without sound */ }
  }

  async play() {
    const { store, audio } = this;
    if (this.playing) return this.pause();
    this.follow = false;
    this.playing = true;
    this.playButton.textContent = "Pause";
    if (store.frame >= store.state.out) store.seek(store.state.in);
    const from = store.times[store.frame];
    if (audio) {
      audio.currentTime = from;
      await audio.play().catch(() => null);
      if (!this.playing) return audio.pause();
    }
    // The sound is the clock: images follow it, late ones are left out. Where it ends, or there is none, time goes on
    let begun = performance.now(), since = from;
    const step = () => {
      if (audio && !audio.paused && !audio.ended) [begun, since] = [performance.now(), audio.currentTime];
      const now = since + (performance.now() - begun) / 1000;
      let frame = store.frame;
      while (frame < store.state.out && store.times[frame + 1] <= now) frame++;
      if (frame !== store.frame) {
        store.seek(frame);
        this.stage.frames.prefetch(Array.from({ length: 8 }, (_, i) => frame + 1 + i), this.stage.scrubHeight);
      }
      if (frame >= store.state.out) this.pause();
      else this.playing = requestAnimationFrame(step);
    };
    this.playing = requestAnimationFrame(step);
  }

  pause() {
    if (!this.playing) return;
    cancelAnimationFrame(this.playing);
    this.playing = null;
    this.audio?.pause();
    this.playButton.textContent = "Play";
    this.stage.seek();
  }

  // --- actions ---

  async startJob(job) {
    await this.queue;
    await this.keepPreview();
    const { model, size, finetune } = this.panel.trackOptions();
    await post(`${this.base}/jobs`, { frame: this.store.frame, model, size, finetune, ...job });
    this.follow = job.kind === "track" || job.kind === "stale" || job.kind === "resume" || job.kind === "find";
    this.reload();
  }

  makeActions() {
    const { store, stage } = this;
    const seekTo = (frame) => {
      this.follow = false;
      this.pause();
      if (frame !== null && frame !== undefined) store.seek(frame);
    };
    const patch = (changes) => store.selected
      && request("PATCH", `${this.base}/objects/${store.object}`, { json: changes });
    const worst = (step) => {
      const frames = store.worst();
      if (!frames.length) return notify("There is no doubtful frame yet: track the object first.");
      this.worstAt = (((this.worstAt ?? (step > 0 ? -1 : 0)) + step) % frames.length + frames.length) % frames.length;
      seekTo(frames[this.worstAt]);
    };
    const range = (first, last) => {
      if (first > last) return notify("The in point lies before the out point.");
      return request("PATCH", `${this.base}/range`, { json: { first, last } });
    };
    const track = (direction) => (options = {}) => this.startJob({ kind: "track", direction, ...options });
    return {
      back: () => seekTo(store.frame - 1), next: () => seekTo(store.frame + 1),
      back10: () => seekTo(store.frame - 10), next10: () => seekTo(store.frame + 10),
      toIn: () => seekTo(store.state.in), toOut: () => seekTo(store.state.out),
      play: () => this.play(),
      setIn: () => range(store.frame, Math.max(store.frame, store.state.out)),
      setOut: () => range(Math.min(store.frame, store.state.in), store.frame),
      previousKey: () => seekTo(store.keyBeside(-1)), nextKey: () => seekTo(store.keyBeside(1)),
      previousWorst: () => worst(-1), nextWorst: () => worst(1),
      newObject: async () => {
        await this.keepPreview();
        const { id } = await post(`${this.base}/objects`);
        store.object = id;
        await store.load();
      },
      accept: () => {
        if (stage.cross) return this.onTool("point", { x: stage.cross[0], y: stage.cross[1], sign: 1 });
        if (stage.polygon.length) return stage.closePolygon();
        return this.keepPreview();
      },
      cancel: async () => {
        if (stage.polygon.length || stage.draft || stage.cross) {
          stage.polygon = [];
          stage.draft = stage.cross = store.preview = null;
          this.progress.textContent = "";
          stage.draw();
        } else if (store.job) await request("DELETE", `${this.base}/jobs/${store.job.id}`);
      },
      hide: () => patch({ hidden: !store.selected?.hidden }),
      lock: () => patch({ locked: !store.selected?.locked }),
      clear: () => store.selected && !this.locked()
        && request("DELETE", `${this.base}/mask/${store.frame}`, { query: { object: store.object } }),
      trackForward: track("forward"), trackBackward: track("backward"), trackBoth: track("both"),
      undo: async () => {
        await this.queue;
        const { draft } = stage;
        if (draft?.points.length) {
          stage.draft = { ...draft, points: draft.points.slice(0, -1) };
          if (stage.draft.points.length) return this.previewMarks();
          stage.draft = store.preview = null;
          return stage.draw();
        }
        return post(`${this.base}/undo`);
      },
      redo: () => post(`${this.base}/redo`),
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
      smaller: () => this.setBrush(stage.brush - Math.max(1, Math.round(stage.brush / 8))),
      larger: () => this.setBrush(stage.brush + Math.max(1, Math.round(stage.brush / 8))),
      saved: () => notify("Everything is saved already, at every change."),
      help: () => helpDialog(),
    };
  }

  async run(name, options) {
    try {
      if (name.startsWith("tool:")) {
        this.stage.setTool(name.slice(5));
        this.render();
      } else if (name.startsWith("object:")) {
        const entry = this.store.objects[Number(name.slice(7)) - 1];
        if (entry) this.store.select(entry.id);
      } else await this.actions[name](options);
    } catch (error) {
      this.fail(error);
    }
  }

  key(event) {
    const { cross } = this.stage;
    const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    if (cross && event.target === this.stage.canvas && moves[event.code]) {
      event.preventDefault();
      const step = event.shiftKey ? 20 : 4;
      return this.stage.moveCross(...moves[event.code].map((part) => part * step));
    }
    if (cross && event.shiftKey && event.code === "Enter" && event.target === this.stage.canvas) {
      return this.onTool("point", { x: cross[0], y: cross[1], sign: -1 });
    }
    const action = actionOf(event);
    if (!action) return undefined;
    event.preventDefault();
    return this.run(action);
  }
}

function helpDialog() {
  dialog("Shortcuts", h("div", { class: "shortcuts" }, SHORTCUTS.map(([title, rows]) =>
    h("section", {}, h("h3", { text: title }), h("table", {}, rows.map(([, keys, what]) =>
      h("tr", {}, h("td", {}, h("kbd", { text: keys })), h("td", { text: what }))))))));
}
