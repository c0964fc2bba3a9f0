"""Objects found without a mark: what moves is found and followed, in bounded memory, at any size."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from twospeed import InputError, UnsupervisedTracker, create_model, track
from twospeed.cli.main import exit_code
from twospeed.models.find.network import FindNetwork
from twospeed.ops.motion import OFFSETS, PLANES
from twospeed.pipelines.find import FindSettings, ObjectFinder, make_follower
from twospeed.pipelines.find_frames import confidence, seen
from twospeed.results import Frame
from twospeed.video.writer import VideoWriter

HEIGHT, WIDTH = 96, 144


class Moving(nn.Module):
    """Finds what moves against the camera, by a threshold."""

    def primary_map(self, images: Tensor, motion: Tensor) -> Tensor:
        planes = motion.unflatten(1, (len(OFFSETS), PLANES))
        strength = planes[:, :, :2].square().sum(2).sqrt().mean(1)  # (B, H/2, W/2)
        return torch.sigmoid(8 * (strength - 1))


class Nothing(nn.Module):
    def primary_map(self, images: Tensor, motion: Tensor) -> Tensor:
        return torch.zeros(len(images), images.shape[2] // 2, images.shape[3] // 2)


def scene(t: int, discs: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Red discs that move over a ground that pans: image, labels."""
    noise = np.random.default_rng(0).integers(0, 255, (HEIGHT + 20, WIDTH + 200, 1)).astype(np.float32)
    ground = cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 2.5), None, 0, 200, cv2.NORM_MINMAX)
    image = np.repeat(ground[10 : 10 + HEIGHT, 10 + t : 10 + t + WIDTH, None].astype(np.uint8), 3, 2)
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    for number in range(discs):
        centre = (24 + 3 * t, 48) if discs == 1 else ((24 + 2 * t, 24) if number == 0 else (120 - 2 * t, 72))
        cv2.circle(labels, centre, 14, number + 1, -1)
    texture = np.random.default_rng(1).integers(120, 255, (HEIGHT, WIDTH)).astype(np.uint8)
    image[..., 0][labels > 0] = texture[labels > 0]
    image[..., 1:][labels > 0] //= 4
    return image, labels


def frames(count: int, discs: int = 1) -> list[Frame]:
    return [Frame(t, t / 10, scene(t, discs)[0]) for t in range(count)]


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / max(1, (a | b).sum()))


@pytest.fixture(scope="module")
def follower():
    return make_follower("track_small", 96, torch.device("cpu"))


def finder(follower, model: nn.Module | None = None, **settings) -> ObjectFinder:
    return ObjectFinder(model or Moving(), follower, merged=True, settings=FindSettings(**settings))  # type: ignore[arg-type]


def run(finder: ObjectFinder, images: list[np.ndarray]) -> list[np.ndarray]:
    found = []
    for image in images:
        found += finder.push(torch.from_numpy(image).permute(2, 0, 1))
    return [(one.planes > 0.5).any(0).numpy() for one in (*found, *finder.finish())]


def test_a_moving_disc_over_a_panning_ground_is_found(follower):
    masks = run(finder(follower), [scene(t)[0] for t in range(24)])
    assert len(masks) == 24
    overlaps = [iou(mask, scene(t)[1] > 0) for t, mask in enumerate(masks)]
    assert np.mean(overlaps) > 0.7
    assert min(overlaps) > 0.4


def test_results_come_one_at_a_time_and_windows_join(follower):
    """No more frames are held than the delay says, and a later window continues the object of the one before."""
    one = finder(follower, window=8, every=4)
    counts, masks = [], []
    for t in range(30):
        found = one.push(torch.from_numpy(scene(t)[0]).permute(2, 0, 1))
        counts.append(len(found))
        masks += [(f.planes > 0.5).any(0).numpy() for f in found]
    assert counts == [int(t >= one.delay) for t in range(30)]
    masks += [(f.planes > 0.5).any(0).numpy() for f in one.finish()]
    assert np.mean([iou(mask, scene(t)[1] > 0) for t, mask in enumerate(masks)]) > 0.6


def test_a_cut_begins_anew(follower):
    images = [scene(t)[0] for t in range(16)]
    other = [255 - scene(t)[0][:, ::-1] for t in range(12)]
    masks = run(finder(follower, window=20), [*images, *other])
    assert len(masks) == 28
    assert np.mean([iou(mask, scene(t)[1] > 0) for t, mask in enumerate(masks[:16])]) > 0.6


def test_two_objects_keep_their_numbers():
    tracker = UnsupervisedTracker(Moving(), size=96)
    results = [result for _, result in tracker.run(frames(24, discs=2))]
    assert {result.object_ids for result in results} == {(1, 2)}
    numbers = [
        tuple(int(np.bincount(result.labels[scene(t, 2)[1] == k], minlength=3).argmax()) for k in (1, 2))
        for t, result in enumerate(results)
        if t < 16  # later they meet
    ]
    assert set(numbers) in ({(1, 2)}, {(2, 1)})
    assert [result.frame_index for result in results] == list(range(24))


