// The panel at the right: objects and tracking, and the other jobs as tabs.
import { h } from "./dom.js";
import { ActionsView, ClassesView, PeopleView } from "./results.js";

const TABS = [["track", "Track"], ["find", "Find"], ["classify", "Actions"], ["detect", "People"], ["segment", "Pixels"]];
const KINDS = { classify: "classify", detect: "detect", segment: "segment", classes: "segment", areas: "segment" };
const WORDS = {
  find: "Find objects without marking any. What is found becomes objects that can be corrected and tracked on.",
  classify: "Name what happens in the video, and when.",
  detect: "Find people, follow them, and name what each does.",
  segment: "Give every pixel a class, such as road, car or sky.",
};

const HINTS = {
  move: "Drag to move the image; the wheel zooms, Ctrl+0 fits it.",
  points: "Click on the object; right click or Alt+click on what is not part of it; drag a point to move it, click it to remove it. Enter keeps the preview.",
  box: "Drag a box around the object.",
  brush: "Paint the object; the right button erases. [ and ] change the size.",
  eraser: "Wipe off what is not part of the object. [ and ] change the size.",
  polygon: "Click the corners of the object; Enter or a double click closes it.",
};

/** What an element is called, to find it again when the panel is drawn anew. */
const keyOf = (element) => element.dataset.hold ?? element.getAttribute("aria-label") ?? element.textContent;

export class Panel {
  constructor(editor) {
    this.editor = editor;
    this.store = editor.store;
    this.tab = "track";
    this.tabs = new Map(TABS.map(([name, label]) => [name, h("button", { role: "tab", text: label,
      "data-hold": `tab-${name}`, "aria-controls": "panel-body", onclick: () => this.choose(name) })]));
    this.body = h("div", { id: "panel-body", class: "panel-body", role: "tabpanel" });
    this.views = new Map([["classify", new ActionsView(this.editor)], ["detect", new PeopleView(this.editor)],
      ["segment", new ClassesView(this.editor)]]);
    this.body.addEventListener("focusout", () => this.late && setTimeout(() => this.late && this.render()));
    this.element = h("aside", { class: "panel" },
      h("div", { class: "tabs", role: "tablist", "aria-label": "Jobs", onkeydown: (event) => this.moveTab(event) },
        [...this.tabs.values()]), this.body);
    this.picked = {};
    this.options = { size: editor.home.size, finetune: false };
  }

  choose(name) {
    const { stage, timeline } = this.editor;
    this.tab = name;
    stage.overlay = stage.palette = null;
    stage.onPaint = this.view ? (context, scale) => this.view?.draw(context, (devicePixelRatio || 1) / scale) : null;
    stage.nameAt = name === "segment" ? (at) => this.view.nameAt(at) : null;
    if (name === "segment") this.view.shownFrame = null;
    timeline.show(this.view && !this.view.empty ? this.view : null);
    this.loadResults();
    this.editor.render();
    this.onFrame();
    stage.draw();
  }

  /** The arrow keys go from tab to tab, as in any list of tabs. */
  moveTab(event) {
    const names = [...this.tabs.keys()], step = { ArrowLeft: -1, ArrowRight: 1 }[event.code];
    const next = event.code === "Home" ? 0 : event.code === "End" ? names.length - 1
      : step && (names.indexOf(this.tab) + step + names.length) % names.length;
    if (next === undefined) return;
    event.preventDefault();
    event.stopPropagation();
    this.choose(names[next]);
    this.tabs.get(names[next]).focus();
  }

  trackOptions() {
    return {
      model: this.picked.track ?? this.editor.home.model,
      size: this.options.size,
      finetune: this.options.finetune ? 30 : null,
    };
  }

  render({ anyway = false } = {}) {
    for (const [name, button] of this.tabs) {
      button.setAttribute("aria-selected", name === this.tab);
      button.tabIndex = name === this.tab ? 0 : -1;
    }
    const focused = this.body.contains(document.activeElement) ? document.activeElement : null;
    this.late = !anyway && !!focused?.matches("input[type=text], input[type=color], input[type=range], select");
    if (this.late) return; // somebody types or chooses: what is new is shown when they leave the field
    const held = focused && keyOf(focused), open = this.body.querySelector("details")?.open;
    const parts = this.tab === "track" ? this.trackTab() : this.jobTab(this.tab);
    this.body.replaceChildren(...parts.filter((part) => part !== null));
    const details = this.body.querySelector("details");
    if (details && open) details.open = true;
    if (held) [...this.body.querySelectorAll("button, input, select, summary")].find((one) => keyOf(one) === held)?.focus();
  }

  // --- track ---

