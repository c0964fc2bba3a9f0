"""`twospeed classify` as people type it."""

import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from tests.cli.commands import decoded_images
from twospeed.cli.main import exit_code
from twospeed.errors import VideoError
from twospeed.models.slowfast import builders
from twospeed.pipelines import classify as pipeline
from twospeed.pipelines.action_views import UniformViews
from twospeed.results import ColourTags
from twospeed.video.writer import VideoWriter


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """A clip, a broken file, small weights for five classes, and their names."""
    folder = tmp_path_factory.mktemp("scene")
    rng = np.random.default_rng(0)
    texture = rng.integers(0, 256, (96, 200, 3), dtype=np.uint8)
    for name, frames in (("clip", 70), ("other", 40)):
        with VideoWriter(folder / f"{name}.mp4", 30) as writer:
            for i in range(frames):
                writer.write(texture[:, i : i + 128])
    (folder / "broken.mp4").write_bytes(b"no video at all" * 40)
    torch.manual_seed(0)
    network = builders.slow_r50_4x16(width=8, num_classes=5, zero_init_final_bn=False)
    save_file(network.state_dict(), folder / "small.safetensors")
    (folder / "names.txt").write_text("jump\nrun\nsit\nstand\nwalk\n")
    return folder


@pytest.fixture
def run(scene, capsys):
    """Run `twospeed classify ... ` with the small network; returns (exit code, stdout, stderr)."""

    def call(*arguments, network=True):
        chosen = ["--model", "slow_r50_4x16", "--weights", str(scene / "small.safetensors")] if network else []
        code = exit_code(["classify", *map(str, arguments), *chosen])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def test_a_table_on_the_terminal(run, scene):
    code, out, err = run(scene / "clip.mp4", "--clips", 2, "--labels", scene / "names.txt", "--top", 3)
    assert code == 0, err
    rows = [line for line in out.splitlines() if "%" in line]
    assert len(rows) == 3 + 1  # three actions and at least one span of time
    assert {row.split()[0] for row in rows[:3]} <= {"jump", "run", "sit", "stand", "walk"}


def test_random_weights_are_warned_of(run, scene):
    assert "random" not in run(scene / "clip.mp4", "--clips", 1)[2]
    words = ["--model", "slow_r50_4x16", "--weights", "random", "--clips", 1]
    code, _, err = run(scene / "clip.mp4", *words, network=False)
    assert code == 0
    assert "the weights are random: the actions have no meaning" in err


def test_a_folder_of_results(run, scene, tmp_path):
    out_folder = tmp_path / "out"
    code, out, err = run(
        scene / "clip.mp4",
        "--timeline",
        "--every",
        0.5,
        "--labels",
        scene / "names.txt",
        "-o",
        out_folder,
        "--json",
        "--export",
        "vtt",
    )
    assert code == 0, err
    assert sorted(path.name for path in out_folder.iterdir()) == [
        "actions.vtt",
        "frames.csv",
        "overlay.mp4",
        "report.html",
        "results.json",
        "run.json",
        "timeline.png",
    ]
    results = json.loads((out_folder / "results.json").read_text())
    assert json.loads(out) == results
    assert sum(entry["probability"] for entry in results["top"]) == pytest.approx(1, abs=1e-3)
    names = ["jump", "run", "sit", "stand", "walk"]
    for entry in [*results["top"], *results["timeline"], *results["views"][0]["top"]]:
        assert names[entry["class_id"]] == entry["label"]
    assert len((out_folder / "frames.csv").read_text().splitlines()) == 1 + 70
    assert results["timeline"][0]["start_s"] == 0
    assert results["timeline"][-1]["end_s"] == pytest.approx(70 / 30, abs=0.1)
    assert len(results["views"]) == 2  # a window of 64 frames, moved by half a second, and back to the end
    record = json.loads((out_folder / "run.json").read_text())
    assert record["finished"] is True
    assert record["frames"] == 2 * 4
    assert len(record["weights_sha256"]) == 64
    with av.open(str(out_folder / "overlay.mp4")) as video:
        frames = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
    assert len(frames) == 70
    assert frames[0].shape == (96, 128, 3)
    with Image.open(out_folder / "timeline.png") as image:
        assert image.width > 800


