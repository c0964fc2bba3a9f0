"""`twospeed evaluate clicks`: how many clicks a mask needs."""

from __future__ import annotations

from typing import Annotated

import typer

from twospeed.cli.benchmarks import options
from twospeed.cli.benchmarks.options import Data, OneWeights, Reporting, Sequences
from twospeed.cli.options import grouped


@grouped
def clicks(
    *,
    data: Data = None,
    model: Annotated[
        str, typer.Option(help="Network that draws masks from clicks; grabcut: by colour alone.", metavar="NAME")
    ] = "click_nano",
    weights: OneWeights = None,
    sequences: Sequences = None,
    split: Annotated[str, typer.Option(help="Which list of the data set.", metavar="NAME")] = "val",
    every: Annotated[int, typer.Option(min=1, help="Score every n-th frame of a sequence.", metavar="N")] = 25,
    reporting: Reporting,
) -> None:
    """Masks from clicks: how many a mask needs, on frames of DAVIS-2016, and how good boxes and first clicks are.

        twospeed evaluate clicks --data DAVIS/2016

    NoC85, NoC90: clicks until the mask overlaps the true one by 0.85 and 0.90, at most 20; a simulated user clicks in
    the middle of the thickest error. Beside it, what colours alone give: --model grabcut.
    """
    from twospeed.evaluation.clicks import evaluate_clicks

    reporting.report(
        lambda on_progress: evaluate_clicks(
            options.folder_of(data, "clicks"),
            model=model,
            weights=options.sources(weights),
            split=split,
            sequences=options.names_in(sequences),
            every=every,
            on_progress=on_progress,
        )
    )
