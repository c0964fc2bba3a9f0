"""`twospeed segment`: a class for every pixel of every frame."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from twospeed.errors import CheckpointError, InputError, WeightsUnavailable

if TYPE_CHECKING:
    from twospeed.results import ClassMap, Frame, LabelMap

EPILOG = """
**Examples**

`twospeed segment drive.mp4` writes `drive_segment/overlay.mp4`, `labels/00000.png` ... (values are class numbers), the
classes' areas over time (`areas.json`, `areas.png`) and `run.json`, with the network that ships: 11 classes of driving.

`twospeed segment drive.mp4 --weights gsvnet.safetensors` takes other weights; they tell which model they are of.

`twospeed segment drive.mp4 --weights gsv.tar --keyframe-weights swiftnet.pt` takes the authors' files as they are.

`twospeed segment frames/ --weights gsvnet.safetensors --drift 1.5` takes keyframes where propagation drifts.
"""


def segment(
    video: Annotated[str, typer.Argument(help="A video file, a folder of images, a camera's number, or - for stdin.")],
    model: Annotated[
        str | None,
        typer.Option(
            help="Model name; `twospeed models --task segment` lists them. "
            "[default: the one that the weights are of; segment_nano without any]"
        ),
    ] = None,
    weights: Annotated[
        str, typer.Option(help="'default', or a checkpoint: twospeed's .safetensors or the authors' file.")
    ] = "default",
    keyframe_weights: Annotated[
        Path | None, typer.Option(help="The keyframe network's own file, beside GSVNet's .tar as --weights.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Folder for the results. [default: CLIP_segment]")
    ] = None,
    keyframe_every: Annotated[int, typer.Option(min=1, help="The image network runs on every n-th frame.")] = 4,
    drift: Annotated[
        float | None, typer.Option(help="Take keyframes where propagation drifts by more than this, instead.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, ... [default: cuda if present]")] = None,
    overlay: Annotated[bool, typer.Option(help="Write overlay.mp4 next to the labels.")] = True,
    json_output: Annotated[bool, typer.Option("--json", help="Print a summary as JSON on stdout.")] = False,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="No progress.")] = False,
) -> None:
    """Give every pixel of every frame a class: road, car, person, ..."""
    from twospeed.cli.job import Job, print_json
    from twospeed.pipelines.segment import Segmenter, on_drift
    from twospeed.video.reader import open_video
    from twospeed.weights.catalog import find
    from twospeed.weights.load import create_model, weights_sha256

    model = model or _model_of(weights, keyframe_weights)
    entry = find(model)
    if entry.task != "segment":
        raise InputError(f"{model} does not segment; `twospeed models --task segment` lists those that do")
    if weights == "default" and entry.weights is None:
        raise WeightsUnavailable(
            f"no weights are shipped or published for {model}; pass --weights FILE, a checkpoint that you have"
        )
    extra: dict[str, Any] = {} if keyframe_weights is None else {"keyframe_weights": keyframe_weights}
    segmenter = Segmenter(
        create_model(model, weights, **extra),
        keyframe_every if drift is None else on_drift(drift),
        device=device,
    )
    folder = output or Path(f"{'stdin' if video == '-' else Path(video).stem or Path(video).resolve().name}_segment")
    with open_video(video) as reader:
        frames = iter(reader)
        first = next(frames)
        job = Job(
            "segment",
            model=model,
            weights_sha256=weights_sha256(model, weights),
            options={
                "source": video,
                "keyframe_every": keyframe_every if drift is None else None,
                "drift": drift,
                "device": str(segmenter.device),
            },
            output=folder,
            total=reader.info.frame_count,
            quiet=quiet,
        )
        areas = _write_results(
            _steps(segmenter, chain([first], frames)), folder, segmenter=segmenter, rate=reader.info.frame_rate,
            job=job, overlay=overlay,
        )  # fmt: skip
    if json_output:
        record = job.record(finished=True)
        print_json(
            {
                "output": str(folder),
                "frames": record.frames,
                "keyframes": areas["keyframes"],
                "seconds": record.seconds,
                "frames_per_second": record.frames_per_second,
                "mean_area": {name: sum(row) / len(row) for name, row in areas["areas"].items()},
            }
        )
    elif not quiet:
        speed = job.record().frames_per_second
        typer.echo(f"{job.frames} frames, {areas['keyframes']} keyframes, {speed:.1f} frames/s: {folder}", err=True)


segment.__doc__ = (segment.__doc__ or "") + "\n" + EPILOG


def _model_of(weights: str, keyframe_weights: Path | None) -> str:
    """Name the model that checkpoint files belong to; without any, the one that ships."""
    from twospeed.weights.catalog import CATALOG
    from twospeed.weights.imports import read_state
    from twospeed.weights.load import recognise

    if weights == "default" and keyframe_weights is None:
        return "segment_nano"
    path = Path(weights) if keyframe_weights is None else keyframe_weights
    state, metadata = read_state(path)
    name = metadata.get("model") or recognise(state)
    if name is None:
        raise CheckpointError(f"{path}: its keys belong to no family known here; say which model it is with --model")
    return f"gsvnet_{name}" if keyframe_weights is not None and f"gsvnet_{name}" in CATALOG else name


def _steps(segmenter: Any, frames: Iterable[Frame]) -> Iterator[tuple[Frame, ClassMap]]:
    for frame in frames:
        yield frame, segmenter.step(frame.image, time_s=frame.time_s)


def _write_results(
    results: Iterable[tuple[Frame, ClassMap]], folder: Path, *, segmenter: Any, rate: Any, job: Any, overlay: bool
) -> dict[str, Any]:
    """Write labels and overlay as they come; return, write and draw each class's share of every frame (0..1).

    The folder appears with the first result, so that bad input leaves nothing behind; an interruption leaves a
    playable overlay, all finished labels and their areas. Labels of an earlier run in the same folder are replaced.
    """
    import numpy as np

    from twospeed.cli.job import make_folder, write_json
    from twospeed.output.areas import plot_areas
    from twospeed.output.overlay import draw_classes, draw_legend
    from twospeed.video.indexed_png import write_indexed_png
    from twospeed.video.writer import VideoWriter

    areas: dict[str, Any] = {}
    times: list[float] = []
    shares: list[Any] = []
    keyframes = 0
    writer: VideoWriter | None = None
    try:
        with ExitStack() as stack:
            for frame, result in results:
                if job.frames == 0:
                    for old in make_folder(folder / "labels").glob("*.png"):
                        if old.stem.isdigit():
                            old.unlink()
                    stack.enter_context(job)
                    if overlay:
                        writer = VideoWriter(folder / "overlay.mp4", rate, keep_partial=True)
                        stack.enter_context(writer)
                labels: LabelMap = segmenter.labels
                write_indexed_png(folder / "labels" / f"{frame.index:05d}.png", result.labels)
                counts = np.bincount(result.labels.ravel(), minlength=len(labels))
                if writer is not None:
                    seen = np.flatnonzero(counts).tolist()
                    colours = labels.colours or ()
                    drawn = draw_classes(frame.image, result.labels, colours)
                    writer.write(
                        draw_legend(drawn, [labels.names[i] for i in seen], [colours[i] for i in seen]), frame.time_s
                    )
                times.append(round(frame.time_s, 6))
                shares.append((counts / result.labels.size).astype(np.float32))
                keyframes += result.is_keyframe
                job.advance()
    finally:
        if shares:
            areas = {
                "keyframes": keyframes,
                "time_s": times,
                "areas": {
                    n: [round(float(v), 6) for v in row] for n, row in zip(labels, np.stack(shares, 1), strict=True)
                },
            }
            write_json(folder / "areas.json", areas)
            plot_areas(folder / "areas.png", times, areas["areas"], labels, title=folder.name)
    return areas
