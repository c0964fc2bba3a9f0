"""Searching settings over a grid: every point once, going on after a stop, several processes, tables, failures."""

from __future__ import annotations

import csv
import json
import math

import cv2
import pytest

from experiments import slowfast_maskrcnn_search as recipe
from experiments.slowfast_maskrcnn_search import SlowFastMaskRCNNSearchConfig, claimed, experiments, train
from twospeed.cli.train import parse_options
from twospeed.data.clips.synthetic import render_clip
from twospeed.errors import CheckpointError, DatasetError, InputError
from twospeed.weights.load import create_model, save_model

NETWORK = {"backbone": "nano", "pyramid_channels": 8, "min_size": 48, "max_size": 64, "proposals": 20}
MODELS = ("slowfast_maskrcnn_1_1", "slowfast_maskrcnn_1_7")


@pytest.fixture(scope="module")
def davis(tmp_path_factory):
    """Two rendered sequences in the layout of DAVIS-2016."""
    root = tmp_path_factory.mktemp("davis")
    for number, name in enumerate(["ant", "bee"]):
        for t, (image, labels) in enumerate(render_clip(number, frames=3, height=48, width=64, objects=1)):
            for kind, decoded in ("JPEGImages", cv2.cvtColor(image, cv2.COLOR_RGB2BGR)), ("Annotations", labels * 255):
                folder = root / kind / "480p" / name
                folder.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(folder / f"{t:05d}.{'jpg' if kind == 'JPEGImages' else 'png'}"), decoded)
    return root


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    for name in MODELS:
        save_model(create_model(name, None, **NETWORK), folder / f"{name}.safetensors", model_name=name)
    return str(folder / "{model}.safetensors")


def small(davis, weights, out, **changes) -> SlowFastMaskRCNNSearchConfig:
    settings = {"models": MODELS[:1], "sequences": ("ant",), "iterations": 1, "grid": {"lr": [1e-4, 1e-5]}}
    return SlowFastMaskRCNNSearchConfig(davis=davis, weights=weights, out=out, **{**settings, **changes})


