"""`python -m twospeed.app.worker [--prompts]`: the process in which networks run, one job at a time.

A second one, with --prompts, turns clicks into masks, so that they never wait for tracking.

Jobs and `stop` come by standard input, results leave by standard output, both as `pipe` has them. It ends when
standard input does, so that it never outlives the server.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, BinaryIO

from twospeed.app import pipe, wire
from twospeed.app.plan import as_range
from twospeed.app.probe import end_with_parent

MEMORY_FRAMES = 20
ACTIONS_KEPT = 20  # of each window: what is left out has a probability of 1/21 at most


class Worker:
    """Reads messages on a thread of its own, and works on the main thread."""

    def __init__(self, source: BinaryIO, target: BinaryIO, *, for_prompts: bool = False) -> None:
        self._for_prompts = for_prompts
        self._source, self._target = source, target
        self._jobs: queue.Queue[tuple[dict[str, Any], list[bytes]]] = queue.Queue()
        self._stopped: set[int] = set()
        self._trackers: dict[str, Any] = {}
        self._reported = 0.0

    def run(self) -> None:
        """Work until the process is ended."""
        threading.Thread(target=self._listen, daemon=True).start()
        with contextlib.suppress(Exception):  # a job will say what is wrong
            # Takes seconds: before the first job comes
            if self._for_prompts:
                importlib.import_module("twospeed.pipelines.prompts").default_network()
            else:
                importlib.import_module("twospeed.pipelines.track")
        self._tell(t="ready")
        while True:
            job, masks = self._jobs.get()
            try:
                kinds: dict[str, Callable[[dict[str, Any], list[bytes]], None]] = {
                    "track": self._track,
                    "mark": self._mark,
                    "find": self._find,
                    "classify": self._classify,
                    "detect": self._detect,
                    "segment": self._segment,
                }
                kinds[job["kind"]](job, masks)
            except Exception as error:
                from twospeed.errors import TwospeedError

                text = str(error) if isinstance(error, TwospeedError) else f"{type(error).__name__}: {error}"
                self._tell(t="failed", job=job["id"], error=" ".join(text.split()))
            else:
                self._tell(t="stopped" if job["id"] in self._stopped else "done", job=job["id"])

    def _listen(self) -> None:
        masks: list[bytes] = []
        while (received := pipe.read(self._source)) is not None:
            kind, payload = received
            if kind != pipe.JSON:
                masks.append(payload)
                continue
            content = json.loads(payload)
            if content["t"] == "stop":
                self._stopped.add(content["job"])
            else:
                self._jobs.put((content, masks))
                masks = []
        os._exit(0)

    def _tell(self, **content: Any) -> None:
        self._send(pipe.json_message(**content))

    def _send(self, data: bytes) -> None:
        try:
            self._target.write(data)
            self._target.flush()
        except OSError:
            os._exit(0)

    def _report(self, job: dict[str, Any], text: str, done: int = 0) -> None:
        """Report what is being done, four times a second at most."""
        if time.monotonic() - self._reported > 0.25:
            self._reported = time.monotonic()
            self._tell(t="progress", job=job["id"], text=text, done=done, total=None)

    def _tracker(self, options: dict[str, Any], job: dict[str, Any]) -> Any:
        key = json.dumps(options, sort_keys=True)
        if key not in self._trackers:
            from twospeed.pipelines.tracker import Tracker

            self._trackers.clear()  # one network in memory
            self._trackers[key] = Tracker(
                options["model"],
                weights=options.get("weights", "default"),
                device=options.get("device"),
                size=options.get("size", 480),
                max_memory_frames=MEMORY_FRAMES,
                finetune=options.get("finetune"),
                on_progress=lambda p: self._report(job, f"fine-tuning {p.done} of {p.total}"),
            )
        tracker = self._trackers[key]
        tracker.on_progress = lambda p: self._report(job, f"fine-tuning {p.done} of {p.total}")
        return tracker

    def _track(self, job: dict[str, Any], masks: list[bytes]) -> None:
        """job: source, options, parts of {first, last}, gone by keyframe. masks: of the keyframes."""
        from twospeed.pipelines.propagate import frames_of, propagate

        keyframes = {mask.frame: mask.labels() for mask in map(wire.parse, masks)}
        gone = {int(frame): ids for frame, ids in job["gone"].items()}
        tracker, read = self._tracker(job["options"], job), frames_of(job["source"])
        tracker.reset()
        if tracker.finetune is not None:
            for frame in read(range(min(keyframes), min(keyframes) + 1)):
                tracker.learn(frame.image, keyframes[frame.index])
        for part in job["parts"]:
            for frame, result in propagate(read, tracker, keyframes, as_range(part), gone):
                if frame.index not in keyframes:
                    self._send_masks(frame.index, result)
                if job["id"] in self._stopped:
                    break
        tracker.reset()

    def _mark(self, job: dict[str, Any], masks: list[bytes]) -> None:
        """One object's region from prompts. job: source, frame, points, box. masks: the region to correct, if any."""
        from twospeed.pipelines.prompts import mask_from_prompts
        from twospeed.video.reader import read_frames

        (image,) = read_frames(job["source"], [job["frame"]])
        start = wire.parse(masks[0]).labels() > 0 if masks else None
        points = [(x, y, sign) for x, y, sign in job["points"]]
        region = mask_from_prompts(image, points, job["box"] and tuple(job["box"]), start)
        mask = wire.mask_of(region.astype("uint8"), job["frame"])
        self._send(pipe.message(pipe.MASK, mask.to_bytes()))

    def _send_masks(self, index: int, result: Any) -> None:
        confidence = dict(zip(result.object_ids, result.confidence.tolist(), strict=True))
        mask = wire.mask_of(result.labels, index, confidence, wire.TRACKED)
        self._send(pipe.message(pipe.MASK, mask.to_bytes()))

    def _find(self, job: dict[str, Any], masks: list[bytes]) -> None:
        """Objects without marks. job: source, first, last, options."""
        from dataclasses import replace

        from twospeed.pipelines.track import make_tracker
        from twospeed.video.reader import open_video

        options = job["options"]
        tracker = make_tracker(
            options["model"], weights=options.get("weights", "default"), device=options.get("device")
        )
        with open_video(job["source"], job["first"], job["last"] + 1) as frames:
            for frame, result in tracker.run(frames):
                self._send_masks(frame.index, replace(result, frame_index=frame.index))
                if job["id"] in self._stopped:
                    return

    def _classify(self, job: dict[str, Any], masks: list[bytes]) -> None:
        """What happens when: a window slides over the video. job: source, first, last, options."""
        from twospeed.pipelines.classify import Classifier

        options = job["options"]
        self._report(job, "classifying")
        classifier = Classifier(
            options["model"], crops=1, weights=options["weights"], device=options.get("device"), timeline=True,
            start=job["first"], end=job["last"] + 1,
        )  # fmt: skip
        scores = classifier.classify(
            job["source"], lambda _: self._report(job, f"classifying: {classifier.frames_seen} frames seen")
        )
        rows = scores.view_probabilities
        assert rows is not None  # of a timeline
        windows = [
            {
                "time_s": time_s,
                "top": [(scores.labels[c], float(row[c])) for c in (-row).argsort(kind="stable")[:ACTIONS_KEPT]],
            }
            for time_s, row in zip(scores.view_times_s.tolist(), rows, strict=True)
        ]
        content = {"top": scores.top(ACTIONS_KEPT), "windows": windows}
        self._tell(t="result", job=job["id"], kind="classify", frame=0, data=content)

    def _detect(self, job: dict[str, Any], masks: list[bytes]) -> None:
        """Who does what. job: source, first, last, options."""
        from twospeed.pipelines.detect import Detector

        options = job["options"]
        self._report(job, "loading the networks")
        detector = Detector(options["model"], weights=options["weights"], device=options.get("device"))
        for one in detector.detect(job["source"], start=job["first"], end=job["last"] + 1):
            if job["id"] in self._stopped:
                return
            class_ids = {label: number for number, label in enumerate(one.labels, start=1)}
            people = one.to_dict()["people"]
            for person in people:
                person["actions"] = [{**action, "class_id": class_ids[action["label"]]} for action in person["actions"]]
            content = {"time_s": one.time_s, "people": people}
            self._tell(t="result", job=job["id"], kind="detect", frame=round(one.time_s * 1000), data=content)
            self._report(job, f"{detector.frames_read} frames read", detector.frames_read)

    def _segment(self, job: dict[str, Any], masks: list[bytes]) -> None:
        """What every pixel is, and how much of each frame every class takes. job: source, first, last, options."""
        import numpy as np

        from twospeed.app.runs import class_colours
        from twospeed.pipelines.segment import Segmenter
        from twospeed.video.reader import open_video

        options = job["options"]
        segmenter = Segmenter(options["model"], weights=options.get("weights", "default"), device=options.get("device"))
        count = 0
        with open_video(job["source"], job["first"], job["last"] + 1) as frames:
            for frame, result in segmenter.steps(frames):
                if job["id"] in self._stopped:
                    return
                if not count:
                    classes = result.classes
                    count = len(result.scores)
                    names = list(classes.names) if classes else [f"class {i}" for i in range(count)]
                    content = {"names": names, "colours": class_colours(names)}
                    self._tell(t="result", job=job["id"], kind="classes", frame=0, data=content)
                shares = np.bincount(result.labels.ravel(), minlength=count) / result.labels.size
                areas = [round(float(share), 4) for share in shares]
                self._tell(t="result", job=job["id"], kind="areas", frame=frame.index, data=areas)
                runs = wire.mask_of(result.labels, frame.index).to_bytes()
                self._send(pipe.message(pipe.BYTES, runs))


def _main() -> None:
    end_with_parent()  # not even a killed server leaves it behind
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the server says when to end
    if "--prompts" not in sys.argv:  # somebody waits for those
        with contextlib.suppress(OSError, AttributeError):
            os.nice(5)
    target = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # prints of libraries do not mix with messages
    Worker(sys.stdin.buffer, target, for_prompts="--prompts" in sys.argv).run()


if __name__ == "__main__":
    _main()
