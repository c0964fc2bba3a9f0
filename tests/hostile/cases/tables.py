"""Several videos at once: `track --prompts TABLE.csv`, `batch` with lists, and batches that were handed over."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

from tests.hostile.case import SECONDS, SMALL, case, count
from tests.hostile.inputs import FRAMES as F
from tests.hostile.inputs import GOOD, MASK
from tests.hostile.inputs import VIDEOS as V

HEAD = "video,frame,object,kind,value\n"
BOX = '"10,10,30,30"'


def add_cases() -> None:
    prompts()
    lists()
    handed_over()


def prompts() -> None:
    def table(name: str, content: str | bytes, want: str = "refuse", *more: object, **kwargs: object) -> None:
        def before(folder: Path) -> None:
            shutil.copy(GOOD, folder / "v.mp4")
            shutil.copy(MASK, folder / "m.png")
            (folder / "t.csv").write_bytes(
                content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass")
            )

        case(
            f"prompts, {name}",
            "track",
            "--prompts",
            "t.csv",
            *SMALL,
            "-o",
            "out",
            "-q",
            *more,
            before=before,
            want=want,
            **kwargs,
        )

    table("good", f"{HEAD}v.mp4,,,box,{BOX}\n", "ok", check=count("out/v/masks/*.png", 8))
    table("BOM and CRLF", b"\xef\xbb\xbf" + f"{HEAD}v.mp4,,,box,{BOX}\n".replace("\n", "\r\n").encode(), "ok")
    for what, row in {
        "empty kind": f"v.mp4,,,,{BOX}", "unknown kind": f"v.mp4,,,sphere,{BOX}", "frame -1": f"v.mp4,-1,,box,{BOX}", "frame 1e3": f"v.mp4,1e3,,box,{BOX}",
        "frame of 5000 digits": f"v.mp4,{'9' * 5000},,box,{BOX}", "frame beyond the end": f"v.mp4,99,,box,{BOX}", "object 0": f"v.mp4,,0,box,{BOX}",
        "object 255": f"v.mp4,,255,box,{BOX}", "object \u00b2": f"v.mp4,,\u00b2,box,{BOX}", "object of 5000 digits": f"v.mp4,,{'9' * 5000},box,{BOX}",
        "NaN": 'v.mp4,,,box,"nan,1,2,3"', "three numbers": 'v.mp4,,,box,"1,2,3"', "no quotes": "v.mp4,,,box,10,10,30,30", "nothing": "v.mp4,,,box,",
        "a point for a box": 'v.mp4,,,box,"10,10"', "point outside": 'v.mp4,,,point,"999,9"', "mask nowhere": "v.mp4,,,mask,nowhere.png",
        "mask with an object": "v.mp4,,2,mask,m.png", "mask of /dev/zero": "v.mp4,,,mask,/dev/zero", "mask is the table": "v.mp4,,,mask,t.csv",
        "mask is the video": "v.mp4,,,mask,v.mp4", "two masks": "v.mp4,,,mask,m.png\nv.mp4,0,,mask,m.png", "two boxes of one object": f"v.mp4,,1,box,{BOX}\nv.mp4,,1,box,{BOX}",
        "another video": f"w.mp4,,,box,{BOX}", "a folder": f".,,,box,{BOX}", "control characters": f"\x1b[2Jv.mp4,,,box,{BOX}", "a NUL": f"v\0.mp4,,,box,{BOX}",
        "a name of 5000 letters": f"{'v' * 5000}.mp4,,,box,{BOX}", "an address": f"https://127.0.0.1:9/x.mp4,,,box,{BOX}", "quotes left open": f'v.mp4,,,box,"10,10,30,30\nv.mp4,,,box,{BOX}',
        "a field of a megabyte": f"v.mp4,,,box,{'1' * (1 << 20)}", "background point alone": 'v.mp4,,,background-point,"9,9"',
    }.items():  # fmt: skip
        table(
            what,
            f"{HEAD}{row}\n",
            "any" if what == "a folder" else "refuse",
            lines=2 if what in SAID_TWICE else 1,
            keeps=what in SAID_TWICE,
        )
    for what, content in {"empty": b"", "UTF-16": HEAD.encode("utf-16"), "binary": bytes(range(256)), "no header": f"v.mp4,,,box,{BOX}\n".encode(),
                          "columns twice": f"video,video,kind,value\nv.mp4,v.mp4,box,{BOX}\n".encode(), "only a header": HEAD.encode(), "semicolons": HEAD.replace(",", ";").encode()}.items():  # fmt: skip
        table(f"file: {what}", content, "any" if what == "columns twice" else "refuse")
    case("prompts from a folder", "track", "--prompts", F, "-o", "out", "-q", want="refuse")
    case("prompts from /dev/zero", "track", "--prompts", "/dev/zero", "-o", "out", "-q", want="refuse")
    case(
        "prompts from nowhere",
        "track",
        "--prompts",
        "nowhere.csv",
        "-o",
        "out",
        "-q",
        want="refuse",
        must=("nowhere.csv",),
    )
    case("two videos of which one is broken", "track", GOOD, V / "text.mp4", "--box", "10,10,30,30", *SMALL, "-o", "out", "-q", want="refuse", keeps=True,
         lines=2, check=count("out/clip/masks/*.png", 8))  # fmt: skip


SAID_TWICE = ("frame beyond the end", "point outside", "mask is the table", "mask is the video", "an address", "background point alone", "object 0",
              "object 255", "NaN", "three numbers", "a point for a box", "mask nowhere", "mask of /dev/zero", "two masks",
              "two boxes of one object", "another video", "a NUL", "control characters", "a folder")  # fmt: skip
"""Tables that can be read: one line says what is wrong with the video, another how many failed, and so does the report."""


def lists() -> None:
    base = ("-o", "out", "-q", "--workers", 1, "--attempts", 1)

    def listed(name: str, content: str | bytes, want: str = "refuse") -> None:
        def before(folder: Path) -> None:
            (folder / "l.csv").write_bytes(
                content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass")
            )

        case(f"batch list, {name}", "batch", "segment", "l.csv", *base, before=before, want=want, keeps=want == "any")

    for what, content in {
        "empty": "", "no column video": "file\nx.mp4\n", "a video nowhere": "video\nnowhere.mp4\n", "twice": f"video\n{GOOD}\n{GOOD}\n", "column nonsense": f"video,nonsense\n{GOOD},1\n",
        "column output": f"video,output\n{GOOD},/tmp/evil\n", "column overwrite": f"video,overwrite\n{GOOD},true\n", "start nan": f"video,start\n{GOOD},nan\n",
        "keyframe_every 0": f"video,keyframe_every\n{GOOD},0\n", "flag maybe": f"video,overlay\n{GOOD},maybe\n", "too few values": f"video,start\n{GOOD}\n",
        "too many values": f"video\n{GOOD},1,2\n", "a field of a megabyte": f"video\n{'x' * (1 << 20)}\n", "binary": bytes(range(256)), "UTF-16": "video\n".encode("utf-16"),
        "a NUL": "video\na\0b.mp4\n", "names of 5000 letters": f"video\n{'v' * 5000}.mp4\n", "control characters": "video\n\x1b[2J.mp4\n", "column twice": f"video,video\n{GOOD},{GOOD}\n",
        "quotes left open": f'video\n"{GOOD}\n', "a scheme nobody knows": "video\nnonsense://a/b.mp4\n",
    }.items():  # fmt: skip
        listed(what, content, "any" if what == "a scheme nobody knows" else "refuse")
    case("batch of nothing", "batch", "segment", "nowhere*.mp4", *base, want="refuse")
    case(
        "batch of a parquet file that is text",
        "batch",
        "segment",
        "l.parquet",
        *base,
        before=lambda p: (p / "l.parquet").write_text("x"),
        want="refuse",
    )
    case("batch without a job", "batch", "nonsense", GOOD, "-o", "out", want="refuse")
    for option in ("--workers=0", "--workers=x", "--workers=-1", "--attempts=0", "--lease=0", "--lease=nan", "--memory=0", "--memory=nan", "--metrics-port=99999",
                   "--cpus=-1", "--gpus=nan", "--engine=x", "--start=x", "--device=nonsense", "--no-resume", "--keyframe-every=0"):  # fmt: skip
        case(f"batch {option}", "batch", "segment", GOOD, *base, option, want="refuse", keeps=True)
    case("batch masks nowhere", "batch", "track", GOOD, *base, "--masks", "nowhere", want="refuse")
    case("batch out is a file", "batch", "segment", GOOD, *base, before=lambda p: (p / "out").touch(), want="refuse")
    case(
        "batch out read-only",
        "batch",
        "segment",
        GOOD,
        "-o",
        "ro/out",
        "-q",
        before=lambda p: (p / "ro").mkdir(mode=0o555),
        want="refuse",
    )
    case("batch into an address nobody knows", "batch", "segment", GOOD, "-o", "nonsense://x/y", "-q", want="refuse")
    case("batch of a broken video among good ones", "batch", "segment", GOOD, V / "text.mp4", *base, want="refuse", keeps=True, seconds=2 * SECONDS,
         check=count("out/videos/*/run.json", 1), must=("1 of 2 videos have failed",))  # fmt: skip


def handed_over() -> None:
    def batch(change: Callable[[Path], object]) -> Callable[[Path], None]:
        def before(folder: Path) -> None:
            from twospeed.batch.driver import Batch
            from twospeed.batch.inputs import Video
            from twospeed.batch.storage import FolderStorage

            (folder / "precious").mkdir()
            (folder / "precious/file").write_text("precious")
            with Batch(FolderStorage(folder / "out"), "segment", []) as made:
                made.add([Video(str(V / "text.mp4"))])
                row = next(iter(made.manifest.rows.values()))
                made.manifest.claim(row, "x")
                made.manifest.fail(row, "input", "x", final=True)
            change(folder / "out")

        return before

    def handed(name: str, change: Callable[[Path], object], want: str = "refuse") -> None:
        for command in ("status", "retry-failed"):
            more = () if command == "status" else ("-q", "--workers", 1)
            case(f"batch {command}, {name}", "batch", command, "out", *more, before=batch(change), want="any" if command == "status" and want != "refuse" else want,
                 keeps=True, seconds=1.5 * SECONDS, check=lambda p: "" if (p / "precious/file").exists() else "a foreign folder is gone")  # fmt: skip

    handed("as it was", lambda out: None, "any")
    for what, text in {"cut": "{", "list": "[]", "deep": "[" * 100_000, "job a number": '{"id": "1", "job": 1, "arguments": []}', "job nonsense": '{"id": "1", "job": "rm", "arguments": []}',
                       "arguments a text": '{"id": "1", "job": "segment", "arguments": "x"}', "another output": '{"id": "1", "job": "segment", "arguments": ["-o", "../precious", "--overwrite"]}'}.items():  # fmt: skip
        handed(
            f"batch.json {what}",
            lambda out, t=text: (out / "batch.json").write_text(t),
            "any" if what in ("job nonsense", "another output", "arguments a text") else "refuse",
        )
    for what, data in {"empty": b"", "text": b"x" * 5000, "cut": None}.items():
        handed(
            f"manifest {what}",
            lambda out, d=data: (out / "manifest.sqlite").write_bytes(
                (out / "manifest.sqlite").read_bytes()[:3000] if d is None else d
            ),
            "any" if what == "empty" else "refuse",
        )
    for what, change in {"key climbing out": {"key": "../../precious"}, "key absolute": {"key": "/tmp"}, "key hidden": {"key": ".work"}, "key a number": {"key": 5}, "arguments": {"arguments": ["-o", "../precious"]},
                         "source /dev/zero": {"source": "/dev/zero"}, "state": {"state": "x"}, "seconds": {"seconds": "x"}}.items():  # fmt: skip
        handed(
            f"row, {what}",
            lambda out, c=change: forge(out, c),
            "any" if what in ("arguments", "source /dev/zero") else "refuse",
        )
    case("batch status nowhere", "batch", "status", "nowhere", want="refuse")
    case("batch status of a file", "batch", "status", GOOD, want="refuse")


def forge(out: Path, change: dict[str, object]) -> None:
    with sqlite3.connect(out / "manifest.sqlite") as base:
        ((text,),) = base.execute("SELECT row FROM video").fetchall()
        base.execute("UPDATE video SET row = ?", (json.dumps({**json.loads(text), **change}),))
