"""One mask is enough: a network learns the first frame's object and then follows it."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from twospeed import InputError, MaskError, create_model
from twospeed.cli.main import exit_code
from twospeed.data.clips.synthetic import render_clip
from twospeed.metrics.regions import outline, region_similarity
from twospeed.models.slowfast_maskrcnn.loss import encode_stretch
from twospeed.models.slowfast_maskrcnn.network import SlowFastMaskRCNN
from twospeed.pipelines import finetune
from twospeed.pipelines.finetune import FineTuning, OneShotTracker, fine_tune
from twospeed.pipelines.unsupervised import UnsupervisedTracker
from twospeed.results import Frame
from twospeed.video.indexed_png import read_label_map, write_indexed_png
from twospeed.weights.load import save_model

SIZE = (64, 96)
FAST = FineTuning(iterations=50, lr=0.05, clip_gradient=5.0)


def build(fast_frames: int) -> SlowFastMaskRCNN:
    """A small network with some sense of images (track_tiny's) and none of objects."""
    torch.manual_seed(0)
    options = {"min_size": 64, "max_size": 96, "proposals": 30, "sampled_regions": 16}
    model = SlowFastMaskRCNN(1, fast_frames, backbone="nano", pyramid_channels=16, **options)
    stages = create_model("track_tiny", "default").key_encoder.state_dict()
    model.detector.backbone.body.load_state_dict(stages, strict=False)
    return model.eval()


@pytest.fixture(scope="module")
def network() -> SlowFastMaskRCNN:
    """A network that sees its own frame only, which is soon tuned."""
    return build(1)


@pytest.fixture(scope="module")
def clip() -> tuple[list[Frame], list[np.ndarray]]:
    """Four frames and the labels of their one object, 7."""
    pairs = list(render_clip(3, frames=4, height=SIZE[0], width=SIZE[1], objects=1))
    return [Frame(t, t / 10, image) for t, (image, _) in enumerate(pairs)], [labels * 7 for _, labels in pairs]


def mean_iou(results, truth) -> float:
    """Over all frames but the first, which is given."""
    return float(
        np.mean([region_similarity(outline(r > 0), outline(t > 0)) for r, t in zip(results, truth, strict=True)])
    )


def test_the_first_mask_makes_the_other_frames_better(network, clip):
    frames, labels = clip
    before = {name: value.clone() for name, value in network.state_dict().items()}
    untuned = [r.labels for _, r in UnsupervisedTracker(network, merged=True).run(frames)]
    told: list[int] = []
    results = list(
        OneShotTracker(network, FAST, on_progress=lambda progress: told.append(progress.done)).run(frames, labels[0])
    )
    assert [frame.index for frame, _ in results] == [r.frame_index for _, r in results] == [0, 1, 2, 3]
    tuned = [r.labels for _, r in results]
    assert (tuned[0] == labels[0]).all(), "the first frame is given"
    assert mean_iou(tuned[1:], labels[1:]) > mean_iou(untuned[1:], labels[1:]) + 0.2
    for _, result in results:
        assert result.object_ids == (7,)
        assert set(np.unique(result.labels)) <= {0, 7}
        np.testing.assert_allclose(result.probabilities.sum(0), 1, atol=1e-5)
    assert told == list(range(1, 51))
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_what_learns_is_as_the_report_settled_and_a_seed_decides_it(clip):
    frames, labels = clip
    network = build(3)
    settings = FineTuning(iterations=3, per_step=2)
    images = [frame.image for frame in frames]
    once, again = (fine_tune(network, images, labels[0], settings).state_dict() for _ in range(2))
    random_state = torch.get_rng_state()
    other = fine_tune(network, images, labels[0], FineTuning(iterations=3, seed=1)).state_dict()
    assert torch.equal(torch.get_rng_state(), random_state), "nobody else's random numbers are touched"
    start = network.state_dict()
    assert all(torch.equal(once[name], again[name]) for name in once)
    assert any(not torch.equal(once[name], other[name]) for name in once)
    changed = {name for name in once if not torch.equal(once[name], start[name])}
    assert changed
    assert not any(name.startswith("slow_fast.") or "running_" in name for name in changed)
    for part in ("backbone", "rpn", "roi_heads"):
        assert any(name.startswith(f"detector.{part}.") for name in changed), part


def test_the_past_of_the_first_frame_is_its_future_mirrored(clip, monkeypatch):
    frames, labels = clip
    network, seen = build(3), []
    losses = finetune.window_losses
    monkeypatch.setattr(
        finetune,
        "window_losses",
        lambda model, features, targets: seen.append(features) or losses(model, features, targets),
    )
    still = FineTuning(iterations=1, flip=0, degrees=0, scale=0)
    fine_tune(network, [frame.image for frame in frames], labels[0], still)
    film = torch.stack([torch.from_numpy(frames[t].image).permute(2, 0, 1) / 255 for t in (1, 0, 1)])
    with torch.no_grad():
        expected = encode_stretch(network, film).pyramid
    for name, level in seen[0].pyramid.items():
        torch.testing.assert_close(level.detach(), expected[name], rtol=1e-3, atol=1e-4)


def test_a_video_of_one_frame_and_several_objects(network, clip):
    frames, labels = clip
    both = labels[0].copy()
    both[:6, :6] = 2
    ((_, result),) = OneShotTracker(network, FineTuning(iterations=1)).run(frames[:1], both)
    assert result.object_ids == (2, 7)
    assert (result.labels == both).all()
    assert list(OneShotTracker(network).run([], both)) == []
    with pytest.raises(InputError, match=r"merged, but the mask marks 2 objects \(2, 7\)"):
        next(OneShotTracker(network, merged=True).run(frames, both))


def test_bad_masks_and_settings(network, clip):
    frames, labels = clip
    with pytest.raises(MaskError, match="marks no object"):
        next(OneShotTracker(network).run(frames, np.zeros(SIZE, np.uint8)))
    with pytest.raises(MaskError, match="the mask is 64x96, its frame 96x64"):
        next(OneShotTracker(network).run(frames, labels[0].T.copy()))
    with pytest.raises(InputError, match="track_tiny is fine-tuned by Tracker"):
        OneShotTracker("track_tiny")
    for wrong, message in (({"iterations": 0}, "iterations=0"), ({"lr": 0}, "lr is 0"), ({"scale": 1}, "scale is 1")):
        with pytest.raises(InputError, match=message):
            FineTuning(**wrong)


def test_the_command_line(network, clip, tmp_path, capsys):
    frames, labels = clip
    for frame in frames:
        cv2.imwrite(str(tmp_path / f"{frame.index:05d}.jpg"), cv2.cvtColor(frame.image, cv2.COLOR_RGB2BGR))
    (tmp_path / "mask").mkdir()
    mask = tmp_path / "mask" / "first.png"
    write_indexed_png(mask, labels[0])
    command = ["track", tmp_path, "--model", "slowfast_maskrcnn_1_1", "-o", tmp_path / "out"]
    learn = ["--finetune", 2, "--mask", mask]

    def run(*more: object) -> tuple[int, list[str]]:
        capsys.readouterr()
        code = exit_code([str(a) for a in (*command, *more)])
        return code, capsys.readouterr().err.strip().splitlines()

    save_model(network, tmp_path / "w.safetensors", model_name="slowfast_maskrcnn_1_1")
    weights = ["--weights", tmp_path / "w.safetensors"]
    code, lines = run(*weights, *learn)
    assert code == 0, lines
    assert (read_label_map(tmp_path / "out" / "masks" / "00000.png") == labels[0]).all()
    assert len(list((tmp_path / "out" / "masks").glob("*.png"))) == 4
    assert '"finetune": 2' in (tmp_path / "out" / "run.json").read_text()
    for more, message in (
        ([*weights, "--finetune", 2], "fine-tunes on the first frame's mask; give --mask"),
        ([*weights, "--finetune", 2, "--mask", f"1={mask}"], "fine-tunes on the first frame's mask; give --mask"),
        ([*weights, *learn, "--mask", f"2={mask}"], "a mask of frame 2"),
        ([*weights, "--mask", mask], "leave --mask out, or add --finetune 200"),
        (learn, "no weights are published for slowfast_maskrcnn_1_1"),
    ):
        code, lines = run(*more)
        assert code == 2
        assert len(lines) == 1
        assert message in lines[0]
