"""`twospeed track`: masks of every frame from the first frame's mask, box or point."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from twospeed.cli.options import (
    Audio,
    Damaged,
    Device,
    End,
    Json,
    Output,
    Overlay,
    Overwrite,
    Precision,
    Quiet,
    Resume,
    Start,
    Weights,
    check_files,
    check_range,
    check_resume,
    check_weights,
    default_output,
    files_of,
    identities,
    image_suffix,
    number,
    parse_numbers,
    sound_of,
    whole,
)
from twospeed.cli.printing import print_json, print_note
from twospeed.cli.progress import show_progress
from twospeed.errors import InputError, MaskError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from twospeed.output.run import Run
    from twospeed.pipelines.track import Tracker
    from twospeed.pipelines.trackers import VideoTracker
    from twospeed.results import Frame, ObjectMasks
    from twospeed.video.sources import Source

SHARED = "twospeed.tracker"  # where a command of several videos keeps its tracker, with the network in it
_PROMPTS = ("mask", "box", "point", "snap")
_MEMORY = ("memory_every", "include_last", "top_k", "max_memory_frames", "precision")
_DETECTIONS = ("merged", "min_score")
SECONDS_BETWEEN_STATES = 30.0
SHARE_OF_STATES = 0.05  # of the time, at most: large memories are saved less often
_NO_PROMPT = "give --mask FIRST.png, --box x,y,w,h or --point x,y"

EPILOG = """
**Examples**

`twospeed track clip.mp4 --mask first.png` writes `clip_track/overlay.mp4`, `masks/00000.png` ..., `frames.csv` and
`run.json`.

`twospeed track clip.mp4 --box 120,40,200,160 -o out` starts from a box (x,y,width,height in pixels of the first frame).

`twospeed track a.mp4 b.mp4 --prompts table.csv -o out` tracks several videos, each into `out/NAME/`, goes past broken
ones, and writes `out/report.html`; `--resume` repeats nothing that is finished.

`twospeed track frames/ --mask 0=a.png --mask 40=b.png` adds (or corrects) objects at frame 40.

`twospeed track hour.mp4 --mask first.png --max-memory-frames 20` runs in constant memory, however long the video is;
after a crash the same command with `--resume` continues it.

`twospeed track clip.mp4 --mask first.png --finetune 30` fine-tunes the network on synthetic motion of the first frame
before tracking: some seconds more, longer without a graphics card, and often better masks.

`twospeed track clip.mp4 --model stm --weights stm.pth --mask first.png --include-last --top-k 0` is STM as published.

`twospeed track clip.mp4 --model slowfast_maskrcnn_3_7 --weights w.safetensors` finds objects without any prompt.

