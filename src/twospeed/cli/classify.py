"""`twospeed classify`: what happens in a video, and when."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from twospeed.errors import InputError, TwospeedError

if TYPE_CHECKING:
    from twospeed.results import ActionScores

EPILOG = """
**Examples**

`twospeed classify clip.mp4` prints the likeliest actions: 10 clips x 3 crops, as the papers test.

`twospeed classify hour.mp4 --timeline -o out` slides a window over the video at constant memory and writes
`out/timeline.png`, `out/results.json`, `out/overlay.mp4`, `out/run.json`.

`twospeed classify clip.mp4 --model slowfast_r50_8x8 --weights SLOWFAST_8x8_R50.pyth --labels names.txt` uses a
checkpoint that you have, from PySlowFast or PyTorchVideo, by its own names.

`twospeed classify a.mp4 b.mp4 folder/ --model slowfast_r50_8x8 --model slowfast_r101_8x8` averages two networks over
many videos; a broken one is reported, the others are finished.
"""


def classify(
    video: Annotated[
        list[str],
        typer.Argument(help="Video files, a folder of videos or of images, a camera's number, or - for stdin."),
    ],
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="Model name; `twospeed models --task classify` lists them. Several make an ensemble. "
            "[default: slowfast_r50_8x8]"
        ),
    ] = None,
    weights: Annotated[
        list[str] | None,
        typer.Option(
            help="'default', 'random', or a checkpoint: twospeed's .safetensors or the authors' file. One for each "
            "model. [default: default]"
        ),
    ] = None,
    labels: Annotated[
        str | None, typer.Option(help="File of class names, one on each line. [default: what the weights learned]")
    ] = None,
    clips: Annotated[int, typer.Option(min=1, help="Clips spread over the video.")] = 10,
    crops: Annotated[
        int | None, typer.Option(help="1 (centre) or 3 (along the longer side). [default: 3; 1 with --timeline]")
    ] = None,
    timeline: Annotated[
        bool, typer.Option("--timeline", help="Slide a window over the whole video instead of --clips.")
    ] = False,
    every: Annotated[float, typer.Option(help="Timeline: seconds from one window to the next.")] = 1.0,
    threshold: Annotated[
        float | None,
        typer.Option(
            help="Timeline: list every action while its probability is at least this. [default: the likeliest]"
        ),
    ] = None,
    smooth: Annotated[int, typer.Option(help="Timeline: windows averaged around each, an odd number.")] = 1,
    top: Annotated[int, typer.Option(min=1, help="Actions to list.")] = 5,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Folder for the results. [default: print only]")
    ] = None,
    overlay: Annotated[bool, typer.Option(help="With -o: write overlay.mp4, the video with its actions.")] = True,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, ... [default: cuda if present]")] = None,
    precision: Annotated[
        Literal["fp32", "bf16"], typer.Option(help="bf16 where the processor is fast at it.")
    ] = "fp32",
    json_output: Annotated[bool, typer.Option("--json", help="Print the results as JSON on stdout.")] = False,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="No progress.")] = False,
) -> None:
    """Name what happens in videos, and when.

    Prints the likeliest actions with their probabilities, and a timeline. Cameras and stdin are always classified by
    a sliding window. Exit code 2 when a video could not be classified; all others are finished.
    """
    from twospeed.cli.job import Job, print_json
    from twospeed.pipelines.classify import DEFAULT_MODEL, Classifier
    from twospeed.weights.load import weights_sha256

    names = model or [DEFAULT_MODEL]
    given: list[Any] = [None if name == "random" else name for name in weights or ["default"]]
    if len(given) == 1:
        given *= len(names)
    crops = crops or (1 if timeline else 3)
    sources = _sources(video)
    classifier = Classifier(
        names, clips, crops, weights=given, labels=labels, timeline=timeline, every_s=every, threshold=threshold,
        smooth=smooth, precision=precision, device=device,
    )  # fmt: skip
    folders = _folders(output, sources)
    sums = [weights_sha256(name, each) for name, each in zip(names, given, strict=True) if each is not None]
    options = {
        "sources": [str(source) for source in sources],
        "weights": [each or "random" for each in given],
        "labels": labels,
        "clips": None if timeline else clips,
        "crops": crops,
        "timeline": timeline,
        "every_s": every if timeline else None,
        "threshold": threshold,
        "smooth": smooth,
        "precision": precision,
        "device": str(classifier.device),
    }
    job = Job(
        "classify",
        model=" + ".join(names),
        weights_sha256=" + ".join(name for name in sums if name) or None,
        options=options,
        output=output,
        total=None if timeline else classifier.frames_per_video * len(sources),
        quiet=quiet,
    )
    found: list[dict[str, Any]] = []
    failed: list[tuple[str, TwospeedError]] = []
    with job:
        results = classifier.classify_many(sources, lambda *_: job.advance(classifier.frames_seen - job.frames))
        for number, (source, result) in enumerate(results):
            if isinstance(result, TwospeedError):
                failed.append((str(source), result))
                if len(sources) == 1:
                    raise result
                typer.echo(f"twospeed: {result}", err=True)
                continue
            described = describe(str(source), " + ".join(names), result, top)
            found.append(described)
            if not json_output:
                _print_table(described, len(sources) > 1)
            if output is not None:
                _write(folders[number], source, described, result, top, overlay)
    if output is not None and len(sources) > 1:
        from twospeed.cli.job import write_json

        failures = [{"video": name, "error": str(error)} for name, error in failed]
        write_json(output / "results.json", {"videos": found, "failed": failures})
    if json_output:
        failures = [{"video": name, "error": str(error)} for name, error in failed]
        print_json(found[0] if len(sources) == 1 else {"videos": found, "failed": failures})
    if failed:
        raise InputError(f"{len(failed)} of {len(sources)} videos could not be classified; the first: {failed[0][1]}")
    if not quiet and output is not None:
        typer.echo(f"{len(found)} of {len(sources)} videos: {output}", err=True)


classify.__doc__ = (classify.__doc__ or "") + "\n" + EPILOG


def describe(video: str, model: str, scores: ActionScores, top: int) -> dict[str, Any]:
    """Return what `results.json` says of one video."""
    rows = scores.view_probabilities
    views = []
    for i, time_s in enumerate(scores.view_times_s.tolist()):
        assert rows is not None
        best = rows[i].argsort()[::-1][:top].tolist()
        listed = [{"label": scores.labels[c], "probability": round(float(rows[i, c]), 6)} for c in best]
        views.append({"time_s": round(time_s, 3), "top": listed})
    return {
        "video": video,
        "model": model,
        "top": [{"label": label, "probability": round(p, 6)} for label, p in scores.top(top)],
        "timeline": [
            {key: round(value, 6) if isinstance(value, float) else value for key, value in span.items()}
            for span in map(dataclasses.asdict, scores.timeline)
        ],
        "views": views,
    }


def _sources(given: Sequence[str]) -> list[Any]:
    """Paths as their videos; `-` and camera numbers as they are."""
    from twospeed.pipelines.classify import videos_in

    sources: list[Any] = []
    for item in given:
        live = item == "-" or (item.isdecimal() and not Path(item).exists())
        sources += [item] if live else videos_in([item])
    return sources


def _folders(output: Path | None, sources: list[Any]) -> list[Path]:
    """The folder of each video's results: the output itself, or one inside for each of several."""
    from twospeed.cli.job import make_folder

    if output is None:
        return []
    make_folder(output)
    if len(sources) == 1:
        return [output]
    taken: dict[str, int] = {}
    folders = []
    for source in sources:
        stem = Path(str(source)).stem or "stdin"
        taken[stem] = taken.get(stem, 0) + 1
        folders.append(output / (stem if taken[stem] == 1 else f"{stem}_{taken[stem]}"))
    return folders


