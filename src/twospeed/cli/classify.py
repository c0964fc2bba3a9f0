"""`twospeed classify`: what happens in a video, and when."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from twospeed.cli.options import (
    Labels,
    ManyWeights,
    Precision,
    check_range,
    check_weights,
    folders_for,
    grouped,
    identities,
    is_live,
    models_and_weights,
    number_option,
    option,
    whole_option,
)
from twospeed.cli.parts import PartsJob
from twospeed.cli.printing import print_json, print_line, print_note
from twospeed.cli.progress import show_progress
from twospeed.errors import InputError, OutputError, TwospeedError
from twospeed.files import read_json

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from twospeed.output.folder import ResultFolder
    from twospeed.output.run import Run
    from twospeed.pipelines.classify import Classifier, ViewScores
    from twospeed.pipelines.parts import Answer
    from twospeed.results import Frame, OnProgress


@dataclass(frozen=True, kw_only=True)
class ClassifyJob(PartsJob):
    """Which part of videos is classified, and where results go."""

    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", metavar="FOLDER", help="Folder for the results. [default: print only, write nothing]"
        ),
    ] = None


@grouped
def classify(
    *,
    video: Annotated[
        list[str],
        typer.Argument(
            metavar="VIDEO...",
            help="Video files, folders of videos or of images, a camera's number, an address, or - for standard input.",
            show_default=False,
        ),
    ],
    model: Annotated[
        list[str] | None,
        option(
            "NAME",
            "Model; `twospeed models --task classify` lists them. Repeat it to average several. "
            "[default: the one that the file of --weights is of, else slowfast_r50_8x8]",
        ),
    ] = None,
    weights: ManyWeights = None,
    labels: Labels = None,
    clips: Annotated[int, whole_option(1, 10_000, help="Clips spread over the video. Fewer are faster.")] = 10,
    crops: Annotated[
        int | None,
        whole_option(
            1, 3, help="Views of each clip: 1 (centre) or 3 (along the longer side). [default: 3; 1 with --timeline]"
        ),
    ] = None,
    timeline: Annotated[
        bool,
        typer.Option("--timeline", help="Slide a window over the whole video instead of --clips: what happens when."),
    ] = False,
    every: Annotated[
        float, number_option(0.01, 1e6, metavar="SECONDS", help="With --timeline: time from one window to the next.")
    ] = 1.0,
    threshold: Annotated[
        float | None,
        number_option(
            0,
            1,
            metavar="P",
            help="With --timeline: list every action while its probability is at least P. [default: the likeliest]",
        ),
    ] = None,
    smooth: Annotated[
        int, whole_option(1, 9999, help="With --timeline: average N windows, an odd number, around each.")
    ] = 1,
    top: Annotated[int, whole_option(1, help="Actions to list, likeliest first.")] = 5,
    export: Annotated[
        str | None,
        option(
            "FORMAT,...",
            "With -o, also write jsonl (a line for each window), vtt or srt (subtitles of the timeline); several "
            "with commas.",
        ),
    ] = None,
    precision: Precision = "fp32",
    job: ClassifyJob,
) -> None:
    """Name what happens in videos, and when.

    Prints the likeliest actions with their probabilities, and a timeline. Cameras and standard input are always
    classified by a sliding window. Exit code 2 when a video could not be classified; all others are finished.

    **Examples**

    `twospeed classify clip.mp4` prints the likeliest actions: 10 clips x 3 crops, as the papers test.

    `twospeed classify hour.mp4 --timeline -o out` slides a window over the video at constant memory and writes
    `out/timeline.png`, `out/results.json`, `out/overlay.mp4`, `out/frames.csv`, `out/run.json`.

    `twospeed classify clip.mp4 --model slowfast_r50_8x8 --weights SLOWFAST_8x8_R50.pyth --labels names.txt` uses a
    checkpoint of PySlowFast or PyTorchVideo as it is.

    `twospeed classify clip.mp4 --weights runs/actions/weights.safetensors` uses what `twospeed train actions` made of
    your own clips; the file knows its model and the names of its classes.

    `twospeed classify a.mp4 b.mp4 folder/ --model slowfast_r50_8x8 --model slowfast_r101_8x8` averages two networks
    over many videos; a broken one is reported, the others are finished. With `-o out --resume` a second run of the same
    command repeats only what is missing.
    """
    from twospeed.output.folder import ResultFolder
    from twospeed.video.sources import find_source

    names, given = models_and_weights(model, weights, "classify", "slowfast_r50_8x8")
    if crops == 2:
        raise InputError("crops=2: choose 1 (centre) or 3 (along the longer side)")
    if smooth % 2 == 0:
        raise InputError(f"smooth={smooth}: give an odd number of windows")
    if job.resume and job.output is None:
        raise InputError(
            "nothing was written without an output folder, so that nothing can be resumed", option="resume"
        )
    if len(video) == 1 and not is_live(video[0]) and not Path(video[0]).is_dir():
        find_source(video[0])  # of several videos broken ones are reported, the others are finished
    if job.resume and any(map(is_live, video)):
        raise InputError("live sources cannot be read a second time, so that they cannot be resumed", option="resume")
    from twospeed.output.exports.actions import check_action_formats

    exports = check_action_formats(export, ("jsonl", "vtt", "srt"))
    if exports and job.output is None:
        raise InputError("exports go into the output folder, which is not given", option="export")
    check_range(job.start, job.end)
    check_weights(name for name in given if name is not None)
    with ExitStack() as stack:
        sources = _sources(video)
        folders = _folders(job, sources, exports)
        whole_run = None
        if len(folders) == 1:
            stack.enter_context(folders[0])
        elif job.output is not None and job.part is None:
            whole_run = stack.enter_context(
                ResultFolder(job.output, ["results.json"], inputs=map(Path, sources), overwrite=job.overwrite)
            )
            for folder in folders:
                with folder:  # files of others are found before anything is computed
                    pass
        from twospeed.output.documents import actions_document
        from twospeed.pipelines.classify import Classifier
        from twospeed.results import Progress
        from twospeed.weights.store import weights_sha256

        on_progress = stack.enter_context(show_progress(job.quiet))
        if None in given and not job.quiet:
            print_note("the weights are random: the actions have no meaning")
        classifier = Classifier(
            names, clips, crops or (1 if timeline else 3), weights=given, labels=labels, timeline=timeline,
            every_s=every, threshold=threshold, smooth=smooth, precision=precision, device=job.device,
            **job.span, on_progress=on_progress,
        )  # fmt: skip
        if job.part is not None:
            job.write_answers("classify", video, lambda part: classifier.answers(sources[0], part))
            return
        sums = [weights_sha256(name, each) for name, each in zip(names, given, strict=True) if each is not None]
        settings: dict[str, Any] = {
            "model": " + ".join(names),
            "weights_sha256": " + ".join(each for each in sums if each) or None,
            "options": {
                "weights": [each or "random" for each in given],
                "labels": labels,
                "clips": None if timeline else clips,
                "crops": classifier.crops,
                "timeline": timeline,
                "every_s": every if timeline else None,
                "threshold": threshold,
                "smooth": smooth,
                "precision": classifier.precision,
                **job.recorded,
                **({"export": list(exports)} if exports else {}),
                "top": top,
                "device": str(classifier.device),
            },
        }
        found: dict[int, dict[str, Any]] = {}
        failed: dict[str, TwospeedError] = {}
        begun = time.perf_counter()
        for place, folder in enumerate(folders if job.resume else ()):
            with _held(folder):
                if _run(job, sources[place], folder, labels, settings, begun).finished_frames is not None:
                    found[place] = read_json(folder.path / "results.json")
        todo = [place for place in range(len(sources)) if place not in found]
        total = None if timeline else classifier.frames_per_video * len(todo)

        def tick(*_: object) -> None:
            seconds = time.perf_counter() - begun
            on_progress(Progress("classify", classifier.frames_seen, total, "frames", seconds))

        from twospeed.pipelines.parts import read_parts

        for place in todo:
            source = sources[place]
            try:
                if folders:
                    with _held(folders[place]):
                        run = _run(job, source, folders[place], labels, settings, time.perf_counter())
                        known = None if job.parts is None else read_parts(job.parts)
                        found[place] = _write_results(run, source, classifier, tick, known)
                else:
                    found[place] = actions_document(source, settings["model"], classifier.classify(source, tick), top)
            except OutputError:
                raise
            except TwospeedError as error:
                if len(sources) == 1:
                    raise
                failed[source] = error
                print_note(f"twospeed: {error}")
                continue
            if not job.json_output:
                _print_table(found[place], len(sources) > 1)
        documents = [found[place] for place in sorted(found)]
        failures = [{"video": name, "error": str(error)} for name, error in failed.items()]
        document = documents[0] if len(sources) == 1 else {"videos": documents, "failed": failures}
        if job.json_output:
            print_json(document)
        elif not todo:
            for described in documents:
                _print_table(described, len(sources) > 1)
        if whole_run is not None:
            with _run(job, None, whole_run, labels, settings, begun) as run:
                run.advance(classifier.frames_seen)
                run.write_json("results.json", document)
    if failed:
        first = next(iter(failed.values()))
        raise InputError(f"{len(failed)} of {len(sources)} videos could not be classified; the first: {first}")
    if not job.quiet and job.output is not None:
        print_note(f"{job.output}: {len(found)} of {len(sources)} videos")


def _sources(given: list[str]) -> list[str]:
    """Paths as the videos in them; cameras, addresses and standard input as they are."""
    from twospeed.pipelines.classify import videos_in

    sources: list[str] = []
    for item in given:
        sources += [item] if is_live(item) else map(str, videos_in([item]))
    return sources


def _folders(job: ClassifyJob, sources: list[str], exports: Sequence[str]) -> list[ResultFolder]:
    """The folder of each video's results: the output itself, or one inside for each of several."""
    output = job.output
    if output is None or job.part is not None:
        return []
    from twospeed.output.exports.actions import FILES
    from twospeed.output.folder import ResultFolder

    folders = []
    for source, place in zip(sources, [output] if len(sources) == 1 else folders_for(sources, output), strict=True):
        drawn = ["overlay.mp4"] if job.overlay else []
        names = ["results.json", "timeline.png", *drawn, *(FILES[name] for name in exports)]
        inputs = [] if is_live(source) else [Path(source)]
        folders.append(ResultFolder(place, names, inputs=inputs, overwrite=job.overwrite, resume=job.resume))
    return folders


