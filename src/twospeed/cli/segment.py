"""`twospeed segment`: a class for every pixel of every frame."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from twospeed.cli.options import Precision, Video, Weights, check_weights, grouped, identities, number, whole
from twospeed.cli.parts import PartsJob
from twospeed.cli.printing import print_json, print_note
from twospeed.cli.progress import show_progress
from twospeed.errors import CheckpointError, InputError, WeightsUnavailable

if TYPE_CHECKING:
    from twospeed.output.run import Run
    from twospeed.pipelines.parts import Answer, Part
    from twospeed.pipelines.segment import Segmenter
    from twospeed.results import ClassMap, Frame, LabelMap, OnProgress
    from twospeed.video.sources import Source

LEAST_SURE = {"segment_nano": 0.92}
"""Least mean probability of the likeliest class on keyframes, by model with its own weights, below which a warning says
that the video is unlike those of training. segment_nano has 0.95 to 0.97 on each of 12 images of CamVid's validation
set, 0.94 to 0.96 on two streets elsewhere (0.87 to 0.92 on a race track and a bus filmed closely), and 0.72 to 0.92 on
parks, people and animals, but for one clip with 0.94 to 0.95."""

EPILOG = """
**Examples**

`twospeed segment drive.mp4` writes `drive_segment/overlay.mp4`, `labels/00000.png` ... (values are class numbers), the
classes' areas over time (`areas.json`, `areas.png`), `frames.csv` and `run.json`, with the network that comes with
twospeed: 11 classes of driving.

`twospeed segment drive.mp4 --weights gsvnet.safetensors` uses other weights; the model is recognised from them.

`twospeed segment drive.mp4 --weights gsv.tar --keyframe-weights swiftnet.pt` uses the authors' files as they are.

