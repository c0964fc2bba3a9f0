"""`twospeed evaluate BENCHMARK`: score files, or run a model, by a benchmark's own protocol; a command for each."""

from __future__ import annotations

import typer

from twospeed.cli.benchmarks.recognition import ava, kinetics
from twospeed.cli.benchmarks.segmentation import segmentation
from twospeed.cli.benchmarks.vos import clicks, davis, youtube_vos

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

_CAMVID = """Semantic segmentation on CamVid, 11 classes: mIoU, pixel accuracy, IoU of each class.

    Score label images, DIR/NAME.png for each labelled frame:

        twospeed evaluate camvid --data camvid --predictions labels

    Run a video model from keyframes 0 to 4 frames before each labelled frame, and draw the trade-off:

        twospeed evaluate camvid --data camvid --model gsvnet_swiftnet_r18 --weights FILE --keyframe-every 5
        --image-scales 0.5,0.75,1 --plot trade_off.png
    """
_CITYSCAPES = """Semantic segmentation on Cityscapes, 19 classes: mIoU, pixel accuracy, IoU of each class.

    Score label images, of class numbers or label ids:

        twospeed evaluate cityscapes --data cityscapes --predictions labels

    Run a video model as in GSVNet's tables, with a keyframe every 1 to 5 frames:

        twospeed evaluate cityscapes --data cityscapes --model gsvnet_swiftnet_r18 --weights FILE --keyframe-every 5

    The labels of the test split are not public: it gives label images for the server in -o DIR, no scores.
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
app.command("camvid", help=_CAMVID)(segmentation)
app.command("cityscapes", help=_CITYSCAPES)(segmentation)


@app.callback()
def evaluate() -> None:
    """Score a model, or files of predictions, by a benchmark's own protocol.

    `twospeed evaluate BENCHMARK --help` shows the options of each and examples.
    """
