// What the page knows of a project: the server's state, the masks near the playhead, and what is selected.
import { base64ToBytes } from "./dom.js";
import { getJson, request } from "./api.js";
import { TRACKED, parse, parseMany } from "./wire.js";

const MOST_MASK_BYTES = 64 << 20;
const AHEAD = 24; // masks fetched at once

export class Store extends EventTarget {
  constructor(project) {
    super();
    this.project = project;
    this.frame = 0;
    this.object = null;
    this.preview = null;      // a mask that is not kept yet
    this.masks = new Map();   // frame -> mask, the newest last
    this.maskBytes = 0;
    this.fetching = new Set();
  }

  /** Fetch everything but masks. */
  async load() {
    const state = await getJson(`p/${this.project}`);
    this.state = state;
    this.rev = state.rev;
    this.times = new Float64Array(base64ToBytes(state.times_s).buffer);
    // 0 no mask, 1 tracked, 2 keyframe; +4 stale
    this.kinds = new Uint8Array(state.frames);
    for (const [first, last] of state.tracked) this.kinds.fill(1, first, last + 1);
    for (const frame of state.keyframes) this.kinds[frame] = 2;
    for (const [first, last] of state.stale) for (let i = first; i <= last; i++) this.kinds[i] |= 4;
    this.curves = new Map(Object.entries(state.curves).map(([id, text]) =>
      [Number(id), new Float32Array(base64ToBytes(text).buffer)]));
    if (!state.objects.some((entry) => entry.id === this.object)) this.object = state.objects[0]?.id ?? null;
    this.emit("state");
  }

  get objects() {
    return this.state.objects;
  }

  get selected() {
    return this.objects.find((entry) => entry.id === this.object) ?? null;
  }

  get job() {
    return this.state.jobs.find((job) => job.state === "running" || job.state === "queued") ?? null;
  }

  /** Seconds -> frame, with its fraction. */
  frameAt(seconds) {
    const { times } = this;
    let low = 0, high = times.length - 1;
    if (seconds <= times[0]) return 0;
    if (seconds >= times[high]) return high;
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (times[middle] <= seconds) low = middle;
      else high = middle;
    }
    return low + (seconds - times[low]) / (times[high] - times[low]);
  }

  emit(name, detail = null) {
    this.dispatchEvent(new CustomEvent(name, { detail }));
  }

  /** Show another frame. */
  seek(frame) {
    frame = Math.max(0, Math.min(this.state.frames - 1, Math.round(frame)));
    if (frame === this.frame) return;
    const left = this.frame;
    this.frame = frame;
    this.emit("leave", left);
    this.emit("frame");
  }

  select(id) {
    if (id === this.object) return;
    this.emit("leave", this.frame);
    this.object = id;
    this.emit("state");
  }

  /** Take a mask from the server. */
  put(mask) {
    const old = this.masks.get(mask.frame);
    if (old && old.rev > mask.rev) return;
    if (old) this.maskBytes -= old.lengths.length * 2;
    this.masks.delete(mask.frame);
    this.masks.set(mask.frame, mask);
    this.maskBytes += mask.lengths.length * 2;
    for (const frame of this.masks.keys()) {
      if (this.maskBytes <= MOST_MASK_BYTES) break;
      this.forget(frame);
    }
    this.kinds[mask.frame] = (mask.source === TRACKED ? 1 : 2) + (mask.stale ? 4 : 0);
    for (const [id, value] of mask.confidence) {
      if (!this.curves.has(id)) this.curves.set(id, new Float32Array(this.state.frames).fill(NaN));
      this.curves.get(id)[mask.frame] = value;
    }
    if (mask.frame === this.frame) this.emit("mask");
  }

  forget(frame) {
    const old = this.masks.get(frame);
    if (!old) return;
    this.maskBytes -= old.lengths.length * 2;
    this.masks.delete(frame);
  }

  /** Fetch the masks at and behind a frame, where there are any that are not here. */
  async need(frame) {
    if (!(this.kinds[frame] & 3) || this.masks.has(frame) || this.fetching.has(frame)) return;
    const last = Math.min(this.state.frames - 1, frame + AHEAD);
    for (let i = frame; i <= last; i++) this.fetching.add(i);
    try {
      const response = await request("GET", `p/${this.project}/masks`, { query: { first: frame, last } });
      for (const mask of parseMany(await response.arrayBuffer())) this.put(mask);
    } catch { /* the banner of the connection says so */ } finally {
      for (let i = frame; i <= last; i++) this.fetching.delete(i);
    }
  }

  /** Masks of these frames changed: fetch what is shown, forget the others. */
  async refetch(frames) {
    for (const frame of frames) this.forget(frame);
    if (frames.includes(this.frame)) {
      const response = await request("GET", `p/${this.project}/mask/${this.frame}`);
      if (response.status === 204) this.emit("mask");
      else this.put(parse(await response.arrayBuffer()));
    }
  }

  /** Keyframe beside the playhead, or null. direction: -1 or 1. */
  keyBeside(direction) {
    for (let i = this.frame + direction; i >= 0 && i < this.state.frames; i += direction) {
      if ((this.kinds[i] & 3) === 2) return i;
    }
    return null;
  }

  /** Frames at which the selected object's confidence has its deepest dips, the deepest first. */
  worst(most = 10) {
    const curve = this.curves.get(this.object);
    if (!curve) return [];
    const dips = [];
    for (let i = 0; i < curve.length; i++) {
      const value = curve[i];
      if (Number.isNaN(value) || value === 0 || (this.kinds[i] & 3) !== 1) continue;
      if (value <= curve[i - 1] && value < curve[i + 1]) dips.push(i); // false beside frames without a value
    }
    dips.sort((a, b) => curve[a] - curve[b]);
    const chosen = [];
    for (const dip of dips) {
      if (chosen.every((other) => Math.abs(other - dip) > 5)) chosen.push(dip);
      if (chosen.length === most) break;
    }
    return chosen;
  }
}

/** Keep a connection to the server; calls on.mask, on.message, on.state("open" | "closed"). */
export class Live {
  constructor(store, tab, on) {
    Object.assign(this, { store, tab, on, delay: 250, closed: false });
    this.connect();
  }

  connect() {
    const { project, rev } = this.store;
    this.socket = new WebSocket(`ws://${location.host}/api/p/${project}/live?tab=${this.tab}&rev=${rev}`);
    this.socket.binaryType = "arraybuffer";
    this.socket.onopen = () => {
      this.delay = 250;
      this.on.state("open");
    };
    this.socket.onmessage = ({ data }) => {
      if (typeof data === "string") this.on.message(JSON.parse(data));
      else this.on.mask(parse(data));
    };
    this.socket.onclose = () => {
      if (this.closed) return;
      this.on.state("closed");
      this.timer = setTimeout(() => this.closed || this.connect(), this.delay);
      this.delay = Math.min(4000, 2 * this.delay);
    };
  }

  /** Try again at once. */
  retry() {
    if (this.socket.readyState !== WebSocket.CLOSED) return;
    clearTimeout(this.timer);
    this.connect();
  }

  close() {
    this.closed = true;
    this.socket.close();
  }
}
