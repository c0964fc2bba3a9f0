"""`twospeed demo`: a clip that it renders itself, tracked with the shipped network, scored against the truth."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from twospeed.results import Frame, ObjectMasks


def demo(
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the results.")] = Path("twospeed_demo"),
    frames: Annotated[int, typer.Option(min=2, help="Frames to render.")] = 60,
    objects: Annotated[int, typer.Option(min=1, max=12, help="Moving objects.")] = 3,
    seed: Annotated[int, typer.Option(help="Another number, another clip.")] = 7,
    json_output: Annotated[bool, typer.Option("--json", help="Print the scores as JSON on stdout.")] = False,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="No progress.")] = False,
) -> None:
    """Render a short clip of moving, occluding, deforming objects and track them from their first masks.

    Needs no network and no data: the weights (`track_nano`) ship with twospeed. Writes clip.mp4, overlay.mp4,
    masks/ and run.json, and prints how well the masks agree with the rendered truth (J: region overlap, F: contours,
    as the DAVIS benchmark measures them; first and last frame left out).
    """
    import numpy as np

    from twospeed.cli.job import Job, make_folder, print_json
    from twospeed.cli.track import write_results
    from twospeed.data.clips.synthetic import render_clip
    from twospeed.metrics.regions import score_frame
    from twospeed.pipelines.track import Tracker
    from twospeed.results import Frame
    from twospeed.video.writer import VideoWriter
    from twospeed.weights.load import weights_sha256

    rate = 20
    tracker = Tracker("track_nano")
    scores: list[NDArray[np.floating]] = []
    make_folder(output)
    options = {"seed": seed, "objects": objects, "frames": frames}
    job = Job("demo", model="track_nano", weights_sha256=weights_sha256("track_nano", "default"), options=options,
              output=output, total=frames, quiet=quiet)  # fmt: skip

    def steps(clip: VideoWriter) -> Iterator[tuple[Frame, ObjectMasks]]:
        for index, (image, truth) in enumerate(render_clip(seed, frames=frames, objects=objects)):
            frame = Frame(index, index / rate, image)
            clip.write(image)
            result = tracker.step(image, truth if index == 0 else None, time_s=frame.time_s)
            if 0 < index < frames - 1 or frames == 2:
                scores.append(np.stack(score_frame(result.labels, truth, objects)))  # (2, K): J and F
            yield frame, result

    with VideoWriter(output / "clip.mp4", rate) as clip:
        write_results(steps(clip), output, rate=rate, job=job)
    mean_j, mean_f = np.nanmean(np.stack(scores), axis=0)  # (K,), (K,)
    record = job.record(finished=True)
    if json_output:
        per_object = {i + 1: {"J": float(mean_j[i]), "F": float(mean_f[i])} for i in range(objects)}
        print_json({"J&F": float((mean_j.mean() + mean_f.mean()) / 2), "objects": per_object,
                    "frames_per_second": record.frames_per_second, "output": str(output)})  # fmt: skip
        return
    typer.echo(f"{'object':>8} {'J':>6} {'F':>6} {'J&F':>6}")
    for i in range(objects):
        typer.echo(f"{i + 1:>8} {mean_j[i]:6.3f} {mean_f[i]:6.3f} {(mean_j[i] + mean_f[i]) / 2:6.3f}")
    together = (mean_j.mean() + mean_f.mean()) / 2
    typer.echo(f"{'all':>8} {mean_j.mean():6.3f} {mean_f.mean():6.3f} {together:6.3f}")
    speed = f"{record.frames_per_second:.1f} frames/s with rendering and writing"
    typer.echo(f"{record.frames} frames, {speed}; see {output / 'overlay.mp4'}")
