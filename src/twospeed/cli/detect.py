"""`twospeed detect`: who does what, where and when."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from twospeed.cli.options import parse_ints
from twospeed.errors import InputError, TwospeedError

if TYPE_CHECKING:
    from twospeed.results import ActionBoxes

EPILOG = """
**Examples**

`twospeed detect clip.mp4` finds people once a second and says what each does; results go to `clip_detect/`.

`twospeed detect clip.mp4 --boxes people.csv -o out` takes people's boxes from a file: AVA's csv
(video,second,x1,y1,x2,y2,action,score), a csv with a header (time_s,x1,y1,x2,y2,score), or JSON.

`twospeed detect clip.mp4 --box 40,20,120,220 --every 0.5` looks at one place, twice a second (x,y,width,height).

`twospeed detect clip.mp4 --scales 224,256,320 --flip` averages the scores of sizes and mirrored clips; several
`--model` (each with its `--weights`) average networks.

`twospeed detect 1j20qq1JyX4.mkv --boxes ava_detection_val_boxes_and_labels.csv --start 900` detects on a video of AVA.
"""


def detect(
    video: Annotated[str, typer.Argument(help="A video file, a folder of images, a camera's number, or - for stdin.")],
    boxes: Annotated[
        Path | None,
        typer.Option(help="File of people's boxes: AVA csv, csv with a header, or JSON. [default: detect people]"),
    ] = None,
    box: Annotated[
        list[str] | None,
        typer.Option("--box", help="x,y,width,height in pixels, the same at every keyframe. Repeatable."),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="Model name; `twospeed models --task detect` lists them. Give several to average their scores. "
            "[default: slowfast_r50_8x8_ava]"
        ),
    ] = None,
    weights: Annotated[
        list[str] | None,
        typer.Option(
            help="'default', 'random', or a checkpoint: twospeed's .safetensors or the authors' file. One for each "
            "model, or one for all. [default: default]"
        ),
    ] = None,
    size: Annotated[int | None, typer.Option(help="Shorter side for the network, in pixels. [default: 256]")] = None,
    scales: Annotated[
        str | None, typer.Option(help="Average the scores of these sizes, e.g. 224,256,320.", metavar="N,N")
    ] = None,
    flip: Annotated[bool, typer.Option("--flip", help="Average with mirrored clips too.")] = False,
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

    Writes `results.json`, `detections.csv` (as AVA's server takes it), `overlay.mp4` and `run.json`. Each person keeps
    one number as long as the boxes overlap from keyframe to keyframe.
    """
    from twospeed.cli.job import Job, print_json, write_json
    from twospeed.pipelines.detect import DEFAULT_MODEL, Detector
    from twospeed.video.reader import probe
    from twospeed.weights.load import weights_sha256

    if boxes is not None and box:
        raise InputError("--boxes and --box exclude each other: give people's boxes in one way")
    if size is not None and scales:
        raise InputError(f"--size {size} and --scales exclude each other: the sizes of --scales are averaged")
    names = model or [DEFAULT_MODEL]
    given: list[str | None] = [None if name == "random" else name for name in weights or ["default"]]
    given = given * len(names) if len(given) == 1 else given
    info = probe(video) if video != "-" and Path(video).exists() else None
    detector = Detector(
        names,
        boxes if boxes is not None else _static(box or []),
        every,
        weights=given,
        threshold=threshold,
        start_s=start,
        scales=parse_ints("--scales", scales) or ((size,) if size is not None else ()),
        flip=flip,
        labels=labels,
        precision=precision,
        device=device,
    )
    sums = [weights_sha256(each, source) for each, source in zip(names, given, strict=True) if source is not None]
    folder = output or Path(f"{'stdin' if video == '-' else Path(video).stem or Path(video).resolve().name}_detect")
    job = Job(
        "detect",
        model=detector.actions.name,
        weights_sha256=" + ".join(each for each in sums if each) or None,
        options={
            "source": video,
            "weights": [source or "random" for source in given],
            "boxes": None if boxes is None else str(boxes),
            "box": box or None,
            "labels": labels,
            "every_s": every,
            "threshold": threshold,
            "start_s": start,
            "size": size,
            "scales": scales,
            "flip": flip,
            "precision": precision,
            "device": str(detector.device),
        },
        output=folder,
        total=None if info is None else info.frame_count,
        quiet=quiet,
    )
    name = "stdin" if video == "-" else Path(video).stem
    if None in given and not quiet:
        typer.echo("the weights are random: actions mean nothing", err=True)
    with job:
        rate = None if info is None else info.frame_rate
        shown = {"top": top, "min_score": min_score, "hold_s": every, "rate": rate} if overlay else None
        found = write_results(video, folder, detector, job, name=name, start_s=start, overlay=shown)
        document = describe(found, name, job.model, top)
        if found:
            write_json(folder / "results.json", document)
    if not found:
        raise InputError(f"{video} has no keyframe; is it shorter than the first box's time?")
    if json_output:
        print_json(document)
    elif not quiet:
        _print_table(document, min_score)
        typer.echo(f"{len(found)} keyframes, {len(document['people'])} people: {folder}", err=True)


detect.__doc__ = (detect.__doc__ or "") + "\n" + EPILOG


def write_results(
    source: str, folder: Path, detector: Any, job: Any, *, name: str, start_s: float, overlay: dict[str, Any] | None
) -> list[ActionBoxes]:
    """Write detections.csv and overlay.mp4 as results come, and return them (a few numbers for each person).

    overlay: None for no video. The folder appears with what is written first, so that bad input leaves nothing behind;
    an interruption, or a video that breaks off, leaves whole keyframes and results.json of those.
    """
    from twospeed.cli.action_overlay import ActionOverlay
    from twospeed.cli.job import make_folder, write_json
    from twospeed.data.benchmarks.ava import write_detections

    found: list[ActionBoxes] = []
    with ExitStack() as stack:
        file = drawn = None
        if overlay is not None:
            top, least = overlay["top"], overlay["min_score"]
            drawn = stack.enter_context(
                ActionOverlay(
                    lambda: make_folder(folder) / "overlay.mp4",
                    overlay["rate"],
                    lambda result, row: [
                        f"{action['label']} {action['score']:.2f}"
                        for action in _best(result.action_scores[row], result.labels, top)
                        if action["score"] >= least
                    ],
                    overlay["hold_s"],
                )
            )
        try:
            for result in detector.detect(source, None if drawn is None else drawn.add_frame):
                if file is None:
                    make_folder(folder)
                    file = stack.enter_context((folder / "detections.csv").open("w", encoding="utf-8"))
                fractions = result.boxes_xyxy.astype(float) / detector.image_size
                write_detections(file, name, start_s + result.time_s, fractions, result.action_scores)
                found.append(result)
                if drawn is not None:
                    drawn.add_result(result)
                job.advance(detector.frames_read - job.frames)
        except (KeyboardInterrupt, TwospeedError):
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
