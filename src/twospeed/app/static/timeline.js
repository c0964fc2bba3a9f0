// The timeline: what has masks, what is to be computed, and the confidence of each object.
import { clock, h, paintSoon } from "./dom.js";

const LANE = 14;

export class Timeline {
  constructor(store) {
    this.store = store;
    this.range = null; // frames shown; null is all
    this.planned = null;
    this.view = null; // what is drawn in place of the curves
    this.canvas = h("canvas", { class: "timeline", tabindex: 0, role: "slider", "aria-label": "Frame", "aria-valuemin": 0 });
    this.element = h("div", { class: "timeline-box" }, this.canvas);
    this.canvas.addEventListener("pointerdown", (event) => {
      this.canvas.setPointerCapture(event.pointerId);
      this.dragging = true;
      this.jump(event);
    });
    this.canvas.addEventListener("pointermove", (event) => this.dragging && this.jump(event));
    for (const end of ["pointerup", "pointercancel"]) {
      this.canvas.addEventListener(end, () => {
        this.dragging = false;
        this.store.emit("rest");
      });
    }
    this.canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.zoom(Math.exp(event.deltaY / 400), event);
    }, { passive: false });
    this.observer = new ResizeObserver(() => this.draw());
    this.observer.observe(this.element);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
  }

  /** Show a view of results in place of the curves; null shows those. */
  show(view) {
    this.view = view;
    this.draw();
  }

  close() {
    this.observer.disconnect();
  }

  get shown() {
    return this.range ?? [0, Math.max(1, this.store.state.frames - 1)];
  }

  x(frame) {
    const [first, last] = this.shown, margin = 6 * this.ratio;
    return margin + ((frame - first) / (last - first)) * (this.canvas.width - 2 * margin);
  }

  frameAt(event) {
    const box = this.canvas.getBoundingClientRect(), [first, last] = this.shown;
    const share = (event.clientX - box.left - 6) / Math.max(1, box.width - 12);
    return first + Math.max(0, Math.min(1, share)) * (last - first);
  }

  jump(event) {
    this.store.emit("scrub");
    this.store.seek(this.frameAt(event));
  }

  zoom(factor, event) {
    const frames = this.store.state.frames, [first, last] = this.shown, at = this.frameAt(event);
    const length = Math.max(20, Math.min(frames - 1, (last - first) * factor));
    if (length >= frames - 1) this.range = null;
    else {
      const begin = Math.max(0, Math.min(frames - 1 - length, at - ((at - first) / (last - first)) * length));
      this.range = [begin, begin + length];
    }
    this.draw();
  }

  draw() {
    paintSoon(this);
  }

  paint() {
    const { canvas, store } = this, { state, kinds, frame } = store;
    this.ratio = devicePixelRatio || 1;
    const rows = Math.max(3, this.view?.lanes ?? 0);
    if (this.element.dataset.rows !== String(rows)) this.element.dataset.rows = rows;
    const ratio = this.ratio;
    canvas.width = Math.max(1, Math.round(this.element.clientWidth * ratio));
    canvas.height = Math.max(1, Math.round(this.element.clientHeight * ratio));
    canvas.setAttribute("aria-valuemax", state.frames - 1);
    canvas.setAttribute("aria-valuenow", frame);
    canvas.setAttribute("aria-valuetext", `frame ${frame} of ${state.frames - 1}, ${clock(store.times[frame] ?? 0)}`);
    const context = canvas.getContext("2d"), style = getComputedStyle(canvas);
    const colour = (name) => style.getPropertyValue(name).trim();
    const [first, last] = this.shown, lane = LANE * ratio, top = 4 * ratio;
    // In and out
    context.fillStyle = colour("--lane");
    context.fillRect(this.x(first), top, this.x(last) - this.x(first), lane);
    context.fillStyle = colour("--outside");
    context.fillRect(0, 0, this.x(state.in), canvas.height);
    context.fillRect(this.x(state.out), 0, canvas.width, canvas.height);
    // Masks, a column of pixels at a time
    const width = canvas.width, step = (last - first) / width;
    for (let column = 0; column < width; column++) {
      const from = Math.round(first + column * step), kind = kinds[from];
      if (!kind || from > last) continue;
      const hatched = kind & 4 && Math.floor(column / (3 * ratio)) % 2;
      context.fillStyle = colour(hatched ? "--lane" : "--tracked");
      context.fillRect(this.x(from), top, Math.max(1, 1 / step), lane);
    }
    if (this.planned) {
      context.strokeStyle = colour("--accent");
      context.lineWidth = 2 * ratio;
      for (const part of this.planned) {
        const [a, b] = [Math.min(part.first, part.last), Math.max(part.first, part.last)];
        context.strokeRect(this.x(a), top, Math.max(2, this.x(b) - this.x(a)), lane);
      }
    }
    context.fillStyle = colour("--text");
    for (const key of state.keyframes) {
      if (key < first || key > last) continue;
      const x = this.x(key), y = top + lane / 2, r = 5 * ratio;
      context.beginPath();
      context.moveTo(x, y - r);
      context.lineTo(x + r, y);
      context.lineTo(x, y + r);
      context.lineTo(x - r, y);
      context.fill();
    }
    const where = { context, timeline: this, top: top + lane + 6 * ratio, bottom: canvas.height - 4 * ratio, colour };
    if (this.view) this.view.paint(where);
    else this.paintCurves(context, where.top, where.bottom, colour);
    context.strokeStyle = colour("--accent");
    context.lineWidth = 2 * ratio;
    context.beginPath();
    context.moveTo(this.x(frame), 0);
    context.lineTo(this.x(frame), canvas.height);
    context.stroke();
  }

  paintCurves(context, top, bottom, colour) {
    const { store } = this, [first, last] = this.shown;
    let least = 1, most = 0;
    for (const curve of store.curves.values()) {
      for (const value of curve) {
        if (value > 0) {
          least = Math.min(least, value);
          most = Math.max(most, value);
        }
      }
    }
    if (most <= 0) return;
    const span = Math.max(0.02, most - least), y = (value) => bottom - ((value - least) / span) * (bottom - top);
    const step = Math.max(1, Math.floor((last - first) / this.canvas.width));
    const order = [...store.objects].sort((a, b) => (a.id === store.object) - (b.id === store.object));
    for (const { id, colour: own, hidden } of order) {
      const curve = store.curves.get(id);
      if (!curve || hidden) continue;
      context.strokeStyle = own;
      context.globalAlpha = id === store.object ? 1 : 0.45;
      context.lineWidth = (id === store.object ? 2 : 1) * this.ratio;
      context.beginPath();
      let pen = false;
      for (let i = Math.floor(first); i <= last; i += step) {
        let value = curve[i];
        for (let j = i; j < i + step && j <= last; j++) if (curve[j] < value) value = curve[j];
        if (!(value > 0)) pen = false;
        else if (pen) context.lineTo(this.x(i), y(value));
        else {
          context.moveTo(this.x(i), y(value));
          pen = true;
        }
      }
      context.stroke();
    }
    context.globalAlpha = 1;
    context.fillStyle = colour("--text");
    for (const worst of store.worst(5)) {
      const at = this.x(worst), level = y(store.curves.get(store.object)[worst]);
      context.beginPath();
      context.arc(at, level, 3 * this.ratio, 0, 7);
      context.fill();
    }
  }
}
