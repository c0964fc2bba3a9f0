"""`python -m twospeed.app.exporting`: write what a project holds as a file, in a process of its own.

Reads {project, source, as, file, first, last, objects, options} as JSON from standard input, prints progress as JSON
lines.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from twospeed.app import export_masks as masks
from twospeed.app import export_results as results
from twospeed.app.export_masks import Export
from twospeed.app.store import Project
from twospeed.errors import InputError, TwospeedError
from twospeed.files import atomic_file, make_folder

MASKS, VIDEOS, CUTS = "Masks and annotations", "Videos", "Cut-outs"
ACTIONS, PEOPLE, PIXELS = "Actions", "People", "Pixels"


@dataclass(frozen=True)
class Format:
    """A format. file: what is added to the video's name. needs: masks, or the kind of results that it is made of."""

    file: str
    text: str
    group: str
    write: Callable[[Export, Path], object]
    needs: str = "masks"


FORMATS = {
    "png": Format("masks.zip", "palette PNGs, for --mask of the command line", MASKS, masks.annotation_files),
    "coco": Format("coco.json", "COCO, run lengths in JSON", MASKS, masks.annotation_files),
    "youtube-vis": Format("youtube_vis.json", "YouTube-VIS JSON", MASKS, masks.annotation_files),
    "davis": Format("davis.zip", "DAVIS submission", MASKS, masks.annotation_files),
    "youtube-vos": Format("youtube_vos.zip", "YouTube-VOS submission", MASKS, masks.annotation_files),
    "yolo-seg": Format("yolo.zip", "YOLO polygons", MASKS, masks.annotation_files),
    "cvat": Format("cvat.xml", "CVAT for images", MASKS, masks.annotation_files),
    "labelme": Format("labelme.zip", "labelme JSON", MASKS, masks.annotation_files),
    "overlay": Format("overlay.mp4", "overlay video, with sound", VIDEOS, masks.overlay),
    "blur": Format("blurred.mp4", "objects blurred, with sound", VIDEOS, masks.blurred),
    "pixelate": Format("pixelated.mp4", "objects pixelated, with sound", VIDEOS, masks.pixelated),
    "prores": Format("cutout.mov", "ProRes 4444, for editors", CUTS, masks.cutout),
    "webm": Format("cutout.webm", "WebM VP9, for web pages", CUTS, masks.cutout),
    "rgba": Format("cutout_png.zip", "PNG images with alpha", CUTS, masks.cutout_images),
    "exr": Format("cutout_exr.zip", "OpenEXR images, linear light", CUTS, masks.cutout_images),
    "matte": Format("matte.mp4", "matte video, white on black", CUTS, masks.grey_matte),
    "background": Format("background.mp4", "objects before the new background", CUTS, masks.background),
    "actions": Format("actions.json", "actions as JSON", ACTIONS, results.actions, "classify"),
    "actions-jsonl": Format("actions.jsonl", "a line for each window", ACTIONS, results.actions, "classify"),
    "actions-vtt": Format("actions.vtt", "WebVTT subtitles", ACTIONS, results.actions, "classify"),
    "actions-srt": Format("actions.srt", "SRT subtitles", ACTIONS, results.actions, "classify"),
    "actions-plot": Format("actions.png", "plot of actions over time", ACTIONS, results.actions_plot, "classify"),
    "actions-overlay": Format("actions.mp4", "video with captions", ACTIONS, results.actions_overlay, "classify"),
    "people": Format("people.json", "people as JSON", PEOPLE, results.people, "detect"),
    "people-jsonl": Format("people.jsonl", "a line for each keyframe", PEOPLE, results.people, "detect"),
    "people-vtt": Format("people.vtt", "WebVTT subtitles", PEOPLE, results.people, "detect"),
    "people-srt": Format("people.srt", "SRT subtitles", PEOPLE, results.people, "detect"),
    "people-cvat": Format("people.xml", "CVAT tracks of boxes", PEOPLE, results.people, "detect"),
    "people-csv": Format("detections.csv", "AVA's csv", PEOPLE, results.people, "detect"),
    "people-overlay": Format("people.mp4", "video with boxes", PEOPLE, results.people_overlay, "detect"),
    "labels": Format("labels.zip", "label PNGs", PIXELS, results.labels, "segment"),
    "areas": Format("areas.json", "areas over time as JSON", PIXELS, results.areas, "segment"),
    "areas-plot": Format("areas.png", "plot of areas over time", PIXELS, results.areas_plot, "segment"),
    "labels-overlay": Format("classes.mp4", "video with colours and legend", PIXELS, results.labels_overlay, "segment"),
}


def file_of(kind: str, layers: bool) -> str:
    """Return the file name of a format; cut-outs of several layers are a zip."""
    name = FORMATS[kind].file
    return f"{kind}_layers.zip" if layers and kind in ("prores", "webm") else name


def _main() -> None:
    with contextlib.suppress(OSError, AttributeError):
        os.nice(10)
    asked = json.loads(sys.stdin.read())
    try:
        project = Project(Path(asked["project"]), only_read=True)
        objects = frozenset(asked["objects"])
        kind = FORMATS[asked["as"]]
        if kind.needs == "masks" and not objects:
            raise InputError("there is no object to export; mark one first")
        if kind.needs != "masks" and not project.result_frames(kind.needs):
            raise InputError("there is nothing of this kind to export; run its job first")
        folder = make_folder(project.folder / "exports")
        target = folder / asked["file"]
        export = Export(project, Path(asked["source"]), asked["first"], asked["last"], objects, asked["options"])
        with atomic_file(target) as temporary:
            kind.write(export, temporary)
        print(json.dumps({"file": target.name}), flush=True)
    except TwospeedError as error:
        print(json.dumps({"error": str(error)}), flush=True)


if __name__ == "__main__":
    _main()
