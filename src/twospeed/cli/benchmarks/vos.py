"""`twospeed evaluate davis16`, `davis17`, `youtube-vos` and `clicks`: masks of objects."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from twospeed.cli.benchmarks import options
from twospeed.cli.options import grouped, option
from twospeed.errors import InputError

if TYPE_CHECKING:
    from twospeed.evaluation.mask_runs import RunSettings
    from twospeed.evaluation.unsupervised import UnsupervisedSettings


@dataclass(frozen=True, kw_only=True)
class Memory:
    """How a network with a memory of masks is run."""

    size: Annotated[
        int | None,
        options.running(
            min=0,
            help="Shorter side of the frames for the network, in pixels; 0: their own. Smaller is faster and less "
            "exact.  [default: as published, DAVIS the frames' own, YouTube-VOS and find_nano 480, slowfast_maskrcnn "
            "800]",
            metavar="N",
        ),
    ] = None
    scales: options.Scales = None
    flip: options.Flip = False
    memory_every: Annotated[
        int | None,
        options.running(
            min=1,
            help="Remember every n-th frame. 3 helped STCN on DAVIS-2017 test-dev, at a lower speed.  [default: 5; 3 "
            "for test splits of DAVIS]",
            metavar="N",
        ),
    ] = None
    top_k: Annotated[
        int | None,
        options.running(
            min=0, help="Best matches in the memory that count; 0: all, as STM.  [default: 20]", metavar="N"
        ),
    ] = None
    max_memory_frames: Annotated[
        int | None,
        options.running(
            min=1, help="Most frames in memory. Give it for long videos.  [default: no limit]", metavar="N"
        ),
    ] = None
    include_last: Annotated[
        bool, options.running("--include-last", help="Also keep the frame before in memory, as STM does.")
    ] = False
    similarity: Annotated[
        Literal["l2", "dot"] | None,
        options.running(
            help="stcn and stm: how keys are compared. It must be what the weights learned.  [default: the model's]"
        ),
    ] = None
    finder: Annotated[
        str | None,
        options.running(
            help="A model that finds primary objects and corrects masks of which it is surer; none: no correction.  "
            "[default: find_nano for track_small and track_nano, none for others]",
            metavar="MODEL",
        ),
    ] = None
    finetune: Annotated[
        int | None,
        options.running(
            min=0,
            help="Fine-tune the network on each sequence's first mask for N iterations. Slow, often better masks: "
            "2000 for slowfast_maskrcnn as published, 30 for track_nano.",
            metavar="N",
        ),
    ] = None

    @property
    def model_options(self) -> dict[str, Any]:
        """Options of the network itself."""
        return {} if self.similarity is None else {"similarity": self.similarity}

    def settings(self, published: RunSettings) -> RunSettings:
        """Return the published settings with what was typed; a size or top_k of 0 stands for "no limit"."""
        changes: dict[str, Any] = {"scales": options.sizes_in(self.size, self.scales), "flip": self.flip}
        if self.memory_every is not None:
            changes["memory_every"] = self.memory_every
        if self.include_last:
            changes["include_last"] = True
        if self.finder is not None:
            changes["finder"] = None if self.finder == "none" else self.finder
        limits = {name: getattr(self, name) for name in ("size", "top_k", "max_memory_frames", "finetune")}
        changes |= {name: value or None for name, value in limits.items() if value is not None}
        return replace(published, **changes)

    def without_masks(self, model: str, min_score: float | None) -> UnsupervisedSettings:
        """Return the settings of networks without masks. Raises InputError for what has no meaning for them."""
        from twospeed.evaluation.unsupervised import UnsupervisedSettings

        given = {field.name: getattr(self, field.name) for field in fields(self)}
        size, finetune = given.pop("size"), given.pop("finetune")
        options.refuse(f"has no meaning for {model}, which keeps no masks in memory and is not averaged", **given)
        if size == 0:
            raise InputError("--size 0: this network works at one size, give it in pixels")
        return UnsupervisedSettings(size=size, min_score=min_score, finetune=finetune or 0)


@grouped
def davis(
    *,
    context: typer.Context,
    data: options.Data = None,
    predictions: options.Predictions = None,
    model: options.Models = None,
    weights: options.ManyWeights = None,
    sequences: options.Sequences = None,
    split: Annotated[str, option("NAME", "Which list of the data set: val, test-dev, ...")] = "val",
    task: Annotated[
        Literal["semi-supervised", "unsupervised"] | None,
        typer.Option(
            help="semi-supervised: the first frame's masks are given. unsupervised: no mask is given.  [default: "
            "unsupervised for find_nano, and slowfast_maskrcnn without --finetune; else semi-supervised]"
        ),
    ] = None,
    all_frames: Annotated[
        bool,
        typer.Option(
            "--all-frames",
            help="Semi-supervised: also score the first and the last frame. Not the official protocol; the SlowFast "
            "report did so.",
        ),
    ] = False,
    memory: Memory,
    min_score: Annotated[
        float | None,
        options.running(
            help="slowfast_maskrcnn: least score of a detection; find_nano: of what is found; 0 to 1.  "
            "[default: as published, all on DAVIS-2016; find_nano 0.5]",
            metavar="X",
        ),
    ] = None,
    run: options.ModelRun,
) -> None:
    """Score masks on DAVIS, or run a model and score its masks."""
    from twospeed.evaluation.vos import davis_settings, evaluate_davis

    year: Literal[2016, 2017] = 2016 if context.info_name == "davis16" else 2017
    unsupervised = _is_unsupervised(model)
    settings: RunSettings | UnsupervisedSettings
    if unsupervised:
        settings = memory.without_masks(" + ".join(model or ()), min_score)
    else:
        options.refuse(f"has no meaning for {' + '.join(model or ()) or 'a folder of masks'}", min_score=min_score)
        settings = memory.settings(davis_settings(split))
    run.report(
        lambda on_progress: evaluate_davis(
            options.folder_of(data, str(context.info_name)), year,
            predictions=options.single("--predictions", predictions), model=model or None,
            weights=options.sources(weights), options=memory.model_options, split=split, task=task,
            all_frames=all_frames, sequences=options.names_in(sequences), settings=settings, **run.arguments,
            on_progress=on_progress,
        )
    )  # fmt: skip


@grouped
def youtube_vos(
    *,
    data: options.Data = None,
    predictions: options.Predictions = None,
    model: options.Models = None,
    weights: options.ManyWeights = None,
    sequences: options.Sequences = None,
    split: Annotated[str, option("NAME", "Which folder of the data set.")] = "valid",
    memory: Memory,
    run: options.ModelRun,
) -> None:
    """Video object segmentation on YouTube-VOS: G, and J and F of seen and unseen classes.

    Run a model and keep the masks for the server; the annotations of the validation set are not public:

        twospeed evaluate youtube-vos --data youtube --model stcn --weights stcn.pth -o masks

    Score masks where annotations are there:

        twospeed evaluate youtube-vos --data youtube --predictions masks

    All frames, 30 a second, are used where `all_frames` is there, else every fifth.
    """
    from twospeed.evaluation.vos import YOUTUBE_VOS_SETTINGS, evaluate_youtube_vos

    if _is_unsupervised(model):
        raise InputError(f"{' + '.join(model or ())} takes no masks, which YouTube-VOS gives; choose stcn or stm")
    run.report(
        lambda on_progress: evaluate_youtube_vos(
            options.folder_of(data, "youtube-vos"), predictions=options.single("--predictions", predictions),
            model=model or None, weights=options.sources(weights), options=memory.model_options, split=split,
            sequences=options.names_in(sequences), settings=memory.settings(YOUTUBE_VOS_SETTINGS), **run.arguments,
            on_progress=on_progress,
        )
    )  # fmt: skip


@grouped
def clicks(
    *,
    data: options.Data = None,
    model: Annotated[
        str, option("NAME", "Network that draws masks from clicks; grabcut: by colour alone.")
    ] = "click_nano",
    weights: options.OneWeights = None,
    sequences: options.Sequences = None,
    split: Annotated[str, option("NAME", "Which list of the data set.")] = "val",
    every: Annotated[int, option("N", "Score every n-th frame of a sequence.", min=1)] = 25,
    reporting: options.Reporting,
) -> None:
    """Masks from clicks: how many a mask needs, on frames of DAVIS-2016, and how good boxes and first clicks are.

        twospeed evaluate clicks --data DAVIS/2016

    NoC85, NoC90: clicks until the mask overlaps the true one by 0.85 and 0.90, at most 20; a simulated user clicks in
    the middle of the thickest error. Beside it, what colours alone give: --model grabcut.
    """
    from twospeed.evaluation.clicks import evaluate_clicks

    reporting.report(
        lambda on_progress: evaluate_clicks(
            options.folder_of(data, "clicks"), model=model, weights=options.sources(weights), split=split,
            sequences=options.names_in(sequences), every=every, on_progress=on_progress,
        )
    )  # fmt: skip


def _is_unsupervised(model: list[str] | None) -> bool:
    if not model:
        return False
    from twospeed.evaluation.unsupervised import needs_no_masks

    return needs_no_masks(model)
