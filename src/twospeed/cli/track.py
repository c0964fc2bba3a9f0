"""`twospeed track`: masks of every frame from the first frame's mask, box or point."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from itertools import chain, count, takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from twospeed.errors import InputError, MaskError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from twospeed.results import Frame, ObjectMasks, OnProgress, Progress

_MARKS = ("mask", "box", "point", "snap")
_MEMORY = ("memory_every", "include_last", "top_k", "max_memory_frames", "precision", "resume")
_FINDING = ("merged", "min_score")
_NOTHING_TO_LEARN = "--finetune learns the first frame's mask; give --mask FIRST.png, --box x,y,w,h or --point x,y"

EPILOG = """
**Examples**

`twospeed track clip.mp4 --mask first.png` writes `clip_track/overlay.mp4`, `masks/00000.png` ... and `run.json`.

`twospeed track clip.mp4 --box 120,40,200,160 -o out` starts from a box (x,y,width,height in pixels of the first frame).

`twospeed track frames/ --mask 0=a.png --mask 40=b.png` adds (or corrects) objects at frame 40.

`twospeed track hour.mp4 --mask first.png --max-memory-frames 20` runs in constant memory, however long the video;
the same line with `--resume` goes on after a crash.

`twospeed track clip.mp4 --mask first.png --finetune 30` practises on made-up motion of the first frame before it goes
on: it takes some seconds, more on a CPU, and often gives better masks.

`twospeed track clip.mp4 --model stm --weights stm.pth --mask first.png --include-last --top-k 0` is STM as published.

`twospeed track clip.mp4 --model slowfast_maskrcnn_3_7 --weights w.safetensors` finds the objects by itself.