def test_nothing_found_is_no_object(follower):
    assert not any(mask.any() for mask in run(finder(follower, Nothing()), [scene(t)[0] for t in range(9)]))
    results = [r for _, r in UnsupervisedTracker(Nothing(), size=96).run(frames(5))]
    assert all(r.object_ids == () and not r.labels.any() for r in results)
    assert {r.probabilities.shape for r in results} == {(1, HEIGHT, WIDTH)}


@pytest.mark.parametrize(("height", "width"), [(1, 1), (33, 47), (20, 300), (301, 17)])
def test_odd_sizes(height, width):
    images = [np.random.default_rng(t).integers(0, 255, (height, width, 3), np.uint8) for t in range(3)]
    tracker = UnsupervisedTracker(Moving(), merged=True, size=32)
    results = [r for _, r in tracker.run([Frame(t, 0.0, image) for t, image in enumerate(images)])]
    assert [r.labels.shape for r in results] == [(height, width)] * 3
    assert all(np.allclose(r.probabilities.sum(0), 1, atol=1e-3) for r in results)


def test_one_frame_is_a_video(follower):
    assert len(run(finder(follower), [scene(0)[0]])) == 1


def test_a_frame_is_seen_in_multiples_of_32():
    assert seen(np.zeros((480, 854, 3), np.uint8)).image.shape == (256, 448, 3)
    assert seen(np.zeros((480, 854, 3), np.uint8)).grey.shape == (128, 224)
    assert seen(np.zeros((10, 1000, 3), np.uint8)).image.shape == (256, 768, 3)


def test_confidence_is_high_for_clear_maps():
    clear, doubtful = np.zeros((8, 8), np.float32), np.full((8, 8), 0.4, np.float32)
    clear[2:5, 2:5] = 1
    doubtful[2:5, 2:5] = 0.6
    assert confidence(clear) == pytest.approx(1)
    assert 0 < confidence(doubtful) < 0.3
    assert confidence(np.zeros((8, 8), np.float32)) == 0


def test_the_network_sees_motion_on_its_way():
    torch.manual_seed(0)
    network = FindNetwork().eval()
    network.requires_grad_(False)
    image, motion = torch.rand(1, 3, 64, 96), torch.randn(1, 12, 32, 48)
    still = network.primary_map(image, torch.zeros_like(motion))
    assert still.shape == (1, 32, 48)
    assert 0 <= float(still.min()) <= float(still.max()) <= 1
    assert not torch.allclose(still, network.primary_map(image, motion))
    assert sum(p.numel() for p in network.parameters()) * 2 < 10e6  # bytes in half precision


def test_what_is_refused():
    with pytest.raises(InputError, match="masks were given, but Moving finds objects without"):
        track(frames(2), np.ones((HEIGHT, WIDTH), np.uint8), Moving())
    with pytest.raises(InputError, match="memory_every is no option of UnsupervisedTracker"):
        track(frames(2), None, Moving(), memory_every=3)
    with pytest.raises(InputError, match="takes no first masks"):
        UnsupervisedTracker(Moving(), size=96).reset(np.ones((HEIGHT, WIDTH), np.uint8))


# ---------------------------------------------------------------- the shipped network, by the command line


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    with VideoWriter(path, 10) as writer:
        for t in range(20):
            writer.write(cv2.resize(scene(t)[0], (288, 192), interpolation=cv2.INTER_CUBIC))
    return path


def test_a_video_without_a_mark_is_tracked(clip, tmp_path, capsys):
    out = tmp_path / "out"
    assert exit_code(["track", str(clip), "-o", str(out), "--quality", "fast", "--no-overlay"]) == 0
    assert "found 1 object" in capsys.readouterr().err
    masks = [cv2.imread(str(file), cv2.IMREAD_GRAYSCALE) for file in sorted((out / "masks").glob("*.png"))]
    assert len(masks) == 20
    truth = [cv2.resize(scene(t)[1], (288, 192), interpolation=cv2.INTER_NEAREST) > 0 for t in range(20)]
    assert np.mean([iou(mask > 0, true) for mask, true in zip(masks, truth, strict=True)]) > 0.6


def test_a_video_of_nothing_is_an_error(tmp_path, capsys):
    with VideoWriter(tmp_path / "grey.mp4", 10) as writer:
        for _ in range(8):
            writer.write(np.full((96, 144, 3), 128, np.uint8))
    assert exit_code(["track", str(tmp_path / "grey.mp4"), "-o", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert "grey.mp4: no object was found in 8 frames; mark one (--point)" in error
    assert json.loads((tmp_path / "out" / "run.json").read_text())["finished"] is False


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--direction", "both"], "find_nano finds objects without prompts; leave --direction out, or mark an object"),
        (["--memory-every", "3"], "find_nano chooses the frames in memory itself; leave --memory-every out"),
        (["--model", "track_tiny"], "track_tiny tracks objects that are given; give --mask"),
        (["--model", "find_nano", "--point", "3,3"], "find_nano finds objects without prompts; leave --point out"),
    ],
)
def test_options_that_do_not_go_together(clip, tmp_path, capsys, options, message):
    assert exit_code(["track", str(clip), "-o", str(tmp_path / "out"), *options]) == 2
    assert message in capsys.readouterr().err


def test_the_shipped_weights_load():
    assert isinstance(create_model("find_nano"), FindNetwork)