def rows(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def test_the_published_grid_is_36_experiments_for_each_configuration():
    every = experiments(SlowFastMaskRCNNSearchConfig())
    assert len(every) == 5 * 36
    assert len({one.file(recipe.Path("x")) for one in every}) == 5 * 36
    assert len(experiments(SlowFastMaskRCNNSearchConfig(stage="training"))) == 5 * 6
    assert {dict(one.settings)["freeze"] for one in every} == {"none", "slow_fast", "backbone+slow_fast"}


def test_a_frozen_backbone_has_frozen_proposals():
    settings = (("freeze", "backbone+slow_fast"), ("lr", 1e-3))
    options = recipe.fine_tuning(SlowFastMaskRCNNSearchConfig(), settings)
    assert options["learning_parts"] == ("detector.roi_heads",)


def test_every_point_is_run_once_and_the_best_is_named(davis, weights, tmp_path, monkeypatch):
    out = tmp_path / "out"
    grid = {"freeze": ["slow_fast", "backbone+slow_fast"], "lr": [1e-4]}
    config = small(davis, weights, out, grid=grid, sequences=("ant", "bee"))
    ran, run = [], recipe.run

    def counted(config, one):
        ran.append(one)
        if len(ran) == 3:
            raise KeyboardInterrupt
        return run(config, one)

    monkeypatch.setattr(recipe, "run", counted)
    with pytest.raises(KeyboardInterrupt):
        train(config)
    assert len(rows(out / "results.csv")) == 2  # tables are there after every experiment
    with pytest.raises(InputError, match="holds a search already; resume it"):
        train(config)
    with pytest.raises(InputError, match="cannot resume with other settings: iterations was 1, now 2"):
        train(small(davis, weights, out, grid=grid, sequences=("ant", "bee"), iterations=2), resume=True)
    train(config, resume=True)
    assert len(ran) == 5
    assert len(set(ran)) == 4
    results, means = rows(out / "results.csv"), rows(out / "summary.csv")
    assert [(r["freeze"], r["sequence"]) for r in results] == [
        (freeze, name) for freeze in grid["freeze"] for name in ("ant", "bee")
    ]
    of = {freeze: [float(r["J&F-Mean"]) for r in results if r["freeze"] == freeze] for freeze in grid["freeze"]}
    assert {m["freeze"]: float(m["J&F-Mean"]) for m in means} == pytest.approx({f: sum(s) / 2 for f, s in of.items()})
    assert float(means[0]["J&F-Mean"]) >= float(means[1]["J&F-Mean"])
    lines = (out / "summary.txt").read_text().splitlines()
    assert [line.startswith("best") for line in lines] == [False, True, False]
    assert not list(out.rglob("*.lock"))


def test_settings_at_which_learning_fails_are_an_outcome(davis, weights, tmp_path, monkeypatch):
    def run(config, one):
        if dict(one.settings)["lr"] == 1e-4:
            raise InputError("iteration 0: the loss is nan; lower lr (now 0.0001)")
        return {"J&F-Mean": 0.25}

    monkeypatch.setattr(recipe, "run", run)
    out = train(small(davis, weights, tmp_path / "out"))
    assert [r["failed"] for r in rows(out / "results.csv")] == [
        "iteration 0: the loss is nan; lower lr (now 0.0001)",
        "",
    ]
    means = rows(out / "summary.csv")
    assert [m["lr"] for m in means] == ["1e-05", "0.0001"]
    assert math.isnan(float(means[1]["J&F-Mean"]))
    assert "failed" in (out / "summary.txt").read_text()


def test_an_experiment_has_one_process_at_a_time(davis, weights, tmp_path):
    one = experiments(small(davis, weights, tmp_path))[0]
    with claimed(one, tmp_path) as mine:
        assert mine
        with claimed(one, tmp_path) as also:
            assert not also
    with claimed(one, tmp_path) as mine:
        assert mine  # left without an outcome, as after a crash
        one.file(tmp_path).write_text("{}")
    with claimed(one, tmp_path) as mine:
        assert not mine


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_several_processes_share_the_search(davis, weights, tmp_path):
    config = small(davis, weights, tmp_path / "out", models=MODELS, processes=2, threads=1)
    train(config)
    results = rows(tmp_path / "out" / "results.csv")
    assert [(r["model"], r["lr"]) for r in results] == [(m, lr) for m in MODELS for lr in ("0.0001", "1e-05")]
    assert all(0 <= float(r["J&F-Mean"]) <= 1 for r in results)


def test_trainings_are_searched_too(davis, tmp_path):
    base = {
        "year": "2016",
        "train_sequences": ["ant"],
        "val_sequences": ["bee"],
        "workers": 0,
        "model_options": {**NETWORK, "sampled_regions": 16},
        "detector_epochs": 0,
        "epochs": 1,
        "stretch": 3,
        "frames_per_step": 3,
    }
    config = small(davis, "", tmp_path / "out", stage="training", preset="small", base=base, grid={"lr": [1e-4]})
    out = train(config)
    (row,) = rows(out / "results.csv")
    folder = out / "experiments" / MODELS[0] / "lr=0.0001" / "run"
    assert float(row["J&F-Mean"]) == pytest.approx(float(rows(folder / "validation.csv")[-1]["mean"]))
    assert json.loads((folder / "config.json").read_text())["lr"] == 1e-4


def test_what_is_refused_before_anything_runs(davis, weights, tmp_path):
    out = tmp_path / "out"
    for changes, error, message in (
        ({"grid": {"momentun": [0.9]}}, InputError, "'momentun' is no setting of the fine-tuning; it has freeze, "),
        ({"grid": {"freeze": ["all"]}}, InputError, "freeze='all': choose none, slow_fast, backbone"),
        ({"grid": {"lr": [-1]}}, InputError, "lr is -1"),
        ({"models": ("track_tiny",)}, InputError, "track_tiny is no SlowFast Mask R-CNN"),
        ({"models": ("slowfast_maskrcnn_3_3",)}, CheckpointError, "no checkpoint at .*slowfast_maskrcnn_3_3"),
        ({"sequences": ("emu",)}, DatasetError, "has no folder for emu"),
        ({"stage": "training", "grid": {"rate": [1]}}, InputError, "'rate' is no setting of the training"),
    ):
        with pytest.raises(error, match=message):
            train(small(davis, weights, out, **changes))
    with pytest.raises(InputError, match="holds no search to resume"):
        train(small(davis, weights, out), resume=True)
    assert not out.exists()
    with pytest.raises(InputError, match=r"grid: lr is 0\.1; give a list"):
        small(davis, weights, out, grid={"lr": 0.1})
    with pytest.raises(InputError, match="processes=0"):
        small(davis, weights, out, processes=0)
    typed = parse_options(["--grid", '{"lr": [0.1]}', "--models", "a,b"], SlowFastMaskRCNNSearchConfig)
    assert typed == {"grid": {"lr": [0.1]}, "models": ("a", "b")}
