"""`twospeed export`: a model as graphs that run without torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from twospeed.cli.options import Json, Quiet, Weights, check_files, check_weights, number_option, option
from twospeed.cli.printing import print_json, print_line, print_note
from twospeed.cli.progress import show_progress


def export(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Model; `twospeed models` lists them.")],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FOLDER", help="Folder to write; it must be new.")],
    format: Annotated[Literal["onnx", "openvino"], typer.Option(help="What runs the graphs.")] = "onnx",
    precision: Annotated[
        Literal["fp32", "fp16", "int8"],
        typer.Option(
            help="fp16 stores weights in 16 bits and computes in 32; int8 computes in 8, faster and less exact."
        ),
    ] = "fp32",
    weights: Weights = "default",
    frames: Annotated[
        str | None,
        option(
            "VIDEO", "Video whose first 12 frames the graphs are checked and calibrated on. [default: a rendered clip]"
        ),
    ] = None,
    mask: Annotated[
        Path | None, option("FILE", "Mask of its first frame, with two objects or more; a tracker needs it.")
    ] = None,
    allow_loss: Annotated[
        float,
        number_option(
            0,
            1,
            metavar="X",
            help="Loss that a lower precision may cost: of J&F, mIoU or top-1 agreement with the results in fp32.",
        ),
    ] = 0.02,
    json_output: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write a model as graphs that run without torch, each checked against torch; every command takes the folder as
    --model.

    **Examples**

    `twospeed export track_nano -o tracker` writes ONNX graphs; then `twospeed track clip.mp4 --mask first.png --model
    tracker`.

    `twospeed export segment_nano -o segmenter --format openvino` writes graphs for OpenVINO.

    `twospeed export track_nano -o small --precision int8 --frames clip.mp4 --mask first.png` calibrates on your frames.
    """
    check_weights([weights])
    check_files([] if mask is None else [mask])
    from twospeed.evaluation.export import export_model

    with show_progress(quiet) as on_progress:
        exported = export_model(
            model, output, format, precision, weights=weights, source=frames, masks=mask, allow_loss=allow_loss,
            on_progress=on_progress,
        )  # fmt: skip
    size = sum((output / name).stat().st_size for name in exported.files)
    if json_output:
        print_json({"output": str(output), "bytes": size, "opset": exported.opset, **exported.check})
        return
    if quiet:
        return
    print_line(f"{'graph':<16} {'largest difference':>18}  of the largest value")
    for name, one in exported.check["largest_difference"].items():
        print_line(f"{name:<16} {one['absolute']:>18.3g}  {one['relative']:.2g}")
    if agreement := exported.check.get("agreement"):
        print_line(f"{agreement['of']} against fp32: {agreement['value']:.4f}")
    print_note(f"{output}: {exported.model}, {format} {precision}, {size / 1e6:.1f} MB; use it as --model {output}")
