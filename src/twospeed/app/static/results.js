// What classify, detect and segment found: a list in the panel, lanes in the timeline, drawings on the image.
import { clock, h } from "./dom.js";
import { getJson, request } from "./api.js";
import { labelsOf, parse } from "./wire.js";

const PALETTE = ["#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7", "#999999"];
const LANE = 17, MOST_LANES = 8, MOST_ROWS = 300;

/** Spans of actions whose probability reaches a threshold in neighbouring windows, in order of time. */
export function spansOf(windows, threshold, duration) {
  const edges = windows.map(({ time_s }, i) => (i ? (windows[i - 1].time_s + time_s) / 2 : 0));
  edges.push(duration);
  const open = new Map(), spans = [];
  const close = (label, end) => {
    const { start, sum, n } = open.get(label);
    open.delete(label);
    spans.push({ label, start, end, p: sum / n });
  };
  windows.forEach(({ top }, i) => {
    const here = new Map(top.filter(([, p]) => p >= threshold));
    for (const label of [...open.keys()]) if (!here.has(label)) close(label, edges[i]);
    for (const [label, p] of here) {
      const held = open.get(label) ?? { start: edges[i], sum: 0, n: 0 };
      open.set(label, { start: held.start, sum: held.sum + p, n: held.n + 1 });
    }
  });
  for (const label of [...open.keys()]) close(label, duration);
  return spans.sort((a, b) => a.start - b.start || b.p - a.p);
}

/** People at a moment: [{id, box, actions, exact}]; between two keyframes that both see a person, straight lines. */
export function peopleAt(keyframes, time, tolerance = 0) {
  let at = keyframes.length - 1;
  while (at >= 0 && keyframes[at].time_s > time + tolerance) at--;
  if (at < 0) return [];
  const now = keyframes[at], next = keyframes[at + 1];
  if (Math.abs(now.time_s - time) <= tolerance) return now.people.map((one) => ({ ...one, box: one.box_xyxy, exact: true }));
  if (!next) return [];
  const share = (time - now.time_s) / (next.time_s - now.time_s);
  return now.people.flatMap((one) => {
    const later = one.id === null ? null : next.people.find((other) => other.id === one.id);
    if (!later) return [];
    return [{ ...one, exact: false, box: one.box_xyxy.map((value, i) => value + share * (later.box_xyxy[i] - value)) }];
  });
}

/** Draw lanes of spans [{lane, start, end, text, colour}] below the masks of the timeline. */
function paintLanes({ context, timeline, top, colour }, names, spans) {
  const { ratio, store } = timeline, height = LANE * ratio;
  context.font = `${11 * ratio}px system-ui`;
  context.textBaseline = "middle";
  context.textAlign = "left";
  names.forEach((_, lane) => {
    context.fillStyle = colour("--lane");
    context.globalAlpha = lane % 2 ? 0.35 : 0.7;
    context.fillRect(0, top + lane * height, context.canvas.width, height - ratio);
  });
  for (const { lane, start, end, fill, strength } of spans) {
    const x0 = timeline.x(store.frameAt(start)), x1 = timeline.x(store.frameAt(end));
    context.globalAlpha = 0.35 + 0.55 * strength;
    context.fillStyle = fill;
    context.fillRect(x0, top + lane * height + ratio, Math.max(2 * ratio, x1 - x0), height - 3 * ratio);
  }
  context.globalAlpha = 1;
  names.forEach((name, lane) => {
    const y = top + (lane + 0.5) * height, width = context.measureText(name).width;
    context.fillStyle = colour("--page");
    context.globalAlpha = 0.75;
    context.fillRect(6 * ratio, y - 7 * ratio, width + 8 * ratio, 14 * ratio);
    context.globalAlpha = 1;
    context.fillStyle = colour("--text");
    context.fillText(name, 10 * ratio, y);
  });
}

class View {
  constructor(editor) {
    this.editor = editor;
    this.store = editor.store;
  }

  get(kind) {
    return getJson(`${this.editor.base}/result/${kind}`);
  }

  get empty() {
    return true;
  }

  /** Lanes that the timeline makes room for. */
  get lanes() {
    return 0;
  }

  paint() {}

  draw() {}

  async onFrame() {}

