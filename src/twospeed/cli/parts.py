"""Commands that compute a video in parts: which parts, the answers of one, and the results from those of all."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from twospeed.cli.options import JobOptions

if TYPE_CHECKING:
    from twospeed.pipelines.parts import Answer, Part


@dataclass(frozen=True, kw_only=True)
class PartsJob(JobOptions):
    """A job that can also compute one part of a video, or make its results from those of all parts."""

    part: Annotated[
        str | None,
        typer.Option(hidden=True, help="NUMBER,SECONDS,FILE: compute one part of the video, for `twospeed batch`."),
    ] = None
    parts: Annotated[
        Path | None, typer.Option(hidden=True, help="Folder of all parts, to make the results of the whole from.")
    ] = None

    def write_answers(
        self, job: str, video: object, answers: Callable[[Part], Iterable[Answer]], **options: object
    ) -> None:
        """Compute the part that is asked for, and write its file. options: more that `split` reads."""
        from twospeed.pipelines.parts import write_part

        assert self.part is not None
        number, seconds, path = self.part.split(",", 2)
        parts = split(job, float(seconds), {"video": video, **self.span, **options})
        write_part(Path(path), answers(parts[int(number) - 1]))


def split(job: str, seconds: float, options: Mapping[str, Any]) -> list[Part]:
    """Return the parts in which a job can compute a video; none where it is computed in one go.

    That is where `drift` finds keyframes while the video is read, and where clips are spread over the video instead of
    a timeline, so that a long video is as much work as a short one. options: of the command, by name.
    """
    from twospeed.pipelines.parts import split_video
    from twospeed.video.sampling import TRAINED_RATE

    if options.get("drift") is not None or not options.get("timeline", True):
        return []
    video = options["video"]
    return split_video(
        video if isinstance(video, str) else video[0], seconds, start=options["start"], end=options["end"],
        damaged=options["damaged"], folder_rate=None if job == "segment" else TRAINED_RATE,
        multiple=options.get("keyframe_every", 1),
    )  # fmt: skip
