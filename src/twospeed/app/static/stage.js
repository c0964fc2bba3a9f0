// The image: frame, masks and marks on a canvas, and the tools that work on it.
import { h } from "./dom.js";
import { labelsOf } from "./wire.js";

const SCRUB_HEIGHT = 540;
const REST_MS = 300;
const MOST_BITMAPS = 48;

/** Frames as bitmaps by index: one request at a time, the newest wish wins. */
export class Frames {
  constructor(store, onFrame) {
    Object.assign(this, { store, onFrame, bitmaps: new Map(), busy: false, wanted: null, ahead: [] });
  }

  key(index, height) {
    return `${index}@${height}`;
  }

  want(index, height) {
    this.wanted = [index, height];
    this.pump();
  }

  prefetch(indices, height) {
    this.ahead = indices.filter((i) => i < this.store.state.frames && !this.bitmaps.has(this.key(i, height)))
      .map((i) => [i, height]);
    this.pump();
  }

  async pump() {
    if (this.busy) return;
    const next = this.wanted ?? this.ahead.shift();
    if (!next) return;
    const asked = next === this.wanted;
    if (asked) this.wanted = null;
    const [index, height] = next, key = this.key(index, height);
    this.busy = true;
    try {
      let bitmap = this.bitmaps.get(key);
      if (!bitmap) {
        const { project, state } = this.store;
        const response = await fetch(`/api/p/${project}/frame/${index}?h=${height}&v=${state.fingerprint.slice(0, 12)}`);
        if (!response.ok) throw new Error((await response.json()).error);
        bitmap = await createImageBitmap(await response.blob());
        this.bitmaps.set(key, bitmap);
        if (this.bitmaps.size > MOST_BITMAPS) {
          const [old, dropped] = this.bitmaps.entries().next().value;
          this.bitmaps.delete(old);
          if (dropped !== this.shown) dropped.close();
        }
      }
      if (asked) {
        this.shown = bitmap;
        this.onFrame(index, bitmap, null);
      }
    } catch (error) {
      if (asked) this.onFrame(index, null, error.message);
    } finally {
      this.busy = false;
      if (this.wanted || this.ahead.length) this.pump();
    }
  }
}

export class Stage {
  constructor(store, tools) {
    this.store = store;
    this.tools = tools; // called with (name, data)
    this.tool = "box";
    this.brush = 12;
    this.opacity = 0.5;
    this.showMasks = true;
    this.outlines = false;
    this.view = null; // {scale, x, y}; null fits
    this.shown = { index: -1, bitmap: null };
    this.layer = document.createElement("canvas");
    this.cross = null;
    this.polygon = [];
    this.canvas = h("canvas", { class: "stage", tabindex: 0, role: "application",
      "aria-label": "Image. K shows a crosshair that the arrow keys move; Enter marks." });
    this.element = h("div", { class: "stage-box" }, this.canvas);
    this.frames = new Frames(store, (index, bitmap, problem) => this.take(index, bitmap, problem));
    this.listen();
    this.observer = new ResizeObserver(() => this.resize());
    this.observer.observe(this.element);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
  }

  close() {
    this.observer.disconnect();
  }

  get scrubHeight() {
    const { width, height } = this.store.state;
    return Math.min(SCRUB_HEIGHT, Math.min(width, height));
  }

  /** Ask for the frame at the playhead: small at once, at its own size when the playhead rests. */
  seek({ playing = false } = {}) {
    const { frame, state } = this.store;
    this.frames.want(frame, this.scrubHeight);
    clearTimeout(this.rest);
    const whole = Math.min(state.width, state.height);
    if (!playing && whole > this.scrubHeight) {
      this.rest = setTimeout(() => this.frames.want(this.store.frame, whole), REST_MS);
    }
    if (!playing) {
      const step = Math.sign(frame - (this.last ?? frame));
      if (step > 0) this.frames.prefetch([frame + 1, frame + 2], this.scrubHeight);
    }
    this.last = frame;
  }

  take(index, bitmap, problem) {
    this.problem = problem;
    this.shown = { index, bitmap };
    this.canvas.dataset.frame = index;
    this.draw();
  }

  resize() {
    const ratio = devicePixelRatio || 1;
    const { clientWidth, clientHeight } = this.element;
    this.canvas.width = Math.max(1, Math.round(clientWidth * ratio));
    this.canvas.height = Math.max(1, Math.round(clientHeight * ratio));
    this.draw();
  }

