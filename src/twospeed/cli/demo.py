"""`twospeed demo`: a clip that it renders itself, tracked with the shipped network, scored against the truth."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from twospeed.cli.options import Json, Overwrite, Quiet, whole_option
from twospeed.cli.printing import print_json, print_line
from twospeed.cli.progress import show_progress
from twospeed.weights.catalog import DEFAULT_TRACKER

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from twospeed.results import Frame, ObjectMasks


def demo(
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FOLDER", help="Folder for the results.")] = Path(
        "twospeed_demo"
    ),
    overwrite: Overwrite = False,
    frames: Annotated[int, whole_option(2, 100_000, help="Length of the clip in frames, 20 a second.")] = 60,
    objects: Annotated[int, whole_option(1, 12, help="Moving objects, 1 to 12.")] = 3,
    seed: Annotated[int, whole_option(0, help="Number of the clip; each number gives another clip.")] = 7,
    json_output: Json = False,
    quiet: Quiet = False,
) -> None:
    """Render a short clip of moving, occluding, deforming objects and track them from their first masks.

    Needs no network and no data: the weights (`track_small`) ship with twospeed. Writes clip.mp4, overlay.mp4,
    masks/ and run.json, and prints how well the masks agree with the rendered truth (J: region overlap, F: contours,
    as the DAVIS benchmark measures them; first and last frame left out).
    """
    import numpy as np

    from twospeed.output.folder import ResultFolder

    rate = 20
    scores: list[NDArray[np.floating]] = []
    with (
        ResultFolder(output, ["clip.mp4", "overlay.mp4", "masks/*.png"], overwrite=overwrite) as folder,
        show_progress(quiet) as on_progress,
    ):
        from twospeed.data.clips.synthetic import render_clip
        from twospeed.metrics.regions import score_frame
        from twospeed.output.overlay import draw_masks
        from twospeed.output.run import Run
        from twospeed.pipelines.tracker import Tracker
        from twospeed.results import Frame
        from twospeed.video.writer import VideoWriter
        from twospeed.weights.store import weights_sha256

        tracker = Tracker(DEFAULT_TRACKER)
        run = Run(
            "demo", model=DEFAULT_TRACKER, weights_sha256=weights_sha256(DEFAULT_TRACKER, "default"),
            options={"seed": seed, "objects": objects, "frames": frames}, folder=folder, total=frames,
            on_progress=on_progress,
        )  # fmt: skip

        def draw(frame: Frame, result: ObjectMasks) -> NDArray[np.uint8]:
            return draw_masks(frame.image, result.labels)

        def results() -> Generator[tuple[Frame, ObjectMasks], None, None]:
            with VideoWriter(run.path("clip.mp4"), rate, keep_partial=True) as clip:
                for index, (image, truth) in enumerate(render_clip(seed, frames=frames, objects=objects)):
                    frame = Frame(index, index / rate, image)
                    clip.write(image)
                    result = tracker.step(image, truth if index == 0 else None, time_s=frame.time_s)
                    if 0 < index < frames - 1 or frames == 2:
                        scores.append(np.stack(score_frame(result.labels, truth, objects)))  # (2, K): J and F
                    yield frame, result

        with closing(results()) as steps:
            run.label_frames("masks", steps, draw=draw, rate=rate)
    mean_j, mean_f = np.nanmean(np.stack(scores), axis=0)  # (K,), (K,)
    record, together = run.record(finished=True), float(mean_j.mean() + mean_f.mean()) / 2
    if json_output:
        per_object = {i + 1: {"J": float(mean_j[i]), "F": float(mean_f[i])} for i in range(objects)}
        print_json({"J&F": together, "objects": per_object,
                    "frames_per_second": record.frames_per_second, "output": str(output)})  # fmt: skip
        return
    if quiet:
        return
    print_line(f"{'object':>8} {'J':>6} {'F':>6} {'J&F':>6}")
    for i in range(objects):
        print_line(f"{i + 1:>8} {mean_j[i]:6.3f} {mean_f[i]:6.3f} {(mean_j[i] + mean_f[i]) / 2:6.3f}")
    print_line(f"{'all':>8} {mean_j.mean():6.3f} {mean_f.mean():6.3f} {together:6.3f}")
    speed = f"{record.frames_per_second:.1f} frames/s with rendering and writing"
    print_line(f"{record.frames} frames, {speed}; see {output / 'overlay.mp4'}")
