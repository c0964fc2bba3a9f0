// The image: frame, masks and marks on a canvas, and the tools that work on it.
import { h, paintSoon } from "./dom.js";
import { Frames } from "./frames.js";
import { labelsOf } from "./wire.js";

const SCRUB_HEIGHT = 540;
const REST_MS = 300;
const DRAG_REST_MS = 120; // a pointer that rests so long wants the exact frame
export const PAINTED = 1, ERASED = 2; // of a pixel that a stroke has touched
export const UNNUMBERED = 255; // the label of an object that the server has not numbered yet
const NEAR_MS = 60; // an exact frame that takes longer is announced by one near it

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
    this.badge = h("div", { class: "badge", hidden: true });
    this.under = h("div", { class: "badge under", hidden: true }); // what the pointer is on
    this.element = h("div", { class: "stage-box" }, this.canvas, this.badge, this.under);
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

  /** Whether the image is that of the playhead's frame: marks are made on no other. */
  get exact() {
    return this.shown.bitmap !== null && this.shown.index === this.store.frame;
  }

  /**
   * Ask for the frame at the playhead: small at once, at its own size when the playhead rests. Where it is not there
   * soon, and while somebody drags along the time line, a frame near it is shown, which the badge names.
   * moving: it is played, or follows the tracking, and moves on by itself.
   */
  seek({ moving = false, dragging = false } = {}) {
    const { frame, state } = this.store, height = this.scrubHeight;
    this.moving = moving;
    for (const timer of [this.rest, this.pause, this.slow]) clearTimeout(timer);
    if (dragging) {
      this.frames.wantNear(frame, height);
      this.pause = setTimeout(() => this.store.emit("rest"), DRAG_REST_MS);
      this.last = frame;
      return this.nameFrame();
    }
    this.store.need(frame);
    if (!moving && state.quick) {
      // A copy has every frame at once; who rests sees the video itself
      this.frames.wantNear(frame, height);
      this.rest = setTimeout(() => this.frames.want(this.store.frame, Math.min(state.width, state.height)), REST_MS);
      this.last = frame;
      return this.nameFrame();
    }
    this.frames.want(frame, height);
    if (!moving) {
      this.slow = setTimeout(() => this.exact || this.frames.wantNear(this.store.frame, height), NEAR_MS);
      const whole = Math.min(state.width, state.height);
      if (whole > height) this.rest = setTimeout(() => this.frames.want(this.store.frame, whole), REST_MS);
      if (frame > (this.last ?? frame)) this.frames.prefetch([frame + 1, frame + 2], height);
    }
    this.last = frame;
    return this.nameFrame();
  }

  /** Show a frame that has come, unless the one on the screen is nearer to the playhead. */
  take(index, bitmap, problem) {
    const { frame } = this.store, away = Math.abs(index - frame);
    const known = this.shown.bitmap;
    if (away && (!bitmap || (known && away >= Math.abs(this.shown.index - frame)))) return;
    if (problem) this.store.emit("problem");
    // It is there, and larger; or cannot be fetched again
    if (known && index === this.shown.index && (bitmap?.width ?? 0) < known.width) return;
    if (!away || problem) this.problem = problem; // a frame near one that cannot be shown does not mend that
    this.shown = { index, bitmap };
    this.frames.shown = bitmap;
    this.canvas.dataset.frame = index;
    this.nameFrame();
    this.draw();
  }

  /** Say which frame is on the screen where it is not the playhead's, unless that is about to come. */
  nameFrame() {
    clearTimeout(this.naming);
    const show = () => {
      const { frame } = this.store, other = !this.moving && this.shown.bitmap && this.shown.index !== frame;
      this.badge.hidden = !other && !this.problem;
      if (this.problem) this.badge.textContent = this.problem;
      else if (other) this.badge.textContent = `≈ frame ${this.shown.index} is shown, ${frame} is being decoded`;
    };
    if (this.exact || this.problem || !this.badge.hidden) show();
    else this.naming = setTimeout(show, NEAR_MS);
  }

  resize() {
    const ratio = devicePixelRatio || 1;
    const { clientWidth, clientHeight } = this.element;
    this.canvas.width = Math.max(1, Math.round(clientWidth * ratio));
    this.canvas.height = Math.max(1, Math.round(clientHeight * ratio));
    this.paint(); // at once: its new size has cleared it
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
    paintSoon(this);
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
    if (this.showMasks) this.paintMask(context);
    if (exact) this.onPaint?.(context, scale);
    if (exact) this.paintMarks(context, scale);
  }

  /** The mask of the frame on the screen: what is being painted, else a preview, else the stored one. */
  current() {
    const { preview, masks } = this.store, { index } = this.shown;
    if (this.painting?.frame === index) return this.painting;
    if (preview && preview.frame === index) return preview;
    return masks.get(index) ?? null;
  }

  labels() {
    const mask = this.current();
    if (!mask) return null;
    if (mask.labels) return mask.labels; // being painted
    if (this.decoded?.mask !== mask) this.decoded = { mask, labels: labelsOf(mask) };
    return this.decoded.labels;
  }

  paintMask(context) {
    const exact = this.shown.index === this.store.frame;
    const labels = this.overlay ? exact && this.overlay : this.labels(); // the overlay is the playhead's
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
    const colours = this.palette ?? [...this.store.objects, { id: UNNUMBERED, colour: "#888888" }];
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
          if (before && before !== UNNUMBERED) note(before, row, begin, column);
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

  /** The marks of the chosen object at the playhead: those of a preview, else those that are kept. */
  marks() {
    const { frame, object, state } = this.store;
    if (this.draft?.frame === frame) return this.draft;
    return state.marks.find((mark) => mark.frame === frame && mark.object === object);
  }

  paintMarks(context, scale) {
    const unit = (devicePixelRatio || 1) / scale, { drag } = this;
    for (const point of this.marks()?.points ?? []) {
      const [x, y] = drag?.moved && drag.point === point ? drag.to : point, sign = point[2];
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
      this.under.hidden = true;
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
      return;
    }
    this.store.emit("scrub"); // tracking no longer moves the playhead
    if (this.tool === "points") {
      const from = this.marks()?.points?.find(([x, y]) => Math.hypot(x - at[0], y - at[1]) <= this.reach);
      if (from) this.drag = { point: from, to: at }; // a click takes it away, a drag moves it
      else if (this.inside(at)) this.tools("point", { x: at[0], y: at[1], sign: negative ? -1 : 1 });
    } else if (this.tool === "box") {
      if (this.tools("ready")) this.drag = { box: [...at, ...at] };
    } else if (this.tool === "polygon") {
      if (this.tools("ready")) this.polygon.push(this.clamped(at));
      this.draw();
    } else if (this.tool === "brush" || this.tool === "eraser") {
      const erase = this.tool === "eraser" || negative;
      if (!this.tools("stroke-begin", { erase })) return;
      this.drag = { stroke: true, erase };
      this.dab(at, at);
    }
  }

  /** The playhead is about to move: what is being drawn belongs to the frame that it leaves. */
  finishDrag() {
    const { drag } = this;
    this.drag = null;
    this.polygon = [];
    if (drag?.stroke) this.tools("stroke-end");
  }

  move(event) {
    const at = this.toImage(event), { drag } = this;
    this.pointer = at;
    const name = this.nameAt && this.inside(at) ? this.nameAt(at) : null;
    this.under.hidden = !name;
    this.under.textContent = name ?? "";
    if (drag?.pan) {
      const ratio = this.canvas.width / this.canvas.clientWidth;
      this.view = { ...drag.view, x: drag.view.x + (event.clientX - drag.pan[0]) * ratio,
        y: drag.view.y + (event.clientY - drag.pan[1]) * ratio };
    } else if (drag?.box) {
      drag.box.splice(2, 2, ...at);
    } else if (drag?.point) {
      drag.to = this.clamped(at);
      drag.moved ||= Math.hypot(at[0] - drag.point[0], at[1] - drag.point[1]) > this.reach;
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
    } else if (drag?.point) {
      const [x, y, sign] = drag.point;
      this.tools("point", { x, y, sign, to: drag.moved ? drag.to : null });
    } else if (drag?.stroke) {
      this.tools("stroke-end");
    }
    this.draw();
  }

  /** How far a pointer may be from a point to mean it, in pixels of the image. */
  get reach() {
    return (8 * (devicePixelRatio || 1)) / this.placed().scale;
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
    const { width, height } = this.store.state, { labels, touched, object: id } = this.painting, radius = this.brush;
    const locked = new Set(this.store.objects.filter((o) => o.locked).map((o) => o.id));
    const steps = Math.max(1, Math.ceil(Math.hypot(x1 - x0, y1 - y0) / Math.max(1, radius / 2)));
    for (let step = 0; step <= steps; step++) {
      const cx = x0 + ((x1 - x0) * step) / steps, cy = y0 + ((y1 - y0) * step) / steps;
      for (let y = Math.max(0, Math.ceil(cy - radius)); y <= Math.min(height - 1, cy + radius); y++) {
        const half = Math.sqrt(Math.max(0, radius * radius - (y - cy) ** 2));
        for (let x = Math.max(0, Math.ceil(cx - half)); x <= Math.min(width - 1, cx + half); x++) {
          const at = y * width + x;
          if (this.drag.erase) {
            touched[at] = ERASED;
            if (labels[at] === id) labels[at] = 0;
          } else if (!locked.has(labels[at])) {
            touched[at] = PAINTED;
            labels[at] = id;
          }
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