  seek(seconds) {
    this.editor.player.pause();
    this.store.seek(Math.ceil(this.store.frameAt(seconds) - 1e-6));
  }
}

/** Actions: a lane for each, spans at or above a threshold. */
export class ActionsView extends View {
  threshold = 0.3;
  search = "";

  async load() {
    const [found] = await this.get("classify");
    this.found = found?.[1] ?? null;
    if (!this.found) return;
    const kept = Math.min(...this.found.windows.map(({ top }) => top.length), 400);
    this.least = Math.ceil(100 / (kept + 1)) / 100; // actions that are not kept are less likely than this
    const best = this.found.windows.map(({ top }) => top[0]?.[1] ?? 0).sort((a, b) => a - b);
    this.threshold = Math.max(this.least, Math.min(0.3, (best[best.length >> 1] ?? 0.3) * 0.8));
    this.span();
  }

  get empty() {
    return !this.found;
  }

  get duration() {
    const { times } = this.store, last = times[times.length - 1];
    return last + (times.length > 1 ? last / (times.length - 1) : 0.04);
  }

  span() {
    const wanted = this.search.toLowerCase();
    this.spans = spansOf(this.found.windows, this.threshold, this.duration).filter(({ label }) => label.toLowerCase().includes(wanted));
    const sums = new Map();
    for (const { label, start, end, p } of this.spans) sums.set(label, (sums.get(label) ?? 0) + (end - start) * p);
    this.names = [...sums.keys()].sort((a, b) => sums.get(b) - sums.get(a));
  }

  get lanes() {
    return Math.min(MOST_LANES, Math.max(1, this.names?.length ?? 0));
  }

  paint(where) {
    const shown = this.names.slice(0, MOST_LANES);
    const spans = this.spans.filter(({ label }) => shown.includes(label)).map(({ label, start, end, p }) =>
      ({ lane: shown.indexOf(label), start, end, strength: p, fill: PALETTE[shown.indexOf(label) % PALETTE.length] }));
    paintLanes(where, shown.length ? shown : ["no action reaches the threshold"], spans);
  }

  panel() {
    const list = h("ul", { class: "results" }), note = h("p", { class: "quiet" });
    const level = h("output", {}), slider = h("input", { type: "range", min: Math.round(100 * this.least), max: 100,
      value: Math.round(100 * this.threshold), "aria-label": "Least probability" });
    const search = h("input", { type: "text", value: this.search, placeholder: "Search actions", "aria-label": "Search actions" });
    const fill = () => {
      level.textContent = this.threshold.toFixed(2);
      this.span();
      list.replaceChildren(...this.spans.slice(0, MOST_ROWS).map(({ label, start, end, p }) => h("li", {},
        h("button", { class: "plain", onclick: () => this.seek(start) },
          h("span", { class: "when", text: `${clock(start, 1)} to ${clock(end, 1)}` }), " ", h("span", { class: "grow", text: label }), " ",
          h("span", { class: "sure", text: p.toFixed(2) })))));
      note.textContent = !this.spans.length ? "No action reaches this probability."
        : this.spans.length > MOST_ROWS ? `The first ${MOST_ROWS} of ${this.spans.length}.` : "";
      this.editor.timeline.draw();
    };
    slider.addEventListener("input", () => {
      this.threshold = Number(slider.value) / 100;
      fill();
    });
    search.addEventListener("input", () => {
      this.search = search.value;
      fill();
    });
    fill();
    return [h("h2", { text: "Most likely in the whole video" }), h("ol", { class: "results" }, this.found.top.slice(0, 5).map(([label, p]) =>
      h("li", { text: `${label} (${p.toFixed(2)})` }))), h("h2", { text: "When" }),
    h("label", { class: "row" }, h("span", { class: "quiet", text: "Least probability" }), slider, level), search, list, note];
  }
}

/** People: boxes on the image, a lane for each person. */
export class PeopleView extends View {
  search = "";

  async load() {
    this.keyframes = (await this.get("detect")).map(([, one]) => one).sort((a, b) => a.time_s - b.time_s);
    const seen = new Map(); // id -> stretches {start, end, people}
    this.keyframes.forEach(({ time_s, people }, i) => {
      for (const person of people) {
        const stretches = seen.get(person.id) ?? [];
        const last = stretches[stretches.length - 1];
        if (last && last.until === i - 1) Object.assign(last, { end: time_s, until: i });
        else stretches.push({ start: time_s, end: time_s, until: i, person });
        seen.set(person.id, stretches);
      }
    });
    this.seen = [...seen.entries()].sort(([a], [b]) => (a ?? 0) - (b ?? 0));
  }

