"""Options of `twospeed track`, in groups: prompts, the network's memory, and what is written beside masks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import typer

from twospeed.cli.options import Precision, option, whole_option, whole_or_none
from twospeed.weights.catalog import FAST_TRACKER

if TYPE_CHECKING:
    from twospeed.output.mask_outputs import MaskOutputSettings

PROMPTS = "Prompts"  # the panel of the help that shows them
QUALITIES: dict[str, dict[str, Any]] = {
    "fast": {"model": FAST_TRACKER, "size": 480, "max_memory_frames": 10},
    "good": {"size": 480, "max_memory_frames": 20},
    "best": {"size": 720, "memory_every": 3, "max_memory_frames": 40},
}


@dataclass(frozen=True, kw_only=True)
class PromptOptions:
    """What is typed of objects: masks, boxes, points and polygons, of any frames."""

    panel: ClassVar = PROMPTS

    mask: Annotated[
        list[str] | None,
        typer.Option(
            "--mask",
            metavar="[FRAME=]FILE",
            help="Image of labels for the first frame (palette PNG: index = object; black and white: one object), or "
            "for frame number FRAME. A folder gives several: files named by frame number, or as the images of the "
            "video's folder. Also annotations of COCO, CVAT or labelme (.json, .xml, .zip, a folder of JSON), "
            "the folder of a run, or of a project of `twospeed app`, whose marked frames are taken. Repeatable.",
        ),
    ] = None
    box: Annotated[
        list[str] | None,
        typer.Option(
            "--box",
            metavar="[OBJECT@][FRAME=]X,Y,W,H",
            help="Box around an object, in pixels from the top left, of the first frame or of frame number FRAME. Each "
            "is a new object, unless OBJECT@ gives its number. Repeatable.",
        ),
    ] = None
    point: Annotated[
        list[str] | None,
        typer.Option(
            "--point",
            metavar="[OBJECT@][FRAME=]X,Y",
            help="Point on an object, in pixels. Several points and a box with the same OBJECT@ make one mask; check "
            "it with --preview. Repeatable.",
        ),
    ] = None
    background_point: Annotated[
        list[str] | None,
        typer.Option(
            "--background-point",
            metavar="[OBJECT@][FRAME=]X,Y",
            help="Point beside an object that is marked in the same frame. Repeatable.",
        ),
    ] = None
    polygon: Annotated[
        list[str] | None,
        typer.Option(
            "--polygon",
            metavar="[OBJECT@][FRAME=]X,Y,X,Y,...",
            help="Corners of an object's outline, in pixels. Repeatable.",
        ),
    ] = None
    gone: Annotated[
        list[str] | None,
        typer.Option(
            "--gone",
            metavar="OBJECT@FRAME",
            help="Mark an object as absent from a frame on, until a mask shows it again. Repeatable.",
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class MemoryOptions:
    """How a network with a memory of masks works."""

    panel: ClassVar = "Network and memory"

    size: Annotated[
        int | None,
        whole_option(
            0,
            8192,
            show_default=False,
            metavar="PIXELS",
            help="Shorter side at which the network works; 0 is the video's own. Smaller is faster, larger finds "
            "smaller objects. track_nano sees two thirds of it. [default: 480; slowfast_maskrcnn 800]",
        ),
    ] = None
    memory_every: Annotated[
        int, whole_option(1, help="Keep every N-th frame in memory. Smaller follows fast changes better and is slower.")
    ] = 5
    include_last: Annotated[
        bool, typer.Option(help="Also keep the last frame in memory until the next one. STM was published so.")
    ] = False
    top_k: Annotated[
        int, whole_option(0, metavar="K", help="Matches in memory that count for each cell of the image; 0 counts all.")
    ] = 20
    max_memory_frames: Annotated[
        int | None,
        option(
            "N",
            "Most frames in memory at once, so that memory does not grow with the video; none sets no limit.",
            parser=whole_or_none(1),
        ),
    ] = 20
    precision: Precision = "fp32"
    finder: Annotated[
        str | None,
        option(
            "MODEL",
            "A model that finds primary objects and corrects masks of which it is surer, where what was marked is "
            "what it finds; none: no correction. [default: find_nano for track_small and track_nano, none for others]",
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class MaskOutputOptions:
    """What is written beside masks and overlay."""

    panel: ClassVar = "More results"

    export: Annotated[
        str | None,
        option(
            "FORMAT,...",
            "Also write the masks as coco, youtube-vis, davis, youtube-vos, yolo-seg, cvat or labelme; several "
            "with commas. They go into exports/.",
        ),
    ] = None
    export_images: Annotated[
        bool, typer.Option("--export-images", help="Also write the frames as JPEG into exports/images/.")
    ] = False
    matte: Annotated[
        Literal["prores4444", "webm", "png", "exr"] | None,
        typer.Option(
            help="Also write the objects with transparency around them: matte.mov for editors, matte.webm for web "
            "pages, or images in matte/. [default: none]"
        ),
    ] = None
    matte_alpha: Annotated[
        Literal["straight", "premultiplied"] | None,
        typer.Option(help="Whether a matte's colours are multiplied by alpha. [default: straight; exr premultiplied]"),
    ] = None
    matte_layers: Annotated[
        bool, typer.Option("--matte-layers", help="One matte for each object, in matte/, instead of one for all.")
    ] = False
    blur: Annotated[
        bool, typer.Option("--blur", help="Also write blurred.mp4, the video with all objects blurred.")
    ] = False
    pixelate: Annotated[
        bool, typer.Option("--pixelate", help="Also write pixelated.mp4, the video with all objects as large squares.")
    ] = False
    remove_background: Annotated[
        str | None,
        option(
            "COLOUR|IMAGE", "Also write background.mp4, the objects before a colour (green, #00b140) or an image file."
        ),
    ] = None

    def settings(self) -> MaskOutputSettings:
        """Return what is wanted. Raises InputError for what is not known."""
        from twospeed.output.mask_outputs import MaskOutputSettings

        others = {name: value for name, value in vars(self).items() if name != "export"}
        return MaskOutputSettings(exports=tuple(filter(None, (self.export or "").split(","))), **others)
