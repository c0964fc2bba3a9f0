"""`twospeed track` with several videos: one command, a status for each, and nothing done twice."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time

import pytest

from tests.cli.commands import SIZE, fails, twospeed
from twospeed.data.clips.synthetic import render_clip
from twospeed.video.writer import VideoWriter

HEAD = "video,frame,object,kind,value\n"


@pytest.fixture
def clips(scene, tmp_path):
    """A folder of three videos, one of them broken, one without prompts, and a table of prompts beside it."""
    folder = tmp_path / "clips"
    folder.mkdir()
    for name in ("a", "c", "d"):
        shutil.copy(scene / "clip.mp4", folder / f"{name}.mp4")
    (folder / "b.mp4").write_bytes((scene / "clip.mp4").read_bytes()[:500])
    shutil.copy(scene / "mask0.png", tmp_path / "first.png")
    table = f'{HEAD}a.mp4,,,mask,first.png\nb.mp4,,,box,10 10 40 40\nd.mp4,,,box,"10,10,40,40"\n'
    (tmp_path / "table.csv").write_text(table)
    return tmp_path


def run(clips, *more):
    arguments = ("--prompts", clips / "table.csv", "-o", clips / "out", "--size", 64, "--no-overlay", "-q", "--json")
    return twospeed("track", clips / "clips", *arguments, *more)


def test_a_folder_of_clips_goes_past_broken_ones_and_resumes(clips, capsys):
    assert run(clips) == 2
    captured = capsys.readouterr()
    entries = {entry["video"].rpartition("/")[2]: entry for entry in json.loads(captured.out)["clips"]}
    assert [entries[f"{name}.mp4"]["status"] for name in "abcd"] == ["done", "failed", "failed", "done"]
    assert entries["a.mp4"]["frames"] == 12
    assert "has no prompt of this video" in entries["c.mp4"]["error"]
    last = captured.err.strip().splitlines()[-1]
    assert last.startswith("twospeed: 2 of 4 videos could not be tracked: ")
    assert "b.mp4, " in last
    out = clips / "out"
    assert json.loads((out / "results.json").read_text())["clips"] == list(entries.values())
    assert sorted(path.name for path in out.iterdir() if path.is_file()) == ["report.html", "results.json", "run.json"]
    report = (out / "report.html").read_text()
    assert 'href="a/report.html"' in report
    assert "has no prompt of this video" in report
    assert sorted(path.name for path in out.iterdir() if path.is_dir()) == ["a", "d"]

    # Mended and resumed: what is finished stays as it is
    before = {path: path.stat().st_mtime_ns for path in (out / "a").rglob("*")}
    shutil.copy(clips / "clips" / "a.mp4", clips / "clips" / "b.mp4")
    with (clips / "table.csv").open("a") as table:
        table.write("c.mp4,,,box,10 10 40 40\n")
    assert run(clips, "--resume") == 0
    entries = json.loads(capsys.readouterr().out)["clips"]
    assert [entry["status"] for entry in entries] == ["done"] * 4
    assert {path: path.stat().st_mtime_ns for path in (out / "a").rglob("*")} == before


def test_the_network_is_loaded_once(clips, monkeypatch):
    from twospeed.pipelines import track

    made = []
    make = track.make_tracker
    monkeypatch.setattr(track, "make_tracker", lambda *a, **k: made.append(a) or make(*a, **k))
    for name in ("b", "c"):
        (clips / "clips" / f"{name}.mp4").unlink()
    (clips / "table.csv").write_text(f"{HEAD}a,,,box,10 10 40 40\nd,,,box,10 10 40 40\n")
    assert run(clips) == 0
    assert len(made) == 1
    masks = [sorted((clips / "out" / name / "masks").iterdir()) for name in ("a", "d")]
    assert [file.read_bytes() for file in masks[0]] == [file.read_bytes() for file in masks[1]]


def test_previews_of_all_clips(clips, capsys):
    for name in ("b", "c"):
        (clips / "clips" / f"{name}.mp4").unlink()
    (clips / "table.csv").write_text(f"{HEAD}a,,,box,10 10 40 40\nd,,,box,10 10 40 40\n")
    assert run(clips, "--preview") == 0
    assert [entry["status"] for entry in json.loads(capsys.readouterr().out)["clips"]] == ["done", "done"]
    assert sorted(path.name for path in (clips / "out").glob("*/preview")) == ["preview", "preview"]


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ("video,frame\n", "has no column 'kind'"),
        (HEAD, "holds no prompt"),
        (f"{HEAD}a.mp4,,,circle,3", "kinds are mask, box"),
        (f"{HEAD}a.mp4,x,,box,1 2 3 4", "frame is 'x'"),
        (f"{HEAD}a.mp4,,2,mask,first.png", "leave the column object empty"),
        (f"{HEAD}z.mp4,,,box,1 2 3 4", "is none of the videos given"),
        (f"{HEAD}a.mp4,,,box,1,2,3,4", "table.csv:2: has more values than there are columns"),
        (f"{HEAD}a.mp4,,,box,{'1' * 200_000}", "field larger than field limit"),
        (f"{HEAD}a.mp4,{'9' * 5000},,mask,first.png", "frame is '99999"),
        (f"{HEAD}a.mp4,,\u0663,box,1 2 3 4", "object is '\u0663'"),
    ],
)
def test_wrong_tables_are_refused_before_anything_runs(table, says, clips, capsys):
    (clips / "table.csv").write_text(table)
    arguments = ("--prompts", clips / "table.csv", "-o", clips / "out", "-q")
    assert says in fails(capsys, "track", clips / "clips", *arguments)
    assert not (clips / "out").exists()


def test_no_video_at_all(capsys):
    assert "no video is given" in fails(capsys, "track")


@pytest.mark.slow
def test_after_kill_nothing_that_is_finished_is_repeated(scene, tmp_path):
    """A real process, killed in its second clip."""
    (tmp_path / "clips").mkdir()
    shutil.copy(scene / "clip.mp4", tmp_path / "clips" / "a.mp4")
    with VideoWriter(tmp_path / "clips" / "b.mp4", 10) as writer:
        for image, _ in render_clip(2, frames=200, height=SIZE[0], width=SIZE[1], objects=2):
            writer.write(image)
    (tmp_path / "table.csv").write_text(f"{HEAD}a,,,box,10 10 40 40\nb,,,box,10 10 40 40\n")
    out = tmp_path / "out"
    command = [sys.executable, "-m", "twospeed", "track", str(tmp_path / "clips"), "--no-overlay", "--size", "64", "-q"]
    command += ["--prompts", str(tmp_path / "table.csv"), "-o", str(out), "--export", "coco"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and len(list(out.glob("b/masks/*.png"))) < 5:
        time.sleep(0.02)
    process.kill()
    process.wait(timeout=60)
    assert not json.loads((out / "b" / "run.json").read_text())["finished"]
    before = {path: path.stat().st_mtime_ns for path in (out / "a").rglob("*")}
    assert subprocess.run([*command, "--resume"], capture_output=True).returncode == 0
    assert {path: path.stat().st_mtime_ns for path in (out / "a").rglob("*")} == before
    assert len(list((out / "b" / "masks").iterdir())) == 200
    assert len(json.loads((out / "b" / "exports" / "coco.json").read_text())["images"]) == 200
    assert not [path for path in out.rglob(".*") if path.is_file()]


@pytest.mark.slow
def test_thirty_clips_killed_in_between(tmp_path):
    """One broken, one without prompts: statuses, report and exit code are right, and nothing is done twice."""
    (tmp_path / "clips").mkdir()
    rows = []
    for number in range(30):
        name = f"clip_{number:02d}.mp4"
        with VideoWriter(tmp_path / "clips" / name, 10) as writer:
            for image, _ in render_clip(number, frames=4, height=48, width=64, objects=1):
                writer.write(image)
        if number != 20:
            rows.append(f'{name},,,box,"8,8,30,30"\n')
    broken = tmp_path / "clips" / "clip_10.mp4"
    broken.write_bytes(broken.read_bytes()[:300])
    (tmp_path / "table.csv").write_text(HEAD + "".join(rows))
    out = tmp_path / "out"
    command = [sys.executable, "-m", "twospeed", "track", str(tmp_path / "clips"), "--no-overlay", "--size", "48", "-q"]
    command += ["--prompts", str(tmp_path / "table.csv"), "-o", str(out)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline and not (out / "clip_14" / "run.json").exists():
        time.sleep(0.02)
    process.kill()
    process.wait(timeout=60)
    finished = [path.parent for path in out.glob("*/run.json") if json.loads(path.read_text())["finished"]]
    assert 12 <= len(finished) < 28
    before = {path: path.stat().st_mtime_ns for folder in finished for path in folder.rglob("*")}
    done = subprocess.run([*command, "--resume"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "twospeed: 2 of 30 videos could not be tracked: " in done.stderr
    assert {path: path.stat().st_mtime_ns for folder in finished for path in folder.rglob("*")} == before
    entries = json.loads((out / "results.json").read_text())["clips"]
    failed = [entry["video"].rpartition("/")[2] for entry in entries if entry["status"] != "done"]
    assert failed == ["clip_10.mp4", "clip_20.mp4"]
    assert [len(list((out / f"clip_{number:02d}" / "masks").iterdir())) for number in (0, 14, 29)] == [4, 4, 4]
    report = (out / "report.html").read_text()
    assert report.count('/report.html"') == 28
