"""`twospeed masks`: masks from one format into another."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from twospeed.cli.options import Quiet, option, parse_numbers
from twospeed.cli.printing import print_note
from twospeed.cli.progress import show_progress
from twospeed.errors import InputError, OutputError
from twospeed.files import atomic_file, atomic_folder, make_folder, remove_leftovers


def masks(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="IN",
            help="Folder of a `track` run, of a project of `twospeed app`, of label PNGs, of several such folders, or "
            "of labelme's JSON; a .json of COCO, YouTube-VIS or labelme; a .xml of CVAT; a .zip of CVAT or of label "
            "PNGs; a YOLO folder, or the .yaml in it.",
            show_default=False,
        ),
    ],
    to: Annotated[
        str,
        typer.Option(
            "--as", metavar="FORMAT", help="coco, youtube-vis, davis, youtube-vos, yolo-seg, cvat, labelme or png."
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "-o", "--output", metavar="OUT", help="File to write, or folder for formats of many files and of any name."
        ),
    ],
    size: Annotated[
        str | None, option("W,H", "Width and height of the images, for YOLO labels without their images.")
    ] = None,
    image_suffix: Annotated[str, option("SUFFIX", "Suffix of the images that the exported files name.")] = ".jpg",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing output file.")] = False,
    quiet: Quiet = False,
) -> None:
    """Convert masks between COCO, YouTube-VIS, DAVIS, YouTube-VOS, YOLO, CVAT, labelme and label PNGs.

    **Examples**

    `twospeed masks clip_track --as coco -o clip.json` writes the masks of a run as COCO's JSON.

    `twospeed masks annotations.xml --as png -o masks/` makes label PNGs of CVAT's masks; `twospeed track --mask masks/`
    takes them.

    `twospeed masks twospeed_projects/clip-3f9a1c --as coco -o clip.json` writes what was marked and tracked in the page
    (`twospeed app`).

    `twospeed masks predictions/ --as davis -o submission.zip` packs a folder of sequences as DAVIS' server takes them.
    """
    from twospeed.app.store import is_project, read_project
    from twospeed.data.annotations import read_annotations
    from twospeed.output.exports import EXPORTS, check_formats, files_in
    from twospeed.results import Progress

    (name,) = check_formats([to], "as")
    image_size = None
    if size is not None:
        width, height = parse_numbers("--size", size, "x,y")
        image_size = int(height), int(width)
    kind = EXPORTS[name]
    frames, videos = 0, set[str]()
    with ExitStack() as stack:
        if kind.is_one_file():
            target = output if output.suffix == Path(kind.patterns[0]).suffix else output / kind.patterns[0]
            if target.exists() and not overwrite:
                raise OutputError(f"{target} exists; choose another name, or allow to replace it", option="overwrite")
            make_folder(target.parent)
            remove_leftovers(target)
            export = stack.enter_context(kind(lambda _: atomic_file(target), image_suffix))
        else:
            if output.exists() and (not output.is_dir() or any(output.iterdir())):
                raise OutputError(f"{output} exists and is not an empty folder; choose another name")
            if output.is_dir():
                output.rmdir()
            make_folder(output.parent)
            folder = stack.enter_context(atomic_folder(output))
            export = stack.enter_context(kind(files_in(folder), image_suffix))
        on_progress = stack.enter_context(show_progress(quiet))
        for frame in read_project(source) if is_project(source) else read_annotations(source, image_size=image_size):
            videos.add(frame.video)
            if len(videos) > 1 and not kind.several_videos:
                raise InputError(f"{source} holds several videos, {name} has place for one; give one of its folders")
            if not frame.video and kind.several_videos and name != "png":
                frame = replace(frame, video=source.stem)
            export.add(frame)
            frames += 1
            on_progress(Progress("masks", frames))
        if not frames:
            raise InputError(f"{source} holds no frame")
        if name == "png" and len(videos) == 1 and (only := videos.pop()):  # the folder holds its PNGs directly
            for file in sorted((folder / only).iterdir()):
                file.rename(folder / file.name)
            (folder / only).rmdir()
    if not quiet:
        print_note(f"{output}: {frames} frames as {name}")