`twospeed track clip.mp4 --mask first.png --model slowfast_maskrcnn_3_7 --weights w.safetensors --finetune 200`
fine-tunes that network on the objects of the first frame's mask, then tracks them.
"""


def track(
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
            metavar="TABLE.csv",
            help="Prompts of several videos: a table with the columns video, frame, object, kind and value. kind is "
            "mask, box, point or background-point.",
        ),
    ] = None,
    mask: Annotated[
        list[str] | None,
        typer.Option(
            "--mask",
            metavar="[FRAME=]FILE",
            help="Image of labels for the first frame (palette PNG: index = object; black and white: one object), or "
            "for frame number FRAME. A folder gives several: files named by frame number, or as the images of the "
            "video's folder. Repeatable.",
        ),
    ] = None,
    box: Annotated[
        list[str] | None,
        typer.Option(
            "--box",
            metavar="X,Y,W,H",
            help="Box around an object of the first frame, in pixels from the top left; GrabCut turns it into a mask. "
            "Repeatable, one object each.",
        ),
    ] = None,
    point: Annotated[
        list[str] | None,
        typer.Option(
            "--point",
            metavar="X,Y",
            help="Point on an object of the first frame, in pixels; GrabCut guesses the mask by colour, so check the "
            "first mask. Repeatable, one object each.",
        ),
    ] = None,
    model: Annotated[
        str, typer.Option(metavar="NAME", help="Model; `twospeed models --task track` lists them.")
    ] = "track_nano",
    weights: Weights = "default",
    output: Output = None,
    overwrite: Overwrite = False,
    resume: Resume = False,
    start: Start = None,
    end: End = None,
    damaged: Damaged = "error",
    size: Annotated[
        int | None,
        typer.Option(
            show_default=False,
            metavar="PIXELS",
            parser=whole(0, 8192),
            help="Shorter side at which the network works; 0 is the video's own. Smaller is faster, larger finds "
            "smaller objects. [default: 480; slowfast_maskrcnn 800]",
        ),
    ] = None,
    memory_every: Annotated[
        int,
        typer.Option(
            metavar="N",
            parser=whole(1),
            help="Keep every N-th frame in memory. Smaller follows fast changes better and is slower.",
        ),
    ] = 5,
    include_last: Annotated[
        bool, typer.Option(help="Also keep the last frame in memory until the next one. STM was published so.")
    ] = False,
    top_k: Annotated[
        int,
        typer.Option(
            metavar="K", parser=whole(0), help="Matches in memory that count for each cell of the image; 0 counts all."
        ),
    ] = 20,
    max_memory_frames: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            parser=whole(1),
            help="Most frames in memory at once: set it for long videos (20 is a good value). [default: no limit]",
        ),
    ] = None,
    device: Device = None,
    precision: Precision = "fp32",
    merged: Annotated[
        bool, typer.Option(help="Models without prompts: one foreground instead of single objects.")
    ] = False,
    min_score: Annotated[
        float | None,
        typer.Option(
            metavar="P",
            parser=number(0, 1),
            help="Models without prompts: least score (0 to 1) of a new object, or with --merged of any detection. "
            "[default: 0.5; with --merged that of the network]",
        ),
    ] = None,
    finetune: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            parser=whole(1),
            help="Fine-tune on synthetic motion of the first frame for N iterations before tracking. Slower to start, "
            "often better masks. Try 30 for track_nano, 2000 for slowfast_maskrcnn. [default: off]",
        ),
    ] = None,
    snap: Annotated[
        bool, typer.Option(help="Clean anti-aliased, blurred or JPEG-compressed masks to flat labels first.")
    ] = False,
    overlay: Overlay = True,
    audio: Audio = True,
    export: Annotated[
        str | None,
        typer.Option(
            metavar="FORMAT,...",
            help="Also write the masks as coco, youtube-vis, davis, youtube-vos, yolo-seg, cvat or labelme; several "
            "with commas. They go into exports/.",
        ),
    ] = None,
    export_images: Annotated[
        bool, typer.Option("--export-images", help="Also write the frames as JPEG into exports/images/.")
    ] = False,
    matte: Annotated[
        Literal["prores4444", "webm", "png", "exr"] | None,
        typer.Option(
            help="Also write the objects with transparency around them: matte.mov for editors, matte.webm for web "
            "pages, or images in matte/. [default: none]"
        ),
    ] = None,
    matte_alpha: Annotated[
        Literal["straight", "premultiplied"] | None,
        typer.Option(help="Whether a matte's colours are multiplied by alpha. [default: straight; exr premultiplied]"),
    ] = None,
    matte_layers: Annotated[
        bool, typer.Option("--matte-layers", help="One matte for each object, in matte/, instead of one for all.")
    ] = False,
    blur: Annotated[
        bool, typer.Option("--blur", help="Also write blurred.mp4, the video with all objects blurred.")
    ] = False,
    pixelate: Annotated[
        bool, typer.Option("--pixelate", help="Also write pixelated.mp4, the video with all objects as large squares.")
    ] = False,
    remove_background: Annotated[
        str | None,
        typer.Option(
            metavar="COLOUR|IMAGE",
            help="Also write background.mp4, the objects before a colour (green, #00b140) or an image file.",
        ),
    ] = None,
    json_output: Json = False,
    quiet: Quiet = False,
) -> dict[str, Any]:
    """Track objects through a video, from a mask, box or point on its first frame, or without any."""
    given = dict(locals())
    if len(video or []) != 1 or prompts is not None:
        from twospeed.cli.track_many import track_clips

        if not video and prompts is None:
            raise InputError("no video is given; name one or more, or a table of prompts", option="prompts")
        track_clips(given, track)
        return {}
    (clip,) = video or [""]
    from twospeed.output.folder import ResultFolder
    from twospeed.video.sources import find_source
    from twospeed.weights.catalog import find

    source = find_source(clip)
    check_resume(resume, source)
    check_range(start, end)
    files = _mask_files(mask or [], source)
    boxes = [parse_numbers("--box", text, "x,y,width,height") for text in box or []]
    points = [parse_numbers("--point", text, "x,y") for text in point or []]
    entry, prompted = find(model), bool(files or boxes or points)
    if entry.task != "track":
        raise InputError(f"{model} does not track; `twospeed models --task track` lists the models that do")
    if entry.needs_masks:
        _refuse(context, "tracks objects that are given", _DETECTIONS)
        if not prompted:
            raise InputError(
                f"{model} tracks objects that are given; {_NO_PROMPT} (or --model slowfast_maskrcnn_3_7, which needs "
                "none)"
            )
    else:
        _refuse(context, "keeps no masks in memory", _MEMORY)
        if finetune is None:
            _refuse(context, "finds objects without prompts", _PROMPTS, or_else=", or add --finetune 200")
        elif not prompted:
            raise InputError(f"--finetune fine-tunes on the first frame's mask; {_NO_PROMPT}")
    check_weights([weights])
    from twospeed.output.mask_outputs import MaskOutputs, MaskOutputSettings

    wanted = MaskOutputSettings(
        exports=tuple(filter(None, (export or "").split(","))),
        export_images=export_images,
        matte=matte,
        matte_alpha=matte_alpha,
        matte_layers=matte_layers,
        blur=blur,
        pixelate=pixelate,
        remove_background=remove_background,
    )
    names = ["masks/*.png", *(["overlay.mp4"] if overlay else []), *wanted.patterns]
    with ResultFolder(
        default_output(output, source, "track"),
        names,
        inputs=[*files.values(), *wanted.inputs, *files_of(source)],
        overwrite=overwrite,
        resume=resume,
    ) as folder:
        from twospeed.output.overlay import draw_masks
        from twospeed.output.run import Run
        from twospeed.pipelines.track import make_tracker
        from twospeed.video.reader import open_video
        from twospeed.weights.load import weights_sha256

        options: dict[str, Any] = {"box": boxes, "point": points, "snap": snap, "finetune": finetune}
        options |= {"start": start, "end": end, "damaged": damaged, "overlay": overlay}
        options |= {"audio": audio, **wanted.options}
        with show_progress(quiet) as on_progress:
            settings: dict[str, Any] = {"weights": weights, "device": device, "on_progress": on_progress}
            if finetune is not None:
                settings["finetune"] = finetune
            tracker = context.meta.get(SHARED)  # of the video before
            if tracker is not None:
                tracker.reset()
            if entry.needs_masks:
                memory: dict[str, Any] = {
                    "memory_every": memory_every,
                    "include_last": include_last,
                    "top_k": top_k or None,
                    "max_memory_frames": max_memory_frames,
                    "size": 480 if size is None else size or None,
                    "precision": precision,
                }
                options |= memory
                tracker = tracker or make_tracker(model, **memory, **settings)
            else:
                settings |= {"merged": merged, "min_score": min_score}
                options |= {"size": size, "merged": merged, "min_score": min_score}
                if size != 0 and tracker is None:  # the video's own size is known only with its first frame
                    tracker = make_tracker(model, size=size, **settings)
            if finetune is None and tracker is not None:
                context.meta[SHARED] = tracker
            with open_video(source, start, end, damaged=damaged) as reader:
                frames = iter(reader)
                first = next(frames)
                masks = _read_masks(files, first.index, snap, first.image.shape[:2])
                if tracker is None:
                    options["size"] = min(first.image.shape[:2])
                    tracker = make_tracker(model, size=options["size"], **settings)
                if boxes or points:
                    masks[first.index] = _prompted(first.image, masks.get(first.index), boxes, points)
                if finetune is not None and not entry.needs_masks:
                    if first.index not in masks:
                        raise InputError(f"--finetune fine-tunes on the first frame's mask; {_NO_PROMPT}")
                    if later := sorted(masks.keys() - {first.index}):
                        raise InputError(
                            f"--finetune fine-tunes on the first frame's mask; leave a mask of frame {later[0]} out"
                        )
                roles = {
                    f"mask of frame {first.index if index is None else index}": path for index, path in files.items()
                }
                run = Run(
                    "track",
                    model=model,
                    weights_sha256=weights_sha256(model, weights),
                    options=options | {"device": str(tracker.device), "first_masks": sorted(masks)},
                    inputs=identities(roles, source),
                    folder=folder,
                    total=reader.info.frame_count,
                    on_progress=on_progress,
                    audio_from=sound_of(source) if audio else None,
                )
                if run.finished_frames is None:
                    areas = Areas(run)
                    run.at_end(areas.summarise)
                    results = _results(tracker, chain([first], frames), masks, run, whole=wanted.needs_probabilities)
                    rate, suffix = reader.info.frame_rate, image_suffix(source)

                    def on_result(frame: Frame, result: ObjectMasks) -> None:
                        areas.add(frame, result)
                        outputs.add(frame, result)

                    with MaskOutputs(
                        wanted, run, video=source.stem or "video", rate=rate, image_suffix=suffix
                    ) as outputs:
                        run.label_frames(
                            "masks",
                            results,
                            on_result,
                            draw=(lambda frame, result: draw_masks(frame.image, result.labels)) if overlay else None,
                            rate=rate,
                        )
    summary = run.summary()
    if json_output:
        print_json(summary)
    elif not quiet or run.finished_frames is not None:
        already = "finished already, " if run.finished_frames is not None else ""
        speed, count = f"{summary['frames_per_second']:.1f} frames/s", len(summary["objects"])
        objects = "1 object" if count == 1 else f"{count} objects"
        print_note(f"{folder.path}: {already}{summary['frames']} frames, {objects}, {speed}")
    return summary


track.__doc__ = (track.__doc__ or "") + "\n" + EPILOG


class Areas:
    """How often and how large each object is seen: the summary of a run."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._objects: dict[int, list[int]] = {}  # id -> [frames, frames visible, pixels]

    def add(self, frame: Frame, result: ObjectMasks) -> None:
        """Count the pixels of a frame's objects."""
        import numpy as np

        counts = np.bincount(result.labels.ravel(), minlength=256)
        for object_id in result.object_ids:
            seen = self._objects.setdefault(object_id, [0, 0, 0])
            area = int(counts[object_id])
            seen[:] = seen[0] + 1, seen[1] + (area > 0), seen[2] + area

    def summarise(self) -> None:
        """Put the objects into the record of the run."""
        objects = [
            {"id": object_id, "frames_visible": visible, "mean_area": round(pixels / frames, 1)}
            for object_id, (frames, visible, pixels) in sorted(self._objects.items())
        ]
        self._run.summarise({"objects": objects})


