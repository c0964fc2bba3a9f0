// Playing: images follow the sound, or the clock where there is none.
import { h } from "./dom.js";
import { getJson } from "./api.js";

export class Player {
  constructor(editor) {
    this.editor = editor;
    this.playing = this.restart = null;
    this.rate = 1;
    this.button = h("button", { title: "Play, pause (Space)", "aria-label": "Play, pause (Space)", onclick: () => editor.run("play") }, "Play");
    this.speed = h("select", { "aria-label": "Speed of playing", title: "Speed of playing", onchange: () => this.setSpeed() },
      [0.25, 0.5, 1, 2].map((times) => h("option", { value: times, text: `${times}x` })));
    this.speed.value = 1;
    this.soundButton = h("button", { text: "Sound", title: "Sound while playing", "aria-pressed": "true", hidden: true, onclick: () => {
      this.audio.muted = !this.audio.muted;
      this.soundButton.setAttribute("aria-pressed", !this.audio.muted);
    } });
  }

  async load() {
    try {
      if (!(await getJson(`${this.editor.base}/sound`)).sound) return;
      this.audio = h("audio", { src: `/api/${this.editor.base}/audio`, preload: "auto" });
      this.audio.playbackRate = this.rate;
      this.soundButton.hidden = false;
    } catch { /* it is played without sound */ }
  }

  /** Play at another speed, from here on. */
  setSpeed() {
    if (this.playing) this.restart?.();
    this.rate = Number(this.speed.value);
    if (this.audio) this.audio.playbackRate = this.rate;
  }

  async play() {
    const { audio } = this, { store, stage } = this.editor;
    if (this.playing) return this.pause();
    this.editor.follow = false;
    this.playing = true;
    this.button.textContent = "Pause";
    if (store.frame >= store.state.out) store.seek(store.state.in);
    const from = store.times[store.frame];
    if (audio) {
      audio.currentTime = from;
      await audio.play().catch(() => null);
      if (!this.playing) return audio.pause();
    }
    // The sound is the clock: images follow it, late ones are left out. Where it ends, or there is none, time goes on
    let begun = performance.now(), since = from;
    const now = () => since + (this.rate * (performance.now() - begun)) / 1000;
    this.restart = () => ([since, begun] = [now(), performance.now()]);
    const step = () => {
      if (audio && !audio.paused && !audio.ended) [begun, since] = [performance.now(), audio.currentTime];
      let frame = store.frame;
      while (frame < store.state.out && store.times[frame + 1] <= now()) frame++;
      if (frame !== store.frame) {
        store.seek(frame);
        stage.frames.prefetch(Array.from({ length: 8 }, (_, i) => frame + 1 + i), stage.scrubHeight);
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
    this.button.textContent = "Play";
    this.editor.stage.seek();
  }
}
