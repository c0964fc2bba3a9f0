"""Which frames a file holds, from its packets alone, and how to reach a few of them without decoding the rest."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import av.error
import numpy as np
from numpy.typing import NDArray

from twospeed.errors import VideoError
from twospeed.video.containers import (
    ASSUMED_RATE,
    Clock,
    Keyframe,
    cut_off,
    decodes_alone,
    has_decoding_stamps,
    images,
    seek,
    shown_at,
)
from twospeed.video.opening import opened, stated_rate
from twospeed.video.pixels import RgbConverter


@dataclass(frozen=True, slots=True, eq=False)
class PacketIndex:
    """The frames of one file in order of presentation.

    pts: int64 (T,), strictly increasing, or None where the file states none (then frames can only be counted).
    times_s: float64 (T,), seconds from the first frame. keyframes: in order of presentation; empty where frames are
    reached only by decoding from the start. size: (width, height) of the first image as stored. damage: what is wrong
    with the file, or empty: the frames are then those before the damage.
    """

    pts: NDArray[np.int64] | None
    times_s: NDArray[np.float64]
    keyframes: tuple[Keyframe, ...]
    size: tuple[int, int]
    damage: str = ""

    def __len__(self) -> int:
        return len(self.times_s)

    def keyframe_before(self, index: int) -> Keyframe | None:
        """Return the last keyframe at or before this index, or None: begin at the start."""
        at = bisect_right([key.index for key in self.keyframes], index) - 1
        return self.keyframes[at] if at > 0 else None


def index_packets(path: Path, rate: Fraction | None = None) -> PacketIndex:
    """List the frames of a file by walking over its packets; decodes only where packets do not suffice.

    The last results are remembered, by path, size and modification time. rate: frames per second, used only where
    the file states no times. Raises VideoError for what is no video or holds no decodable frame.
    """
    status = path.stat()
    return _index_packets(path, rate, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=1024)
def _index_packets(path: Path, rate: Fraction | None, size: int, modified_ns: int) -> PacketIndex:
    with opened(path, str(path)) as (container, stream):
        step_rate = rate or stated_rate(stream) or ASSUMED_RATE
        index = _from_packets(path, container, stream)
    if index is not None:
        return index
    found: list[tuple[int | None, Fraction]] = []
    first_size, damage = (0, 0), ""
    with opened(path, str(path)) as (container, stream):
        try:
            for image in images(container, stream, str(path), path=path):
                found.append((image.pts, image.time_base))
                if len(found) == 1:
                    first_size = (image.width, image.height)
        except VideoError as error:
            if not found:
                raise
            damage = str(error)
    clock = Clock(step_rate)
    times_s = np.array([clock.seconds(pts, base) for pts, base in found])
    all_pts = [pts for pts, _ in found if pts is not None]
    ordered = len(all_pts) == len(found) and all(a < b for a, b in pairwise(all_pts))
    return PacketIndex(np.array(all_pts, np.int64) if ordered else None, times_s, (), first_size, damage)


TRUSTED = frozenset({"mp4", "matroska", "mpegts", "flv", "nut", "ivf", "mxf", "avi"})
"""Containers (FFmpeg's names) whose packets say which frames a decoder shows, when, and where decoding can begin."""

LEAST_IMAGE = 10
"""Bytes of a compressed image; smaller packets of MPEG-4 say that there is none."""


def _from_packets(path: Path, container: Any, stream: Any) -> PacketIndex | None:
    """Build the index from packets, or return None where they do not say which frames a decoder will deliver."""
    if not TRUSTED & set(container.format.name.split(",")):
        return None
    context = stream.codec_context
    by_decoding = has_decoding_stamps(container)
    if by_decoding and context.name in ("h264", "hevc"):
        return None
    if "mpegts" in container.format.name and context.name == "h264" and context.field_order not in (0, 1):
        return None  # each field may be a packet of its own
    shown: list[int] = []
    keys: list[tuple[int, int]] = []
    lowest: int | None = None
    last_pts: int | None = None
    last_dts: int | None = None
    reordered = False
    end = 0
    is_vp8 = context.name == "vp8"
    try:
        for packet in container.demux(stream):
            if packet.size == 0:
                continue
            stamp = shown_at(container, packet)
            if stamp is None or packet.pts is None or packet.is_corrupt:
                return None
            if not keys and not packet.is_keyframe:
                return None  # begins between keyframes: only the decoder knows what it can make of that
            if packet.dts is not None and last_dts is not None and packet.dts < last_dts:
                return None  # recordings are joined
            end = (packet.pos or 0) + packet.size
            reordered |= last_pts is not None and packet.pts <= last_pts
            if by_decoding and (reordered or packet.size < LEAST_IMAGE):
                return None  # B-frames, one packet of which may hold two
            last_pts, last_dts = packet.pts, last_dts if packet.dts is None else packet.dts
            lowest = stamp if lowest is None else min(lowest, stamp)
            if packet.is_keyframe:
                keys.append((stamp, packet.dts if packet.dts is not None else stamp))
            if packet.is_discard:
                continue  # before the beginning that an edit list sets
            if is_vp8 and not bytes(packet)[0] & 0x10:
                continue  # a reference frame that is never shown (RFC 6386, 9.1)
            shown.append(stamp)
    except (av.error.FFmpegError, OSError):
        return None
    if not shown or not keys or lowest != keys[0][0]:
        return None  # images that lead the first keyframe (open GOP) may or may not decode
    if context.has_b_frames and not reordered and context.name in ("h264", "hevc"):
        return None  # the stamps may be those of decoding
    pts = np.unique(np.array(shown, np.int64))
    if len(pts) != len(shown):
        return None
    times_s = (pts - pts[0]) * stream.time_base.numerator / stream.time_base.denominator
    # A keyframe that an edit list hides has no index of its own; what follows it begins at the next shown frame.
    positions = np.searchsorted(pts, np.array([key_pts for key_pts, _ in keys], np.int64))
    keyframes = sorted(
        (
            Keyframe(int(at), key_pts, key_dts)
            for at, (key_pts, key_dts) in zip(positions, keys, strict=True)
            if at < len(pts) and pts[at] == key_pts
        ),
        key=lambda key: key.index,
    )
    damage = cut_off(path, container, stream, end)
    if damage:
        damage = f"{path}: {damage}; fetch the file again, or read what it holds with damaged='skip'"
    return PacketIndex(pts, times_s, tuple(keyframes), (context.width, context.height), damage)


def wanted_images(
    path: Path, indices: NDArray[np.int64], index: PacketIndex, threads: int = 0
) -> Iterator[tuple[int, Any]]:
    """Yield (index, decoded image) for sorted, distinct indices: one seek and one pass for each run of them.

    A run ends where at least one whole group of images lies between two wanted frames. Frames that a seek does not
    bring (containers lie about their keyframes) are looked for again from the start of the file.
    """
    if index.pts is None:
        yield from _counted(path, indices, threads)
        return
    missing: list[int] = []
    with opened(path, str(path), threads=threads) as (container, stream):
        for run in _runs(indices, index):
            found: set[int] = set()
            for position, image in _pass(container, stream, path, run, index.pts, index.keyframe_before(run[0])):
                found.add(position)
                yield position, image
            missing += [position for position in run if position not in found]
    if missing:
        with opened(path, str(path), threads=threads) as (container, stream):
            yield from _pass(container, stream, path, missing, index.pts, None)


def _runs(indices: NDArray[np.int64], index: PacketIndex) -> list[list[int]]:
    order = [key.index for key in index.keyframes]
    runs: list[list[int]] = []
    last_group = None
    for position in indices.tolist():
        group = bisect_right(order, position)
        if last_group is None or group > last_group + 1:
            runs.append([])
        runs[-1].append(position)
        last_group = group
    return runs


def _pass(
    container: Any, stream: Any, path: Path, run: list[int], pts: NDArray[np.int64], keyframe: Keyframe | None
) -> Iterator[tuple[int, Any]]:
    """Decode once from a keyframe (None: from where a fresh container stands), yielding the frames of the run."""
    if keyframe is not None:
        seek(container, stream, keyframe)
    wanted = {int(pts[position]): position for position in run}
    last = int(pts[run[-1]])
    try:
        with closing(images(container, stream, str(path), path=None, damaged="skip")) as decoded:
            arrived = keyframe is None
            for image in decoded:
                if keyframe is not None and not arrived:
                    if image.pts is not None and image.pts < keyframe.pts:
                        continue
                    if not decodes_alone(image, keyframe):
                        return
                    arrived = True
                position = wanted.pop(image.pts, None)
                if position is not None and not image.is_corrupt:
                    yield position, image
                if not wanted or image.pts is None or image.pts > last:
                    return
    except VideoError:  # nothing decodes from there
        if keyframe is None:
            raise


def _counted(path: Path, indices: NDArray[np.int64], threads: int) -> Iterator[tuple[int, Any]]:
    wanted = set(indices.tolist())
    with (
        opened(path, str(path), threads=threads) as (container, stream),
        closing(images(container, stream, str(path), path=None, damaged="stop")) as decoded,
    ):
        for position, image in enumerate(decoded):
            if position in wanted:
                yield position, image
                wanted.remove(position)
                if not wanted:
                    return


def read_indexed(
    path: Path, indices: NDArray[np.int64], *, short_side: int | None = None, threads: int = 0
) -> NDArray[np.uint8]:
    """Decode the frames at these indices, in their order, repeats allowed: uint8 (T, H, W, 3)."""
    index = index_packets(path)
    check_range(str(path), indices, len(index))
    distinct, places = np.unique(indices, return_inverse=True)
    convert = RgbConverter(short_side, size=index.size, name=str(path))
    images: NDArray[np.uint8] | None = None
    filled: set[int] = set()
    for position, decoded in wanted_images(path, distinct, index, threads):
        image = convert.view(decoded)
        if images is None:
            images = np.empty((len(distinct), *image.shape), np.uint8)
        if image.shape != images.shape[1:]:  # the rotation changed
            raise VideoError(
                f"{path}: frame {position} is {image.shape[1]}x{image.shape[0]}, others are "
                f"{images.shape[2]}x{images.shape[1]}; read such a video frame by frame with open_video"
            )
        images[np.searchsorted(distinct, position)] = image
        filled.add(position)
    lost = [int(position) for position in distinct if int(position) not in filled]
    if lost or images is None:
        raise VideoError(f"{path}: frame {lost[0]} cannot be decoded; re-encode the video or fetch it again")
    if len(distinct) == len(indices) and bool((places == np.arange(len(places))).all()):
        return images
    return images[places]


def check_range(name: str, indices: Iterable[int], count: int) -> None:
    """Raise VideoError for the first index outside 0..count-1."""
    for index in indices:
        if not 0 <= index < count:
            raise VideoError(f"{name}: frame {index} was asked for, it has frames 0 to {count - 1}")