def _held(folder: ResultFolder) -> AbstractContextManager[object]:
    """Hold a folder's lock, unless it is held all the time."""
    return nullcontext() if folder.locked else folder


def _run(
    job: ClassifyJob,
    source: str | None,
    folder: ResultFolder,
    labels: str | None,
    settings: dict[str, Any],
    since: float,
) -> Run:
    from twospeed.output.run import Run
    from twospeed.video.sources import find_source

    files = {"labels": Path(labels)} if labels is not None and Path(labels).is_file() else {}
    found = None if source is None else find_source(source)
    return Run(
        "classify",
        **settings,
        inputs=identities(files, found),
        audio_from=None if found is None else job.sound_of(found),
        folder=folder,
        since=since,
    )


def _write_results(
    run: Run, source: str, classifier: Classifier, tick: OnProgress, known: Iterable[Answer] | None
) -> dict[str, Any]:
    """Classify one video, and return the content of its results.json. Its frames are read once, also for overlay.mp4.

    An interruption, or a video that breaks off, leaves the windows of a timeline before it. Clips that are spread over
    a whole video say nothing of a part of it, so that nothing is left of those.
    """
    from twospeed.output.action_overlay import Caption, TimedOverlay, draw_nearest
    from twospeed.output.documents import actions_document
    from twospeed.output.plots import plot_timeline

    record = run.record()
    top, best = record.options["top"], min(record.options["top"], 3)
    keeps = record.options["timeline"] or is_live(source)
    views: list[ViewScores] = []
    before = classifier.frames_seen

    def described() -> dict[str, Any]:
        return actions_document(source, record.model, classifier.scores(views), top)

    def finish() -> None:
        document, scores = described(), classifier.scores(views)
        run.write_json("results.json", document)
        _export(run, document)
        run.write("timeline.png", lambda path: plot_timeline(path, scores, title=Path(source).name, top=top))

    def on_frame(frame: Frame) -> None:
        assert classifier.info is not None
        run.colours = classifier.info.colours
        run.add_frame(frame)
        if drawn is not None:
            drawn.add_frame(frame)

    def on_view(view: ViewScores) -> None:
        views.append(view)
        if keeps:
            run.advance(classifier.frames_seen - before - run.frames)
        if drawn is not None:
            order = view.probabilities.argsort()[::-1][:best]
            lines = [f"{classifier.labels[c]}  {100 * view.probabilities[c]:.1f} %" for c in order]
            drawn.add_result(Caption(view.centre_s, lines))

    def write(image: NDArray[np.uint8], time_s: float) -> None:
        assert classifier.info is not None
        run.write_overlay(image, time_s, classifier.info.frame_rate)

    run.at_end(finish)
    with run, ExitStack() as stack:
        drawn = stack.enter_context(TimedOverlay(write, draw_nearest)) if record.options["overlay"] else None
        calls: dict[str, Any] = {"on_frame": on_frame, "on_view": on_view, "full_size": drawn is not None}
        classifier.classify(source, tick, known=known, **calls)
        run.advance(classifier.frames_seen - before - run.frames)
    return described()