def _results(
    tracker: VideoTracker, frames: Iterable[Frame], masks: dict[int, Any], run: Run, *, whole: bool
) -> Iterator[tuple[Frame, ObjectMasks]]:
    """Track. A resumed run reads its first masks from its files and computes from its last saved state, exactly.

    whole: compute all frames also then, as probabilities are wanted, which no file holds.

    Raises InputError at the end for masks of frames that the video does not have.
    """
    from twospeed.pipelines.track import Tracker

    indices: list[int] = []  # of the first and the last frame

    def counted() -> Iterator[Frame]:
        for frame in frames:
            indices[1:] = [frame.index]
            yield frame

    numbered = counted()
    if isinstance(tracker, Tracker):
        yield from _resumable(tracker, numbered, masks, run, whole=whole)
    else:
        yield from tracker.run(numbered, masks)
    first, last = indices[0], indices[-1]
    if outside := [index for index in sorted(masks) if not first <= index <= last]:
        count = f"{last - first + 1} frames ({first} to {last})"
        raise InputError(f"--mask for frame {outside[0]}, but the video has {count}")


def _resumable(
    tracker: Tracker, frames: Iterable[Frame], masks: dict[int, Any], run: Run, *, whole: bool
) -> Iterator[tuple[Frame, ObjectMasks]]:
    """Track with `Tracker`, whose state is saved now and then."""
    import numpy as np

    from twospeed.results import ObjectMasks
    from twospeed.video.indexed_png import read_label_map

    assert run.folder is not None
    restart, saved, pause = 0 if whole else run.folder.saved_state(), time.perf_counter(), SECONDS_BETWEEN_STATES
    if restart:
        tracker.load_state(run.folder.state(restart))
    for position, frame in enumerate(frames):
        if position < restart:
            entry, size = run.kept[position], frame.image.shape[:2]
            labels = read_label_map(run.folder.work / entry["file"], allow_empty=True, expect_size=size)
            ids = tuple(entry["objects"])
            nothing = np.zeros((0, *size), np.float32)
            sure = np.array([pair.split(":")[1] for pair in entry["row"][-1].split(";") if pair], np.float32)
            yield frame, ObjectMasks(labels, nothing, ids, frame.index, frame.time_s, sure)
            continue
        yield frame, tracker.step(frame.image, masks.get(frame.index), time_s=frame.time_s)
        now = time.perf_counter()
        if now - saved > pause:
            with run.folder.new_state(position + 1) as path:
                tracker.save_state(path)
            saved = time.perf_counter()
            pause = max(SECONDS_BETWEEN_STATES, (saved - now) / SHARE_OF_STATES)