  trackTab() {
    const { store, editor } = this, { state } = store;
    const act = (name, label, title) => {
      const button = h("button", { title, "aria-label": title, "data-hold": name }, label);
      const direction = { trackForward: "forward", trackBackward: "backward", trackBoth: "both" }[name];
      button.addEventListener("click", (event) => editor.run(name, { through: event.shiftKey }));
      if (direction) {
        button.disabled = !!store.job || !state.keyframes.length;
        const show = () => this.showPlan(direction), hide = () => this.hidePlan();
        for (const [on, run] of [["mouseenter", show], ["focus", show], ["mouseleave", hide], ["blur", hide]]) {
          button.addEventListener(on, run);
        }
      }
      return button;
    };
    const stale = state.stale.reduce((sum, [first, last]) => sum + last - first + 1, 0);
    const resumable = state.jobs[0] && ["interrupted", "stopped", "failed"].includes(state.jobs[0].state)
      && state.jobs[0].kind === "track" && state.jobs[0].done < state.jobs[0].total;
    return [
      h("div", { class: "row" }, h("h2", { class: "grow", text: "Objects" }),
        h("button", { text: "+ New", title: "New object (N)", "data-hold": "new", onclick: () => editor.run("newObject") })),
      store.objects.length ? h("ul", { class: "objects" }, store.objects.map((entry) => this.objectRow(entry))) : null,
      h("p", { class: "quiet", text: this.hint() }),
      h("h2", { text: "Track" }),
      h("div", { class: "row track" }, act("trackBackward", "◀ Back", "Track backward from here (Shift+T)"),
        act("trackBoth", "◀ Both ▶", "Track both ways from here (Y)"),
        act("trackForward", "Forward ▶", "Track forward from here (T)")),
      h("p", { class: "quiet", text: state.keyframes.length
        ? "From this frame to the next marked frame, else to the in or out point. Hold Shift to pass marked frames."
        : "Mark an object first." }),
      stale ? h("button", { class: "wide", text: `Update ${stale} frame${stale === 1 ? "" : "s"} computed before the last correction`,
        onclick: () => this.start({ kind: "stale" }) }) : null,
      resumable && !store.job ? h("button", { class: "wide", text: `Resume tracking (${state.jobs[0].done} of ${state.jobs[0].total} done)`,
        onclick: () => this.start({ kind: "resume" }) }) : null,
      h("details", {}, h("summary", { text: "Settings" }), this.modelPicker("track", (model) => model.needs_masks),
        h("label", { class: "row" }, h("span", { class: "grow", text: "Work at" }), this.sizePicker()),
        h("label", { class: "row", title: "Slower to start, often better masks" },
          h("input", { type: "checkbox", checked: this.options.finetune,
            onchange: (event) => (this.options.finetune = event.target.checked) }),
          "fine-tune on the marked frame first (30 iterations)")),
    ];
  }

  /** What the tool in hand does, and to which object. */
  hint() {
    const { selected } = this.store, hint = HINTS[this.editor.stage.tool];
    if (this.editor.stage.tool === "move") return hint;
    if (!selected) return `${hint} Other tools are at the left.`;
    return `${hint} This marks ${selected.name}; + New begins another object.`;
  }

  sizePicker() {
    const picker = h("select", { "aria-label": "Shorter side at which the network works",
      onchange: () => (this.options.size = Number(picker.value)) },
    [...new Set([240, 360, 480, 720, this.editor.home.size])].sort((a, b) => a - b).map((size) => h("option", { value: size, text: `${size} pixels` })));
    picker.value = this.options.size;
    return picker;
  }

  objectRow(entry) {
    const { store, editor } = this, chosen = entry.id === store.object;
    const change = (changes) => editor.edits.send("PATCH", `objects/${entry.id}`, changes);
    const value = store.curves.get(entry.id)?.[store.frame];
    const kind = store.kinds[store.frame] & 3;
    const sure = kind === 2 ? "marked" : value === 0 ? "gone" : value > 0 ? value.toFixed(2) : "";
    const name = h("input", { type: "text", value: entry.name, "aria-label": `Name of object ${entry.id}`, maxlength: 80,
      onfocus: () => store.select(entry.id),
      onkeydown: (event) => event.key === "Enter" && name.blur(),
      onblur: () => name.value !== entry.name && name.value && change({ name: name.value }) });
    return h("li", { class: chosen ? "chosen" : "", onclick: (event) => event.target.closest("button, input") || store.select(entry.id) },
      h("button", { class: "number", "aria-pressed": String(chosen), title: `Choose object ${entry.id}`,
        "data-hold": `choose${entry.id}`, onclick: () => store.select(entry.id) }, String(entry.id)),
      h("input", { type: "color", value: entry.colour, "aria-label": `Colour of ${entry.name}`,
        onchange: (event) => change({ colour: event.target.value }) }),
      name, h("span", { class: "sure", title: "Confidence on this frame, to compare frames of this video", text: sure }),
      h("button", { class: "small", "aria-pressed": String(!!entry.hidden), "data-hold": `hide${entry.id}`,
        title: entry.hidden ? "Show (H)" : "Hide (H)", text: entry.hidden ? "show" : "hide",
        onclick: () => change({ hidden: !entry.hidden }) }),
      h("button", { class: "small", "aria-pressed": String(!!entry.locked), "data-hold": `lock${entry.id}`,
        title: "A locked object keeps its pixels (L)", text: entry.locked ? "unlock" : "lock",
        onclick: () => change({ locked: !entry.locked }) }),
      h("button", { class: "small", title: `Delete ${entry.name}`, "aria-label": `Delete ${entry.name}`, text: "×",
        onclick: () => editor.edits.send("DELETE", `objects/${entry.id}`) }));
  }

