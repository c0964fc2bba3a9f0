"""Result folders: what runs may replace, what they leave when they end early, and how they are resumed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import av
import numpy as np
import pytest

from tests.cli.commands import SIZE, fails, twospeed
from tests.conftest import heed_ctrl_c
from twospeed.data.clips.synthetic import render_clip
from twospeed.output.folder import ResultFolder
from twospeed.output.run import Run
from twospeed.pipelines.segment import Segmenter
from twospeed.pipelines.tracker import Tracker
from twospeed.video.indexed_png import read_label_map, write_indexed_png
from twospeed.video.writer import VideoWriter


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def masks(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "masks").glob("*.png"))}


def track(scene: Path, out: Path, *more: object) -> tuple[object, ...]:
    return ("track", scene / "clip.mp4", "--mask", scene / "mask0.png", "--size", 64, "-q", "-o", out, *more)


def stop_at(monkeypatch, number: int, error: BaseException, kind: type = Tracker) -> list[int]:
    """Let step number `number` of a pipeline raise an error; returns a list that grows with every step."""
    step, done = kind.step, []

    def stopping(self, *arguments, **options):
        if len(done) == number:
            raise error
        done.append(1)
        return step(self, *arguments, **options)

    monkeypatch.setattr(kind, "step", stopping)
    return done


def kill_at(monkeypatch, number: int) -> list[int]:
    """As kill -9: nothing that a run does when it is left is done."""
    monkeypatch.setattr(Run, "__exit__", lambda *_: None)
    return stop_at(monkeypatch, number, KeyboardInterrupt())


def test_a_rerun_that_is_killed_or_interrupted_leaves_the_finished_run(scene, tmp_path, capsys, monkeypatch):
    out = tmp_path / "out"
    assert twospeed(*track(scene, out)) == 0
    before = contents(out)
    for stop in (kill_at, lambda patch, number: stop_at(patch, number, KeyboardInterrupt())):
        with monkeypatch.context() as patch:
            stop(patch, 4)
            assert twospeed(*track(scene, out, "--memory-every", 2)) == 130
        now = contents(out)
        assert {name: now[name] for name in before} == before
        assert all(name.startswith(".rerun/") for name in now.keys() - before.keys())
    # What the interrupted run has done is continued, and takes the place of the earlier results
    assert twospeed(*track(scene, out, "--memory-every", 2, "--resume")) == 0
    assert json.loads((out / "run.json").read_text())["options"]["memory_every"] == 2
    assert not list(out.glob(".*"))
    assert twospeed(*track(scene, tmp_path / "whole", "--memory-every", 2)) == 0
    assert masks(out).keys() == masks(tmp_path / "whole").keys()
    capsys.readouterr()
    with monkeypatch.context() as patch:
        computed = stop_at(patch, 0, AssertionError())
        assert twospeed(*track(scene, out, "--memory-every", 2, "--resume")) == 0
    assert "finished already, 12 frames, 2 objects" in capsys.readouterr().err
    assert not computed


def test_a_swap_that_is_killed_is_completed_by_the_next_run(scene, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    assert twospeed(*track(scene, out, "--no-overlay")) == 0
    assert twospeed(*track(scene, tmp_path / "new", "--no-overlay", "--end", 6)) == 0
    replace, moved = Path.replace, []

    def killed(self, target):
        if ".rerun" in self.parts and self.parent.name == "masks" and ".rerun" not in Path(target).parts:
            if len(moved) == 3:
                raise KeyboardInterrupt
            moved.append(1)
        return replace(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", killed)
        assert twospeed(*track(scene, out, "--no-overlay", "--end", 6)) == 130
    assert json.loads((out / "run.json").read_text())["finished"] is False
    capsys.readouterr()
    assert twospeed(*track(scene, out, "--no-overlay", "--end", 6, "--resume")) == 0
    assert "finished already, 6 frames" in capsys.readouterr().err
    assert masks(out) == masks(tmp_path / "new")
    assert not list(out.glob(".*"))


def test_files_of_others_and_corrected_masks_are_not_lost(scene, tmp_path, capsys):
    out = tmp_path / "out"
    (out / "masks").mkdir(parents=True)
    (out / "masks" / "00099.png").write_bytes(b"of somebody")
    before = contents(out)
    line = fails(capsys, *track(scene, out))
    assert "00099.png was not written by an earlier run" in line
    assert "--overwrite" in line
    assert contents(out) == before
    (out / "masks" / "00099.png").unlink()
    assert twospeed(*track(scene, out)) == 0
    corrected = out / "masks" / "00004.png"
    write_indexed_png(corrected, np.eye(*SIZE, dtype=np.uint8))
    before = contents(out)
    assert "00004.png was changed after an earlier run" in fails(capsys, *track(scene, out))
    assert contents(out) == before
    assert twospeed(*track(scene, out, "--overwrite")) == 0
    assert corrected.read_bytes() != before["masks/00004.png"]


def test_another_video_of_the_same_name_does_not_replace_results_in_a_folder_that_nobody_named(
    scene, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    for name, frames in ("a", 3), ("b", 2):
        (tmp_path / name).mkdir()
        with VideoWriter(tmp_path / name / "clip.mp4", 10) as writer:
            for image, _ in render_clip(frames, frames=frames, height=48, width=64, objects=1):
                writer.write(image)
    given = ("--point", "32,24", "--model", "track_tiny", "-q", "--no-overlay")
    assert twospeed("track", "a/clip.mp4", *given) == 0
    before = contents(tmp_path / "clip_track")
    line = fails(capsys, "track", "b/clip.mp4", *given)
    assert "clip_track holds results of another video, a/clip.mp4; name a folder with -o" in line
    assert contents(tmp_path / "clip_track") == before
    assert twospeed("track", tmp_path / "a" / "clip.mp4", *given, "--end", 1) == 0  # the same, by another path
    assert twospeed("track", "b/clip.mp4", *given, "-o", "clip_track") == 0
    assert twospeed("track", "a/clip.mp4", *given, "--overwrite") == 0


def test_inputs_among_the_results_are_refused(scene, tmp_path, capsys):
    out = tmp_path / "out"
    (out / "masks").mkdir(parents=True)
    (out / "overlay.mp4").write_bytes((scene / "clip.mp4").read_bytes())
    (out / "masks" / "00000.png").write_bytes((scene / "mask0.png").read_bytes())
    before = contents(out)
    start = ("--size", 64, "-q", "--overwrite", "-o", out)
    assert "overlay.mp4 is an input" in fails(capsys, "track", out / "overlay.mp4", "--point", "9,9", *start)
    mask = out / "masks" / "00000.png"
    assert "00000.png is an input" in fails(capsys, "track", scene / "clip.mp4", "--mask", mask, *start)
    assert "is an input" in fails(capsys, "track", out / "masks", "--point", "9,9", *start)
    assert contents(out) == before


def test_two_writers_are_refused_and_leftovers_are_cleaned(scene, tmp_path, capsys):
    out = tmp_path / "out"
    (out / "masks").mkdir(parents=True)
    (out / "masks" / ".00003.4711.partial.png").write_bytes(b"half")
    (out / ".overlay.mp4.4711.partial").write_bytes(b"half")
    with ResultFolder(out, ["overlay.mp4"]):
        assert "another run is writing into" in fails(capsys, *track(scene, out))
    (out / ".lock").touch()  # as a killed run leaves it
    assert twospeed(*track(scene, out)) == 0
    assert not list(out.rglob(".*"))


@pytest.mark.parametrize(("kill", "states"), [(True, True), (False, True), (True, False)])
def test_track_is_resumed_bit_for_bit(scene, tmp_path, capsys, monkeypatch, kill, states):
    """states: whether the tracker was saved after every frame, or not yet at all."""
    monkeypatch.setattr("twospeed.cli.track_job.SECONDS_BETWEEN_STATES", 0 if states else 1e9)
    monkeypatch.setattr("twospeed.cli.track_job.SHARE_OF_STATES", float("inf"))
    out, whole = tmp_path / "out", tmp_path / "whole"
    command = track(scene, out, "--mask", f"6={scene / 'mask6.png'}")
    with monkeypatch.context() as patch:
        kill_at(patch, 8) if kill else stop_at(patch, 8, KeyboardInterrupt())
        assert twospeed(*command, "--resume") == 130, "nothing to resume: an ordinary run"
    left = masks(out)
    assert len(left) == 8
    if not kill:
        record = json.loads((out / "run.json").read_text())
        assert (record["finished"], record["frames"]) == (False, 8)
        assert len((out / "frames.csv").read_text().splitlines()) == 9
        with av.open(str(out / "overlay.mp4")) as overlay:
            assert sum(1 for _ in overlay.decode(video=0)) == 8
    line = fails(capsys, *command, "--resume", "--memory-every", 3)
    assert "memory_every 5, now it is 3" in line
    assert "--resume" in line
    other = tmp_path / "other.png"
    write_indexed_png(other, read_label_map(scene / "mask0.png")[::-1])
    changed = [other if part == scene / "mask0.png" else part for part in command]
    assert "another mask of frame 0" in fails(capsys, *changed, "--resume")
    assert masks(out) == left
    with monkeypatch.context() as patch:
        computed = stop_at(patch, 99, AssertionError())
        assert twospeed(*command, "--resume") == 0
    assert len(computed) == (4 if states else 12)
    assert twospeed(*track(scene, whole, "--mask", f"6={scene / 'mask6.png'}")) == 0
    assert masks(out) == masks(whole)
    records = [json.loads((folder / "run.json").read_text()) for folder in (out, whole)]
    assert records[0]["summary"] == records[1]["summary"]
    assert not list(out.glob(".*"))
    with av.open(str(out / "overlay.mp4")) as overlay:
        assert sum(1 for _ in overlay.decode(video=0)) == 12
    assert (out / "frames.csv").read_bytes() == (whole / "frames.csv").read_bytes()


def test_segment_is_resumed_bit_for_bit(scene, tmp_path, monkeypatch):
    out, whole = tmp_path / "out", tmp_path / "whole"
    command = ["segment", scene / "clip.mp4", "-q", "-o"]
    assert twospeed(*command, whole) == 0
    steps = Segmenter.steps

    def seven(self, frames):
        yield from islice(steps(self, frames), 7)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Run, "__exit__", lambda *_: None)  # as kill -9
        patch.setattr(Segmenter, "steps", seven)
        assert twospeed(*command, out) == 130
    with monkeypatch.context() as patch:
        computed = stop_at(patch, 99, AssertionError(), Segmenter)
        assert twospeed(*command, out, "--resume") == 0
    assert len(computed) == 1 + 8, "the first frame, for the classes, and all from the last keyframe on"
    now, then = contents(out), contents(whole)
    assert now.keys() == then.keys()
    differing = {name for name in now if now[name] != then[name]}
    assert differing <= {"run.json", "areas.png", "report.html"}, "these name the folder or hold times"


@pytest.mark.parametrize("text", ["{", "[]", "null", "", '{"model": 1}', "[" * 100_000])
def test_a_record_that_cannot_be_read_is_one_line(scene, tmp_path, capsys, text):
    (tmp_path / "run.json").write_text(text)
    assert "run.json" in fails(capsys, *track(scene, tmp_path, "--resume"))
    assert "run.json" in fails(capsys, *track(scene, tmp_path))
    assert (tmp_path / "run.json").read_text() == text


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_signals_keep_what_is_done(scene, tmp_path, number, code):
    video, out = tmp_path / "long.mp4", tmp_path / "out"
    with VideoWriter(video, 10) as writer:
        for image, _ in render_clip(2, frames=400, height=SIZE[0], width=SIZE[1], objects=2):
            writer.write(image)
    arguments = [video, "--mask", scene / "mask0.png", "-o", out, "--size", 96]
    command = [sys.executable, "-m", "twospeed", "track", *map(str, arguments)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=heed_ctrl_c)
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline and len(list(out.glob("masks/*.png"))) < 3:
        time.sleep(0.05)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code, errors
    assert errors.strip() == "twospeed: interrupted; finished frames are kept"
    record = json.loads((out / "run.json").read_text())
    assert record["finished"] is False
    assert record["frames"] == len(masks(out))
    with av.open(str(out / "overlay.mp4")) as overlay:
        assert sum(1 for _ in overlay.decode(video=0)) == len(masks(out))
    assert not list(out.rglob("*.partial*"))


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_an_interruption_right_after_the_start_is_one_line(tmp_path):
    """Another program module stands for the command line: it is interrupted while it loads."""
    (tmp_path / "slow.py").write_text(
        "import os, sys, twospeed.__main__\n"
        "class Loading:\n"
        "    def __getattr__(self, name): os.kill(os.getpid(), 2)\n"
        "sys.modules['twospeed.cli.main'] = Loading()\n"
        "twospeed.__main__.run()\n"
    )
    command = [sys.executable, tmp_path / "slow.py"]
    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=heed_ctrl_c)
    assert done.returncode == 130
    assert done.stderr == "twospeed: interrupted\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--size", "nan"], "'nan' is no whole number from 0 to 8192"),
        (["--size", "٣٠٠"], "is no whole number"),
        (["--size", "100000"], "is no whole number from 0 to 8192"),
        (["--memory-every", "1_0"], "is no whole number"),
        (["--memory-every", "0"], "'0' is no whole number from 1"),
        (["--finetune", "²"], "is no whole number"),
        (["--box", "1,2,inf,4"], "--box is '1,2,inf,4'"),
        (["--box", "1,2,nan,4"], "--box is '1,2,nan,4'"),
        (["--start", "later"], "'later' is not a position in a video"),
        (["--mask", "a" * 300], "no file can have this name"),
        (["--weights", "gone.pth"], "no checkpoint at gone.pth"),
        (["--damaged", "perhaps"], "--damaged"),
    ],
)
def test_what_is_typed_wrong_is_refused_before_torch_is_loaded(
    scene, tmp_path, arguments, message, monkeypatch, capsys
):
    monkeypatch.setitem(sys.modules, "twospeed.pipelines.track", None)  # its import would fail
    given = [] if "--mask" in arguments else ["--mask", scene / "mask0.png"]
    assert message in fails(capsys, "track", scene / "clip.mp4", *given, *arguments, "-o", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_control_characters_of_foreign_names_do_not_reach_the_terminal(tmp_path, capsys):
    line = fails(capsys, "track", tmp_path / "a\x1b[31mred.mp4", "--point", "1,1")
    assert "\x1b" not in line
    assert "a\\x1b[31mred.mp4: " in line


def test_the_help_needs_no_numpy():
    code = "import sys; from twospeed.cli.main import exit_code; exit_code(['track', '--help'])"
    code += "; print('numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"


@pytest.mark.parametrize("job", ["track", "segment"])
def test_files_are_the_same_however_late_they_are_written(scene, tmp_path, monkeypatch, job):
    """A frame is written while the network computes the next one: nothing of the next one may be in its files."""

    class AtOnce(ThreadPoolExecutor):
        def submit(self, work):
            done = Future()
            done.set_result(work())
            return done

    class Late(ThreadPoolExecutor):
        def submit(self, work):
            def later():
                time.sleep(0.1)  # longer than a step takes
                work()

            return super().submit(later)

    marked = ["--mask", scene / "mask0.png", "--size", 64, "--export", "coco", "--matte", "png"]
    found = []
    for executor in (AtOnce, Late):
        monkeypatch.setattr("twospeed.output.run.ThreadPoolExecutor", executor)
        (tmp_path / executor.__name__).mkdir()
        out = tmp_path / executor.__name__ / "out"
        assert twospeed(job, scene / "clip.mp4", *(marked if job == "track" else []), "-q", "-o", out) == 0
        found.append({name: data for name, data in contents(out).items() if name not in ("run.json", "report.html")})
    assert len(found[0]) > 14
    assert found[0] == found[1]
