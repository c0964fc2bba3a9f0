"""DAVIS 2016, DAVIS 2017 and YouTube-VOS."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, cast

from twospeed.cli.benchmarks.request import Benchmark, Request, data_folder
from twospeed.errors import InputError

if TYPE_CHECKING:
    from twospeed.evaluation.mask_runs import OnProgress, RunSettings
    from twospeed.evaluation.report import Report
    from twospeed.evaluation.unsupervised import UnsupervisedSettings

OPTIONS = frozenset(
    [
        "data",
        "predictions",
        "model",
        "weights",
        "sequences",
        "split",
        "task",
        "output",
        "resume",
        "device",
        "size",
        "scales",
        "flip",
        "memory_every",
        "top_k",
        "max_memory_frames",
        "include_last",
        "min_score",
        "finetune",
        "all_frames",
    ]
)
TRACKER_OPTIONS = ("scales", "flip", "memory_every", "top_k", "max_memory_frames", "include_last")
UNSUPERVISED_OPTIONS = ("min_score",)


def _davis(year: Literal[2016, 2017], request: Request, on_progress: OnProgress) -> Report:
    from twospeed.data.benchmarks.davis import Task
    from twospeed.evaluation.vos import davis_settings, evaluate_davis

    if request.task not in (None, "semi-supervised", "unsupervised"):
        raise InputError(f"--task {request.task}: choose semi-supervised or unsupervised")
    split = request.split or "val"
    return evaluate_davis(
        data_folder(request),
        year,
        split=split,
        task=cast(Task | None, request.task),
        all_frames=request.all_frames,
        settings=_unsupervised_settings(request) or _settings(request, davis_settings(split)),
        on_progress=on_progress,
        **_source(request),
    )


def _davis16(request: Request, on_progress: OnProgress) -> Report:
    return _davis(2016, request, on_progress)


def _davis17(request: Request, on_progress: OnProgress) -> Report:
    return _davis(2017, request, on_progress)


def _youtube_vos(request: Request, on_progress: OnProgress) -> Report:
    from twospeed.evaluation.vos import YOUTUBE_VOS_SETTINGS, evaluate_youtube_vos

    return evaluate_youtube_vos(
        data_folder(request),
        split=request.split or "valid",
        settings=_settings(request, YOUTUBE_VOS_SETTINGS),
        on_progress=on_progress,
        **_source(request),
    )


def _configurations(request: Request, on_progress: OnProgress) -> Report:
    from twospeed.evaluation.configurations import REPORT, evaluate_configurations

    names = request.model or tuple(REPORT)
    given = request.weights
    if len(given) == 1 and len(names) > 1:
        pattern = given[0] if "{model}" in given[0] else f"{given[0]}/{{model}}.safetensors"
        given = tuple(pattern.replace("{model}", name) for name in names)
    if len(given) != len(names):
        raise InputError(
            f"{len(names)} configurations ({', '.join(names)}) and {len(given)} weights; give --weights a folder with "
            "NAME.safetensors, a path with {model} in it, or one for each --model"
        )
    request = replace(request, model=names, weights=given)
    settings = _unsupervised_settings(request)
    if settings is None or len(set(names)) < len(names):
        raise InputError(f"{', '.join(names)}: name configurations of slowfast_maskrcnn, each once")
    return evaluate_configurations(
        data_folder(request),
        weights=dict(zip(names, given, strict=True)),
        settings=settings,
        split=request.split or "val",
        sequences=request.sequences,
        output=request.output,
        resume=request.resume,
        device=request.device,
        on_progress=on_progress,
    )


def _source(request: Request) -> dict[str, Any]:
    """Arguments on what is evaluated, as all mask benchmarks take them."""
    return {
        "predictions": request.predictions,
        "model": list(request.model) or None,
        "weights": list(request.weights) or "default",
        "sequences": request.sequences,
        "output": request.output,
        "resume": request.resume,
        "device": request.device,
    }


def _unsupervised_settings(request: Request) -> UnsupervisedSettings | None:
    """Return the settings of models that find objects by themselves; None for others. Refuses what has no meaning."""
    finds = False
    if request.model:
        from twospeed.evaluation.unsupervised import UnsupervisedSettings, needs_no_masks

        finds = needs_no_masks(request.model)
    refused = TRACKER_OPTIONS if finds else UNSUPERVISED_OPTIONS
    if given := [name for name in refused if getattr(request, name) not in (None, False, ())]:
        option = f"--{given[0].replace('_', '-')}"
        why = "remembers no masks and is not averaged" if finds else "finds no objects by itself"
        raise InputError(f"{' + '.join(request.model) or 'a folder of masks'} {why}; leave {option} out")
    if not finds:
        return None
    if request.size == 0:
        raise InputError("--size 0: this network works at one size, give it in pixels (800 as published)")
    return UnsupervisedSettings(size=request.size, min_score=request.min_score, finetune=request.finetune or 0)


def _settings(request: Request, published: RunSettings) -> RunSettings:
    """Return the published settings with what the command line changes; 0 stands for "no limit"."""
    if request.size is not None and request.scales:
        raise InputError(f"--size {request.size} and --scales exclude each other: the sizes of --scales are averaged")
    if request.scales and min(request.scales) < 1:
        raise InputError(f"--scales {','.join(map(str, request.scales))}: sizes are pixels, 1 or more")
    changes: dict[str, Any] = {"scales": request.scales, "flip": request.flip}
    if request.memory_every is not None:
        changes["memory_every"] = request.memory_every
    if request.include_last:
        changes["include_last"] = True
    for name in ("size", "top_k", "max_memory_frames", "finetune"):
        value = getattr(request, name)
        if value is not None:
            changes[name] = value or None
    return replace(published, **changes)


DAVIS_2016 = Benchmark(_davis16, OPTIONS)
DAVIS_2017 = Benchmark(_davis17, OPTIONS)
YOUTUBE_VOS = Benchmark(_youtube_vos, OPTIONS - {"task", "all_frames", *UNSUPERVISED_OPTIONS})
DAVIS_CONFIGURATIONS = Benchmark(_configurations, OPTIONS - {"predictions", "task", "all_frames", *TRACKER_OPTIONS})