def _refuse(context: typer.Context, reason: str, options: tuple[str, ...], or_else: str = "") -> None:
    """Raise InputError when an option is given that the model has no use for."""
    for option in options:
        source = context.get_parameter_source(option)
        if source is not None and source.name == "COMMANDLINE":
            name = option.replace("_", "-")
            raise InputError(f"{context.params['model']} {reason}; leave --{name} out{or_else}")


def _mask_files(given: list[str], source: Source) -> dict[int | None, Path]:
    """`FILE`, `FRAME=FILE` or a folder -> files by frame; None is the first frame that is read."""
    files: dict[int | None, Path] = {}
    for item in given:
        frame, equals, name = item.partition("=")
        numbered = bool(equals) and frame.isascii() and frame.isdecimal() and len(frame) < 19
        path = Path(name) if numbered else Path(item)
        check_files([path])
        found = _masks_in(path, source) if path.is_dir() else {int(frame) if numbered else None: path}
        for index, file in found.items():
            if index in files:
                raise InputError(f"{file} is a second mask for frame {index or 0}; give one label image for a frame")
            files[index] = file
    return files


def _masks_in(folder: Path, source: Source) -> dict[int | None, Path]:
    """Masks named as the images of the video's folder, where all of them are, or by frame numbers."""
    masks = {file.stem: file for file in sorted(folder.glob("*.png"))}
    if masks and source.kind == "images":
        places = {image.stem: index for index, image in enumerate(files_of(source))}
        if masks.keys() <= places.keys():
            return {places[stem]: file for stem, file in masks.items()}
    numbered: dict[int | None, Path] = {}
    for stem, file in masks.items():
        if stem.isascii() and stem.isdecimal():
            if (frame := int(stem)) in numbered:
                raise InputError(f"{file} is a second mask for frame {frame}, beside {numbered[frame].name}")
            numbered[frame] = file
    if not numbered:
        raise MaskError(f"{folder} holds no mask named by its frame, such as 00000.png")
    return numbered


