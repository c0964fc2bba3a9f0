"""`twospeed batch` as people call it: real networks, results byte for byte those of single runs."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.batch.conftest import same
from tests.cli.commands import fails, twospeed
from twospeed.batch.endpoint import serve_metrics
from twospeed.batch.manifest import open_manifest
from twospeed.batch.storage import FolderStorage
from twospeed.batch.tables import COLUMNS, SCHEMA_VERSION, results_table
from twospeed.cli.batch import _cells_to_arguments, _drain
from twospeed.data.clips.synthetic import render_clip
from twospeed.errors import InputError
from twospeed.results import Progress
from twospeed.video.indexed_png import write_indexed_png
from twospeed.video.writer import VideoWriter

pq = pytest.importorskip("pyarrow.parquet")


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Path:
    """Two clips of 6 frames and a broken one; a mask for the first."""
    folder = tmp_path_factory.mktemp("clips")
    (folder / "in").mkdir()
    (folder / "masks").mkdir()
    for seed, name in enumerate(("first", "second")):
        with VideoWriter(folder / "in" / f"{name}.mp4", 10, quality=10) as writer:
            for index, (image, labels) in enumerate(render_clip(seed, frames=6, height=48, width=64, objects=1)):
                writer.write(image)
                if index == seed == 0:
                    write_indexed_png(folder / "masks" / f"{name}.png", labels)
    (folder / "in" / "broken.mp4").write_text("no video")
    return folder


@pytest.mark.slow
def test_segment(clips, tmp_path, capsys, here, monkeypatch):
    out = tmp_path / "out"
    command = ("batch", "segment", clips / "in", "-o", out, "--keyframe-every", 2, "--quiet")
    assert "1 of 3 videos have failed; the first, broken:" in fails(capsys, *command)
    assert twospeed("segment", clips / "in" / "second.mp4", "-o", tmp_path / "second", "--keyframe-every", 2, "-q") == 0
    same(tmp_path / "second", out / "videos" / "second", "overlay.mp4")

    results = pq.read_table(out / "results.parquet")
    assert results.schema.metadata[b"twospeed.schema"] == str(SCHEMA_VERSION).encode()
    states = {row["video"]: (row["state"], row["error_kind"], row["frames"]) for row in results.to_pylist()}
    assert states == {"broken": ("failed", "input", None), "first": ("done", None, 6), "second": ("done", None, 6)}
    frames = pq.read_table(out / "frames")
    assert frames.column_names == list(COLUMNS["frames"])
    assert frames.num_rows == 12
    shares = pq.read_table(out / "classes")
    per_frame = sum(shares["share"].to_pylist())
    assert per_frame == pytest.approx(12, abs=1e-3)
    assert (out / "thumbnails" / "first.jpg").read_bytes()[:2] == b"\xff\xd8"

    page = (Path(__file__).parents[2] / "docs" / "reference" / "batch.md").read_text()
    monkeypatch.chdir(tmp_path)
    shown: dict[str, Any] = {}
    exec(page.partition("```python\n")[2].partition("```")[0], shown)
    assert [(row["video"], "broken.mp4" in row["error"]) for row in shown["failed"]] == [("broken", True)]
    area = shown["area"].to_pylist()
    assert {row["video"] for row in area} == {"first", "second"}
    assert sum(row["share_sum"] for row in area) == pytest.approx(per_frame)

    written = (out / "videos" / "first" / "run.json").stat().st_mtime_ns
    fails(capsys, *command)
    assert (out / "videos" / "first" / "run.json").stat().st_mtime_ns == written
    capsys.readouterr()
    assert twospeed("batch", "status", out, "--json") == 0
    status = json.loads(capsys.readouterr().out)
    assert (status["done"], status["failed"], status["failures"][0]["video"]) == (2, 1, "broken")
    assert "now it is '--keyframe-every 3'" in fails(capsys, *command[:-2], 3, "-q")


@pytest.mark.slow
def test_retry_failed(clips, tmp_path, capsys, here):
    """A video that was broken is tried again once it is mended, the others are left as they are."""
    shutil.copytree(clips / "in", tmp_path / "in")
    out = tmp_path / "out"
    fails(capsys, "batch", "segment", tmp_path / "in", "-o", out, "--no-overlay", "-q")
    written = (out / "videos" / "first" / "run.json").stat().st_mtime_ns
    assert "1 of 3 videos have failed; the first, broken:" in fails(capsys, "batch", "retry-failed", out, "-q")
    shutil.copy(clips / "in" / "second.mp4", tmp_path / "in" / "broken.mp4")
    assert twospeed("batch", "retry-failed", out, "--json", "-q") == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["videos"], report["done"], report["failed"]) == (3, 3, 0)
    assert (out / "videos" / "first" / "run.json").stat().st_mtime_ns == written
    last = [out / "videos" / name / "labels" / "00005.png" for name in ("second", "broken")]
    assert last[0].read_bytes() == last[1].read_bytes()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_sigterm_drains(clips, tmp_path):
    """The real program: videos that are worked on end, nothing more begins, exit code 143; the next run continues."""
    (tmp_path / "in").mkdir()
    for number in range(6):
        shutil.copy(clips / "in" / "first.mp4", tmp_path / "in" / f"{number}.mp4")
    out = tmp_path / "out"
    command = [sys.executable, "-m", "twospeed", "batch", "segment", tmp_path / "in", "-o", out, "--workers", "1"]
    program = subprocess.Popen([*command, "--no-overlay"], text=True, stderr=subprocess.PIPE)
    end = time.monotonic() + 300
    while not (out / "videos").exists():
        assert program.poll() is None, program.stderr.read()
        assert time.monotonic() < end
        time.sleep(0.01)
    program.send_signal(signal.SIGTERM)
    assert "stopping after the videos that are being computed" in program.communicate(timeout=300)[1]
    assert program.returncode == 128 + signal.SIGTERM
    manifest = open_manifest(FolderStorage(out), read_only=True)
    counts = manifest.counts()
    manifest.close()
    assert counts["running"] == counts["failed"] == 0
    assert counts["done"] == len(list((out / "videos").iterdir())) < 6
    assert not list((out / ".work").iterdir())


@pytest.mark.slow
def test_track_with_masks(clips, tmp_path, capsys, here):
    out = tmp_path / "out"
    videos = [clips / "in" / "first.mp4", clips / "in" / "second.mp4"]
    message = fails(capsys, "batch", "track", *videos, "-o", out, "--masks", clips / "masks", "-q", "--no-overlay")
    assert "no mask second.png" in message
    mask = clips / "masks" / "first.png"
    assert twospeed("track", videos[0], "--mask", mask, "-o", tmp_path / "first", "--no-overlay", "-q") == 0
    same(tmp_path / "first", out / "videos" / "first")
    objects = pq.read_table(out / "objects").to_pylist()
    assert {row["object_id"] for row in objects} == {1}
    assert len(objects) == 6
    assert all(row["x2"] - row["x1"] <= 64 for row in objects if row["area_pixels"])
    assert "no mask second.png" in fails(capsys, "batch", "retry-failed", out, "-q")  # it is still missing
    masks = shutil.copytree(clips / "masks", tmp_path / "masks")
    options = ("-q", "--no-overlay", "--model", "track_tiny", "--end", 2)
    fails(capsys, "batch", "track", *videos, "-o", tmp_path / "again", "--masks", masks, *options)
    shutil.copy(mask, masks / "second.png")
    assert twospeed("batch", "track", *videos, "-o", tmp_path / "again", "--masks", masks, *options) == 0


def test_videos_that_have_failed_take_the_options_that_a_list_has_now(clips, tmp_path, capsys):
    table = tmp_path / "list.csv"
    table.write_text(f"video,start,end\n{clips / 'in' / 'first.mp4'},,2\n{clips / 'in' / 'second.mp4'},900,\n")
    fails(capsys, "batch", "segment", table, "-o", tmp_path / "out", "-q", "--no-overlay")
    table.write_text(table.read_text().replace(",900,", ",,3"))
    assert twospeed("batch", "segment", table, "-o", tmp_path / "out", "-q", "--no-overlay") == 0
    assert len(list((tmp_path / "out" / "videos" / "second" / "labels").iterdir())) == 3


def test_cells_become_options():
    convert = _cells_to_arguments("track")
    assert convert({"start": "5", "point": "1,2;3,4", "overlay": "false"}) == [
        "--start", "5", "--point", "1,2", "--point", "3,4", "--no-overlay",
    ]  # fmt: skip
    for cells, message in (
        ({"strat": "5"}, r"no option 'strat' of track(?!.*completion)"),
        ({"overlay": "perhaps"}, "expected true or false"),
        ({"start": "nan"}, "'nan' is not a position in a video"),
        ({"memory_every": "x"}, "no whole number"),
    ):
        with pytest.raises(InputError, match=message):
            convert(cells)


def test_no_limit_reaches_the_workers(monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr("twospeed.cli.batch._run", lambda job, arguments, values: seen.append(arguments))
    assert twospeed("batch", "track", "a.mp4", "-o", tmp_path, "--max-memory-frames", "none") == 0
    assert seen == [["--max-memory-frames", "none"]]


def test_bad_calls(tmp_path, capsys):
    (tmp_path / "list.csv").write_text("video,size\n0.mp4,3\n")
    (tmp_path / "0.mp4").write_text("x")
    message = fails(capsys, "batch", "segment", tmp_path / "list.csv", "-o", tmp_path / "out")
    assert "list.csv:2: there is no option 'size' of segment" in message
    assert not (tmp_path / "out").exists()
    (tmp_path / "list.csv").write_text("file,start\n0.mp4,3\n")
    message = fails(capsys, "batch", "segment", tmp_path / "list.csv", "-o", tmp_path / "out")
    assert "list.csv:1: columns are file, start; expected `video`" in message
    assert not (tmp_path / "out").exists()
    with FolderStorage(tmp_path / "held").hold(60):
        message = fails(capsys, "batch", "segment", tmp_path / "0.mp4", "-o", tmp_path / "held")
        assert f"is held by process {os.getpid()} on {socket.gethostname()}, which runs a batch into it" in message
    assert "holds no batch" in fails(capsys, "batch", "status", tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()


def test_missing_credentials(tmp_path, capsys, monkeypatch):
    """As botocore finds none: in variables, files and the machine's role."""
    pytest.importorskip("s3fs")
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    (tmp_path / "0.mp4").write_text("x")
    message = fails(capsys, "batch", "segment", tmp_path / "0.mp4", "-o", "s3://data/out")
    assert "s3://data/out/owner: no credentials" in message
    assert "AWS_ACCESS_KEY_ID" in message