def _export(run: Run, described: dict[str, Any]) -> None:
    """Write the results in further formats, and into the report."""
    from twospeed.output.exports.actions import FILES, timeline_cues, write_actions

    cues = timeline_cues(described)
    for name in run.record().options.get("export", ()):
        run.write(FILES[name], partial(write_actions, kind=name, entries=described["views"], cues=cues))
    top = [[entry["label"], f"{entry['probability']:.3f}"] for entry in described["top"]]
    run.report.tables.append(("Actions", ("action", "probability"), top))
    spans = [[f"{cue.start_s:.1f} s to {cue.end_s:.1f} s", cue.text] for cue in cues]
    run.report.tables += [("Timeline", ("when", "actions"), spans)] if spans else []


def _print_table(described: dict[str, Any], named: bool) -> None:
    if named:
        print_line(described["video"])
    width = max(len(entry["label"]) for entry in [*described["top"], *described["timeline"]])
    for entry in described["top"]:
        bar = "█" * round(24 * entry["probability"])
        print_line(f"  {entry['label']:<{width}}  {100 * entry['probability']:5.1f} %  {bar}".rstrip())
    if described["timeline"]:
        print_line("  from to (s)")
    for span in described["timeline"]:
        when = f"{span['start_s']:8.1f} {span['end_s']:8.1f}"
        print_line(f"  {when}  {span['label']:<{width}}  {100 * span['probability']:5.1f} %")
