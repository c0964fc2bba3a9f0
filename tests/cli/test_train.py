"""`twospeed train` as people type it: listing, settings as options, presets, copies, restarts."""

from __future__ import annotations

import json
import subprocess
import sys

from experiments.motion_set import write_motion_set
from experiments.vos_sets import write_demo_sets
from twospeed.cli.main import exit_code

RECIPE = "slowfast_kinetics"


def fields(capsys, *arguments: str) -> dict[str, str]:
    assert exit_code(["train", RECIPE, *arguments, "--fields"]) == 0
    lines = capsys.readouterr().out.splitlines()
    return dict(line[2:].split(" ", 1) for line in lines)


def refused(capsys, *arguments: str) -> str:
    assert exit_code(["train", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_listing_is_instant_and_says_what_each_trains(capsys):
    assert exit_code(["train", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith(RECIPE) and "Kinetics" in line for line in lines)
    code = "import sys, twospeed.cli.main as m; m.exit_code(['train', '--list']); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_a_recipe_has_help_of_its_own(capsys):
    assert exit_code(["train", "--help"]) == 0
    assert "--validate" in capsys.readouterr().out
    assert exit_code(["train", RECIPE, "--lr", "0.3", "--help"]) == 0
    printed = capsys.readouterr().out
    assert f"twospeed train {RECIPE}" in printed
    assert "\n--lr 0.3\n" in printed


def test_every_setting_is_an_option(capsys):
    plain = fields(capsys)
    assert plain["lr"] == "0.1"
    assert plain["short-side"] == "256,340"
    changed = fields(
        capsys,
        *("--lr", "0.05", "--epochs=3", "--short-side", "256,360", "--val", "none", "--no-nesterov"),
        *(
            "--clip-gradient",
            "40",
            "--precision",
            "bf16",
            "--model-options",
            '{"fusion_kernel": 7}',
            "--test_views",
            "3",
            "1",
        ),
    )
    assert {name: changed[name] for name in changed if changed[name] != plain[name]} == {
        "lr": "0.05",
        "epochs": "3",
        "short-side": "256,360",
        "val": "none",
        "nesterov": "false",
        "clip-gradient": "40.0",
        "precision": "bf16",
        "model-options": '{"fusion_kernel": 7}',
        "test-views": "3,1",
    }


def test_presets_and_configs_are_starting_points(capsys, tmp_path):
    assert fields(capsys, "--preset", "kinetics600", "--epochs", "2")["batch"] == "1024"
    (tmp_path / "config.json").write_text(
        json.dumps({"lr": 0.7, "short_side": [224, 260], "val": None, "train": "x.csv"})
    )
    read = fields(capsys, "--config", str(tmp_path / "config.json"))
    assert (read["lr"], read["short-side"], read["val"], read["train"]) == ("0.7", "224,260", "none", "x.csv")


def test_what_is_wrong_is_one_line_with_what_is_known(capsys, tmp_path):
    assert "did you mean --lr?" in refused(capsys, RECIPE, "--lrr", "3")
    assert "known: model, model_options, dropout" in refused(capsys, RECIPE, "--frobnicate", "3")
    assert "epochs='many': expected a whole number" in refused(capsys, RECIPE, "--epochs", "many")
    assert "short_side='3': expected 2 values separated by commas" in refused(capsys, RECIPE, "--short-side", "3")
    assert "expected fp32 or bf16 or fp16" in refused(capsys, RECIPE, "--precision", "fp8")
    assert "--lr needs a value: a number" in refused(capsys, RECIPE, "--lr")
    assert "unexpected '-o'; settings are given as --field value, such as --out" in refused(capsys, RECIPE, "-o", "x")
    assert "did you mean slowfast_kinetics?" in refused(capsys, "slowfast_kinetic")
    assert "which recipe?" in refused(capsys)
    assert "no preset 'k9'; there are kinetics400" in refused(capsys, RECIPE, "--preset", "k9")
    assert "no such recipe file" in refused(capsys, str(tmp_path / "mine.py"))
    assert "no such list of videos" in refused(capsys, RECIPE, "--train", str(tmp_path / "gone.csv"))


def set_of(folder):
    write_motion_set(folder / "set", clips=1, val_clips=1, frames=4, side=32)
    return folder / "set" / "train"


def test_a_copied_recipe_runs_and_resumes_with_its_own_settings(capsys, tmp_path):
    copy = tmp_path / "mine.py"
    assert exit_code(["train", RECIPE, "--copy", str(copy)]) == 0
    assert "exists already" in refused(capsys, RECIPE, "--copy", str(copy))
    small = (
        f"--train {set_of(tmp_path)} --val none --num-classes 8 --workers 0 --short-side 32,32 --crop 32 --epochs 1 "
        "--batch 2 --batch-per-forward 2 --bn-clips 2 --warm-up-epochs 0 --precise-bn-batches 0 --device cpu "
        "--log-every 1 --model slow_r50_4x16 --model-options".split()
    )
    small = [*small, '{"width": 8, "frames": 2, "frame_stride": 1}']
    assert exit_code(["train", str(copy), *small, "--out", str(tmp_path / "run"), "--stop-after-steps", "2"]) == 0
    assert (
        exit_code(["train", str(copy), "--out", str(tmp_path / "run"), "--resume", "--stop-after-steps", "none"]) == 0
    )
    assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path / "run")
    steps = [line.split(",")[0] for line in (tmp_path / "run" / "train.csv").read_text().splitlines()[1:]]
    assert steps == ["1", "2", "3", "4"]
    assert (tmp_path / "run" / "weights.safetensors").is_file()


def test_former_names_are_presets_of_the_recipe_that_took_their_place(capsys, tmp_path):
    def shown(*arguments: str) -> dict[str, str]:
        assert exit_code(["train", *arguments, "--fields"]) == 0
        return dict(line[2:].split(" ", 1) for line in capsys.readouterr().out.splitlines())

    assert shown("stcn_static") == shown("stcn", "--preset", "static")
    assert shown("stcn_static", "--preset", "trial") == shown("stcn", "--preset", "static_trial")
    assert shown("stcn_video", "--preset", "stage1") == shown("stcn", "--preset", "stage1")
    assert shown("stcn_video", "--preset", "stage3", "--crop", "96")["crop"] == "96"
    nano = shown("track_nano", "--minutes", "5")
    assert (nano["network"], nano["minutes"], nano["iterations"]) == ("track_tiny", "5.0", "none")
    assert exit_code(["train", "track_nano", "--copy", str(tmp_path)]) == 0
    assert (tmp_path / "stcn.py").is_file()


def test_the_trial_of_stcn_trains_and_resumes_from_the_command_line(capsys, tmp_path):
    demo = write_demo_sets(tmp_path / "demo", side=64, videos=2, frames=3, stills=1)
    options = ("--preset", "static_trial", "--static", str(demo / "static"), "--crop", "64", "--batch", "2")
    options = (*options, "--iterations", "2", "--norm-batches", "1", "--log-every", "1", "--device", "cpu")
    out = ("--out", str(tmp_path / "run"))
    assert exit_code(["train", "stcn", *options, *out, "--stop-after-steps", "1"]) == 0
    assert exit_code(["train", "stcn", *options, *out]) == 2
    assert "holds a run already" in capsys.readouterr().err
    assert exit_code(["train", "stcn", *options, *out, "--resume"]) == 0
    assert (tmp_path / "run" / "train.csv").read_text().count("\n") == 3
    assert (tmp_path / "run" / "weights.safetensors").is_file()


def test_a_training_is_tried_before_it_runs(capsys, tmp_path):
    small = (
        f"--train {set_of(tmp_path)} --val none --num-classes 8 --workers 0 --short-side 32,32 --crop 32 --epochs 3 "
        "--batch 2 --batch-per-forward 2 --bn-clips 2 --precise-bn-batches 0 --device cpu --model slow_r50_4x16".split()
    )
    small = [*small, "--model-options", '{"width": 8, "frames": 2, "frame_stride": 1}', "--out", str(tmp_path / "run")]
    assert exit_code(["train", RECIPE, *small, "--validate"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "slowfast_kinetics: settings, data and start weights are usable"
    assert lines[1] == "would train: epochs 3, batch 2, lr 0.1; on cpu"
    assert lines[2].endswith("run, which is new")
    assert "loss" in lines[3]
    assert not (tmp_path / "run").exists()
    assert "8 samples do not fill one step of 16" in refused(capsys, RECIPE, *small, "--batch", "16", "--validate")


def test_a_training_that_diverges_is_one_line_and_writes_no_weights(capsys, tmp_path):
    small = (
        f"--train {set_of(tmp_path)} --val none --num-classes 8 --workers 0 --short-side 32,32 --crop 32 --epochs 1 "
        "--batch 2 --batch-per-forward 2 --bn-clips 2 --warm-up-epochs 0 --precise-bn-batches 0 --device cpu "
        "--lr 1e38 --log-every 100 --model slow_r50_4x16 --model-options".split()
    )
    small = [*small, '{"width": 8, "frames": 2, "frame_stride": 1}', "--out", str(tmp_path / "run")]
    line = refused(capsys, RECIPE, *small)
    assert "not finite" in line
    assert line.endswith("(--lr)")
    assert not list((tmp_path / "run").glob("*.safetensors"))
    assert not list((tmp_path / "run").glob("checkpoint*"))
