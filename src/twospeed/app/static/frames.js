// Frames as bitmaps by index, from the server.

const MOST_BITMAPS = 48;

/**
 * Exact frames: one request at a time, the newest wish wins. Beside it, the frame that is there soonest near a wanted
 * one: to be shown, as another than the wanted one, until that comes.
 * onFrame(index, bitmap, problem) is called with each that came; index is always the bitmap's own. Who shows one says so
 * by `shown`: it is not closed then.
 */
export class Frames {
  constructor(store, onFrame) {
    Object.assign(this, { store, onFrame, bitmaps: new Map(), ahead: [] });
    this.busy = this.nearBusy = false;
    this.wanted = this.wantedNear = null;
  }

  key(index, height) {
    return `${index}@${height}`;
  }

  want(index, height) {
    this.wanted = [index, height];
    this.pump();
  }

  wantNear(index, height) {
    this.wantedNear = [index, height];
    this.pumpNear();
  }

  prefetch(indices, height) {
    this.ahead = indices.filter((i) => i < this.store.state.frames && !this.bitmaps.has(this.key(i, height)))
      .map((i) => [i, height]);
    this.pump();
  }

  async fetch(index, height, query = "") {
    const { project, state } = this.store;
    const response = await fetch(`/api/p/${project}/frame/${index}?h=${height}&v=${state.fingerprint.slice(0, 12)}${query}`);
    if (!response.ok) throw new Error((await response.json()).error);
    return [Number(response.headers.get("x-frame")), await createImageBitmap(await response.blob())];
  }

  keep(key, bitmap) {
    this.bitmaps.set(key, bitmap);
    if (this.bitmaps.size <= MOST_BITMAPS) return;
    const [old, dropped] = this.bitmaps.entries().next().value;
    this.bitmaps.delete(old);
    if (dropped !== this.shown) dropped.close();
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
        [, bitmap] = await this.fetch(index, height);
        this.keep(key, bitmap);
      }
      if (asked) this.onFrame(index, bitmap, null);
    } catch (error) {
      if (asked) this.onFrame(index, null, error.message);
    } finally {
      this.busy = false;
      if (this.wanted || this.ahead.length) this.pump();
    }
  }

  async pumpNear() {
    if (this.nearBusy || !this.wantedNear) return;
    // Those from a copy of the video are kept apart: who rests on a frame is to see the video's own image
    const nearKey = (at) => `near ${this.key(at, height)}`;
    const [index, height] = this.wantedNear, known = this.bitmaps.get(this.key(index, height)) ?? this.bitmaps.get(nearKey(index));
    this.wantedNear = null;
    if (known) return this.onFrame(index, known, null);
    this.nearBusy = true;
    try {
      const [near, bitmap] = await this.fetch(index, height, "&near=1"), key = nearKey(near);
      if (this.bitmaps.has(key)) bitmap.close();
      else this.keep(key, bitmap);
      this.onFrame(near, this.bitmaps.get(key), null);
    } catch { /* the exact frame, asked for too, says what is wrong */ } finally {
      this.nearBusy = false;
      this.pumpNear();
    }
  }
}