`twospeed track clip.mp4 --mask first.png --model slowfast_maskrcnn_3_7 --weights w.safetensors --finetune 200` learns
the objects of the first frame's mask, then follows them.
"""


def track(
    context: typer.Context,
    video: Annotated[str, typer.Argument(help="A video file, a folder of images, a camera's number, or - for stdin.")],
    mask: Annotated[
        list[str] | None,
        typer.Option(
            "--mask",
            help="Label image of the first frame (palette PNG: index = object; black and white: one object). "
            "FRAME=FILE for another frame, a folder for several (files named by frame). Repeatable.",
        ),
    ] = None,
    box: Annotated[
        list[str] | None,
        typer.Option(
            "--box", help="x,y,width,height around an object of the first frame; GrabCut makes the mask. Repeatable."
        ),
    ] = None,
    point: Annotated[
        list[str] | None,
        typer.Option(
            "--point",
            help="x,y on an object of the first frame; GrabCut guesses the mask by colour, look at it. Repeatable.",
        ),
    ] = None,
    model: Annotated[str, typer.Option(help="Model name; `twospeed models` lists them.")] = "track_nano",
    weights: Annotated[
        str, typer.Option(help="'default', or a checkpoint: twospeed's .safetensors or the authors' file.")
    ] = "default",
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Folder for the results. [default: CLIP_track]")
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(
            show_default=False,
            help="Shorter side in pixels at which the network works; 0 takes the video's own. "
            "[default: 480; slowfast_maskrcnn 800]",
        ),
    ] = None,
    memory_every: Annotated[int, typer.Option(min=1, help="Remember every n-th frame.")] = 5,
    include_last: Annotated[bool, typer.Option(help="Also remember the last frame until the next one.")] = False,
    top_k: Annotated[int, typer.Option(help="Memory matches kept per cell; 0 keeps all.")] = 20,
    max_memory_frames: Annotated[
        int | None, typer.Option(min=1, help="Most frames remembered at once: bounds memory on long videos.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, ... [default: cuda if present]")] = None,
    precision: Annotated[str, typer.Option(help="fp32, or bf16 where the processor is fast at it.")] = "fp32",
    merged: Annotated[
        bool, typer.Option(help="Without a mask: one foreground, not single objects linked over time.")
    ] = False,
    min_score: Annotated[
        float | None,
        typer.Option(help="Without a mask: least score of a new object, 0.5 if left out; merged, of any detection."),
    ] = None,
    finetune: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Learn the first mask in so many iterations before the rest is tracked: 30 for track_nano, 2000 for "
            "slowfast_maskrcnn.",
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on after the last mask that an interrupted run left in the folder.")
    ] = False,
    snap: Annotated[bool, typer.Option(help="Clean anti-aliased or coloured masks to flat labels first.")] = False,
    overlay: Annotated[bool, typer.Option(help="Write overlay.mp4 next to the masks.")] = True,
    json_output: Annotated[bool, typer.Option("--json", help="Print a summary as JSON on stdout.")] = False,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="No progress.")] = False,
) -> None:
    """Track objects through a video, from a mask, box or point on its first frame, or without any."""
    from twospeed.cli.job import Job, print_json
    from twospeed.pipelines.track import Tracker, make_tracker
    from twospeed.pipelines.trackers import VideoTracker, needs_masks
    from twospeed.video.reader import open_video
    from twospeed.weights.load import weights_sha256

    if not needs_masks(model):
        if finetune is None:
            _refuse(context, "finds objects by itself", _MARKS, or_else=", or learn it: --finetune 200")
        elif not (mask or box or point):
            raise InputError(_NOTHING_TO_LEARN)
        _refuse(context, "remembers no masks", _MEMORY)
    else:
        _refuse(context, "follows objects that are marked", _FINDING)
        if not (mask or box or point):
            raise InputError(
                f"{model} follows objects that are marked; give --mask FIRST.png, --box x,y,w,h or --point x,y "
                "(or --model slowfast_maskrcnn_3_7, which finds objects by itself)"
            )
    if precision not in ("fp32", "bf16"):
        raise InputError(f"--precision is {precision!r}; choose fp32 or bf16")

    common: dict[str, Any] = {"weights": weights, "device": device}
    if finetune is not None:
        common |= {"finetune": finetune, "on_progress": _learning(quiet)}

    def finder(size: int | None) -> VideoTracker:
        return make_tracker(model, size=size, merged=merged, min_score=min_score, **common)

    tracker: VideoTracker | None = None
    options: dict[str, Any] = {"source": video}
    if needs_masks(model):
        memory: dict[str, Any] = {
            "memory_every": memory_every,
            "include_last": include_last,
            "top_k": top_k or None,
            "max_memory_frames": max_memory_frames,
            "size": 480 if size is None else size or None,
            "precision": precision,
        }
        tracker = make_tracker(model, **memory, **common)
        options |= memory | ({} if finetune is None else {"finetune": finetune})
    elif size != 0:
        tracker = finder(size)
    folder = output or Path(f"{'stdin' if video == '-' else Path(video).stem or Path(video).resolve().name}_track")
    with open_video(video) as reader:
        frames = iter(reader)
        first = next(frames)
        masks = _read_masks(mask or [], snap, first.image.shape[:2])
        if tracker is None:  # the video's own size, known only now
            tracker = finder(min(first.image.shape[:2]))
        if not isinstance(tracker, Tracker):
            options |= {"size": tracker.model.min_size, "merged": merged, "min_score": min_score}
        if box or point:
            masks[0] = _prompted(first.image, masks.get(0), box or [], point or [])
        if finetune is not None and not isinstance(tracker, Tracker):
            options["finetune"] = finetune
            if 0 not in masks:
                raise InputError(_NOTHING_TO_LEARN)
            if later := sorted(masks)[1:]:
                raise InputError(f"--finetune learns the first frame's mask; leave a mask of frame {later[0]} out")
        job = Job(
            "track",
            model=model,
            weights_sha256=weights_sha256(model, weights),
            options=options | {"device": str(tracker.device), "first_masks": sorted(masks)},
            output=folder,
            total=reader.info.frame_count,
            quiet=quiet,
        )
        earlier = job.earlier() if resume else None
        if earlier is not None and earlier["finished"] and not json_output:
            return typer.echo(f"{folder}: finished already, {earlier['frames']} frames", err=True)
        kept = [] if earlier is None else _finished_masks(folder)
        every = chain([first], frames)
        results = _steps(tracker, every, masks, kept) if isinstance(tracker, Tracker) else tracker.run(every, masks)
        areas = write_results(results, folder, rate=reader.info.frame_rate, job=job, overlay=overlay, kept=len(kept))
    if unused := [index for index in masks if index >= job.frames]:
        raise InputError(f"--mask for frame {unused[0]}, but {video} has {job.frames} frames (0 to {job.frames - 1})")
    if json_output:
        record = job.record(finished=True)
        objects = [{"id": i, "frames_visible": n, "mean_area": round(a, 1)} for i, (n, a) in sorted(areas.items())]
        print_json(
            {
                "output": str(folder),
                "frames": record.frames,
                "seconds": record.seconds,
                "frames_per_second": record.frames_per_second,
                "objects": objects,
            }
        )
    elif not quiet:
        speed = job.record().frames_per_second
        typer.echo(f"{job.frames} frames, {len(areas)} objects, {speed:.1f} frames/s: {folder}", err=True)


track.__doc__ = (track.__doc__ or "") + "\n" + EPILOG


def write_results(
    results: Iterable[tuple[Frame, ObjectMasks]],
    folder: Path,
    *,
    rate: Any,
    job: Any,
    overlay: bool = True,
    kept: int = 0,
) -> dict[int, tuple[int, float]]:
    """Write masks and overlay as they come, count them in `job`; returns {object: (frames visible, mean area)}.

    The folder appears with the first result, so that bad input leaves nothing behind; an interruption leaves a
    playable overlay and all finished masks. Masks of an earlier run in the same folder are replaced, but for the
    first `kept`, which a resumed run goes on from.
    """
    import numpy as np

    from twospeed.cli.job import make_folder
    from twospeed.output.overlay import draw_masks
    from twospeed.video.indexed_png import write_indexed_png
    from twospeed.video.writer import VideoWriter

    pixels: dict[int, list[int]] = {}
    writer: VideoWriter | None = None
    with ExitStack() as stack:
        for frame, result in results:
            if job.frames == 0:
                _clear(make_folder(folder / "masks"), kept)
                stack.enter_context(job)
                if overlay:
                    writer = VideoWriter(folder / "overlay.mp4", rate, keep_partial=True)
                    stack.enter_context(writer)
            if frame.index >= kept:
                write_indexed_png(folder / "masks" / f"{frame.index:05d}.png", result.labels)
            if writer is not None:
                writer.write(draw_masks(frame.image, result.labels), frame.time_s)
            counts = np.bincount(result.labels.ravel(), minlength=256)
            for object_id in result.object_ids:
                pixels.setdefault(object_id, []).append(int(counts[object_id]))
            job.advance()
    return {i: (sum(n > 0 for n in areas), sum(areas) / len(areas)) for i, areas in pixels.items()}


def _steps(
    tracker: Any, frames: Iterable[Frame], masks: dict[int, Any], kept: list[Path]
) -> Iterator[tuple[Frame, ObjectMasks]]:
    """Track; the first frames are replayed from the masks that an earlier run left."""
    from twospeed.video.indexed_png import read_label_map

    for frame in frames:
        given = masks.get(frame.index)
        if frame.index < len(kept):
            labels = read_label_map(kept[frame.index], allow_empty=True, expect_size=frame.image.shape[:2])
            yield frame, tracker.replay(frame.image, labels, given, time_s=frame.time_s)
        else:
            yield frame, tracker.step(frame.image, given, time_s=frame.time_s)


def _finished_masks(folder: Path) -> list[Path]:
    """List the masks, without gaps from frame 0 on, that an interrupted run left."""
    files = (folder / "masks" / f"{index:05d}.png" for index in count())
    return list(takewhile(Path.exists, files))


def _refuse(context: typer.Context, reason: str, options: tuple[str, ...], or_else: str = "") -> None:
    """Raise InputError when an option is given that the model has no use for."""
    for option in options:
        source = context.get_parameter_source(option)
        if source is not None and source.name == "COMMANDLINE":
            name = option.replace("_", "-")
            raise InputError(f"{context.params['model']} {reason}; leave --{name} out{or_else}")


def _learning(quiet: bool) -> OnProgress:
    """Show how far fine-tuning is: on a terminal in one line, elsewhere every ten seconds."""
    terminal, last = sys.stderr.isatty(), time.perf_counter()

    def show(progress: Progress) -> None:
        nonlocal last
        loss = progress.values["loss"]
        text = f"track: fine-tuning, {progress.done} of {progress.total} {progress.unit}, loss {loss:.2f}"
        if not quiet and terminal:
            end = "\n" if progress.done == progress.total else ""
            print(f"\r{text}", end=end, file=sys.stderr, flush=True)
        elif not quiet and time.perf_counter() - last > 10:
            last = time.perf_counter()
            print(text, file=sys.stderr)

    return show


def _clear(folder: Path, kept: int) -> None:
    for old in folder.glob("*.png"):
        if old.stem.isdigit() and int(old.stem) >= kept:
            old.unlink()


def _read_masks(given: list[str], snap: bool, size: tuple[int, int]) -> dict[int, NDArray[np.uint8]]:
    """`FILE`, `FRAME=FILE` or a folder of files named by frame -> {frame: labels}."""
    from twospeed.video.indexed_png import read_label_map

    masks: dict[int, NDArray[np.uint8]] = {}
    for item in given:
        frame, equals, name = item.partition("=")
        path = Path(name) if equals and frame.isdigit() else Path(item)
        if path.is_dir():
            files = {int(file.stem): file for file in path.glob("*.png") if file.stem.isdigit()}
            if not files:
                raise MaskError(f"{path} holds no mask named by its frame, such as 00000.png")
        else:
            files = {int(frame) if equals and frame.isdigit() else 0: path}
        for index, file in files.items():
            if index in masks:
                raise InputError(f"{file} is a second mask for frame {index}; give one label image a frame")
            masks[index] = read_label_map(file, snap=snap, expect_size=size)
    return masks


def _prompted(
    image: NDArray[np.uint8], labels: NDArray[np.uint8] | None, boxes: list[str], points: list[str]
) -> NDArray[np.uint8]:
    """Add an object for each box and point to the first frame's labels (earlier ones keep their pixels)."""
    import numpy as np

    from twospeed.pipelines.prompts import mask_from_box, mask_from_point

    found = [mask_from_box(image, _numbers("--box", text, 4)) for text in boxes]  # type: ignore[arg-type]
    found += [mask_from_point(image, _numbers("--point", text, 2)) for text in points]  # type: ignore[arg-type]
    labels = np.zeros(image.shape[:2], np.uint8) if labels is None else labels.copy()
    for object_mask in found:
        labels[object_mask & (labels == 0)] = int(labels.max()) + 1
    return labels


def _numbers(option: str, text: str, count: int) -> tuple[float, ...]:
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) != count:
        wanted = "x,y,width,height" if count == 4 else "x,y"
        raise InputError(
            f"{option} is {text!r}; give {wanted} in pixels, such as {'10,20,100,80' if count == 4 else '60,40'}"
        )
    return numbers
