import csv
import dataclasses
import json

import pytest
import torch
from safetensors.torch import load_file

from tests.recipes.runs import write_davis
from twospeed import create_model
from twospeed.errors import CheckpointError, DatasetError, InputError
from twospeed.recipes import slowfast_maskrcnn as recipe
from twospeed.recipes.slowfast_maskrcnn import SlowFastMaskRCNNDavisConfig, train
from twospeed.weights.load import save_model

NETWORK = {
    "backbone": "nano", "pyramid_channels": 8, "min_size": 64, "max_size": 96, "proposals": 20, "sampled_regions": 16,
}  # fmt: skip


@pytest.fixture(scope="module")
def davis(tmp_path_factory):
    return write_davis(tmp_path_factory.mktemp("davis"), size="480p", frames=3, height=48, width=64)


def tiny(davis, out, **changes) -> SlowFastMaskRCNNDavisConfig:
    settings = {
        "year": "2016", "workers": 0, "model": "slowfast_maskrcnn_1_1", "model_options": NETWORK, "coco": "none",
        "detector_epochs": 1, "detector_batch": 2, "detector_warm_up_steps": 2, "epochs": 1, "frames_per_step": 2,
        "stretch": 2, "log_every": 1, "colour": 0.1, "flip": 0.5,
    }  # fmt: skip
    return SlowFastMaskRCNNDavisConfig(davis=davis, out=out, **{**settings, **changes})


