"""`twospeed masks`: annotations of every format from anyone."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

from tests.hostile.case import case
from tests.hostile.inputs import MASK, RUNS
from tests.hostile.inputs import MASKS as M
from tests.hostile.inputs import TABLES as T
from tests.hostile.inputs import VIDEOS as V
from tests.hostile.inputs.drawing import flip_bits

FORMATS = ("coco", "youtube-vis", "davis", "youtube-vos", "yolo-seg", "cvat", "labelme", "png")
FILES = {"coco": "a.json", "youtube-vis": "a.json", "cvat": "a.xml", "davis": "a.zip", "youtube-vos": "a.zip"}


def add_cases() -> None:
    run = RUNS / "finished/out"
    for name in FORMATS:
        out = FILES.get(name, "folder")
        case(f"masks run as {name}", "masks", run, "--as", name, "-o", out, "-q", want="ok")
        case(f"masks as {name} onto a file", "masks", run, "--as", name, "-o", out, "-q", before=lambda p, o=out: (p / o).write_text("precious"),
             want="refuse", check=lambda p, o=out: "" if (p / o).read_text() == "precious" else "the file is gone")  # fmt: skip
        case(
            f"masks as {name} below a file",
            "masks",
            run,
            "--as",
            name,
            "-o",
            f"f/{out}",
            "-q",
            before=lambda p: (p / "f").touch(),
            want="refuse",
        )
        case(f"masks as {name} read-only", "masks", run, "--as", name, "-o", f"ro/{out}", "-q", before=lambda p: (p / "ro").mkdir(mode=0o555),
             want="refuse")  # fmt: skip
        case(f"masks as {name} of a video", "masks", V / "clip.mp4", "--as", name, "-o", out, "-q", want="refuse")
        case(f"masks as {name} with a mask cut", "masks", "out", "--as", name, "-o", out, "-q", want="refuse", before=lambda p: (
            shutil.copytree(run, p / "out"), (p / "out/masks/00003.png").write_bytes(MASK.read_bytes()[:60])))  # fmt: skip
        case(f"masks as {name} with a bomb", "masks", "out", "--as", name, "-o", out, "-q", want="refuse", before=lambda p: (
            shutil.copytree(run, p / "out"), shutil.copy(M / "bomb.png", p / "out/masks/00003.png")))  # fmt: skip
    for option in (
        "--as=x",
        "--as=",
        "--as=coco,coco",
        "--size=x",
        "--size=0,0",
        "--size=nan,1",
        "--size=1e9,1e9",
        "--size=-5,5",
        "--image-suffix=",
    ):
        case(f"masks {option}", "masks", run, "--as", "coco", "-o", "a.json", "-q", option,
             want="any" if option in ("--image-suffix=", "--size=0,0", "--size=-5,5") else "refuse")  # fmt: skip
    for source in ("nowhere", "", "/", "/dev/zero", "/dev/null", V / "random.mp4", MASK, M, T / "deep.json", T / "keys.json", T / "cut.json",
                   T / "utf16.json", T / "digits.json", T / "null.json", T / "number.json", T / "nested.json"):  # fmt: skip
        case(
            f"masks of {str(source)!r}",
            "masks",
            source,
            "--as",
            "coco",
            "-o",
            "a.json",
            "-q",
            want="any" if source == M else "refuse",
        )
    text_cases()
    damage_cases()


def given(name: str, content: str | bytes, want: str = "refuse") -> None:
    ending = name.split()[0].lower()
    file = f"x.{ending}"
    case(f"masks of {name}", "masks", file, "--as", "png", "-o", "out", "-q", want=want, seconds=30,
         before=lambda p: (p / file).write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass")))  # fmt: skip


def text_cases() -> None:
    def coco(width: object, height: object, shape: object, **more: object) -> str:
        image = {"id": 1, "width": width, "height": height, "file_name": "00000.jpg", **more}
        note = {
            "id": 1,
            "image_id": 1,
            "category_id": 1,
            "segmentation": shape,
            "area": 5,
            "bbox": [0, 0, 3, 3],
            "iscrowd": 0,
        }
        return json.dumps({"images": [image], "annotations": [note], "categories": [{"id": 1, "name": "a"}]})

    square = [[1, 1, 9, 1, 9, 9]]
    given("JSON coco, good", coco(96, 64, square), "ok")
    for what, shape in {"no shape": None, "a number": 3, "text": "x", "odd polygon": [[1, 1, 9]], "empty polygon": [[]], "NaN": [[1, 1, float("nan"), 1, 9, 9]],
                        "infinity": [[1, 1, float("inf"), 1, 9, 9]], "huge": [[1, 1, 1e300, 1, 9, 9]], "nested": [[[[1]]]],
                        "RLE of another size": {"size": [5, 5], "counts": [25]}, "RLE too long": {"size": [64, 96], "counts": [10**12]},
                        "RLE negative": {"size": [64, 96], "counts": [-5, 6149]}, "RLE text broken": {"size": [64, 96], "counts": "\u20ac\x00"},
                        "RLE no size": {"counts": [5]}, "RLE huge size": {"size": [10**9, 10**9], "counts": [10**18]},
                        "RLE bool": {"size": [64, 96], "counts": True}, "RLE many": {"size": [64, 96], "counts": [1] * 100_000}}.items():  # fmt: skip
        given(
            f"JSON coco, {what}",
            coco(96, 64, shape),
            "any" if what in ("huge", "empty polygon", "no shape") else "refuse",
        )
    for width, height in (
        (0, 0),
        (-5, 5),
        (10**9, 10**9),
        ("96", 64),
        (None, None),
        (1e308, 1),
        (True, True),
        (96.5, 64),
    ):
        given(
            f"JSON coco, size {width}x{height}",
            coco(width, height, square),
            "any" if width in ("96", 96.5, True) else "refuse",
        )
    for name in (
        "../../x.jpg",
        "/etc/x.jpg",
        "a\x00b.jpg",
        "\x1b[31m.jpg",
        "n" * 300 + ".jpg",
        "",
        ".",
        "..",
        "a/b/c.jpg",
        "con\n.jpg",
    ):
        given(f"JSON coco, file name {name[:12]!r}", coco(96, 64, square, file_name=name), "any")
    given(
        "JSON coco, ids twice",
        coco(96, 64, square).replace(
            '"images": [', '"images": [{"id": 1, "width": 5, "height": 5, "file_name": "1.jpg"}, '
        ),
        "any",
    )
    given("JSON coco, 300 objects", json.dumps({"images": [{"id": 1, "width": 9, "height": 9, "file_name": "0.jpg"}], "categories": [], "annotations": [
        {"id": n, "image_id": 1, "category_id": 1, "segmentation": square, "area": 1, "iscrowd": 0} for n in range(300)]}))  # fmt: skip
    head = '<?xml version="1.0"?>'
    image = '<annotations><image id="0" name="0.jpg" width="{}" height="{}">{}</image></annotations>'
    mask = '<mask label="a" rle="{}" left="{}" top="{}" width="{}" height="{}"/>'
    laughs = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 12))
    given("XML laughs", f'{head}<!DOCTYPE a [<!ENTITY l0 "ha">{laughs}]><annotations>&l11;</annotations>')
    given(
        "XML external entity",
        f'{head}<!DOCTYPE a [<!ENTITY e SYSTEM "file:///etc/passwd">]><annotations><image name="&e;"/></annotations>',
    )
    given("XML deep", head + "<a>" * 200_000)
    given("XML empty", "")
    given("XML cut", head + image.format(9, 9, "")[:40])
    given("XML utf-16", (head + image.format(9, 9, "")).encode("utf-16"), "any")
    given("XML binary", b"\xff\xfe\0\1" * 50)
    given("XML other", head + "<html/>")
    for width, height in ((10**9, 10**9), (0, 0), (-1, 5), ("x", 5), ("", ""), ("9" * 5000, 5), ("²", 5), ("nan", 5)):
        given(
            f"XML size {str(width)[:9]}x{height}", head + image.format(width, height, mask.format("0, 4", 0, 0, 2, 2))
        )
    for values in (("x", 0, 0, 2, 2), ("1, 999999999999", 0, 0, 2, 2), ("-1, 5", 0, 0, 2, 2), ("0, 4", -1, 0, 2, 2), ("0, 4", 8, 8, 5, 5), ("0, 4", 0, 0, 10**9, 10**9),
                   ("0, 4", "nan", 0, 2, 2), ("", 0, 0, 2, 2), ("9" * 5000, 0, 0, 2, 2)):  # fmt: skip
        given(
            f"XML mask {str(values)[:40]}",
            head + image.format(9, 9, mask.format(*values)),
            "any" if values[0] == "" else "refuse",
        )
    labelme = {
        "imageWidth": 9,
        "imageHeight": 9,
        "imagePath": "0.jpg",
        "shapes": [{"label": "a", "shape_type": "polygon", "points": [[1, 1], [5, 1], [5, 5]]}],
    }
    given("JSON labelme", json.dumps(labelme), "ok")
    for key, value in (("imageWidth", 10**9), ("imageWidth", "x"), ("imageWidth", None), ("imageWidth", -1), ("shapes", None), ("shapes", 3), ("shapes", [3]),
                       ("shapes", [{}]), ("shapes", [{"label": "a", "points": [[1]]}]), ("shapes", [{"label": "a", "shape_type": "mask", "points": [[0, 0], [5, 5]], "mask": "x"}]),
                       ("imagePath", None), ("imagePath", "../../../x.jpg"), ("imagePath", 5)):  # fmt: skip
        given(f"JSON labelme {key} {str(value)[:30]}", json.dumps({**labelme, key: value}), "any")


def damage_cases() -> None:
    def zipped(name: str, make: Callable[[zipfile.ZipFile], object], want: str = "refuse") -> None:
        def before(folder: Path) -> None:
            with zipfile.ZipFile(folder / "x.zip", "w", zipfile.ZIP_DEFLATED) as archive:
                make(archive)

        case(f"masks of a zip: {name}", "masks", "x.zip", "--as", "png", "-o", "out", "-q", before=before, want=want, seconds=30,
             check=lambda p: "a file outside of the folder was written" if (p.parent / "evil.png").exists() else "")  # fmt: skip

    zipped("nothing", lambda z: None)
    zipped("text", lambda z: z.writestr("a.txt", "a"))
    zipped("climbing out", lambda z: z.write(MASK, "../evil.png"), "any")
    zipped("absolute", lambda z: z.write(MASK, "/tmp/evil.png"), "any")
    zipped("mask text", lambda z: z.writestr("v/00000.png", "x"))
    zipped("mask bomb", lambda z: z.write(M / "bomb.png", "v/00000.png"))
    zipped("4 GB of zeros", lambda z: zeros(z, "v/00000.png"))
    zipped("XML of 4 GB", lambda z: zeros(z, "annotations.xml"))
    zipped("long names", lambda z: z.write(MASK, "v" * 300 + "/00000.png"), "any")
    zipped("control characters", lambda z: z.write(MASK, "\x1b[31mv/00000.png"), "any")
    zipped("names twice", lambda z: (z.write(MASK, "v/00000.png"), z.writestr("v/00000.png ", "x")), "any")
    for seed in range(4):
        for name in ("coco", "cvat", "davis"):
            out = f"x.{FILES[name].split('.')[1]}"

            def before(folder: Path, name: str = name, out: str = out, seed: int = seed) -> None:
                from twospeed.cli.main import exit_code

                exit_code(["masks", str(RUNS / "finished/out"), "--as", name, "-o", out, "-q"])
                flip_bits(folder / out, folder / out, seed, 0.002)

            case(
                f"masks of a damaged {name} {seed}",
                "masks",
                out,
                "--as",
                "png",
                "-o",
                "out",
                "-q",
                before=before,
                keeps=False,
            )


def zeros(archive: zipfile.ZipFile, name: str) -> None:
    with archive.open(name, "w", force_zip64=True) as record:
        for _ in range(4096):
            record.write(bytes(1 << 20))
