"""Which frames a tracking run computes: from the playhead to the next frame that a person marked."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from twospeed.errors import InputError

Part = dict[str, Any]


def plan(
    direction: str, frame: int, keyframes: Sequence[int], first: int, last: int, *, through: bool = False
) -> list[Part]:
    """Return the parts {first, last} to compute, in order; a part that runs backwards has last < first.

    direction: "forward", "backward" or "both", from `frame`. keyframes: sorted. first, last: in and out points.
    through: pass keyframes instead of ending before the next one. Raises InputError where nothing is to be computed.
    """
    if not keyframes:
        raise InputError("no frame has a mask yet; mark an object first")
    parts: list[Part] = []
    if direction in ("forward", "both") and frame <= last:
        end = last if through else min((key - 1 for key in keyframes if key > frame), default=last)
        end = min(end, last)
        if end > frame or (end == frame and frame not in keyframes):
            parts.append({"first": max(frame, first), "last": end})
    if direction in ("backward", "both") and frame >= first:
        end = first if through else max((key + 1 for key in keyframes if key < frame), default=first)
        end = max(end, first)
        begin = min(frame, last)
        if direction == "both" and parts and begin not in keyframes:
            begin -= 1  # the first part computes it
        if end < begin or (end == begin and begin not in keyframes):
            parts.append({"first": begin, "last": end})
    if not parts:
        raise InputError(
            f"nothing to track {direction} from frame {frame}: the next marked frame or the in or out point is there"
        )
    return parts


def plan_stale(stale: Sequence[int], keyframes: Sequence[int]) -> list[Part]:
    """Return the parts that compute stale frames anew, each from the keyframe before it, else from the one behind."""
    if not stale:
        raise InputError("no frame is out of date")
    parts: list[Part] = []
    for first, last in ranges_of(stale):
        backward = min(keyframes, default=first) > last
        parts.append({"first": last, "last": first} if backward else {"first": first, "last": last})
    return parts


def ranges_of(frames: Iterable[int]) -> list[list[int]]:
    """Return sorted frames as ranges [[first, last], ...]."""
    ranges: list[list[int]] = []
    for frame in frames:
        if ranges and frame == ranges[-1][1] + 1:
            ranges[-1][1] = frame
        else:
            ranges.append([frame, frame])
    return ranges


def as_range(part: Part) -> range:
    """Return the frames of a part in the order in which they are computed."""
    step = -1 if part["last"] < part["first"] else 1
    return range(part["first"], part["last"] + step, step)


def count(parts: Sequence[Part], keyframes: Sequence[int]) -> int:
    """Return how many frames parts compute, without the keyframes that they pass."""
    return sum(len(set(as_range(part)) - set(keyframes)) for part in parts)