  get empty() {
    return !this.keyframes?.length;
  }

  matches(person) {
    const wanted = this.search.toLowerCase().trim();
    return !wanted || String(person.id) === wanted || person.actions.some(({ label }) => label.toLowerCase().includes(wanted));
  }

  colour(id) {
    return PALETTE[((id ?? 8) - 1) % PALETTE.length];
  }

  get shown() {
    return this.seen.filter(([id]) => this.keyframes.some(({ people }) => people.some((one) => one.id === id && this.matches(one))));
  }

  get lanes() {
    return this.keyframes ? Math.min(MOST_LANES, Math.max(1, this.shown.length)) : 0;
  }

  paint(where) {
    const rows = this.shown.slice(0, MOST_LANES);
    const spans = rows.flatMap(([id, stretches], lane) => stretches.map(({ start, end }) =>
      ({ lane, start, end, strength: 0.7, fill: this.colour(id) })));
    paintLanes(where, rows.length ? rows.map(([id]) => `person ${id ?? "?"}`) : ["nobody"], spans);
  }

  /** Half a frame: a keyframe's time need not be a frame's. */
  get tolerance() {
    const { times } = this.store;
    return times.length > 1 ? times[times.length - 1] / (times.length - 1) / 2 : 0.02;
  }

  here() {
    return peopleAt(this.keyframes ?? [], this.store.times[this.store.frame], this.tolerance).filter((one) => this.matches(one));
  }

  draw(context, unit) {
    context.font = `600 ${13 * unit}px system-ui`;
    context.textBaseline = "bottom";
    context.textAlign = "left";
    for (const { id, box: [x0, y0, x1, y1], actions, exact } of this.here()) {
      context.lineWidth = 2.5 * unit;
      context.setLineDash(exact ? [] : [8 * unit, 5 * unit]);
      context.strokeStyle = this.colour(id);
      context.strokeRect(x0, y0, x1 - x0, y1 - y0);
      context.setLineDash([]);
      [`${id ?? "?"}`, ...actions.slice(0, 3).map(({ label, score }) => `${label} ${score.toFixed(2)}`)].forEach((text, row) => {
        const y = y0 + (row ? (row + 1) * 16 : 16) * unit, x = x0 + 4 * unit;
        context.lineWidth = 3 * unit;
        context.strokeStyle = "#000";
        context.strokeText(text, x, y);
        context.fillStyle = "#fff";
        context.fillText(text, x, y);
      });
    }
  }

  panel() {
    const search = h("input", { type: "text", value: this.search, placeholder: "Number or action", "aria-label": "Filter people" });
    const table = h("tbody"), note = h("p", { class: "quiet" });
    const fill = () => {
      const rows = this.keyframes.flatMap(({ time_s, people }) => people.filter((one) => this.matches(one)).map((one) => [time_s, one]));
      table.replaceChildren(...rows.slice(0, MOST_ROWS).map(([time, { id, actions }]) => h("tr", {},
        h("td", {}, h("button", { class: "small", text: clock(time, 1), onclick: () => this.seek(time - this.tolerance) })),
        h("td", { text: id ?? "?" }),
        h("td", { text: actions.slice(0, 3).map(({ label, score }) => `${label} ${score.toFixed(2)}`).join(", ") || "no action" }))));
      note.textContent = rows.length > MOST_ROWS ? `The first ${MOST_ROWS} of ${rows.length}.` : rows.length ? "" : "Nobody matches.";
      this.editor.timeline.draw();
      this.editor.stage.draw();
    };
    search.addEventListener("input", () => {
      this.search = search.value;
      fill();
    });
    fill();
    return [h("h2", { text: `${this.seen.length} people at ${this.keyframes.length} keyframes` }),
      h("p", { class: "quiet", text: "Boxes between keyframes, dashed, are straight lines from one to the next." }), search,
      h("table", { class: "people" }, h("thead", {}, h("tr", {}, ["When", "Person", "Actions"].map((text) => h("th", { text })))), table), note];
  }
}