def _print_table(described: dict[str, Any], named: bool) -> None:
    if named:
        typer.echo(described["video"])
    width = max(len(entry["label"]) for entry in [*described["top"], *described["timeline"]])
    for entry in described["top"]:
        bar = "█" * round(24 * entry["probability"])
        typer.echo(f"  {entry['label']:<{width}}  {100 * entry['probability']:5.1f} %  {bar}".rstrip())
    if described["timeline"]:
        typer.echo("  from to (s)")
    for span in described["timeline"]:
        when = f"{span['start_s']:8.1f} {span['end_s']:8.1f}"
        typer.echo(f"  {when}  {span['label']:<{width}}  {100 * span['probability']:5.1f} %")


def _write(folder: Path, source: Any, described: dict[str, Any], scores: ActionScores, top: int, overlay: bool) -> None:
    from twospeed.cli.job import make_folder, write_json
    from twospeed.output.timeline import plot_timeline

    make_folder(folder)
    write_json(folder / "results.json", described)
    plot_timeline(folder / "timeline.png", scores, title=Path(described["video"]).name, top=top)
    if overlay and isinstance(source, Path):
        write_overlay(source, scores, folder / "overlay.mp4", min(top, 3))


def write_overlay(source: Path, scores: ActionScores, path: Path, top: int) -> None:
    """Write the video with the likeliest actions of the nearest temporal view on every frame."""
    import numpy as np

    from twospeed.output.overlay import draw_caption
    from twospeed.video.reader import open_video
    from twospeed.video.writer import VideoWriter

    rows = scores.view_probabilities
    assert rows is not None
    captions = [[f"{scores.labels[c]}  {100 * row[c]:.1f} %" for c in row.argsort()[::-1][:top]] for row in rows]
    with open_video(source) as reader, VideoWriter(path, reader.info.frame_rate, keep_partial=True) as writer:
        for frame in reader:
            nearest = int(np.abs(scores.view_times_s - frame.time_s).argmin())
            writer.write(draw_caption(frame.image, captions[nearest]), frame.time_s)
