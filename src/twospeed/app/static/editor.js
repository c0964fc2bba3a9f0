// A project: image, timeline and panel, and what joins them. Every button and shortcut is one action of `actions`.
import { $, announce, clock, dialog, h, notify } from "./dom.js";
import { getJson, post, request, tab } from "./api.js";
import { makeActions } from "./actions.js";
import { Edits } from "./edits.js";
import { actionOf } from "./keys.js";
import { Player } from "./player.js";
import { tokenForm } from "./login.js";
import { Live, Store } from "./store.js";
import { Stage } from "./stage.js";
import { Timeline } from "./timeline.js";
import { exportDialog } from "./exports.js";
import { Panel } from "./panel.js";

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
    this.stage = new Stage(store, (name, data) => this.edits.onTool(name, data));
    this.timeline = new Timeline(store);
    this.panel = new Panel(this);
    this.edits = new Edits(this);
    this.player = new Player(this);
    this.actions = makeActions(this);
    this.build();
    store.addEventListener("frame", () => this.onFrame());
    store.addEventListener("leave", (event) => {
      this.stage.finishDrag();
      this.edits.keepPreview(event.detail);
    });
    store.addEventListener("scrub", () => {
      this.follow = false;
      this.player.pause();
    });
    store.addEventListener("problem", () => {
      if (!store.state.problem) store.load().catch(() => null); // the connection says so itself
    });
    store.addEventListener("rest", () => {
      this.stage.seek();
      this.panel.onFrame();
    });
    store.addEventListener("mask", () => this.drawSoon());
    store.addEventListener("state", () => {
      this.render();
      this.showProblem();
    });
    this.onKey = (event) => this.key(event);
    this.onUnload = (event) => this.edits.unsaved.length && event.preventDefault();
    addEventListener("keydown", this.onKey);
    addEventListener("beforeunload", this.onUnload);
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
    this.showProblem();
    const shown = { classify: "classify", detect: "detect", segment: "segment" }[this.store.state.run];
    if (shown) this.panel.choose(shown);
    this.stage.canvas.focus({ preventScroll: true });
    this.player.load();
  }

  /** Say once that the video is not there, or another one: whichever answer of the server brought it. */
  showProblem() {
    const { problem } = this.store.state;
    if (problem === this.problem) return;
    this.problem = problem;
    if (!problem) return;
    notify(problem, { error: true, action: h("button", { text: "Locate file…", onclick: () => this.locate() }) });
  }

  close() {
    this.edits.keepPreview();
    this.live.close();
    this.stage.close();
    this.timeline.close();
    this.player.pause();
    clearTimeout(this.loading);
    removeEventListener("keydown", this.onKey);
    removeEventListener("beforeunload", this.onUnload);
  }

  // --- layout ---

  build() {
    const act = (name, label, title, extra = {}) =>
      h("button", { ...extra, title, "aria-label": title, onclick: () => this.run(name) }, label);
    this.saved = h("span", { class: "quiet", text: "saved" });
    this.others = h("span", { class: "others", hidden: true,
      title: "Each tab shows what the other changes. Where both change the same frame, the second is asked which to keep." });
    this.undo = act("undo", "Undo", "Undo (Ctrl+Z)");
    this.redo = act("redo", "Redo", "Redo (Ctrl+Shift+Z)");
    const header = h("header", { class: "bar" },
      h("button", { class: "plain", title: "All videos", onclick: () => this.leave() }, h("strong", { text: "twospeed" })),
      h("span", { class: "name", text: this.store.state.name }), this.saved, this.others, h("span", { class: "grow" }),
      this.undo, this.redo, h("button", { class: "main", text: "Export…", onclick: () => exportDialog(this) }),
      act("help", "?", "Shortcuts (?)"));
    this.toolButtons = new Map(TOOLS.map(([name, label, key]) => [name,
      h("button", { title: `${label} (${key})`, "aria-pressed": "false", onclick: () => this.run(`tool:${name}`) },
        h("span", { text: label }), h("kbd", { text: key }))]));
    const importer = h("input", { type: "file", accept: "image/*", hidden: true });
    importer.addEventListener("change", () => this.edits.importMask(importer));
    this.size = h("input", { type: "range", min: 1, max: 100, value: 12, "aria-label": "Brush size",
      title: "Brush size ([ and ])", oninput: () => this.edits.setBrush(Number(this.size.value)) });
    const tools = h("nav", { class: "tools", "aria-label": "Tools" }, [...this.toolButtons.values()], this.size,
      h("button", { text: "Import…", title: "Import a mask image for this frame", onclick: () => importer.click() }), importer);
    this.where = h("output", { class: "where" });
    this.progress = h("span", { class: "grow progress" });
    this.stop = act("cancel", "Stop", "Stop tracking (Esc)", { class: "stop" });
    const opacity = h("input", { type: "range", min: 0, max: 100, value: 50, "aria-label": "Opacity of masks",
      title: "Opacity of masks", oninput: () => {
        this.stage.opacity = Number(opacity.value) / 100;
        this.stage.draw();
      } });
    const transport = h("div", { class: "transport" },
      act("toIn", "|◀", "To the in point (Home)"), act("back", "◀", "One frame back (←)"), this.player.button,
      act("next", "▶", "One frame on (→)"), this.player.speed, this.player.soundButton, act("toOut", "▶|", "To the out point (End)"), this.where,
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
    this.worst.hidden = this.panel.tab !== "track" && this.panel.tab !== "find";
    this.worst.replaceChildren(h("span", { class: "quiet", text: this.worstHint(worst) }),
      ...worst.map((frame) => h("button", { class: "small", text: frame, onclick: () => store.seek(frame) })));
    this.panel.render();
    this.timeline.draw();
    this.stage.draw();
  }

  worstHint(worst) {
    const { store } = this, name = store.selected?.name ?? "";
    if (worst.length) return `Least certain frames of ${name}, to look at and correct (keys , and .):`;
    if (store.job && ["track", "stale", "resume", "find"].includes(store.job.kind)) {
      return "The least certain frames are listed here as soon as the confidence dips.";
    }
    if (store.curves.get(store.object)?.some((value) => value > 0)) return `No frame of ${name} is less certain than those beside it.`;
    return "Confidence appears here when an object has been tracked.";
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
    if (this.follow) this.stage.seek(); // at its own size
    this.follow = false;
    if (!job) return;
    const text = job.state === "done" ? `done: ${job.done ? `${job.done} frames ` : ""}in ${job.seconds.toFixed(1)} s`
      : job.state === "failed" ? `failed: ${job.error}` : `${job.state} after ${job.done} of ${job.total} frames`;
    this.progress.textContent = text;
    announce(text);
    if (job.state === "failed") notify(job.error, { error: true });
  }

  /** Say at the top whether everything is on the disk. */
  showSaved() {
    this.saved.textContent = this.edits.unsaved.length ? "not saved" : this.lost ? "not connected" : "saved";
    this.saved.classList.toggle("wrong", this.edits.unsaved.length > 0 || !!this.lost);
  }

  drawSoon() {
    this.stage.draw();
    this.timeline.draw();
  }

  onFrame() {
    this.stage.seek({ moving: !!this.player.playing || this.follow, dragging: this.timeline.dragging });
    this.timeline.draw();
    this.renderWhere();
    if (!this.timeline.dragging) this.panel.onFrame();
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
    } else if (message.t === "presence") {
      this.showPresence(message.tabs);
    }
  }

  /** Another tab on this project: both edit, and both should know. */
  showPresence(tabs) {
    const others = tabs - 1, text = others ? `open in ${tabs} tabs` : "";
    if (this.others.textContent !== text) announce(others ? `This project is ${text}.` : "No other tab has this project open any more.");
    this.others.textContent = text;
    this.others.hidden = !others;
  }

  async onConnection(state) {
    if (state === "open") {
      if (this.lost) notify("Connected again.");
      this.lost = false;
      if (this.edits.unsaved.length) this.edits.saveAgain();
      if (!this.stage.exact) this.stage.seek();
      this.showSaved();
      return;
    }
    if (!this.lost) {
      this.lost = true;
      notify("The connection is lost; trying again. If `twospeed app` was started anew, open its new address.",
        { error: true });
    }
    this.showSaved();
    if (this.asking) return;
    // A server that was started anew at the same address answers, but does not know this tab any more
    await getJson(this.base).catch((error) => error.status === 401 && this.logIn());
  }

  /** Log in to a server that was started anew, without leaving what is on the screen. Asks once; the banner stays. */
  logIn(done = () => {}) {
    if (this.asking) return;
    this.asking = true;
    const ask = () => {
      const box = dialog("Log in again", tokenForm("`twospeed app` was started anew. Paste the address that it printed.", () => {
        box.close();
        $("banner").hidden = true;
        this.asking = false;
        this.live.retry();
        done();
      }));
    };
    notify("Log in again: `twospeed app` was started anew.", { error: true, action: h("button", { text: "Log in…", onclick: ask }) });
    ask();
  }

  /** Fetch the state, soon and once for many changes. */
  reload() {
    clearTimeout(this.loading);
    this.loading = setTimeout(async () => {
      try {
        await this.store.load();
      } catch (error) {
        if (error.status === 401) this.logIn();
      }
    }, 60);
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

  fail(error) {
    notify(error.message, { error: true });
  }

  // --- actions ---

  async startJob(job) {
    const { frame } = this.store, { model, size, finetune } = this.panel.trackOptions(); // of this moment
    await this.edits.keepPreview();
    this.follow = ["track", "stale", "resume", "find"].includes(job.kind); // until somebody moves the playhead
    try {
      await post(`${this.base}/jobs`, { frame, model, size, finetune, ...job });
    } catch (error) {
      this.follow = false;
      throw error;
    }
    this.reload();
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
    if (document.querySelector("dialog[open]")) return undefined; // its keys are its own, Escape closes it
    const { cross } = this.stage;
    const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    if (cross && event.target === this.stage.canvas && moves[event.code]) {
      event.preventDefault();
      const step = event.shiftKey ? 20 : 4;
      return this.stage.moveCross(...moves[event.code].map((part) => part * step));
    }
    if (cross && event.shiftKey && event.code === "Enter" && event.target === this.stage.canvas) {
      return this.edits.onTool("point", { x: cross[0], y: cross[1], sign: -1 });
    }
    const action = actionOf(event);
    if (!action) return undefined;
    event.preventDefault();
    return this.run(action);
  }
}