/** Classes of pixels: colours on the image, a legend, and stacked areas over time. */
export class ClassesView extends View {
  hidden = new Set();

  async load() {
    const [classes, areas] = await Promise.all([this.get("classes"), this.get("areas")]);
    this.classes = classes[0]?.[1] ?? null;
    this.areas = new Map(areas);
    this.shownFrame = null;
    if (!this.classes) return;
    const sums = new Float64Array(this.classes.names.length);
    for (const shares of this.areas.values()) shares.forEach((share, i) => (sums[i] += share));
    this.order = [...sums.keys()].sort((a, b) => sums[b] - sums[a]);
  }

  get empty() {
    return !this.classes;
  }

  get lanes() {
    return this.classes ? 6 : 0;
  }

  hex(i) {
    return `#${this.classes.colours[i].map((part) => part.toString(16).padStart(2, "0")).join("")}`;
  }

  paint({ context, timeline, top, bottom }) {
    const [first, last] = timeline.shown, width = context.canvas.width, order = this.order.filter((i) => !this.hidden.has(i));
    const step = (last - first) / Math.max(1, width);
    for (let column = 0; column < width; column++) {
      const shares = this.areas.get(Math.round(first + column * step));
      if (!shares) continue;
      let y = bottom;
      for (const i of order) {
        const tall = shares[i] * (bottom - top);
        context.fillStyle = this.hex(i);
        context.fillRect(timeline.x(first + column * step), y - tall, Math.max(1, 1 / step), tall);
        y -= tall;
      }
    }
  }

  panel() {
    const here = this.areas.get(this.store.frame), solo = this.order.length - this.hidden.size === 1;
    const change = (only) => {
      if (only === null) this.hidden.clear();
      else if (this.hidden.has(only)) this.hidden.delete(only);
      else this.hidden.add(only);
      this.editor.panel.render();
      this.onFrame();
    };
    return [h("h2", { text: "Classes, by area in this frame" }),
      h("ul", { class: "legend" }, this.order.map((i) => h("li", { class: "row" },
        h("button", { class: "plain grow", "aria-pressed": String(!this.hidden.has(i)), "data-hold": `class${i}`, title: "Show or hide", onclick: () => change(i) },
          swatch(this.hex(i)), h("span", { class: "grow", text: this.classes.names[i] }),
          h("span", { text: here ? `${(100 * here[i]).toFixed(1)} %` : "" })),
        h("button", { class: "small", text: "only", "aria-label": `Only ${this.classes.names[i]}`, "data-hold": `only${i}`, onclick: () => {
          this.hidden = new Set(this.order.filter((other) => other !== i));
          this.editor.panel.render();
          this.onFrame();
        } })))),
      this.hidden.size ? h("button", { class: "wide", text: solo ? "Show all classes" : "Show all", onclick: () => change(null) }) : null];
  }

  /** The class of a pixel (x, y) of the image, null where there is none. */
  nameAt([x, y]) {
    const { overlay, exact } = this.editor.stage, label = overlay?.[Math.floor(y) * this.store.state.width + Math.floor(x)];
    return exact && label ? this.classes.names[label - 1] : null;
  }

  async onFrame() {
    const { store } = this, { stage, panel } = this.editor, { frame } = store;
    stage.palette = this.order?.map((i) => ({ id: i + 1, hidden: this.hidden.has(i), colour: this.hex(i) }));
    if (this.shownFrame !== frame) {
      const response = await request("GET", `${this.editor.base}/result/segment/${frame}`);
      const labels = response.status === 204 ? null : labelsOf(parse(await response.arrayBuffer()));
      if (frame !== store.frame || panel.view !== this) return;
      if (labels) for (let i = 0; i < labels.length; i++) labels[i]++;
      stage.overlay = labels;
      this.shownFrame = frame;
      panel.render();
    }
    stage.draw();
    this.editor.timeline.draw();
  }
}

/** A colour as a small image: inline styles are not allowed here. */
function swatch(colour) {
  const canvas = h("canvas", { width: 12, height: 12, class: "swatch" }), context = canvas.getContext("2d");
  context.fillStyle = colour;
  context.fillRect(0, 0, 12, 12);
  return canvas;
}