def rows(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def test_a_run_leaves_usable_weights_scores_and_its_configuration(davis, tmp_path, monkeypatch):
    before = {}
    start = recipe.optimizer_for

    def remember(config, network, stage):
        before[stage] = {name: value.clone() for name, value in network.state_dict().items()}
        return start(config, network, stage)

    monkeypatch.setattr(recipe, "optimizer_for", remember)
    out = train(tiny(davis, tmp_path / "run"))
    assert [r["step"] for r in rows(out / "train_detector.csv")] == ["1", "2", "3", "4"]
    # Three sequences of three frames in stretches of two: an odd last frame is a step of its own
    assert [r["step"] for r in rows(out / "train_video.csv")] == [str(step) for step in range(5, 11)]
    (scores,) = rows(out / "validation.csv")
    assert set(scores) >= {"ant", "eel", "mean"}, "every fourth sequence is held out"
    assert json.loads((out / "config.json").read_text())["epochs"] == 1
    model = create_model("slowfast_maskrcnn_1_1", out / "weights.safetensors")
    assert (model.min_size, model.detector.roi_heads.detections_per_img) == (64, 10)
    state = model.state_dict()
    changed = {name for name, value in before["video"].items() if not torch.equal(value, state[name])}
    assert changed
    assert all(name.startswith(("detector.roi_heads.", "slow_fast.")) for name in changed)
    detector = {name for name, value in before["detector"].items() if not torch.equal(value, before["video"][name])}
    assert any(name.startswith("detector.backbone.") for name in detector)
    assert not any(name.startswith("slow_fast.") for name in detector)


@pytest.mark.parametrize("stop", [3, 7])
def test_resuming_equals_never_having_stopped(davis, tmp_path, stop):
    """In either stage, in mid-epoch."""
    straight = load_file(train(tiny(davis, tmp_path / "straight")) / "weights.safetensors")
    stopped = tiny(davis, tmp_path / "stopped", stop_after_steps=stop)
    train(stopped)
    so_far = load_file(stopped.out / "weights.safetensors")
    assert any(not torch.equal(value, so_far[name]) for name, value in straight.items())
    with pytest.raises(InputError, match="holds a run already; resume it"):
        train(stopped)
    with pytest.raises(InputError, match=r"cannot resume with other settings: lr was 0\.001, now 0\.5"):
        train(dataclasses.replace(stopped, lr=0.5), resume=True)
    resumed = load_file(train(dataclasses.replace(stopped, stop_after_steps=None), resume=True) / "weights.safetensors")
    assert all(torch.equal(value, resumed[name]) for name, value in straight.items())


def test_what_learns_in_each_stage(davis, tmp_path):
    config = tiny(davis, tmp_path, frozen_stages=1, freeze_norm=0.5)
    network = recipe.build(config)

    def learning() -> set[str]:
        return {".".join(name.split(".")[:4]) for name, p in network.named_parameters() if p.requires_grad}

    def counting() -> set[str]:
        """Parts whose batch norm follows the data."""
        return {
            name.split(".")[0]
            for name, module in network.named_modules()
            if isinstance(module, torch.nn.modules.batchnorm._BatchNorm) and module.training
        }

    recipe.let_learn(config, network, "detector")
    body = {name for name in learning() if ".body." in name}
    assert body == {f"detector.backbone.body.layer{i}" for i in (2, 3, 4)}
    assert not any(name.startswith("slow_fast") for name in learning())
    assert counting() == {"detector"}
    recipe.let_learn(config, network, "video")
    assert all(name.startswith(("detector.roi_heads.", "slow_fast.")) for name in learning())
    assert counting() == {"slow_fast"}
    recipe.let_learn(config, network, "video", norm=False)
    assert counting() == set()


def test_rates_are_the_reports():
    config = SlowFastMaskRCNNDavisConfig()
    rate = [recipe.learning_rate(config, "detector", step, 1000) for step in (0, 500, 2999, 3000, 6000)]
    assert rate == pytest.approx([1e-6, 5.005e-4, 1e-3, 1e-4, 1e-5])
    assert {recipe.learning_rate(config, "video", step, 1000) for step in (0, 19_999)} == {1e-3}
    cosine = recipe.small()
    assert recipe.learning_rate(cosine, "video", 20, 10) == pytest.approx(0, abs=1e-9)


def test_configurations_share_one_detector(davis, tmp_path):
    detector = train(tiny(davis, tmp_path / "detector", epochs=0)) / "detector.safetensors"
    shared = tiny(davis, tmp_path / "other", model="slowfast_maskrcnn_1_7", detector_weights=detector, epochs=1)
    out = train(shared)
    assert not (out / "train_detector.csv").exists()
    ours, theirs = load_file(out / "weights.safetensors"), load_file(detector)
    frozen = [name for name in theirs if name.startswith(("detector.backbone.", "detector.rpn."))]
    assert frozen
    assert all(torch.equal(ours[name], theirs[name]) for name in frozen)
    other = create_model("swiftnet_r18", None)
    save_model(other, tmp_path / "other.safetensors", model_name="swiftnet_r18")
    with pytest.raises(CheckpointError, match="is no detector of this network"):
        train(dataclasses.replace(shared, out=tmp_path / "wrong", detector_weights=tmp_path / "other.safetensors"))


def test_a_share_of_the_stretches_and_another_folder_to_validate_on(davis, tmp_path):
    other = write_davis(tmp_path / "other", size="480p", frames=2, height=48, width=64)
    config = tiny(davis, tmp_path / "run", detector_epochs=0, epochs=2, stretches=2)
    with pytest.raises(DatasetError, match="ant is both trained on and validated on"):
        train(dataclasses.replace(config, validation=other))
    out = train(dataclasses.replace(config, validation=other, train_sequences=("bee", "cat"), val_sequences=("eel",)))
    assert len(rows(out / "train_video.csv")) in range(2, 5), "two stretches an epoch, of one or two frames"
    assert [set(row) & {"ant", "bee", "cat", "eel"} for row in rows(out / "validation.csv")] == [{"eel"}, {"eel"}]
    samples = recipe.split(config)[0]
    first, second = (recipe.units(config, samples, "video", epoch) for epoch in (0, 1))
    assert len(first) == len(second) == 2
    assert [unit[1:] for unit in first] != [unit[1:] for unit in second], "drawn anew"


def test_several_processes_are_refused(davis, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="slowfast_maskrcnn trains in one process, torchrun started 2"):
        train(tiny(davis, tmp_path / "run"))


def test_what_is_refused(davis, tmp_path):
    with pytest.raises(DatasetError, match="bee is both trained on and validated on"):
        train(tiny(davis, tmp_path / "run", train_sequences=("bee", "cat"), val_sequences=("bee",)))
    with pytest.raises(InputError, match="'track_tiny' is not a SlowFast Mask R-CNN"):
        train(tiny(davis, tmp_path / "run", model="track_tiny", model_options={}))
    with pytest.raises(InputError, match="stretch=3 is no multiple of frames_per_step=2"):
        tiny(davis, tmp_path, stretch=3)
    with pytest.raises(InputError, match="stretches is 0; give 1 or more"):
        tiny(davis, tmp_path, stretches=0)
    with pytest.raises(InputError, match="'neck' is not a part of the network"):
        tiny(davis, tmp_path, learning_parts=("neck",))
    with pytest.raises(InputError, match="nano_start is for the narrow backbone"):
        SlowFastMaskRCNNDavisConfig(nano_start=True)
    assert not (tmp_path / "run").exists()