def _read_masks(
    files: dict[int | None, Path], first: int, snap: bool, size: tuple[int, int]
) -> dict[int, NDArray[np.uint8]]:
    """Read masks by frame; those without a number belong to frame `first`."""
    from twospeed.video.indexed_png import read_label_map

    masks: dict[int, NDArray[np.uint8]] = {}
    for frame, file in files.items():
        index = first if frame is None else frame
        if index in masks:
            raise InputError(f"{file} is a second mask for frame {index}; give one label image for a frame")
        masks[index] = read_label_map(file, snap=snap, expect_size=size)
    return masks


def _prompted(
    image: NDArray[np.uint8],
    labels: NDArray[np.uint8] | None,
    boxes: list[tuple[float, ...]],
    points: list[tuple[float, ...]],
) -> NDArray[np.uint8]:
    """Add an object for each box and point to the first frame's labels (earlier ones keep their pixels)."""
    import numpy as np

    from twospeed.pipelines.prompts import mask_from_prompts

    found = [mask_from_prompts(image, box=(x, y, x + w, y + h)) for x, y, w, h in boxes]
    found += [mask_from_prompts(image, [(x, y, 1)]) for x, y in points]
    labels = np.zeros(image.shape[:2], np.uint8) if labels is None else labels.copy()
    for object_mask in found:
        labels[object_mask & (labels == 0)] = int(labels.max()) + 1
    return labels
