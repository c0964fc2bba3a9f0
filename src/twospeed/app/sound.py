"""`python -m twospeed.app.sound VIDEO FILE`: a video's sound alone, for playback, in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from twospeed.app.probe import limit_memory
from twospeed.errors import TwospeedError, VideoError
from twospeed.files import atomic_file

FILE = "sound.m4a"
MOST_SECONDS = 300


def extract_sound(video: Path, folder: Path) -> Path | None:
    """Return the file of a video's sound in a folder, made if it is not there yet; None for a video without sound.

    Its time 0 is that of the video's first image. Raises VideoError where the sound cannot be read.
    """
    target, silent = folder / FILE, folder / f"{FILE}.none"
    if target.exists() or silent.exists() or not video.is_file():
        return target if target.exists() else None
    command = [sys.executable, "-m", "twospeed.app.sound", str(video), str(target)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=MOST_SECONDS, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        raise VideoError(
            f"{video.name}: its sound was not read within {MOST_SECONDS} s; it is played without"
        ) from None
    lines = done.stdout.strip().splitlines()
    found = json.loads(lines[-1]) if lines else {"error": "reading its sound failed"}
    if "error" in found:
        raise VideoError(f"{video.name}: {found['error']}")
    if not found["packets"]:
        silent.touch()
        return None
    return target


def _main(video: Path, target: Path) -> None:
    import av
    import av.error

    from twospeed.video.audio import AudioTrack

    limit_memory(MOST_SECONDS)
    packets = 0
    try:
        with atomic_file(target) as temporary:
            with av.open(f"file:{temporary}", "w", format="mp4", options={"movflags": "+faststart"}) as container:
                track = AudioTrack(video, container, "page")
                if container.streams.audio:
                    for packet in track.packets(0.0, float("inf")):
                        container.mux(packet)
                        packets += 1
                    for packet in track.finish():
                        container.mux(packet)
                        packets += 1
                track.close()
            if not packets:
                raise _Silent
    except _Silent:
        pass
    except (TwospeedError, av.error.FFmpegError, OSError) as error:
        print(json.dumps({"error": str(error)}))
        return
    print(json.dumps({"packets": packets}))


class _Silent(Exception):
    """There is no sound, and so no file."""


if __name__ == "__main__":
    _main(Path(sys.argv[1]), Path(sys.argv[2]))
