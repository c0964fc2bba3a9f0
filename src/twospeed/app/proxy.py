"""`python -m twospeed.app.proxy VIDEO FILE FRAMES`: a small copy of a video that is quick to jump in, to look at alone.

Image i of it is frame i of the video, at 540 lines or fewer, with a keyframe every 12: any is there within a few
milliseconds, where a video with long gaps between keyframes takes up to a second. Nothing is computed from it, and
who rests on a frame sees the video itself. It is made in a process of its own that gives way to jobs.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

from twospeed.app.probe import end_with_parent, limit_memory
from twospeed.app.store import Project
from twospeed.errors import TwospeedError, VideoError
from twospeed.files import remove_leftovers
from twospeed.video.seeking import index_packets
from twospeed.video.sources import find_source

SIDE, KEYFRAME_EVERY = 540, 12
LONGEST_GAP, LARGEST_SIDE = 30, 720  # of a video that is quick enough itself
LOOK_S = 0.5  # between two looks at whether a job runs


def proxy_of(project: Project) -> Path:
    """Where the copy is, once it is there: of the video as it is now."""
    return project.folder / f"proxy-{str(project.get('fingerprint'))[:12]}.mp4"


def is_slow(video: Path) -> bool:
    """Whether jumps in a video take long. Raises VideoError for what is none."""
    if find_source(video).kind != "file":
        return False
    index = index_packets(video)
    keys = [key.index for key in index.keyframes]
    return (
        not keys or min(index.size) > LARGEST_SIDE or max(b - a for a, b in pairwise([*keys, len(index)])) > LONGEST_GAP
    )


async def make_proxy(project: Project, video: Path, is_busy: Callable[[], bool]) -> bool:
    """Make the copy where there is none and the video is slow; returns whether there is a new one.

    is_busy: whether a job runs, for which this stops meanwhile.
    """
    target = proxy_of(project)
    with contextlib.suppress(TwospeedError):  # what is wrong with the video shows where it is looked at
        if target.exists() or not await asyncio.to_thread(is_slow, video):
            return False
        while is_busy():
            await asyncio.sleep(LOOK_S)
        command = ["-m", "twospeed.app.proxy", str(video), str(target), str(project.frames)]
        process = await asyncio.create_subprocess_exec(
            sys.executable, *command, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL
        )
        ended = asyncio.ensure_future(process.wait())
        try:
            paused = False
            while not (await asyncio.wait([ended], timeout=LOOK_S))[0]:
                if os.name == "posix" and paused != is_busy():
                    paused = not paused
                    process.send_signal(signal.SIGSTOP if paused else signal.SIGCONT)
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await ended
            remove_leftovers(target)
    return target.exists()


def _main(video: str, target: Path, frames: int) -> None:
    end_with_parent()
    limit_memory(12 * 3600)
    with contextlib.suppress(OSError, AttributeError):
        os.nice(10)
    from twospeed.video.reader import open_video
    from twospeed.video.writer import VideoWriter

    with open_video(video, ahead=0, damaged="stop") as reader:
        large = min(reader.info.width, reader.info.height) > SIDE
    with (
        open_video(video, damaged="stop", short_side=SIDE if large else None) as images,
        VideoWriter(target, quality=23, keyframe_every=KEYFRAME_EVERY) as writer,
    ):
        for frame in images:
            writer.write(frame.image)
        if writer.frames_written != frames:
            raise VideoError(f"{video}: {writer.frames_written} frames were read, the project has {frames}")


if __name__ == "__main__":
    try:
        _main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
    except TwospeedError as error:
        sys.exit(str(error))
