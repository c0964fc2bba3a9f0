"""`twospeed evaluate BENCHMARK`: score files, or run a model, by a benchmark's own protocol; a command for each."""

from __future__ import annotations

import typer

from twospeed.cli.benchmarks.ava import ava
from twospeed.cli.benchmarks.clicks import clicks
from twospeed.cli.benchmarks.kinetics import kinetics
from twospeed.cli.benchmarks.segmentation import camvid, cityscapes
from twospeed.cli.benchmarks.vos import davis, youtube_vos

_DAVIS = """{title}

    Run a model by the published settings of the benchmark and keep its masks:

        twospeed evaluate {name} --data {data} --model stcn --weights stcn.pth -o masks

    Continue after an interruption: the same line with --resume. Two sequences only: --sequences dog,cows.

    Score masks that exist, DIR/SEQUENCE/00000.png, palette, 0/1 or 0/255:

        twospeed evaluate {name} --data {data} --predictions masks --json scores.json

    Without given masks: --model find_nano, or --model slowfast_maskrcnn_3_7 --weights FILE. Average sizes, mirrored
    frames and models: --scales 480,600 --flip --model A --weights a.pth --model B --weights b.pth. STM's memory:
    --include-last --top-k 0.

    The annotations of test sets are not public (--split test-dev): they give masks for the server, no scores.
    """

app = typer.Typer(no_args_is_help=True, rich_markup_mode="markdown")
app.command(
    "davis16",
    help=_DAVIS.format(
        title="Video object segmentation on DAVIS-2016: J and F of one foreground object.",
        name="davis16",
        data="DAVIS/2016",
    ),
)(davis)
app.command(
    "davis17",
    help=_DAVIS.format(
        title="Video object segmentation on DAVIS-2017: J and F, mean over all objects.",
        name="davis17",
        data="DAVIS/2017/trainval",
    ),
)(davis)
app.command("youtube-vos")(youtube_vos)
app.command()(clicks)
app.command()(ava)
app.command()(kinetics)
app.command()(camvid)
app.command()(cityscapes)


@app.callback()
def evaluate() -> None:
    """Score a model, or files of predictions, by a benchmark's own protocol.

    `twospeed evaluate BENCHMARK --help` shows the options of each and examples.
    """
