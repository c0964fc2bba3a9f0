"""`twospeed detect`: who does what, where and when."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from twospeed.errors import InputError

if TYPE_CHECKING:
    from twospeed.values import ActionBoxes

EPILOG = """
**Examples**

`twospeed detect clip.mp4` finds people once a second and says what each does; results go to `clip_detect/`.

`twospeed detect clip.mp4 --boxes people.csv -o out` takes people's boxes from a file: AVA's csv
(video,second,x1,y1,x2,y2,action,score), a csv with a header (time_s,x1,y1,x2,y2,score), or JSON.

`twospeed detect clip.mp4 --box 40,20,120,220 --every 0.5` looks at one place, twice a second (x,y,width,height).

`twospeed detect 1j20qq1JyX4.mkv --boxes ava_detection_val_boxes_and_labels.csv --start 900` detects on a video of AVA.
"""


def detect(
    video: Annotated[
        str, typer.Argument(help="A video file, a folder of pictures, a camera's number, or - for stdin.")
    ],
    boxes: Annotated[
        Path | None,
        typer.Option(help="File of people's boxes: AVA csv, csv with a header, or JSON. [default: detect people]"),
    ] = None,
    box: Annotated[
        list[str] | None,
        typer.Option("--box", help="x,y,width,height in pixels, the same at every keyframe. Repeatable."),
    ] = None,
    model: Annotated[
        str, typer.Option(help="Model name; `twospeed models --task detect` lists them.")
    ] = "slowfast_r50_8x8_ava",
    weights: Annotated[
        str, typer.Option(help="'default', 'random', or a checkpoint: twospeed's .safetensors or the authors' file.")
    ] = "default",
    labels: Annotated[
        str | None, typer.Option(help="File of class names, one on each line. [default: AVA's 80]")
    ] = None,
    every: Annotated[float, typer.Option(help="Seconds from one keyframe to the next.")] = 1.0,
    threshold: Annotated[float, typer.Option(help="People with a lower score are left out.")] = 0.8,
    start: Annotated[
        float, typer.Option(help="What the boxes' file calls the video's first second (900 for AVA's videos).")
    ] = 0.0,
    top: Annotated[int, typer.Option(min=1, help="Actions to tell of each person.")] = 3,
    min_score: Annotated[float, typer.Option(help="Overlay and table: only actions with at least this score.")] = 0.3,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Folder for the results. [default: CLIP_detect]")
    ] = None,
    overlay: Annotated[bool, typer.Option(help="Write overlay.mp4: boxes, ids and actions.")] = True,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, ... [default: cuda if present]")] = None,
    precision: Annotated[
        Literal["fp32", "bf16"], typer.Option(help="bf16 where the processor is fast at it.")
    ] = "fp32",
    json_output: Annotated[bool, typer.Option("--json", help="Print the results as JSON on stdout.")] = False,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="No progress, no table.")] = False,
) -> None:
    """Say who does what in a video, keyframe by keyframe.

    Writes `results.json`, `detections.csv` (as AVA's server takes it), `overlay.mp4` (not of cameras and pipes) and
    `run.json`. Each person keeps one number as long as the boxes overlap from keyframe to keyframe.
    """
    from twospeed.cli.job import Job, print_json, write_json
    from twospeed.pipelines.detect import Detector
    from twospeed.video.reader import probe
    from twospeed.weights.load import weights_sha256

    if boxes is not None and box:
        raise InputError("--boxes and --box exclude each other: give people's boxes in one way")
    is_file = video != "-" and Path(video).exists()
    total = probe(video).frame_count if is_file else None
    detector = Detector(
        model,
        boxes if boxes is not None else _static(box or []),
        every,
        weights=None if weights == "random" else weights,
        threshold=threshold,
        start_s=start,
        labels=labels,
        precision=precision,
        device=device,
    )
    results = detector.detect(video)
    folder = output or Path(f"{'stdin' if video == '-' else Path(video).stem or Path(video).resolve().name}_detect")
    job = Job(
        "detect",
        model=model,
        weights_sha256=None if weights == "random" else weights_sha256(model, weights),
        options={
            "source": video,
            "weights": weights,
            "boxes": None if boxes is None else str(boxes),
            "box": box or None,
            "labels": labels,
            "every_s": every,
            "threshold": threshold,
            "start_s": start,
            "precision": precision,
            "device": str(detector.device),
        },
        output=folder,
        total=total,
        quiet=quiet,
    )
    name = "stdin" if video == "-" else Path(video).stem
    with job:
        found = write_results(results, folder, detector, job, name=name, start_s=start)
        document = describe(found, name, model, top)
        if found:
            write_json(folder / "results.json", document)
        if overlay and is_file and found:
            write_overlay(Path(video), found, folder / "overlay.mp4", top, min_score, every)
    if not found:
        raise InputError(f"{video} has no keyframe; is it shorter than the first box's time?")
    if json_output:
        print_json(document)
    elif not quiet:
        _print_table(document, min_score)
        typer.echo(f"{len(found)} keyframes, {len(document['people'])} people: {folder}", err=True)


detect.__doc__ = (detect.__doc__ or "") + "\n" + EPILOG


def write_results(
    results: Iterator[ActionBoxes], folder: Path, detector: Any, job: Any, *, name: str, start_s: float
) -> list[ActionBoxes]:
    """Write detections.csv as results come, and return them (a few numbers for each person and keyframe).

    The folder appears with the first result, so that bad input leaves nothing behind; an interruption leaves whole
    keyframes, and results.json of those.
    """
    from twospeed.cli.job import make_folder, write_json
    from twospeed.data.ava import write_detections

    found: list[ActionBoxes] = []
    with ExitStack() as stack:
        file = None
        try:
            for result in results:
                if file is None:
                    make_folder(folder)
                    file = stack.enter_context((folder / "detections.csv").open("w", encoding="utf-8"))
                fractions = result.boxes_xyxy.astype(float) / detector.picture_size
                write_detections(file, name, start_s + result.time_s, fractions, result.action_scores)
                found.append(result)
                job.advance(detector.frames_read - job.frames)
        except KeyboardInterrupt:
            if found:
                write_json(folder / "results.json", describe(found, name, job.model, 3))
            raise
    job.advance(detector.frames_read - job.frames)
    return found


def describe(found: list[ActionBoxes], video: str, model: str, top: int) -> dict[str, Any]:
    """Return what `results.json` says: people keyframe by keyframe, and each person over the whole video."""
    import numpy as np

    keyframes: list[dict[str, Any]] = []
    sums: dict[int, list[Any]] = {}  # id -> [keyframes, first_s, last_s, summed scores]
    for result in found:
        people = []
        for row, number in enumerate(result.track_ids):
            scores = result.action_scores[row]
            people.append(
                {
                    "id": number,
                    "box_xyxy": [round(float(value), 2) for value in result.boxes_xyxy[row]],
                    "person_score": round(float(result.person_scores[row]), 4),
                    "actions": _best(scores, result.labels, top),
                }
            )
            person = sums.setdefault(number, [0, result.time_s, result.time_s, np.zeros(len(scores))])
            person[0] += 1
            person[2] = result.time_s
            person[3] = person[3] + scores
        keyframes.append({"time_s": round(result.time_s, 6), "people": people})
    return {
        "video": video,
        "model": model,
        "people": [
            {
                "id": number,
                "keyframes": count,
                "first_s": round(first, 6),
                "last_s": round(last, 6),
                "actions": _best(total / count, found[0].labels, top),
            }
            for number, (count, first, last, total) in sorted(sums.items())
        ],
        "keyframes": keyframes,
    }


def _best(scores: Any, labels: tuple[str, ...], top: int) -> list[dict[str, Any]]:
    order = (-scores).argsort(kind="stable")[:top].tolist()
    return [{"label": labels[c], "class_id": c + 1, "score": round(float(scores[c]), 4)} for c in order]


def write_overlay(
    source: Path, found: list[ActionBoxes], path: Path, top: int, min_score: float, every_s: float
) -> None:
    """Write the video with people's boxes, numbers and actions; boxes move in straight lines between keyframes."""
    import numpy as np

    from twospeed.pipelines.people import between
    from twospeed.render.overlay import draw_boxes
    from twospeed.render.palette import object_colours
    from twospeed.video.reader import open_video
    from twospeed.video.writer import VideoWriter

    times_s = [result.time_s for result in found]
    with open_video(source) as reader, VideoWriter(path, reader.info.frame_rate, keep_partial=True) as writer:
        for frame in reader:
            after = int(np.searchsorted(times_s, frame.time_s + 1e-6, side="right"))
            boxes, rows = between(
                found[after - 1] if after else None,
                found[after] if after < len(found) else None,
                frame.time_s,
                every_s,
            )
            texts = []
            for result, row in rows:
                actions = _best(result.action_scores[row], result.labels, top)
                lines = [f"{a['label']} {a['score']:.2f}" for a in actions if a["score"] >= min_score]
                texts.append([f"person {result.track_ids[row]}", *lines])
            colours = object_colours()[[1 + (result.track_ids[row] - 1) % 255 for result, row in rows]]
            writer.write(draw_boxes(frame.image, boxes, texts, colours) if rows else frame.image, frame.time_s)


def _print_table(document: dict[str, Any], min_score: float) -> None:
    for keyframe in document["keyframes"]:
        typer.echo(f"{keyframe['time_s']:8.2f} s" + ("" if keyframe["people"] else "  nobody"))
        for person in keyframe["people"]:
            said = ", ".join(f"{a['label']} {a['score']:.2f}" for a in person["actions"] if a["score"] >= min_score)
            corners = " ".join(f"{value:.0f}" for value in person["box_xyxy"])
            typer.echo(f"    person {person['id']} ({corners}): {said or 'nothing above --min-score'}")


def _static(texts: list[str]) -> list[list[float]] | None:
    """`x,y,width,height` texts -> xyxy boxes that hold at every keyframe; None where none are given."""
    found = []
    for text in texts:
        try:
            x, y, width, height = (float(part) for part in text.split(","))
        except ValueError as error:
            raise InputError(f"--box is {text!r}; give x,y,width,height in pixels, such as 40,20,120,220") from error
        found.append([x, y, x + width, y + height])
    return found or None
