"""`twospeed detect`: who does what, where and when."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from twospeed.cli.options import (
    Labels,
    ManyWeights,
    Precision,
    Video,
    check_files,
    check_weights,
    grouped,
    identities,
    models_and_weights,
    number_option,
    option,
    parse_ints,
    parse_numbers,
    whole_option,
)
from twospeed.cli.parts import PartsJob
from twospeed.cli.printing import print_json, print_line, print_note
from twospeed.cli.progress import show_progress
from twospeed.errors import InputError
from twospeed.files import disk_errors, read_json

if TYPE_CHECKING:
    from twospeed.output.run import Run
    from twospeed.pipelines.detect import Detector
    from twospeed.results import ActionBoxes, Frame, OnProgress
    from twospeed.video.sources import Source


@grouped
def detect(
    *,
    video: Video,
    boxes: Annotated[
        Path | None,
        option("FILE", "File of people's boxes: AVA csv, csv with a header, or JSON. [default: people are detected]"),
    ] = None,
    box: Annotated[
        list[str] | None,
        typer.Option("--box", metavar="X,Y,W,H", help="A box in pixels that holds at every keyframe. Repeatable."),
    ] = None,
    boxes_start: Annotated[
        float,
        number_option(
            -1e9,
            1e9,
            metavar="SECONDS",
            help="What the file of boxes calls the first second of the video: 900 for videos cut as AVA's.",
        ),
    ] = 0.0,
    model: Annotated[
        list[str] | None,
        option(
            "NAME",
            "Model; `twospeed models --task detect` lists them. Repeat it to average the scores of several. "
            "[default: slowfast_r50_8x8_ava]",
        ),
    ] = None,
    weights: ManyWeights = None,
    size: Annotated[
        int | None,
        whole_option(32, 8192, metavar="PIXELS", help="Shorter side at which the network works. [default: 256]"),
    ] = None,
    scales: Annotated[
        str | None, option("N,N", "Average the scores of several sizes, such as 224,256,320: slower, often better.")
    ] = None,
    flip: Annotated[bool, typer.Option("--flip", help="Average with mirrored clips: twice the time.")] = False,
    labels: Labels = None,
    every: Annotated[
        float, number_option(0.01, 1e6, metavar="SECONDS", help="Time from one keyframe to the next.")
    ] = 1.0,
    threshold: Annotated[
        float, number_option(0, 1, metavar="P", help="Leave out people with a lower score (0 to 1).")
    ] = 0.8,
    top: Annotated[int, whole_option(1, help="Actions to list for each person, likeliest first.")] = 3,
    min_score: Annotated[
        float, number_option(0, 1, metavar="P", help="Show only actions with at least this score in overlay and table.")
    ] = 0.3,
    export: Annotated[
        str | None,
        option(
            "FORMAT,...",
            "Also write jsonl (a line for each keyframe), vtt or srt (subtitles), cvat (a track for each person); "
            "several with commas.",
        ),
    ] = None,
    precision: Precision = "fp32",
    job: PartsJob,
) -> None:
    """Find what people do in a video, keyframe by keyframe.

    Writes `results.json`, `detections.csv` (as AVA's server takes it), `overlay.mp4`, `frames.csv` and `run.json`. Each
    person keeps one number as long as the boxes overlap from keyframe to keyframe. `--resume` starts an interrupted run
    again from its beginning.

    **Examples**

    `twospeed detect clip.mp4` detects people once a second and what each of them does; results go to `clip_detect/`.

    `twospeed detect clip.mp4 --boxes people.csv -o out` takes people's boxes from a file: AVA's csv
    (video,second,x1,y1,x2,y2,action,score), a csv with a header (time_s,x1,y1,x2,y2,score), or JSON.

    `twospeed detect clip.mp4 --box 40,20,120,220 --every 0.5` looks at one place, twice a second (x,y,width,height).

    `twospeed detect clip.mp4 --scales 224,256,320 --flip` averages the scores of sizes and mirrored clips; several
    `--model` (each with its `--weights`) average networks.

    `twospeed detect 1j20qq1JyX4.mkv --boxes ava_detection_val_boxes_and_labels.csv --boxes-start 900` detects on a
    video of AVA, whose lists count from second 900.
    """
    source = job.source(video)
    if boxes is not None and box:
        raise InputError("--boxes and --box exclude each other: give people's boxes in one way")
    if size is not None and scales:
        raise InputError(f"--size {size} and --scales exclude each other: the sizes of --scales are averaged")
    sizes = parse_ints("--scales", scales) or ((size,) if size is not None else ())
    static = [(x, y, x + w, y + h) for x, y, w, h in (parse_numbers("--box", b, "x,y,width,height") for b in box or [])]
    if small := [text for text, (x, y, right, bottom) in zip(box or [], static, strict=True) if right <= 1 >= bottom]:
        raise InputError(f"--box is {small[0]!r}; give x,y,width,height in pixels, not fractions of the image")
    names, given = models_and_weights(model, weights, "detect", "slowfast_r50_8x8_ava")
    check_weights(name for name in given if name is not None)
    files = {role: path for role, path in (("boxes", boxes), ("labels", _path(labels))) if path is not None}
    if boxes is not None:
        check_files([boxes], InputError)
    from twospeed.output.exports.actions import FILES, check_action_formats

    exports = check_action_formats(export, list(FILES))
    outputs = [
        "results.json",
        "detections.csv",
        *(["overlay.mp4"] if job.overlay else []),
        *(FILES[e] for e in exports),
    ]

    def make_detector(on_progress: OnProgress) -> Detector:
        from twospeed.pipelines.detect import Detector

        return Detector(
            names, boxes if boxes is not None else static or None, every, weights=given, threshold=threshold,
            start_s=boxes_start, scales=sizes, flip=flip, labels=labels, precision=precision, device=job.device,
            on_progress=on_progress,
        )  # fmt: skip

    if job.part is not None:
        with show_progress(job.quiet) as on_progress:
            found_by = make_detector(on_progress)
            job.write_answers("detect", video, lambda part: found_by.answers(source, part, end=job.end))
        return
    with job.folder(source, "detect", outputs, files.values()) as folder:
        from twospeed.output.documents import people_document
        from twospeed.output.run import Run
        from twospeed.weights.store import weights_sha256

        with show_progress(job.quiet) as on_progress:
            detector = make_detector(on_progress)
            sums = [weights_sha256(each, file) for each, file in zip(names, given, strict=True) if file is not None]
            if None in given and not job.quiet:
                print_note("the weights are random: the actions have no meaning")
            run = Run(
                "detect",
                model=detector.actions.name,
                weights_sha256=" + ".join(each for each in sums if each) or None,
                options={
                    "weights": [file or "random" for file in given],
                    "box": box or None,
                    "labels": labels,
                    "every_s": every,
                    "threshold": threshold,
                    "boxes_start_s": boxes_start,
                    "size": size,
                    "scales": scales,
                    "flip": flip,
                    "precision": detector.actions.precision,
                    **job.recorded,
                    **({"export": list(exports)} if exports else {}),
                    "top": top,
                    "device": str(detector.device),
                },
                inputs=identities(files, source),
                folder=folder,
                on_progress=on_progress,
                audio_from=job.sound_of(source),
            )
            if run.finished_frames is not None:
                document = read_json(folder.path / "results.json")
            else:
                name = source.stem or "stdin"
                shown = {"min_score": min_score, "hold_s": every} if job.overlay else None
                chosen_part = job.span
                if job.parts is not None:
                    from twospeed.pipelines.parts import read_parts

                    chosen_part["known"] = read_parts(job.parts)
                found = write_results(
                    source, chosen_part, detector, run, name=name, start_s=boxes_start, top=top, overlay=shown,
                    export=lambda document: _export(run, exports, document, min_score, every, detector.image_size),
                )  # fmt: skip
                document = people_document(found, name, detector.actions.name, top)
    if job.json_output:
        print_json(document)
    elif not job.quiet:
        _print_table(document, min_score)
        already = "finished already, " if run.finished_frames is not None else ""
        count = len(document["people"])
        people = "1 person" if count == 1 else f"{count} people"
        print_note(f"{folder.path}: {already}{len(document['keyframes'])} keyframes, {people}")


def write_results(
    source: Source,
    part: dict[str, Any],
    detector: Any,
    run: Run,
    *,
    name: str,
    start_s: float,
    top: int,
    overlay: dict[str, Any] | None,
    export: Callable[[dict[str, Any]], None] = lambda document: None,
) -> list[ActionBoxes]:
    """Write detections.csv and overlay.mp4 as results come, and return them (a few numbers for each person).

    overlay: None for no video. An interruption, or a video that breaks off, leaves whole keyframes and results.json of
    those. Raises InputError for a video without a keyframe.
    """
    from twospeed.data.benchmarks.ava import write_detections
    from twospeed.output.action_overlay import TimedOverlay, draw_people
    from twospeed.output.documents import best_actions, people_document, people_table

    found: list[ActionBoxes] = []

    def finish() -> None:
        document = people_document(found, name, detector.actions.name, top)
        run.write_json("results.json", document)
        run.report.tables.append(people_table(document))
        export(document)

    run.at_end(finish)
    with run, ExitStack() as stack:
        drawn = None
        if overlay is not None:
            least = overlay["min_score"]

            def write(image: Any, time_s: float) -> None:
                run.write_overlay(image, time_s, detector.info.frame_rate)

            def texts(result: ActionBoxes, row: int) -> list[str]:
                best = best_actions(result.action_scores[row], result.labels, top)
                return [f"{one['label']} {one['score']:.2f}" for one in best if one["score"] >= least]

            draw = partial(draw_people, texts=texts, hold_s=overlay["hold_s"])
            drawn = stack.enter_context(TimedOverlay(write, draw))
        waiting: list[Frame] = []

        def on_frame(frame: Frame) -> None:
            if not found:  # before the first result nothing is written
                waiting.append(replace(frame, image=frame.image[:1, :1].copy()))
            else:
                run.add_frame(frame)
            if drawn is not None:
                drawn.add_frame(frame)

        results = detector.detect(source, on_frame, **part)
        run.total = detector.frames_expected
        for result in results:
            if not found:
                run.colours = detector.info.colours
                table = run.path("detections.csv")
                stack.enter_context(disk_errors(table))
                file = stack.enter_context(table.open("w", encoding="utf-8"))
                for frame in waiting:
                    run.add_frame(frame)
            fractions = result.boxes_xyxy.astype(float) / detector.image_size
            write_detections(file, name, start_s + result.time_s, fractions, result.action_scores)
            found.append(result)
            if drawn is not None:
                drawn.add_result(result)
            run.advance(detector.frames_read - run.frames)
        if not found:
            raise InputError(
                f"{source.name}: no keyframe in what was read; keyframes are {detector.every_s:g} s apart, the first "
                "at 0 s or at the first box's time: read a longer part, or take smaller steps",
                option="every",
            )
        run.advance(detector.frames_read - run.frames)
    return found


def _export(
    run: Run, formats: tuple[str, ...], document: dict[str, Any], min_score: float, every_s: float, size: Any
) -> None:
    """Write the keyframes in further formats."""
    from twospeed.output.exports.actions import FILES, people_cues, write_actions, write_people

    cues = people_cues(document, min_score, every_s)
    frame_size = int(size[1]), int(size[0])
    for name in formats:
        if name == "cvat":
            run.write(FILES[name], lambda path: write_people(path, document, run.frame_times(), frame_size))
        else:
            run.write(FILES[name], partial(write_actions, kind=name, entries=document["keyframes"], cues=cues))


def _print_table(document: dict[str, Any], min_score: float) -> None:
    for keyframe in document["keyframes"]:
        print_line(f"{keyframe['time_s']:8.2f} s" + ("" if keyframe["people"] else "  nobody"))
        for person in keyframe["people"]:
            said = ", ".join(f"{a['label']} {a['score']:.2f}" for a in person["actions"] if a["score"] >= min_score)
            corners = " ".join(f"{value:.0f}" for value in person["box_xyxy"])
            print_line(f"    person {person['id']} ({corners}): {said or 'no action with --min-score or more'}")


def _path(name: str | None) -> Path | None:
    """The file of labels, where a file is meant and not a known list."""
    return Path(name) if name is not None and Path(name).is_file() else None
