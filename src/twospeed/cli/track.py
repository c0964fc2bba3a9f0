"""`twospeed track`: masks of every frame from masks, boxes or points of some."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from twospeed.cli.options import (
    JobOptions,
    Weights,
    check_weights,
    grouped,
    identities,
    image_suffix,
    model_of_file,
    number,
    ungrouped,
    whole,
)
from twospeed.cli.printing import print_json, print_note
from twospeed.cli.progress import show_progress
from twospeed.cli.prompts import Prompts
from twospeed.cli.track_job import TrackJob, check_quality, timed, write_preview
from twospeed.cli.track_options import PROMPTS, QUALITIES, MaskOutputOptions, MemoryOptions, PromptOptions
from twospeed.errors import CheckpointError, InputError
from twospeed.weights.catalog import DEFAULT_FINDER, DEFAULT_TRACKER

if TYPE_CHECKING:
    from twospeed.results import Frame, ObjectMasks

SHARED = "twospeed.tracker"  # where a command of several videos keeps its trackers, by model, with their networks
_PROMPTS = (
    "mask", "box", "point", "background_point", "polygon", "gone", "direction", "preview", "snap"
)  # fmt: skip
_MEMORY = ("memory_every", "include_last", "top_k", "max_memory_frames", "precision", "finder")
_FOUND = ("merged", "min_score")
MAX_OBJECTS = 50
_NO_PROMPT = "give --mask FIRST.png, --box x,y,w,h or --point x,y"

EPILOG = """
**Examples**

`twospeed track clip.mp4 --mask first.png` writes `clip_track/overlay.mp4`, `masks/00000.png` ..., `frames.csv` and
`run.json`.

`twospeed track clip.mp4 --box 120,40,200,160 -o out` starts from a box (x,y,width,height in pixels of the first frame).

`twospeed track clip.mp4 --point 1@60,40 --point 1@90,50 --background-point 1@20,20 --preview` shows the mask of three
points in `clip_track/preview/`; without `--preview` it is tracked.

`twospeed track a.mp4 b.mp4 --prompts table.csv -o out` tracks several videos, each into `out/NAME/`, skips broken
ones, and writes `out/report.html`; `--resume` repeats nothing that is finished.

`twospeed track frames/ --mask 0=a.png --mask 40=b.png` adds (or corrects) objects at frame 40.

`twospeed track clip.mp4 --box 120=60,40,50,80 --direction both` starts in the middle and tracks both ways.

`twospeed track hour.mp4 --mask first.png` runs in constant memory, however long the video is; after a crash the same
command with `--resume` continues it.

`twospeed track clip.mp4 --mask first.png --finetune 30` fine-tunes the network on synthetic motion of the first frame
before tracking: some seconds more, longer without a graphics card, and often better masks.

`twospeed track clip.mp4 --model stm --weights stm.pth --mask first.png --include-last --top-k 0` is STM as published.

`twospeed track clip.mp4` finds the objects that the clip is about, without any prompt, and tracks them.

