"""What is counted when every pixel has a class: a network run from keyframes to labels, or label files that exist.

A network runs as its users run it, through `Segmenter`: from a keyframe so many frames ahead of a labelled one, one
step a frame. Labelled frames that follow each other (CamVid's dense run) share their keyframes. Where labels are kept,
each is a file of its own, which is what makes a run resumable.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from twospeed.data.benchmarks.folders import listing
from twospeed.data.benchmarks.label_files import read_indices
from twospeed.data.clips.snippets import LabelledVideos, leading_to
from twospeed.data.samples import LabelledFrame
from twospeed.errors import DatasetError, InputError
from twospeed.evaluation.runner import Clock
from twospeed.files import make_folder
from twospeed.metrics.confusion import Matrix, confusion_matrix
from twospeed.video.indexed_png import write_indexed_png

if TYPE_CHECKING:
    from twospeed.pipelines.segment import Segmenter

Labels = NDArray[np.uint8]


@dataclass(frozen=True)
class LabelCode:
    """How label files number the classes: `write` turns classes into values, `read` turns values into classes."""

    write: Callable[[Labels], Labels]
    read: Callable[[Labels], Labels]


@dataclass
class Chain:
    """Consecutive frames, the first a keyframe; `scored`: the labelled ones by their distance from it."""

    frames: tuple[LabelledFrame, ...]
    scored: dict[int, LabelledFrame] = field(default_factory=dict)

    def continues(self, path: Sequence[LabelledFrame]) -> bool:
        """Return whether one of chain and path begins with the other."""
        return all(one.image_file == other.image_file for one, other in zip(self.frames, path, strict=False))


def plan_chains(
    data: LabelledVideos,
    distances: Sequence[int],
    *,
    step: int | None = None,
    most: int | None = None,
    frames: int | None = None,
) -> list[Chain]:
    """Plan how every labelled frame is reached from every distance, each keyframe computed once.

    step: frames of the recording between two frames; None takes the finest that there is. most: where that is None,
    frames that are farther apart than this do not count as neighbours. frames: only the first so many labelled ones.
    Labelled frames without enough frames before them are left out at that distance.
    """
    chains: dict[tuple[str, int], list[Chain]] = {}
    for frame in (data[index] for index in range(len(data))[:frames]):
        for distance in distances:
            path = leading_to(data, frame, distance, step=step, most=most)
            if path is None:
                continue
            of_keyframe = chains.setdefault((path[0].sequence, path[0].number), [])
            shared = next((chain for chain in of_keyframe if chain.continues(path)), None)
            if shared is None:
                of_keyframe.append(Chain(path, {distance: frame}))
                continue
            shared.frames = max(shared.frames, path, key=len)
            shared.scored[distance] = frame
    return [chain for place in sorted(chains) for chain in chains[place]]


def run_chains(
    segmenter: Segmenter,
    chains: Sequence[Chain],
    num_classes: int,
    *,
    output: Path | None = None,
    code: LabelCode | None = None,
    clock: Clock | None = None,
    on_chain: Callable[[int], None] = lambda number: None,
) -> dict[int, Matrix]:
    """Label the frames of every chain and count: distance -> confusion matrix.

    output: keep labels as `distance_D/NAME.png`, in `code`'s numbers; those that are there already are not computed
    again. on_chain: called with the number of chains that are finished. Frames without labels
    (of a test set) are labelled and not counted.
    Raises DatasetError where labels and image differ in size, OutputError where labels cannot be kept.
    """
    matrices: dict[int, Matrix] = {}
    for number, chain in enumerate(chains, start=1):
        files = {}
        if output is not None:
            files = {d: output / f"distance_{d}" / f"{frame.name}.png" for d, frame in chain.scored.items()}
        found = {d: read_indices(path)[0] for d, path in files.items() if path.is_file()}
        found = found if code is None else {d: code.read(values) for d, values in found.items()}
        if len(found) < len(chain.scored):
            found = _label(segmenter, chain, clock)
            for distance, path in files.items():
                make_folder(path.parent)
                write_indexed_png(path, found[distance] if code is None else code.write(found[distance]))
        for distance, frame in chain.scored.items():
            matrices[distance] = matrices.get(distance, 0) + _count(frame, found[distance], num_classes)
        on_chain(number)
    segmenter.reset()
    return dict(sorted(matrices.items()))


def _label(segmenter: Segmenter, chain: Chain, clock: Clock | None) -> dict[int, Labels]:
    segmenter.reset()
    labels: dict[int, Labels] = {}
    size: tuple[int, ...] | None = None
    for distance, frame in enumerate(chain.frames):
        image = frame.image()
        if size is not None and image.shape[:2] != size:
            raise DatasetError(
                f"{frame.image_file}: is {_size(image)}, the frame before {size[1]}x{size[0]}; "
                "nothing can be propagated between frames of different size"
            )
        size = image.shape[:2]
        begun = time.perf_counter()
        result = segmenter.step(image)
        seconds = time.perf_counter() - begun
        if clock is not None:
            clock.add("keyframe" if result.is_keyframe else "step", seconds)
        if distance in chain.scored:
            labels[distance] = result.labels
    return labels


def _count(frame: LabelledFrame, labels: Labels, num_classes: int) -> Matrix:
    if frame.annotation is None:
        return np.zeros((num_classes, num_classes), np.int64)
    truth = frame.labels()
    if truth.shape != labels.shape:
        raise DatasetError(
            f"{frame.annotation}: is {_size(truth)}, but the image {frame.image_file} is {_size(labels)}; "
            "labels and images need one size"
        )
    return confusion_matrix(truth, labels, num_classes)


def _size(labels: Labels) -> str:
    return f"{labels.shape[1]}x{labels.shape[0]}"


@dataclass
class Tally:
    """Pixels by true class and by the value that a file gives them, whatever its numbers mean: int64 (C, 256)."""

    counts: NDArray[np.int64]
    first_file: dict[int, Path] = field(default_factory=dict)

    def matrix(self, classes: Labels) -> Matrix:
        """Count by class: (C, C + 1), the last column what is predicted as no class. classes: (256,) value -> class."""
        count = len(self.counts)
        matrix = np.zeros((count, count + 1), np.int64)
        for value in range(256):
            matrix[:, min(int(classes[value]), count)] += self.counts[:, value]
        return matrix


def tally_files(
    files: Mapping[str, Path],
    frames: Sequence[LabelledFrame],
    num_classes: int,
    *,
    on_frame: Callable[[int], None] = lambda number: None,
) -> Tally:
    """Compare label files with the labels of their frames. Raises DatasetError for files of another size."""
    tally = Tally(np.zeros((num_classes, 256), np.int64))
    for number, frame in enumerate(frames, start=1):
        path = files[frame.name]
        values, _ = read_indices(path)
        truth = frame.labels()
        if values.shape != truth.shape:
            raise DatasetError(
                f"{path}: is {_size(values)}, the labels {frame.annotation} are {_size(truth)}; "
                "write predictions at the labels' size"
            )
        counted = truth < num_classes
        pairs = truth[counted].astype(np.int64) * 256 + values[counted]
        found = np.bincount(pairs, minlength=num_classes * 256).reshape(num_classes, 256)
        tally.counts += found
        for value in np.flatnonzero(found.any(0)):
            tally.first_file.setdefault(int(value), path)
        on_frame(number)
    return tally


def find_predictions(folder: Path, frames: Sequence[LabelledFrame]) -> tuple[dict[str, Path], bool]:
    """Find every frame's label file: name -> path, and whether they are distinguished by their order alone.

    A file belongs to the frame whose name its own begins with, up to an underline (NAME.png, NAME_L.png,
    NAME_gtFine_labelIds.png), in any folder below. Files named by numbers alone, as `twospeed segment` writes them, are
    taken in order where there are as many as frames.
    Raises DatasetError when the folder is missing, frames lack a file, or one has two.
    """
    if not folder.is_dir():
        raise DatasetError(f"{folder}: no such folder of predictions")
    paths = [path for path in sorted(folder.rglob("*.png")) if not path.name.startswith(".")]
    names = {frame.name for frame in frames}
    found: dict[str, Path] = {}
    for path in paths:
        name = path.stem
        while name and name not in names:
            name = name.rpartition("_")[0]
        if name in found:
            raise DatasetError(f"{folder}: two files for {name}: {found[name].name} and {path.name}; keep one")
        if name:
            found[name] = path
    if not found and len(paths) == len(frames) and all(path.stem.isdigit() for path in paths):
        ordered = sorted(paths, key=lambda path: int(path.stem))
        return {frame.name: path for frame, path in zip(frames, ordered, strict=True)}, True
    if missing := [frame.name for frame in frames if frame.name not in found]:
        raise DatasetError(
            f"{folder}: no label PNG for {listing(missing)}; wanted NAME.png for each of {len(frames)} frames"
        )
    return found, False


def check_classes_only(tally: Tally, names: Sequence[str]) -> None:
    """Raise InputError where files hold values that are no class."""
    for value, path in sorted(tally.first_file.items()):
        if value >= len(names):
            raise InputError(f"{path}: holds the value {value}; the {len(names)} classes are 0 to {len(names) - 1}")