`twospeed segment frames/ --drift 0.35` computes keyframes where propagation drifts.
"""


@grouped
def segment(
    *,
    video: Video,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Model; `twospeed models --task segment` lists them. [default: the model of the weights; segment_nano "
            "without --weights]",
        ),
    ] = None,
    weights: Weights = "default",
    keyframe_weights: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="File of the keyframe network, beside the authors' GSVNet .tar as --weights."
        ),
    ] = None,
    keyframe_every: Annotated[
        int,
        typer.Option(
            metavar="N",
            parser=whole(1),
            help="Run the image network on every N-th frame and propagate its result in between. 1 is the most "
            "accurate and slowest; larger numbers are faster.",
        ),
    ] = 4,
    drift: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            parser=number(0, above=True),
            help="Run the image network where propagation has drifted by more than X (mean difference of pixels, in "
            "standard deviations) instead of every N-th frame. Try 0.35 for segment_nano.",
        ),
    ] = None,
    keyframe_scale: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            parser=number(0, 2, above=True),
            help="Fraction of its size at which the image network of a GSVNet sees a keyframe. 1 is more accurate, "
            "smaller is faster. [default: that of the weights, 0.75 as published]",
        ),
    ] = None,
    precision: Precision = "fp32",
    job: PartsJob,
) -> None:
    """Give every pixel of every frame a class: road, car, person, ..."""
    from twospeed.weights.catalog import find

    source = job.source(video)
    check_weights([weights, *([] if keyframe_weights is None else [str(keyframe_weights)])])
    if model is not None:
        _check_model(find(model), weights)
    names = ["labels/*.png", "areas.json", "areas.png", *(["overlay.mp4"] if job.overlay else [])]
    given = [] if keyframe_weights is None else [keyframe_weights]

    def make_segmenter(on_progress: OnProgress) -> tuple[str, Segmenter]:
        from twospeed.pipelines.inputs import network_for
        from twospeed.pipelines.segment import Segmenter, check_keyframe_scale, on_drift

        name = model or _model_of(weights, keyframe_weights)
        _check_model(find(name), weights)
        extra: dict[str, Any] = {} if keyframe_weights is None else {"keyframe_weights": keyframe_weights}
        if keyframe_scale is not None:
            check_keyframe_scale(name, keyframe_scale)
            extra["keyframe_scale"] = keyframe_scale
        policy = keyframe_every if drift is None else on_drift(drift)
        network, _ = network_for("segment", name, weights, (), on_progress, **extra)
        return name, Segmenter(network, policy, precision=precision, device=job.device)

    if job.part is not None:
        with show_progress(job.quiet) as on_progress:
            segmenter = make_segmenter(on_progress)[1]
            job.write_answers(
                "segment",
                video,
                lambda part: _answers(segmenter, source, part, job.end),
                keyframe_every=keyframe_every,
            )
        return
    with job.folder(source, "segment", names, given) as folder:
        from twospeed.output.areas import ClassAreas
        from twospeed.output.overlay import draw_classes, draw_legend
        from twospeed.output.palette import distinct_colours
        from twospeed.output.run import Run
        from twospeed.video.reader import open_video
        from twospeed.weights.store import weights_sha256

        def draw(frame: Frame, result: ClassMap) -> Any:
            import numpy as np

            assert segmenter.labels is not None
            colours = distinct_colours(segmenter.labels.colours or ())
            drawn = draw_classes(frame.image, result.labels, colours)
            return draw_legend(drawn, segmenter.labels.names[: len(colours)], colours, set(np.unique(result.labels)))

        with show_progress(job.quiet) as on_progress:
            model, segmenter = make_segmenter(on_progress)
            with open_video(source, **job.span) as reader:
                run = Run(
                    "segment",
                    model=model,
                    weights_sha256=weights_sha256(model, weights),
                    options={
                        "keyframe_every": keyframe_every if drift is None else None,
                        "drift": drift,
                        "keyframe_scale": keyframe_scale,
                        "precision": segmenter.precision,
                        **job.recorded,
                        "device": str(segmenter.device),
                    },
                    inputs=identities(dict(zip(["keyframe weights"], given, strict=False)), source),
                    folder=folder,
                    total=reader.frames_expected,
                    on_progress=on_progress,
                    audio_from=job.sound_of(source),
                )
                run.colours = reader.info.colours
                if run.finished_frames is None:
                    areas = ClassAreas(segmenter, run, LEAST_SURE.get(model) if weights == "default" else None)
                    run.at_end(areas.write)
                    results = (
                        _steps(segmenter, reader, run) if job.parts is None else _joined(segmenter, reader, job.parts)
                    )
                    rate = reader.info.frame_rate
                    run.label_frames("labels", results, areas.add, draw=draw if job.overlay else None, rate=rate)
    summary = run.summary()
    if job.json_output:
        print_json(summary)
    elif not job.quiet:
        already = "finished already, " if run.finished_frames is not None else ""
        speed = f"{summary['frames_per_second']:.1f} frames/s"
        frames, keyframes = summary["frames"], summary["keyframes"]
        counts = f"{frames} frame{'s' * (frames != 1)}, {keyframes} keyframe{'s' * (keyframes != 1)}"
        print_note(f"{folder.path}: {already}{counts}, {speed}")
    if not job.quiet:
        for warning in run.record().warnings:
            print_note(f"warning: {warning}")


segment.__doc__ = (segment.__doc__ or "") + "\n" + EPILOG


def _check_model(entry: Any, weights: str) -> None:
    if entry.task != "segment":
        raise InputError(f"{entry.name} does not segment; `twospeed models --task segment` lists those that do")
    if weights == "default" and entry.weights is None and entry.exported is None:
        raise WeightsUnavailable(
            f"no weights are shipped or published for {entry.name}; pass --weights FILE, a checkpoint that you have"
        )


def _model_of(weights: str, keyframe_weights: Path | None) -> str:
    """Name the model that checkpoint files belong to; without any, the one that ships."""
    from twospeed.weights.catalog import CATALOG
    from twospeed.weights.imports import read_state
    from twospeed.weights.load import recognise
    from twospeed.weights.store import local_file

    if weights == "default" and keyframe_weights is None:
        return "segment_nano"
    path = local_file(weights) if keyframe_weights is None else keyframe_weights
    state, metadata = read_state(path)
    name = metadata.get("model") or recognise(state)
    if name is None:
        raise CheckpointError(f"{path}: its keys belong to no model that twospeed has; name the model with --model")
    return f"gsvnet_{name}" if keyframe_weights is not None and f"gsvnet_{name}" in CATALOG else name


def _steps(segmenter: Segmenter, frames: Iterator[Frame], run: Run) -> Iterator[tuple[Frame, ClassMap]]:
    """Segment. A resumed run reads the labels before its last keyframe and computes from there, exactly as before."""
    from twospeed.video.indexed_png import read_label_map

    restart = max((i for i, entry in enumerate(run.kept) if entry["restarts"]), default=0)
    for entry, frame in zip(run.kept[:restart], frames, strict=False):
        if segmenter.labels is None:  # of the first frame: the network says which classes there are
            yield frame, segmenter.step(frame.image, time_s=frame.time_s)
            continue
        assert run.folder is not None
        labels = read_label_map(run.folder.work / entry["file"], allow_empty=True, expect_size=frame.image.shape[:2])
        yield frame, _known(frame, labels, segmenter.labels, entry["restarts"], entry.get("confidence"))
    segmenter.reset()
    yield from segmenter.steps(frames)


def _known(frame: Frame, labels: Any, classes: LabelMap, is_keyframe: bool, confidence: float | None) -> ClassMap:
    """Return a result that was computed before."""
    import numpy as np

    from twospeed.results import ClassMap

    scores = np.zeros((len(classes), 0, 0), np.float32)
    return ClassMap(labels, scores, is_keyframe, frame.index, frame.time_s, classes, confidence)


def _answers(segmenter: Segmenter, source: Source, part: Part, end: str | None) -> Iterator[Answer]:
    """Segment a part: labels, and what else of them results are made from."""
    import zlib

    from twospeed.video.reader import open_video

    with open_video(source, part.frames.start, end if part.is_last else part.frames.stop) as reader:
        for frame, result in segmenter.steps(reader):
            facts: dict[str, Any] = {"frame": frame.index, "keyframe": result.is_keyframe}
            facts["confidence"] = result.confidence
            facts |= {"size": result.labels.shape, "classes": len(result.scores)}
            yield facts, zlib.compress(result.labels.tobytes(), 1)


def _joined(segmenter: Segmenter, frames: Iterable[Frame], parts: Path) -> Iterator[tuple[Frame, ClassMap]]:
    """Give every frame what its part has found. Raises InputError where parts are missing or of another video."""
    import zlib

    import numpy as np

    from twospeed.pipelines.parts import misfit, read_parts
    from twospeed.pipelines.segment import class_labels

    answers, first_size = read_parts(parts), None
    for frame in frames:
        facts, content = next(answers, (dict[str, Any](frame=None, size=None), b""))
        size = list(frame.image.shape[:2])
        first_size = first_size or size
        if facts["frame"] != frame.index or not facts["size"] == size == first_size:
            # Where images change their size a keyframe is due, which no part can know
            raise misfit(f"frame {frame.index} of {size} comes where they have {facts['frame']} of {facts['size']}")
        segmenter.labels = segmenter.labels or class_labels(facts["classes"])
        labels = np.frombuffer(zlib.decompress(content), np.uint8).reshape(facts["size"])
        yield frame, _known(frame, labels, segmenter.labels, facts["keyframe"], facts["confidence"])
    if (more := next(answers, None)) is not None:
        raise misfit(f"it ends before frame {more[0]['frame']}")