def test_many_videos_with_a_broken_one(run, scene, tmp_path):
    listed = [scene / "clip.mp4", scene / "broken.mp4", scene / "other.mp4"]
    code, out, err = run(*listed, "--clips", 1, "--crops", 1, "-o", tmp_path, "--json", "--no-overlay")
    assert code == 2
    assert "1 of 3 videos could not be classified" in err
    assert "broken.mp4" in err
    results = json.loads(out)
    assert [video["video"] for video in results["videos"]] == [str(listed[0]), str(listed[2])]
    assert [failure["video"] for failure in results["failed"]] == [str(listed[1])]
    assert (tmp_path / "clip" / "results.json").is_file()
    assert (tmp_path / "other" / "timeline.png").is_file()
    assert not (tmp_path / "broken").exists()


def test_many_videos_are_resumed_without_repeating_one(run, scene, tmp_path, monkeypatch):
    given = [scene / "clip.mp4", scene / "other.mp4", "--clips", 1, "--crops", 1, "-o", tmp_path, "--json", "--resume"]
    whole = ["clip.mp4", "other.mp4"]
    seen: list[str] = []

    def watched(source, *arguments, broken="", **options):
        seen.append(Path(source.name).name)
        if seen[-1] == broken:
            raise VideoError("as if the disk had gone")
        return UniformViews(source, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "UniformViews", partial(watched, broken="other.mp4"))
        assert run(*given)[0] == 2
    assert seen == whole
    seen.clear()
    monkeypatch.setattr(pipeline, "UniformViews", watched)
    code, out, err = run(*given)
    assert code == 0, err
    assert seen == ["other.mp4"]
    assert [Path(video["video"]).name for video in json.loads(out)["videos"]] == whole
    assert json.loads((tmp_path / "results.json").read_text())["failed"] == []


def test_a_part_of_a_video(run, scene, tmp_path):
    for more in ([], ["--timeline"]):
        code, out, err = run(
            scene / "clip.mp4", *more, "--start", 10, "--end", "1.5s", "-o", tmp_path / "out", "--json"
        )
        assert code == 0, err
        assert all(10 / 30 <= view["time_s"] <= 1.5 for view in json.loads(out)["views"])
        assert len((tmp_path / "out" / "frames.csv").read_text().splitlines()) == 1 + 35


def test_an_ensemble(run, scene):
    code, out, err = run(
        scene / "clip.mp4",
        "--clips",
        1,
        "--crops",
        1,
        "--model",
        "slow_r50_8x8",
        "--labels",
        scene / "names.txt",
        "--json",
    )
    assert code == 0, err
    assert json.loads(out)["model"] == "slow_r50_8x8 + slow_r50_4x16"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["absent.mp4"], "absent.mp4: no such file"),
        (["clip.mp4", "--labels", "absent.txt"], "no list of labels at absent.txt"),
        (["clip.mp4", "--labels", "kinetics400"], "kinetics400 has 400 labels, slow_r50_4x16 has 5 classes"),
        (["clip.mp4", "--crops", "2"], "crops=2"),
        (["clip.mp4", "--model", "slow_r50"], "unknown model 'slow_r50'; did you mean"),
        (["clip.mp4", "--every", "0", "--timeline"], "'0' is not a number from 0.01"),
        (["clip.mp4", "--every", "nan", "--timeline"], "'nan' is not a number"),
        (["clip.mp4", "--resume"], "(--resume)"),
        (["clip.mp4", "--start", "9s"], "no frame from start=9s"),
        (["clip.mp4", "--precision", "fp8"], "fp8"),
        (["clip.mp4", "--clips", "0"], "--clips"),
    ],
)
def test_one_line_says_what_is_wrong(run, scene, monkeypatch, arguments, message):
    monkeypatch.chdir(scene)
    code, out, err = run(*arguments)
    assert code == 2
    assert message in err
    assert len(err.strip().splitlines()) == 1
    assert out == ""


