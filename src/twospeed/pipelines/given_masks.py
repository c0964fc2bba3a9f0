"""Masks that a tracker is given for a frame, and ids that leave it: checked before anything changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from twospeed.environment import physical_memory
from twospeed.errors import InputError, MaskError
from twospeed.pipelines.inputs import Array
from twospeed.pipelines.video_tracker import Labels
from twospeed.video.mask_colours import MAX_COLOURS, is_smoothed

VOID = 255  # in given masks: undecided
STRIDE = 16  # of a tracker's networks

# What an object takes, for the bound on their number
PLANES = 6  # float32 images: masks, probabilities, and what they are made of
VALUE_CHANNELS = 512  # of the largest network
EXPECTED_FRAMES = 20  # remembered, where their number is not bounded


@dataclass(frozen=True)
class FrameMasks:
    """What the caller says of one frame: labels (H, W), the ids in them without background and void, who is gone.

    alone: the frame says nothing of other objects.
    """

    labels: Array | None = None
    ids: tuple[int, ...] = ()
    gone: frozenset[int] = frozenset()
    has_void: bool = False
    alone: bool = False


def frame_masks(
    labels: Array | None, gone: frozenset[int], known: Sequence[int], arrays: Any, *, first: bool
) -> FrameMasks:
    """Check labels (`checked_labels`) and gone ids against the objects that are known.

    arrays: the module that computes on the labels. first: whether it is the video's first frame. Raises MaskError for a
    first frame without objects, InputError for ids in gone that are not known or in labels.
    """
    found = [] if labels is None else arrays.unique(labels)
    ids = tuple(i for i in found if i not in (0, VOID))
    if labels is not None and not ids and not known and first:
        what = "all background or void: 255 is no object" if VOID in found else "all background"
        raise MaskError(f"the first mask holds no object ({what}); mark each object with a label from 1 to {VOID - 1}")
    if unknown := sorted(gone - set(known)):
        raise InputError(f"gone names object {unknown[0]}, which was never given; known are {known}", option="gone")
    if both := sorted(gone & set(ids)):
        raise InputError(f"object {both[0]} is in the masks and in gone; leave it out of one", option="gone")
    return FrameMasks(labels if ids else None, ids, gone, VOID in found)


def checked_labels(masks: Labels, size: tuple[int, int], arrays: Any, device: Any) -> Array:
    """Return masks as integer labels (H, W) on the device. Raises MaskError for any that are not, or of another size.

    size: height and width of their frame. arrays: the module that computes on them.
    """
    x = arrays.integer_labels(masks, device)
    if x is None:
        given = arrays.as_array(masks)
        raise MaskError(
            f"masks are {given.dtype} of shape {tuple(given.shape)}; give integer labels (H, W), 0 for the background"
        )
    if tuple(x.shape) != size:
        raise MaskError(
            f"mask is {x.shape[1]}x{x.shape[0]}, its frame {size[1]}x{size[0]}; "
            "scale the mask to the frame with nearest neighbours"
        )
    found = arrays.unique(x)
    if found[0] < 0 or found[-1] > VOID:
        raise MaskError(f"mask labels run from {found[0]} to {found[-1]}; labels are 0..255")
    if len(found) > MAX_COLOURS and is_smoothed(arrays.to_numpy(x).astype(np.uint8)):
        raise MaskError(
            f"mask holds {len(found) - 1} different labels, and most of them fill no area; is it an anti-aliased "
            "image? Give one label for each object",
            option="snap",
        )
    return x


def check_count(
    objects: int,
    size: tuple[int, int],
    working_size: tuple[int, int],
    *,
    most: int | None,
    frames: int | None,
    device: Any,
) -> None:
    """Raise MaskError for more objects than `most`, or than fit into the device's memory.

    size, working_size: height and width of the frames, and those at which the network works. frames: how many are
    remembered at most, None for no bound.
    """
    if most is not None and objects > most:
        raise MaskError(
            f"{objects} objects so far, and at most {most} are followed at once; if the masks are right, allow "
            f"{objects}",
            option="max_objects",
        )
    height, width = working_size
    pixels = max(height * width, size[0] * size[1])
    each = 4 * (PLANES * pixels + (frames or EXPECTED_FRAMES) * VALUE_CHANNELS * height * width // STRIDE**2)  # bytes
    fitting = min(VOID - 1, 3 * physical_memory(device) // (4 * each))
    if objects > fitting:
        raise MaskError(
            f"{objects} objects so far; {fitting} are the most for which memory is enough at {size[1]}x{size[0]} "
            f"({each >> 20} MB each); track fewer at once, or choose a smaller size",
            option="size",
        )
