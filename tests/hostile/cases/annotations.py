"""Prompts of `track` and inputs of `masks` in the formats of annotation tools, forged; and zips."""

from __future__ import annotations

import base64
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

from tests.hostile.case import SMALL, case
from tests.hostile.inputs import GOOD, MASK
from tests.hostile.inputs import MASKS as M

SQUARE = [[1, 1, 40, 1, 40, 40, 1, 40]]
NAMES = ("../../../tmp/evil", "/etc/passwd", "a\\..\\..\\evil", "\x1b[2J", "x" * 5000, "", "\0", "..", "con", "-rf")


def coco(shape: object, *, image: dict[str, object] | None = None, **note: object) -> str:
    images = [{"id": 1, "width": 96, "height": 64, "file_name": "00000.jpg", **(image or {})}]
    notes = [{"id": 1, "image_id": 1, "category_id": 1, "segmentation": shape, **note}]
    return json.dumps({"images": images, "annotations": notes, "categories": [{"id": 1, "name": "a"}]})


def labelme(**shape: object) -> str:
    first = {"label": "a", "shape_type": "polygon", "points": [[1, 1], [40, 1], [40, 40]], **shape}
    return json.dumps({"imageWidth": 96, "imageHeight": 64, "imagePath": "00000.jpg", "shapes": [first]})


def cvat(inside: str, width: object = 96, height: object = 64) -> str:
    return (
        f'<annotations><image id="0" name="00000.jpg" width="{width}" height="{height}">{inside}</image></annotations>'
    )


def prompted(name: str, file: str, content: str | bytes, want: str = "refuse", **more: object) -> None:
    """Track from a file of annotations, and convert it."""

    def before(folder: Path) -> None:
        (folder / file).write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))

    case(
        f"track from {name}",
        "track",
        GOOD,
        "--mask",
        file,
        *SMALL,
        "-o",
        "out",
        "-q",
        before=before,
        want=want,
        seconds=40,
        **more,
    )
    case(f"masks from {name}", "masks", file, "--as", "youtube-vis", "-o", "out.json", "-q", before=before, want="any", seconds=40,
         check=lambda p: "a file outside of the folder was written" if (p.parent / "evil").exists() or Path("/tmp/evil").exists() else "")  # fmt: skip