  /** How image pixels lie on the canvas. */
  placed() {
    const { width, height } = this.store.state;
    const fit = Math.min(this.canvas.width / width, this.canvas.height / height);
    if (this.view) return this.view;
    return { scale: fit, x: (this.canvas.width - width * fit) / 2, y: (this.canvas.height - height * fit) / 2 };
  }

  toImage(event) {
    const ratio = this.canvas.width / this.canvas.clientWidth, box = this.canvas.getBoundingClientRect();
    const { scale, x, y } = this.placed();
    return [((event.clientX - box.left) * ratio - x) / scale, ((event.clientY - box.top) * ratio - y) / scale];
  }

  zoom(factor, event) {
    const { scale, x, y } = this.placed(), [px, py] = this.toImage(event);
    const wanted = Math.max(0.05, Math.min(40, scale * factor));
    this.view = { scale: wanted, x: x + px * (scale - wanted), y: y + py * (scale - wanted) };
    this.draw();
  }

  fit() {
    this.view = null;
    this.draw();
  }

  // --- drawing ---

  draw() {
    if (this.waiting) return;
    this.waiting = true;
    requestAnimationFrame(() => {
      this.waiting = false;
      this.paint();
    });
  }

  paint() {
    const context = this.canvas.getContext("2d"), { width, height } = this.store.state;
    const { scale, x, y } = this.placed();
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, this.canvas.width, this.canvas.height);
    context.setTransform(scale, 0, 0, scale, x, y);
    context.imageSmoothingEnabled = scale < 3;
    if (this.shown.bitmap) context.drawImage(this.shown.bitmap, 0, 0, width, height);
    else {
      context.fillStyle = "#777";
      context.fillRect(0, 0, width, height);
    }
    const exact = this.shown.index === this.store.frame;
    if (exact && this.showMasks) this.paintMask(context);
    if (exact) this.onPaint?.(context, scale);
    if (exact) this.paintMarks(context, scale);
    if (this.problem) {
      context.setTransform(1, 0, 0, 1, 0, 0);
      context.fillStyle = "#fff";
      context.font = `${14 * (devicePixelRatio || 1)}px system-ui`;
      context.fillText(this.problem, 12, 24);
    }
  }

  /** The mask that is shown: what is being painted, else a preview, else the stored one. */
  current() {
    const { frame, preview, masks } = this.store;
    if (this.painting?.frame === frame) return this.painting;
    if (preview && preview.frame === frame) return preview;
    return masks.get(frame) ?? null;
  }

  labels() {
    const mask = this.current();
    if (!mask) return null;
    if (mask.labels) return mask.labels; // being painted
    if (this.decoded?.mask !== mask) this.decoded = { mask, labels: labelsOf(mask) };
    return this.decoded.labels;
  }

  paintMask(context) {
    const labels = this.overlay ?? this.labels();
    if (!labels) return;
    const { width, height } = this.store.state;
    if (this.layer.width !== width || this.layer.height !== height) {
      this.layer.width = width;
      this.layer.height = height;
      this.pixels = new ImageData(width, height);
      this.words = new Uint32Array(this.pixels.data.buffer);
    }
    const fill = new Uint32Array(256), edge = new Uint32Array(256), { words } = this;
    const strength = this.outlines ? 0 : Math.round(255 * this.opacity);
    const colours = this.palette ?? this.store.objects;
    for (const { id, colour, hidden } of colours) {
      if (hidden) continue;
      const [r, g, b] = [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));
      fill[id] = (strength << 24) | (b << 16) | (g << 8) | r;
      edge[id] = (255 << 24) | (b << 16) | (g << 8) | r;
    }
    const runs = new Map(); // of each label, its longest run of pixels in each row: [length, middle, row]
    const note = (label, row, begin, end) => {
      const known = runs.get(label) ?? [], last = known.at(-1);
      if (last?.[2] !== row) known.push([end - begin, (begin + end) / 2, row]);
      else if (last[0] < end - begin) known[known.length - 1] = [end - begin, (begin + end) / 2, row];
      runs.set(label, known);
    };
    for (let row = 0, at = 0; row < height; row++) {
      for (let column = 0, begin = 0, before = 0; column <= width; column++) {
        const label = column < width ? labels[at] : 0;
        if (label !== before) {
          if (before) note(before, row, begin, column);
          begin = column;
          before = label;
        }
        if (column === width) break;
        if (!label) {
          words[at++] = 0;
          continue;
        }
        const border = label !== labels[at - 1] || label !== labels[at + 1]
          || label !== labels[at - width] || label !== labels[at + width];
        words[at++] = border && !this.overlay ? edge[label] : fill[label];
      }
    }
    this.layer.getContext("2d").putImageData(this.pixels, 0, 0);
    context.drawImage(this.layer, 0, 0);
    if (!this.overlay) this.paintNumbers(context, runs);
  }

  /** Every mask bears its object's number, where it is wide: colours alone do not tell them apart for everybody. */
  paintNumbers(context, runs) {
    const { scale } = this.placed(), size = (13 * (devicePixelRatio || 1)) / scale;
    context.font = `600 ${size}px system-ui`;
    context.textAlign = "center";
    context.textBaseline = "middle";
    for (const [id, found] of runs) {
      if (this.store.objects.find((entry) => entry.id === id)?.hidden) continue;
      const widest = Math.max(...found.map(([length]) => length));
      const wide = found.filter(([length]) => length >= 0.8 * widest), [, x, row] = wide[wide.length >> 1], y = row + 0.5;
      context.lineWidth = size / 4;
      context.strokeStyle = "#000";
      context.strokeText(id, x, y);
      context.fillStyle = "#fff";
      context.fillText(id, x, y);
    }
  }

  paintMarks(context, scale) {
    const { frame, object, state } = this.store, unit = (devicePixelRatio || 1) / scale;
    const marks = this.draft?.frame === frame ? this.draft
      : state.marks.find((mark) => mark.frame === frame && mark.object === object);
    for (const [x, y, sign] of marks?.points ?? []) {
      context.beginPath();
      context.arc(x, y, 6 * unit, 0, 7);
      context.fillStyle = sign > 0 ? "#fff" : "#000";
      context.fill();
      context.lineWidth = 2 * unit;
      context.strokeStyle = sign > 0 ? "#000" : "#fff";
      context.stroke();
      context.beginPath();
      context.moveTo(x - 3 * unit, y);
      context.lineTo(x + 3 * unit, y);
      if (sign > 0) {
        context.moveTo(x, y - 3 * unit);
        context.lineTo(x, y + 3 * unit);
      }
      context.stroke();
    }
    const line = (draw) => {
      for (const [colour, dash] of [["#000", []], ["#fff", [6 * unit, 6 * unit]]]) {
        context.strokeStyle = colour;
        context.lineWidth = 1.5 * unit;
        context.setLineDash(dash);
        context.beginPath();
        draw();
        context.stroke();
      }
      context.setLineDash([]);
    };
    if (this.drag?.box) {
      const [x0, y0, x1, y1] = this.drag.box;
      line(() => context.rect(x0, y0, x1 - x0, y1 - y0));
    }
    if (this.polygon.length) {
      line(() => this.polygon.forEach(([x, y], i) => (i ? context.lineTo(x, y) : context.moveTo(x, y))));
    }
    if (this.pointer && (this.tool === "brush" || this.tool === "eraser")) {
      line(() => context.arc(...this.pointer, this.brush, 0, 7));
    }
    if (this.cross) {
      const [x, y] = this.cross, long = 14 * unit;
      line(() => {
        context.moveTo(x - long, y);
        context.lineTo(x + long, y);
        context.moveTo(x, y - long);
        context.lineTo(x, y + long);
      });
    }
  }

  // --- tools ---

  listen() {
    const { canvas } = this;
    canvas.addEventListener("contextmenu", (event) => event.preventDefault());
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.zoom(Math.exp(-event.deltaY / 400), event);
    }, { passive: false });
    canvas.addEventListener("pointerdown", (event) => this.down(event));
    canvas.addEventListener("pointermove", (event) => this.move(event));
    canvas.addEventListener("pointerup", (event) => this.up(event));
    canvas.addEventListener("pointerleave", () => {
      this.pointer = null;
      this.draw();
    });
    canvas.addEventListener("dblclick", () => this.tool === "polygon" && this.closePolygon());
  }

  setTool(name) {
    this.tool = name;
    this.polygon = [];
    this.canvas.dataset.tool = name;
    this.draw();
  }

  down(event) {
    this.canvas.focus({ preventScroll: true });
    this.canvas.setPointerCapture(event.pointerId);
    const at = this.toImage(event), negative = event.button === 2 || event.altKey;
    if (event.button === 1 || this.tool === "move") {
      this.drag = { pan: [event.clientX, event.clientY], view: this.placed() };
    } else if (this.shown.index !== this.store.frame) {
      return; // marks belong to exact frames only
    } else if (this.tool === "points") {
      if (this.inside(at)) this.tools("point", { x: at[0], y: at[1], sign: negative ? -1 : 1 });
    } else if (this.tool === "box") {
      this.drag = { box: [...at, ...at] };
    } else if (this.tool === "polygon") {
      this.polygon.push(this.clamped(at));
      this.draw();
    } else if (this.tool === "brush" || this.tool === "eraser") {
      if (!this.tools("stroke-begin")) return;
      this.drag = { stroke: true, erase: this.tool === "eraser" || negative };
      this.dab(at, at);
    }
  }

  move(event) {
    const at = this.toImage(event), { drag } = this;
    this.pointer = at;
    if (drag?.pan) {
      const ratio = this.canvas.width / this.canvas.clientWidth;
      this.view = { ...drag.view, x: drag.view.x + (event.clientX - drag.pan[0]) * ratio,
        y: drag.view.y + (event.clientY - drag.pan[1]) * ratio };
    } else if (drag?.box) {
      drag.box.splice(2, 2, ...at);
    } else if (drag?.stroke) {
      this.dab(drag.last, at);
    }
    if (drag || this.tool === "brush" || this.tool === "eraser") this.draw();
  }

  up() {
    const { drag } = this;
    this.drag = null;
    if (drag?.box) {
      const [a, b] = [this.clamped(drag.box.slice(0, 2)), this.clamped(drag.box.slice(2))];
      const box = [Math.min(a[0], b[0]), Math.min(a[1], b[1]), Math.max(a[0], b[0]), Math.max(a[1], b[1])];
      if (box[2] - box[0] >= 4 && box[3] - box[1] >= 4) this.tools("box", { box });
    } else if (drag?.stroke) {
      this.tools("stroke-end");
    }
    this.draw();
  }

  inside([x, y]) {
    return x >= 0 && y >= 0 && x < this.store.state.width && y < this.store.state.height;
  }

  clamped([x, y]) {
    return [Math.max(0, Math.min(this.store.state.width, x)), Math.max(0, Math.min(this.store.state.height, y))];
  }

  closePolygon() {
    const polygon = this.polygon;
    this.polygon = [];
    if (polygon.length >= 3) this.tools("polygon", { polygon });
    this.draw();
  }

  /** Paint or erase along a line, at once and locally. */
  dab([x0, y0], [x1, y1]) {
    const { width, height } = this.store.state, { labels } = this.painting, radius = this.brush;
    const id = this.store.object, locked = new Set(this.store.objects.filter((o) => o.locked).map((o) => o.id));
    const steps = Math.max(1, Math.ceil(Math.hypot(x1 - x0, y1 - y0) / Math.max(1, radius / 2)));
    for (let step = 0; step <= steps; step++) {
      const cx = x0 + ((x1 - x0) * step) / steps, cy = y0 + ((y1 - y0) * step) / steps;
      for (let y = Math.max(0, Math.ceil(cy - radius)); y <= Math.min(height - 1, cy + radius); y++) {
        const half = Math.sqrt(Math.max(0, radius * radius - (y - cy) ** 2));
        for (let x = Math.max(0, Math.ceil(cx - half)); x <= Math.min(width - 1, cx + half); x++) {
          const at = y * width + x;
          if (this.drag.erase) {
            if (labels[at] === id) labels[at] = 0;
          } else if (!locked.has(labels[at])) labels[at] = id;
        }
      }
    }
    this.drag.last = [x1, y1];
    this.draw();
  }

  moveCross(dx, dy) {
    const { width, height } = this.store.state;
    this.cross = [Math.max(0, Math.min(width - 1, this.cross[0] + dx)), Math.max(0, Math.min(height - 1, this.cross[1] + dy))];
    this.draw();
  }
}