def test_help_is_instant_and_teaches():
    script = (
        "import sys; from twospeed.cli.main import exit_code; code = exit_code(['classify', '--help']); "
        "assert not {'torch', 'cv2', 'av'} & set(sys.modules), 'imported'; sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "--timeline" in done.stdout
    assert "twospeed classify clip.mp4" in done.stdout


@pytest.mark.parametrize("more", [[], ["--timeline", "--every", 0.5]])
def test_a_video_is_decoded_once_for_its_scores_and_its_overlay(run, scene, tmp_path, monkeypatch, more):
    decoded = decoded_images(monkeypatch)
    given = [scene / "clip.mp4", "--clips", 3, *more, "--json"]
    code, with_overlay, err = run(*given, "-o", tmp_path / "out")
    assert code == 0, err
    assert 70 <= len(decoded) <= 71  # one more to know the size
    code, alone, err = run(*given)
    assert json.loads(alone) == json.loads(with_overlay)
    code, plain, err = run(*given, "-o", tmp_path / "plain", "--no-overlay")
    assert json.loads(plain) == json.loads(with_overlay)
    assert (tmp_path / "plain" / "frames.csv").read_text() == (tmp_path / "out" / "frames.csv").read_text()


def test_scores_of_large_images_are_the_same_with_an_overlay(run, tmp_path):
    rng = np.random.default_rng(1)
    ground = cv2.resize(rng.integers(0, 256, (30, 60, 3), dtype=np.uint8), (1200, 500))
    with VideoWriter(tmp_path / "large.mp4", 30) as writer:
        for i in range(6):
            writer.write(ground[:, 40 * i : 40 * i + 700])
    found = []
    for more in ([], ["-o", tmp_path / "out"], ["-o", tmp_path / "plain", "--no-overlay"]):
        code, out, err = run(tmp_path / "large.mp4", "--clips", 1, "--crops", 1, "--json", *more)
        assert code == 0, err
        found.append(json.loads(out))
    assert found[0] == found[1] == found[2]
    with av.open(str(tmp_path / "out" / "overlay.mp4")) as video:
        assert next(video.decode(video=0)).to_ndarray(format="rgb24").shape == (500, 700, 3)


def test_the_overlay_is_stored_in_the_colours_of_the_video(run, scene, tmp_path):
    rng = np.random.default_rng(2)
    with VideoWriter(tmp_path / "old.mp4", 30, colours=ColourTags(matrix=6, primaries=6, transfer=6)) as writer:
        for _ in range(8):
            writer.write(rng.integers(0, 256, (48, 64, 3), dtype=np.uint8))
    code, _, err = run(tmp_path / "old.mp4", "--clips", 1, "--crops", 1, "-o", tmp_path / "out")
    assert code == 0, err
    with av.open(str(tmp_path / "out" / "overlay.mp4")) as video:
        stored = next(video.decode(video=0))
        assert (stored.colorspace, stored.color_primaries, stored.color_trc) == (6, 6, 6)


def test_a_pipe_has_an_overlay_too(scene, tmp_path):
    with VideoWriter(tmp_path / "clip.mkv", 30) as writer:
        for _ in range(20):
            writer.write(np.full((48, 64, 3), 90, np.uint8))
    command = [sys.executable, "-m", "twospeed", "classify", "-", "--model", "slow_r50_4x16", "--weights"]
    command += [str(scene / "small.safetensors"), "-q", "-o", str(tmp_path / "out")]
    with (tmp_path / "clip.mkv").open("rb") as stream:
        done = subprocess.run(command, stdin=stream, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert len((tmp_path / "out" / "frames.csv").read_text().splitlines()) == 1 + 20
    with av.open(str(tmp_path / "out" / "overlay.mp4")) as video:
        assert sum(1 for _ in video.decode(video=0)) == 20


def test_a_video_that_breaks_off_leaves_the_windows_before_but_no_clips(run, scene, tmp_path):
    with VideoWriter(tmp_path / "long.mkv", 30) as writer:
        for i in range(120):
            writer.write(np.random.default_rng(i).integers(0, 256, (48, 64, 3), dtype=np.uint8))
    whole = (tmp_path / "long.mkv").read_bytes()
    (tmp_path / "cut.mkv").write_bytes(whole[: len(whole) * 9 // 10])
    code, _, err = run(tmp_path / "cut.mkv", "--timeline", "--every", 0.5, "-o", tmp_path / "out")
    assert code == 2
    assert "cut.mkv" in err
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["views"]
    assert json.loads((tmp_path / "out" / "run.json").read_text())["finished"] is False
    code, _, err = run(tmp_path / "cut.mkv", "--clips", 2, "-o", tmp_path / "spread")
    assert code == 2
    assert not (tmp_path / "spread").exists()
    code, _, err = run(tmp_path / "cut.mkv", "--clips", 2, "--damaged", "skip", "-o", tmp_path / "spread")
    assert code == 0, err