def add_cases() -> None:
    prompted("COCO, good", "x.json", coco(SQUARE), "ok")
    rle: dict[str, object] = {
        "one number without end": "o" * 2_000_000, "a number of 70 bits": "o" * 14 + "0", "negative": [-5, 6149], "infinite": [float("inf")],
        "NaN": [float("nan"), 6144], "fractions": [0.5, 6143.5], "texts": ["6144"], "nested": [[6144]], "a billion": [10**9, 1], "bool": [True, 6143],
        "a dictionary": {"a": 1}, "null": None, "empty": [], "empty text": "", "emoji": "\U0001f40d",
    }  # fmt: skip
    for what, counts in rle.items():
        prompted(
            f"RLE, {what}",
            "x.json",
            coco({"size": [64, 96], "counts": counts}),
            "any" if what in ("texts", "bool", "fractions") else "refuse",
        )
    for what, size in {
        "text": "64x96",
        "one": [64],
        "floats": [64.0, 96.0],
        "null": None,
        "swapped": [96, 64],
        "negative": [-64, -96],
    }.items():
        prompted(
            f"RLE of size {what}",
            "x.json",
            coco({"size": size, "counts": [0, 6144]}),
            "any" if what == "floats" else "refuse",
        )
    zigzag = [value for i in range(60_000) for value in (i % 96, (i % 2) * 64)]
    prompted("a polygon of 60000 corners", "x.json", coco([zigzag]), "any")
    prompted("20000 polygons", "x.json", coco(SQUARE * 20_000), "any")
    prompted("a polygon far away", "x.json", coco([[1e8, 1e8, 2e8, 1e8, 2e8, 2e8]]))
    prompted("a polygon of numbers of 39 digits", "x.json", coco([[int("9" * 39), 1, 1, 9, 9, 9]]))
    prompted("COCO, deep polygons", "x.json", coco(SQUARE).replace("[[1,", "[" * 5000 + "1,", 1))
    for key, value in (("track_id", [1]), ("track_id", "\x1b"), ("track_id", 10**30), ("track_id", -1), ("track_id", float("nan")), ("score", "x"),
                       ("score", [1]), ("category_id", None), ("category_id", [1]), ("image_id", [1]), ("id", {"a": 1})):  # fmt: skip
        prompted(f"COCO, {key} {str(value)[:12]!r}", "x.json", coco(SQUARE, **{key: value}), "any")
    for key, value in (("frame_index", -1), ("frame_index", "x"), ("frame_index", 10**20), ("frame_index", 0.5), ("time_s", "x"), ("time_s", float("inf")),
                       ("video", 5), ("video", ["a"]), ("id", [1]), ("width", True), ("height", 1 << 20), ("file_name", 5)):  # fmt: skip
        prompted(f"COCO image, {key} {str(value)[:12]!r}", "x.json", coco(SQUARE, image={key: value}), "any")
    for name in NAMES:
        prompted(f"COCO, video {name[:12]!r}", "x.json", coco(SQUARE, image={"video": name}), "any")
        prompted(
            f"COCO, category {name[:12]!r}",
            "x.json",
            coco(SQUARE).replace('"name": "a"', f'"name": {json.dumps(name)}'),
            "any",
        )
    bomb = base64.b64encode((M / "bomb.png").read_bytes()).decode() if (M / "bomb.png").exists() else ""
    for what, shape in {
        "NaN corner": {"points": [[1, 1], [float("nan"), 1], [9, 9]]}, "text corner": {"points": [["a", 1], [2, 1], [9, 9]]}, "no corner": {"points": []},
        "circle of one point": {"shape_type": "circle", "points": [[5, 5]]}, "infinite circle": {"shape_type": "circle", "points": [[5, 5], [float("inf"), 5]]},
        "huge circle": {"shape_type": "circle", "points": [[5, 5], [1e300, 5]]}, "mask nowhere": {"shape_type": "mask", "points": [[float("inf"), 0]], "mask": ""},
        "mask bomb": {"shape_type": "mask", "points": [[0, 0]], "mask": bomb}, "mask no base64": {"shape_type": "mask", "points": [[0, 0]], "mask": "%%%"},
        "mask of a number": {"shape_type": "mask", "points": [[0, 0]], "mask": 5}, "shape type list": {"shape_type": ["polygon"]},
        "shape type line": {"shape_type": "line"}, "group list": {"group_id": [1]}, "group text": {"group_id": "x" * 9000},
    }.items():  # fmt: skip
        prompted(f"labelme, {what}", "x.json", labelme(**shape), "any" if what.startswith("group") else "refuse")
    for what, inside in {
        "NaN corner": '<polygon label="a" points="1,1;nan,1;9,9"/>', "huge corner": '<polygon label="a" points="1,1;1e300,1;9,9"/>',
        "no comma": '<polygon label="a" points="1;2;3"/>', "NaN box": '<box label="a" xtl="nan" ytl="1" xbr="9" ybr="9"/>',
        "box without a side": '<box label="a" xtl="1" ytl="1" xbr="9"/>', "ellipse": '<ellipse label="a" cx="1" cy="1" rx="1" ry="1"/>',
        "no label": '<box xtl="1" ytl="1" xbr="9" ybr="9"/>', "track_id x": '<box label="a" xtl="1" ytl="1" xbr="9" ybr="9"><attribute name="track_id">x</attribute></box>',
        "negative sides": '<mask label="a" rle="0, 4" left="0" top="0" width="-2" height="-2"/>',
        "counts of 10^12": '<mask label="a" rle="0, 1000000000000" left="0" top="0" width="2" height="2"/>',
    }.items():  # fmt: skip
        prompted(f"CVAT, {what}", "x.xml", cvat(inside))
    prompted("CVAT, 3000 images in one", "x.xml", cvat("<image/>" * 3000))
    prompted("CVAT, sizes of 4000 digits", "x.xml", cvat("", "9" * 4000, "9" * 4000))
    prompted(
        "CVAT, entity in a name",
        "x.xml",
        '<!DOCTYPE a [<!ENTITY e "ee">]>' + cvat('<box label="&e;" xtl="1" ytl="1" xbr="40" ybr="40"/>'),
        "any",
    )
    prompted(
        "CVAT, quadratic entity",
        "x.xml",
        f'<!DOCTYPE a [<!ENTITY e "{"e" * 100_000}">]>'
        + cvat(f'<box label="{"&e;" * 3000}" xtl="1" ytl="1" xbr="9" ybr="9"/>'),
    )
    zips()


def zips() -> None:
    def zipped(name: str, make: Callable[[zipfile.ZipFile], object], want: str = "refuse", spoil: bytes = b"") -> None:
        def before(folder: Path) -> None:
            with zipfile.ZipFile(folder / "x.zip", "w", zipfile.ZIP_DEFLATED) as archive:
                make(archive)
            if spoil:
                data = (folder / "x.zip").read_bytes()
                at = data.index(b"00000.png") + 9
                (folder / "x.zip").write_bytes(data[:at] + spoil + data[at + len(spoil) :])

        case(
            f"track from a zip: {name}",
            "track",
            GOOD,
            "--mask",
            "x.zip",
            *SMALL,
            "-o",
            "out",
            "-q",
            before=before,
            want=want,
            seconds=40,
        )

    zipped("good", lambda z: z.write(MASK, "v/00000.png"), "ok")
    zipped("damaged data", lambda z: z.write(MASK, "v/00000.png"), spoil=b"\xff" * 40)
    zipped("zeros for data", lambda z: z.write(MASK, "v/00000.png"), spoil=bytes(40))
    zipped("two videos", lambda z: (z.write(MASK, "a/00000.png"), z.write(MASK, "b/00000.png")))
    zipped("names that climb out", lambda z: z.write(MASK, "../../evil/00000.png"), "any")
    zipped("100000 entries", lambda z: [z.writestr(f"v/{i}.txt", "") for i in range(100_000)])
    zipped("a zip in a zip", lambda z: z.writestr("v/00000.png", b"PK\3\4" + bytes(100)))
