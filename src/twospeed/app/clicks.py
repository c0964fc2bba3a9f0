"""From a person's marks on one frame to a region: prompts go to a worker process of their own, polygons are filled."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from subprocess import PIPE

import cv2
import numpy as np
from numpy.typing import NDArray

from twospeed.app import pipe, wire
from twospeed.environment import use_threads_well
from twospeed.errors import InputError, MaskError

Mask = NDArray[np.bool_]


def fill_polygon(polygon: Sequence[tuple[float, float]], size: tuple[int, int]) -> Mask:
    """Return the region inside a polygon of corners (x, y): bool (H, W). Raises MaskError for fewer than three."""
    if len(polygon) < 3:
        raise MaskError(f"a polygon of {len(polygon)} corners has no area; give three or more")
    plane = np.zeros(size, np.uint8)
    cv2.fillPoly(plane, [np.round(np.array(polygon)).astype(np.int32)], 1)
    return plane > 0


class Prompter:
    """`mask_from_prompts` in a process of its own: networks never run in the server, and clicks do not wait for jobs.

    Safe to use from several threads, one after the other.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._count = 0

    def start(self) -> None:
        """Start the process, so that its imports do not delay the first click."""
        with self._lock:
            self._running()

    def close(self) -> None:
        """End the process."""
        if (process := self._process) is not None:
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout):
                with suppress(OSError):
                    if stream is not None:
                        stream.close()

    def region(
        self,
        source: Path,
        frame: int,
        points: Sequence[tuple[float, float, int]],
        box: tuple[float, float, float, float] | None,
        start: Mask | None,
    ) -> Mask:
        """Return what the prompts describe. Raises InputError as `mask_from_prompts`, or where the process ended."""
        with self._lock:
            process = self._running()
            assert process.stdin is not None
            assert process.stdout is not None
            self._count += 1
            job = {"id": self._count, "kind": "mark", "source": str(source), "frame": frame}
            try:
                if start is not None:
                    mask = wire.mask_of(start.astype(np.uint8), frame)
                    process.stdin.write(pipe.message(pipe.MASK, mask.to_bytes()))
                process.stdin.write(pipe.json_message(t="job", **job, points=list(points), box=box))
                process.stdin.flush()
            except OSError:
                raise InputError("the process that draws masks ended; try again") from None
            found: Mask | None = None
            while (received := pipe.read(process.stdout)) is not None:
                kind, payload = received
                if kind == pipe.MASK:
                    found = wire.parse(payload).labels() > 0
                    continue
                content = json.loads(payload)
                if content.get("job") == self._count and content["t"] == "failed":
                    raise MaskError(content["error"])
                if content.get("job") == self._count and content["t"] == "done" and found is not None:
                    return found
            raise InputError("the process that draws masks ended; try again")

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            environment = {**os.environ}
            use_threads_well(environment)
            command = [sys.executable, "-m", "twospeed.app.worker", "--prompts"]
            self._process = subprocess.Popen(command, stdin=PIPE, stdout=PIPE, env=environment, start_new_session=True)
        return self._process