  /** Show which frames a button would compute, before it is pressed. */
  showPlan(direction) {
    const { frame, state } = this.store, keys = state.keyframes, parts = [];
    if (direction !== "backward") {
      const next = keys.find((key) => key > frame) ?? state.out + 1;
      if (Math.min(next - 1, state.out) > frame) parts.push({ first: frame, last: Math.min(next - 1, state.out) });
    }
    if (direction !== "forward") {
      const before = keys.filter((key) => key < frame).pop() ?? state.in - 1;
      if (Math.max(before + 1, state.in) < frame) parts.push({ first: Math.max(before + 1, state.in), last: frame });
    }
    this.editor.timeline.planned = parts;
    this.editor.timeline.draw();
  }

  hidePlan() {
    this.editor.timeline.planned = null;
    this.editor.timeline.draw();
  }

  start(job) {
    return this.editor.startJob(job).catch((error) => this.editor.fail(error));
  }

  // --- the other jobs ---

  modelPicker(task, allowed = () => true) {
    const { home } = this.editor, kind = task === "find" ? "track" : task;
    const models = home.models.filter((model) => model.task === kind && allowed(model));
    this.picked[task] ??= task === "track" ? home.model : models.find((model) => model.here)?.name ?? models[0]?.name;
    const picker = h("select", { "aria-label": "Model", onchange: () => {
      this.picked[task] = picker.value;
      this.render({ anyway: true });
    } }, models.map((model) => h("option", { value: model.name, text: model.name })));
    picker.value = this.picked[task];
    const model = models.find((entry) => entry.name === this.picked[task]);
    return h("div", {}, h("label", { class: "row" }, h("span", { class: "grow", text: "Model" }), picker),
      h("p", { class: "quiet", text: model?.summary ?? "" }));
  }

  jobTab(kind) {
    const { home } = this.editor, { store } = this;
    const picker = this.modelPicker(kind, (model) => kind !== "find" || !model.needs_masks);
    const model = home.models.find((entry) => entry.name === this.picked[kind]);
    const parts = [h("p", { class: "quiet", text: WORDS[kind] }), picker];
    let weights = null;
    if (model && !model.here) {
      weights = h("select", { "aria-label": "Weights" }, home.weights.map((name) => h("option", { value: name, text: name })));
      parts.push(home.weights.length
        ? h("label", { class: "row" }, h("span", { class: "grow", text: "Weights" }), weights)
        : h("div", { class: "missing" },
          h("p", { text: `${model.name} has no weights on this machine. Put a file of weights into the folder of the videos, `
            + "then reload this page:" }),
          h("dl", {}, h("dt", { text: "File" }), h("dd", { text: model.file ?? "a checkpoint of the authors, or .safetensors" }),
            h("dt", { text: "Address" }), h("dd", { class: "address", text: model.url ?? "none is published" }),
            h("dt", { text: "Licence" }), h("dd", { text: model.licence || "see the authors" }))));
    }
    const ready = model && (model.here || home.weights.length);
    const run = h("button", { class: "main wide", text: { find: "Find objects", classify: "Name actions", detect: "Find people",
      segment: "Label pixels" }[kind], onclick: () => {
      return this.start({ kind, model: model.name, weights: model.here ? null : weights.value, size: null, finetune: null });
    } });
    run.disabled = !ready || !!store.job;
    parts.push(run);
    if (this.view && !this.view.empty) {
      return [...this.view.panel(), h("details", {}, h("summary", { text: "Compute anew" }), ...parts)];
    }
    return parts;
  }

  /** What is shown of this tab's results, if it has any. */
  get view() {
    return this.views.get(this.tab) ?? null;
  }

  get threshold() {
    return this.views.get("classify").threshold;
  }

  async loadResults() {
    const { view } = this;
    if (!view) return;
    try {
      await view.load();
    } catch (error) {
      this.editor.fail(error);
    }
    if (view !== this.view) return;
    this.render();
    this.editor.timeline.show(view.empty ? null : view);
    this.onFrame();
  }

  onResult({ kind }) {
    if (KINDS[kind] !== this.tab) return;
    this.soon ??= setTimeout(() => {
      this.soon = null;
      this.loadResults();
    }, 500 + (this.views.get("segment").areas?.size ?? 0)); // all of it is fetched anew: the longer, the rarer
  }

  /** The playhead moved. */
  onFrame() {
    if (this.tab === "track") {
      clearTimeout(this.later);
      this.later = setTimeout(() => this.render(), 120);
    } else if (this.view && !this.view.empty) {
      this.view.onFrame().catch((error) => this.editor.fail(error));
    }
  }

  onMask(mask) {
    if (mask.frame === this.store.frame) this.onFrame();
  }
}