def test_first_signal_drains_and_second_interrupts():
    with _drain(quiet=True) as received:
        os.kill(os.getpid(), signal.SIGTERM)
        assert received
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert received == [signal.SIGTERM, signal.SIGINT]


def test_metrics():
    with serve_metrics(0) as note:
        address = f"http://127.0.0.1:{note.port}/metrics"
        note(Progress("batch", 5, 9, "videos", 1.5, {"failed": 2.0, "running": 1.0}))
        text = urllib.request.urlopen(address, timeout=10).read().decode()
        with pytest.raises(InputError, match=f"port {note.port} cannot be used"), serve_metrics(note.port):
            pass
    values = dict(line.split() for line in text.splitlines() if not line.startswith("#"))
    assert values["twospeed_batch_videos_done"] == "3"
    assert values["twospeed_batch_videos_failed"] == "2"


def test_documented_columns():
    text = (Path(__file__).parents[2] / "docs" / "reference" / "batch.md").read_text()
    assert f"Schema version {SCHEMA_VERSION}" in text
    for table, columns in COLUMNS.items():
        part = text.partition(f"### `{table}`")[2].partition("###")[0]
        assert [line.split("`")[1] for line in part.splitlines() if line.startswith("| `")] == list(columns), table
    assert results_table([]).column_names == list(COLUMNS["results"])
