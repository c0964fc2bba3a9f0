"""`python -m twospeed.app.probe PATH [--thumbnail | --sound FILE]`: what a video is, its first image, its sound.

It prints JSON, of a thumbnail the JPEG.

A file from elsewhere is decoded here for the first time, in a process whose end harms nobody, with bounds on time and
memory.
"""

from __future__ import annotations

import base64
import contextlib
import ctypes
import hashlib
import itertools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from twospeed.errors import TwospeedError, VideoError
from twospeed.files import atomic_file

SOUND = "sound.m4a"
MOST_SECONDS_OF_SOUND = 300
MOST_SECONDS = 60  # also where the machine is busy and starting Python takes long
THUMBNAIL = 108  # pixels of its shorter side, twice what the page shows, for screens of fine pixels
MOST_MEMORY = 4 << 30  # bytes of address space: shared libraries and thread stacks count, too


def probe(path: Path) -> dict[str, Any]:
    """Return width, height, times_s (base64 of float64), codec. Raises VideoError for what is no video."""
    return _answer(path)


def thumbnail(path: Path) -> bytes:
    """Return a video's first image as a small JPEG. Raises VideoError for what is no video."""
    data = _run(path, "--thumbnail")
    if not data.startswith(b"\xff\xd8"):
        raise VideoError(f"{path.name}: its first image cannot be decoded")
    return data


def extract_sound(video: Path, folder: Path) -> Path | None:
    """Return the file of a video's sound in a folder, made if it is not there yet; None for a video without sound.

    Its time 0 is that of the video's first image. Raises VideoError where the sound cannot be read.
    """
    target, silent = folder / SOUND, folder / f"{SOUND}.none"
    if target.exists() or silent.exists() or not video.is_file():
        return target if target.exists() else None
    if not _answer(video, "--sound", str(target), seconds=MOST_SECONDS_OF_SOUND)["packets"]:
        silent.touch()
        return None
    return target


def _answer(path: Path, *options: str, seconds: int = MOST_SECONDS) -> dict[str, Any]:
    """Return the JSON that this module prints of a file. Raises VideoError as `_run`, and for what it says."""
    lines = _run(path, *options, seconds=seconds).strip().splitlines()
    found: dict[str, Any] = json.loads(lines[-1]) if lines else {"error": f"{path}: holds nothing to read"}
    if "error" in found:
        raise VideoError(found["error"].replace(str(path), path.name))
    return found


def _run(path: Path, *options: str, seconds: int = MOST_SECONDS) -> bytes:
    """Return what this module prints of a file. Raises VideoError where it fails or takes too long."""
    command = [sys.executable, "-m", "twospeed.app.probe", str(path), *options]
    try:
        done = subprocess.run(command, capture_output=True, timeout=seconds, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        raise VideoError(f"{path.name}: was not read within {seconds} s; re-encode the video") from None
    if done.returncode:
        raise VideoError(f"{path.name}: reading it failed; is it a complete video file?")
    return done.stdout


def fingerprint(path: Path) -> str:
    """SHA-256 of the first and last MiB of a file (of the names and sizes of a folder's files), and its size."""
    digest = hashlib.sha256()
    if path.is_dir():
        for entry in sorted(path.iterdir()):
            digest.update(os.fsencode(entry.name) + f"\0{entry.stat().st_size}\0".encode())
        return digest.hexdigest()
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(0)
        digest.update(str(size).encode() + file.read(1 << 20))
        file.seek(max(0, size - (1 << 20)))
        digest.update(file.read(1 << 20))
    return digest.hexdigest()


def end_with_parent() -> None:
    """Let this process end with the one that started it, even where that is killed (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def limit_memory(seconds: int) -> None:
    """Bound this process' memory, and the time it computes to twice so many seconds, where the system can."""
    if sys.platform == "linux":
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))
        resource.setrlimit(resource.RLIMIT_CPU, (seconds * 2, seconds * 2))


def _main(path: str) -> None:
    limit_memory(MOST_SECONDS // 3)
    from twospeed.video.reader import frame_times, open_video

    try:
        with open_video(path, ahead=0) as reader:
            info = reader.info
            next(reader)
        times = frame_times(path, damaged="stop")
        found = {
            "width": info.width,
            "height": info.height,
            "codec": info.codec,
            "times_s": base64.b64encode(times.astype("<f8").tobytes()).decode(),
        }
    except (TwospeedError, StopIteration) as error:
        found = {"error": str(error) or "holds no frame"}
    print(json.dumps(found))


def _thumbnail(path: str) -> None:
    limit_memory(MOST_SECONDS // 3)
    with contextlib.suppress(OSError, AttributeError):
        os.nice(10)  # nobody waits for it
    from twospeed.video.image_files import encoded_jpeg
    from twospeed.video.reader import open_video

    with open_video(path, ahead=0, damaged="stop", short_side=THUMBNAIL) as reader:
        image = next(reader).image
    width = THUMBNAIL * 16 // 9
    left = max(0, (image.shape[1] - width) // 2)  # the middle of wide images, as the list shows it
    sys.stdout.buffer.write(encoded_jpeg(image[:THUMBNAIL, left : left + width], 80))


def _sound(video: Path, target: Path) -> None:
    limit_memory(MOST_SECONDS_OF_SOUND)
    import av
    import av.error

    from twospeed.video.audio import AudioTrack

    packets = 0
    try:
        with atomic_file(target) as temporary:
            with av.open(f"file:{temporary}", "w", format="mp4", options={"movflags": "+faststart"}) as container:
                track = AudioTrack(video, container, "page")
                if container.streams.audio:
                    for packet in itertools.chain(track.packets(0.0, float("inf")), track.finish()):
                        container.mux(packet)
                        packets += 1
                track.close()
            if not packets:
                raise _Silent
    except _Silent:
        pass
    except (TwospeedError, av.error.FFmpegError, OSError) as error:
        print(json.dumps({"error": str(error) if isinstance(error, TwospeedError) else f"{video}: {error}"}))
        return
    print(json.dumps({"packets": packets}))


class _Silent(Exception):
    """There is no sound, and so no file."""


if __name__ == "__main__":
    if "--sound" in sys.argv[2:]:
        _sound(Path(sys.argv[1]), Path(sys.argv[3]))
    elif "--thumbnail" in sys.argv[2:]:
        _thumbnail(sys.argv[1])
    else:
        _main(sys.argv[1])