`twospeed track clip.mp4 --mask first.png --model slowfast_maskrcnn_3_7 --weights w.safetensors --finetune 200`
fine-tunes that network on the objects of the first frame's mask, then tracks them.
"""


@grouped
def track(
    *,
    context: typer.Context,
    video: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="VIDEO...",
            help="A video file, a folder of images, a camera's number, an address (rtsp://, https://), or - for "
            "standard input. Several videos, or with --prompts a folder of videos, are tracked one after the other.",
            show_default=False,
        ),
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(
            rich_help_panel=PROMPTS,
            metavar="TABLE.csv",
            help="Prompts of several videos: a table with the columns video, frame, object, kind and value. kind is "
            "mask, box, point or background-point.",
        ),
    ] = None,
    marks: PromptOptions,
    direction: Annotated[
        Literal["forward", "backward", "both"],
        typer.Option(
            rich_help_panel=PROMPTS,
            help="Track forward from each mask, backward, or both ways: frames between two masks then come from the "
            "nearer one.",
        ),
    ] = "forward",
    preview: Annotated[
        bool,
        typer.Option(
            "--preview",
            rich_help_panel=PROMPTS,
            help="Write the masks of the first frame that has prompts into preview/, and stop there.",
        ),
    ] = False,
    snap: Annotated[
        bool,
        typer.Option(
            rich_help_panel=PROMPTS, help="Clean anti-aliased, blurred or JPEG-compressed masks to flat labels first."
        ),
    ] = False,
    quality: Annotated[
        Literal["fast", "good", "best"] | None,
        typer.Option(
            help="Choose model, size and memory together: fast (track_nano, fewer frames in memory), good "
            "(track_small, 480; the defaults), best (track_small, 720, more frames in memory). Options that are given "
            "count more. The rate is printed."
        ),
    ] = None,
    model: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Model; `twospeed models --task track` lists them. With --weights that of the file; without mask, box "
            "or point: find_nano.",
        ),
    ] = DEFAULT_TRACKER,
    weights: Weights = "default",
    memory: MemoryOptions,
    max_objects: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            parser=whole(1, 254),
            help="Most objects at once: masks with more are often images of something else. "
            f"[default: {MAX_OBJECTS}; models without prompts 20]",
        ),
    ] = None,
    merged: Annotated[
        bool, typer.Option(help="Models without prompts: one foreground instead of single objects.")
    ] = False,
    min_score: Annotated[
        float | None,
        typer.Option(
            metavar="P",
            parser=number(0, 1),
            help="Models without prompts: least score (0 to 1) of a new object, or with --merged of any detection; "
            "find_nano: least confidence of what is found. [default: 0.5; with --merged that of the network]",
        ),
    ] = None,
    finetune: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            parser=whole(1),
            help="Fine-tune on synthetic motion of the first frame for N iterations before tracking. Slower to start, "
            "often better masks. Try 30 for track_small and track_nano, 2000 for slowfast_maskrcnn. [default: off]",
        ),
    ] = None,
    outputs: MaskOutputOptions,
    job: JobOptions,
) -> dict[str, Any]:
    """Track objects through a video, from masks, boxes or points of any frames, or without any."""
    arguments = ungrouped(locals())
    if len(video or []) != 1 or prompts is not None:
        from twospeed.cli.track_many import track_clips

        if not video and prompts is None:
            raise InputError("no video is given; name one or more, or a table of prompts", option="prompts")
        track_clips(arguments, track)
        return {}
    (clip,) = video or [""]
    from twospeed.weights.catalog import find

    source = job.source(clip)
    given = Prompts(source, marks)
    chosen = {name: value for name, value in QUALITIES.get(quality or "", {}).items() if not _was_typed(context, name)}
    prompted = bool(given)
    if not _was_typed(context, "model") and weights != "default":
        with suppress(CheckpointError):  # raised below, where they are loaded
            model = model_of_file(weights)
    elif not prompted and not _was_typed(context, "model"):
        model = DEFAULT_FINDER
    elif weights == "default":  # others belong to the model that was named
        model = chosen.get("model", model)
    chosen.pop("model", None)
    memory = replace(memory, **chosen)
    entry = find(model)
    if entry.task != "track":
        raise InputError(f"{model} does not track; `twospeed models --task track` lists the models that do")
    if entry.needs_masks:
        _refuse(context, model, "tracks objects that are given", _FOUND)
        if not prompted:
            raise InputError(
                f"{model} tracks objects that are given; {_NO_PROMPT} (or leave --model out: {DEFAULT_FINDER} needs "
                "none)"
            )
    else:
        mark = ", or mark an object for another model"
        _refuse(context, model, "chooses the frames in memory itself" if entry.finder else "keeps no masks in memory",
                _MEMORY, mark if entry.finder else "")  # fmt: skip
        if entry.finder:
            _refuse(context, model, "finds objects without prompts", (*_PROMPTS, "finetune"), mark)
        elif finetune is None:
            _refuse(context, model, "finds objects without prompts", (*_PROMPTS, "quality"), ", or add --finetune 200")
        elif not prompted:
            raise InputError(f"--finetune fine-tunes on the first frame's mask; {_NO_PROMPT}")
        elif direction != "forward" or marks.gone:
            raise InputError(f"{model} tracks forward alone, without corrections; leave --direction and --gone out")
    if direction != "forward" and not source.stored:
        raise InputError(f"{source.name} is read once, forward; --direction {direction} needs a file or a folder")
    check_weights([weights])
    if preview:
        write_preview(
            given,
            source,
            job.place(source, "track") / "preview",
            job.start,
            job.end,
            direction,
            snap,
            overwrite=job.overwrite,
            quiet=job.quiet,
        )
        return {}
    wanted = outputs.settings()
    names = ["masks/*.png", "confidence.png", *(["overlay.mp4"] if job.overlay else []), *wanted.patterns]
    with job.folder(source, "track", names, [*given.paths, *wanted.inputs]) as folder:
        from twospeed.output.areas import ObjectAreas
        from twospeed.output.mask_outputs import MaskOutputs
        from twospeed.output.overlay import draw_masks
        from twospeed.output.run import Run
        from twospeed.pipelines.track import make_tracker
        from twospeed.video.reader import frame_range, open_video
        from twospeed.weights.store import weights_sha256

        options: dict[str, Any] = {name: value for name, value in vars(marks).items() if name != "mask"}
        options |= {"direction": direction, "snap": snap, "finetune": finetune, **job.recorded, **wanted.options}
        with show_progress(job.quiet) as on_progress:
            settings: dict[str, Any] = {"weights": weights, "device": job.device, "on_progress": on_progress}
            if finetune is not None:
                settings["finetune"] = finetune
            shared = context.meta.setdefault(SHARED, {})
            tracker = shared.get(model)  # of a video before
            if tracker is not None:
                tracker.reset()
            if entry.needs_masks:
                kept = vars(memory) | {
                    "top_k": memory.top_k or None,
                    "size": 480 if memory.size is None else memory.size or None,
                    "finder": {None: "default", "none": None}.get(memory.finder, memory.finder),
                }
                settings["max_objects"] = max_objects or MAX_OBJECTS
                tracker = tracker or make_tracker(model, **kept, **settings)
                options |= kept | {"precision": tracker.precision}
            else:
                settings |= {"merged": merged, "min_score": min_score}
                options |= {"size": memory.size, "merged": merged, "min_score": min_score}
                if max_objects is not None:
                    settings["max_objects"] = options["max_objects"] = max_objects
                if entry.finder:
                    options["follower"] = DEFAULT_TRACKER
                if memory.size != 0 and tracker is None:  # the video's own size is known only with its first frame
                    tracker = make_tracker(model, size=memory.size, **settings)
            if finetune is None and tracker is not None:
                shared[model] = tracker
            with open_video(source, **job.span) as reader:
                frames = iter(reader)
                first = next(frames)
                part = frame_range(source, job.start, job.end) if direction != "forward" else None
                begin = part[-1] if part and direction == "backward" else first.index
                marked = given.read(begin, first.image.shape[:2], snap=snap)
                if tracker is None:
                    options["size"] = min(first.image.shape[:2])
                    tracker = make_tracker(model, size=options["size"], **settings)
                if finetune is not None and not entry.needs_masks:
                    if first.index not in marked.indices:
                        raise InputError(f"--finetune fine-tunes on the first frame's mask; {_NO_PROMPT}")
                    if later := [index for index in marked.indices if index != first.index]:
                        raise InputError(
                            f"--finetune fine-tunes on the first frame's mask; leave a mask of frame {later[0]} out"
                        )
                tracking = TrackJob(tracker, marked, source, part, direction, whole=wanted.needs_probabilities)
                tracking.check(first.index, (job.start, job.end))
                if not job.quiet and (silence := tracking.silence(first.index)):
                    print_note(silence)
                roles = {
                    f"mask of frame {begin if index is None else index}": path for index, path in given.files.items()
                }
                roles |= {f"annotations {number}": path for number, (_, path) in enumerate(given.annotations, start=1)}
                check_quality(folder, model, options)
                run = Run(
                    "track",
                    model=model,
                    weights_sha256=weights_sha256(model, weights),
                    options=options | {"device": str(tracker.device), "first_masks": marked.indices},
                    inputs=identities(roles, source),
                    folder=folder,
                    total=reader.frames_expected,
                    on_progress=on_progress,
                    audio_from=job.sound_of(source),
                )
                run.colours = reader.info.colours
                if run.finished_frames is None:
                    areas = ObjectAreas(run)
                    run.at_end(areas.summarise)
                    results = tracking.results(chain([first], frames), run, in_advance=reader.reads_ahead)
                    # A finder works before its first result: it has no rate
                    if quality is not None and not job.quiet and not entry.finder:
                        how = getattr(tracker, "precision", "fp32")
                        what = f"quality {quality} ({model}, size {options['size']}, {how})"
                        results = timed(results, what, run.total)
                    rate, suffix = reader.info.frame_rate, image_suffix(source)

                    def on_result(frame: Frame, result: ObjectMasks) -> None:
                        areas.add(frame, result)
                        written.add(frame, result)

                    with MaskOutputs(
                        wanted, run, video=source.stem or "video", rate=rate, image_suffix=suffix
                    ) as written:
                        run.label_frames(
                            "masks",
                            results,
                            on_result,
                            draw=(lambda frame, result: draw_masks(frame.image, result.labels))
                            if job.overlay
                            else None,
                            rate=rate,
                        )
    summary = run.summary()
    if job.json_output:
        print_json(summary)
    elif not job.quiet or run.finished_frames is not None:
        already = "finished already, " if run.finished_frames is not None else ""
        speed, count = f"{summary['frames_per_second']:.1f} frames/s", len(summary["objects"])
        objects = "1 object" if count == 1 else f"{count} objects"
        hint = "; mark one with --point to follow it alone" if entry.finder and not job.json_output else ""
        found = f"found {objects}" if entry.finder else objects
        counted = f"{summary['frames']} frame{'s' * (summary['frames'] != 1)}"
        print_note(f"{folder.path}: {already}{counted}, {found}, {speed}{hint}")
    if not job.quiet:
        for warning in run.record().warnings:
            print_note(f"warning: {warning}")
    return summary


track.__doc__ = (track.__doc__ or "") + "\n" + EPILOG


def _refuse(context: typer.Context, model: str, reason: str, options: tuple[str, ...], or_else: str = "") -> None:
    """Raise InputError when an option is given that the model has no use for."""
    for option in options:
        if _was_typed(context, option):
            name = option.replace("_", "-")
            raise InputError(f"{model} {reason}; leave --{name} out{or_else}")


def _was_typed(context: typer.Context, option: str) -> bool:
    source = context.get_parameter_source(option)
    return source is not None and source.name == "COMMANDLINE"
