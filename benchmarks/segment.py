"""How long GSVNet takes for a frame with its full-size labels, beside a plain implementation of its formulas.

    python benchmarks/segment.py            2048x1024 (19 classes) and 480x360 (11), then the whole command on a video
    python benchmarks/segment.py --quick    480x360 alone, fewer repetitions
    python benchmarks/segment.py --memory   peak memory of the command on videos of 100 and 1,000 frames

| part | ours | plain |
|---|---|---|
| keyframe | `for_inference(...).keyframe` | SwiftNet's layers one by one, norms apart, channels first |
| keyframe, bf16 | as `Segmenter(precision="bf16")` runs it | in fp32 |
| keyframe, int8 | `twospeed export --format openvino --precision int8` | in fp32 |
| step | `.small` of the new frame, `.step` | both frames normalised and resized, D + 2 copies of all scores, summed |
| labels | `full_size_labels` | scores of all classes interpolated to full size, argmax |
| frame | step + labels | the same |
| interval 4 | (keyframe + 3 steps) / 4 + labels | the same |
| command | `twospeed segment`: decode, network, labels, PNGs, overlay, encode | |

Weights are random but equal on both sides. `difference` is the largest between scores, of the largest score; for labels
the share of pixels that differ. Labels are timed on smooth random scores, whose `mixed` is the share of grid cells
with more than one class at their corners: the rest cost nothing, and CamVid's own labels have 0.15. Both ways take
turns; medians are kept. Seconds are of the wall clock and (`cpu`) of all threads together: on a machine that others
use too, compare the latter. The command runs `segment_nano` at an interval of 4 on a clip of 480x360 that is made for
it; `ours_s` is seconds a frame as run.json has them, from the first result on. Lines are appended to
benchmarks/history/segment.csv.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from record import append
from track import Times, line, medians
from twospeed.evaluation.export import export_model
from twospeed.export.networks import open_network
from twospeed.models.fused import for_inference
from twospeed.models.gsv.network import GSVNet
from twospeed.ops.bf16 import multiplies_bf16
from twospeed.ops.full_labels import full_size_labels
from twospeed.pipelines.segment import Segmenter
from twospeed.video.writer import VideoWriter
from twospeed.weights.catalog import find
from twospeed.weights.load import create_model, save_model

COLUMNS = (
    *("date", "machine", "load", "threads", "commit", "what", "plain_s", "ours_s", "ratio"),
    *("plain_cpu_s", "ours_cpu_s", "cpu_ratio", "difference", "mixed", "peak_mb"),
)
SIZES = {(1024, 2048): 19, (360, 480): 11}


class PlainGSVNet:
    """The published formulas, layer by layer, on a state dict: nothing fused, shared or kept channels last."""

    def __init__(self, network: GSVNet):
        self.state = network.state_dict()
        self.scale = network.keyframe_scale

    def conv(self, name: str, x: Tensor, stride: int = 1, dilation: int = 1) -> Tensor:
        """A convolution that keeps the size at stride 1."""
        weight = self.state[f"{name}.weight"]
        padding = dilation * (weight.shape[-1] // 2)
        return F.conv2d(x, weight, self.state.get(f"{name}.bias"), stride, padding, dilation)

    def norm(self, name: str, x: Tensor) -> Tensor:
        """Batch norm with its running statistics."""
        keys = ("running_mean", "running_var", "weight", "bias")
        return F.batch_norm(x, *(self.state[f"{name}.{key}"] for key in keys))

    def unit(self, name: str, x: Tensor, stride: int = 1, dilation: int = 1, slope: float = 0.0) -> Tensor:
        """Convolution, norm, activation."""
        return F.leaky_relu(self.norm(f"{name}.norm", self.conv(f"{name}.conv", x, stride, dilation)), slope)

    def before(self, name: str, x: Tensor) -> Tensor:
        """Norm, activation, convolution."""
        return self.conv(f"{name}.conv", F.relu(self.norm(f"{name}.norm", x)))

    def normalise(self, image: Tensor, prefix: str, *, flip: bool) -> Tensor:
        """Zero mean and unit std, of all pixels."""
        mean, std = (self.state[f"{prefix}pixel_{kind}"].view(3, 1, 1) for kind in ("mean", "std"))
        x = (image.float() - mean) / std
        return x.flip(1) if flip else x

    def keyframe(self, image: Tensor) -> Tensor:
        """SwiftNet at the keyframe's scale, its scores brought to the grid."""
        small = [int(length * self.scale) for length in image.shape[-2:]]
        prefix = "keyframe_network."
        x = F.interpolate(self.normalise(image, prefix, flip=False), small, mode="bilinear", align_corners=True)
        x = F.relu(self.norm(f"{prefix}backbone.bn1", self.conv(f"{prefix}backbone.conv1", x, 2)))
        x = F.max_pool2d(x, 3, 2, 1)
        features = []
        for stage in range(1, 5):
            for index in range(2):
                block, stride = f"{prefix}backbone.layer{stage}.{index}", 2 if stage > 1 and not index else 1
                y = F.relu(self.norm(f"{block}.bn1", self.conv(f"{block}.conv1", x, stride)))
                y = self.norm(f"{block}.bn2", self.conv(f"{block}.conv2", y))
                if f"{block}.downsample.0.weight" in self.state:
                    x = self.norm(f"{block}.downsample.1", self.conv(f"{block}.downsample.0", x, stride))
                x = F.relu(x + y)
            features.append(x)
        x = self.before(f"{prefix}pyramid_pooling.squeeze", features.pop())
        height, width = x.shape[-2:]
        maps = [x]
        for i, grid in enumerate((8, 4, 2)):
            pooled = F.adaptive_avg_pool2d(x, (grid, max(1, round(width / height * grid))))
            level = self.before(f"{prefix}pyramid_pooling.levels.{i}", pooled)
            maps.append(F.interpolate(level, (height, width), mode="bilinear"))
        x = self.before(f"{prefix}pyramid_pooling.fuse", torch.cat(maps, 1))
        for i, lateral in enumerate(reversed(features)):
            skip = self.before(f"{prefix}upsample.{i}.lateral", lateral)
            x = F.interpolate(x, skip.shape[-2:], mode="bilinear") + skip
            x = self.before(f"{prefix}upsample.{i}.blend", x)
        scores = self.before(f"{prefix}classifier", x)
        grid_size = [length // 8 for length in image.shape[-2:]]
        return F.interpolate(scores, grid_size, mode="bilinear", align_corners=True)

    def flow(self, current: Tensor, previous: Tensor) -> Tensor:
        """The light flow network, in pixels of the grid."""
        prefix, slope = "flow_network.", 0.1
        x = self.unit(f"{prefix}conv1", torch.cat([current, previous], 1), 2, slope=slope)
        x = self.unit(f"{prefix}conv2", x, 2, slope=slope)
        sums: list[Tensor] = []
        for i, dilation in enumerate((1, 2, 4, 8)):
            y = self.unit(f"{prefix}dilated.{i}", x, dilation=dilation, slope=slope)
            sums.append(y + sums[-1] if sums else y)
        flow = self.conv(f"{prefix}predict", self.unit(f"{prefix}merge", torch.cat(sums, 1), slope=slope) + x)
        return F.interpolate(flow, current.shape[-2:], mode="bilinear", align_corners=True) / 4

    def guide(self, x: Tensor) -> Tensor:
        """The guide network's kernels, not normalised."""
        query = self.unit("guide.encode", x)
        half = self.unit("guide.down.0", query, 2)
        y = self.unit("guide.down.1", half, 2)
        for i, partner in enumerate((half, query)):
            y = F.interpolate(y, partner.shape[-2:], mode="bilinear", align_corners=True)
            y = self.unit(f"guide.up.{i}", y)
        return self.unit("guide.predict", query + y)

    def step(self, scores: Tensor, previous: Tensor, image: Tensor) -> Tensor:
        """Carry scores from one frame to the next. Shapes: (1, C, h, w), (1, 3, H, W) twice -> (1, C, h, w)."""
        classes, (height, width) = scores.shape[1], scores.shape[-2:]
        before, now = (
            F.interpolate(self.normalise(frame, "", flip=True), (height, width), mode="bilinear", align_corners=True)
            for frame in (previous, image)
        )
        flow = self.flow(now, before)
        x = (torch.arange(width) + flow[:, 0]) * 2 / (width - 1) - 1
        y = (torch.arange(height)[:, None] + flow[:, 1]) * 2 / (height - 1) - 1
        both = F.grid_sample(torch.cat([scores, before], 1), torch.stack([x, y], -1), align_corners=True)
        warped = both[:, :classes]
        laplacian = torch.ones(1, 1, 3, 3)
        laplacian[..., 1, 1] = -8
        edges = (F.conv2d(warped.argmax(1, keepdim=True).float(), laplacian, padding=1) != 0).float()
        intra = self.conv("intra.predict", self.unit("intra.conv2", self.unit("intra.conv1", now)))
        kernels = self.guide(torch.cat([intra, edges], 1))
        kernels = kernels / (kernels.sum(1, keepdim=True) + 1e-9)
        delays = self.state["delays"]
        copies = F.conv2d(warped.transpose(0, 1), delays[:, None], padding=delays.shape[-1] // 2)  # (C, D, h, w)
        taps = torch.cat([warped.transpose(0, 1), copies, intra.transpose(0, 1)], 1)  # (C, D + 2, h, w)
        return (taps * kernels).sum(1)[None]


def plain_labels(scores: Tensor, size: tuple[int, int]) -> Tensor:
    """All classes at full size, then the best."""
    return F.interpolate(scores, size, mode="bilinear", align_corners=True)[0].argmax(0)


def random_network(classes: int) -> GSVNet:
    """GSVNet with weights and statistics at which no layer is idle."""
    torch.manual_seed(0)
    network = create_model("gsvnet_swiftnet_r18", None, num_classes=classes)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.4, 0.9)
            module.running_mean.normal_(std=0.1)  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]
    return network  # type: ignore[return-value]


def smooth_scores(classes: int, height: int, width: int) -> tuple[Tensor, float]:
    """Scores (1, C, h, w) whose best classes form regions, and the share of cells that lie on borders of those."""
    generator = torch.Generator().manual_seed(2)
    coarse = torch.randn(1, classes, height // 22 + 2, width // 22 + 2, generator=generator)
    scores = F.interpolate(coarse, (height, width), mode="bicubic", align_corners=True)
    best = scores[0].argmax(0)
    corners = torch.stack([best[:-1, :-1], best[:-1, 1:], best[1:, :-1], best[1:, 1:]])
    return scores, float((corners != corners[0]).any(0).float().mean())


def images(count: int, height: int, width: int) -> Iterator[np.ndarray]:
    """An image that a camera pans over: smooth colours, finer texture, a little noise. uint8 (H, W, 3) each."""
    rng = np.random.default_rng(0)
    wide = np.zeros((height + 32, width + 2 * count + 8, 3), np.float32)
    for cell, strength in ((64, 70), (12, 35), (3, 12)):
        coarse = rng.normal(size=(wide.shape[0] // cell + 3, wide.shape[1] // cell + 3, 3)).astype(np.float32)
        wide += strength * cv2.resize(coarse, wide.shape[1::-1], interpolation=cv2.INTER_CUBIC)
    panorama = np.clip(wide + 120, 0, 255).astype(np.uint8)
    for i in range(count):
        x, y = 2 * i, round(8 + 8 * np.sin(i / 9))
        view = panorama[y : y + height, x : x + width]
        yield cv2.add(view, rng.integers(0, 4, view.shape, np.uint8))


def measure(height: int, width: int, classes: int, repeat: int) -> Iterator[dict[str, object]]:
    """Time the parts of a frame, both ways in turn."""
    network = random_network(classes)
    plain, ours = PlainGSVNet(network), for_inference(network)
    assert isinstance(ours, GSVNet)
    size = f"{width}x{height}"
    previous, image = (torch.from_numpy(x).permute(2, 0, 1)[None] for x in images(2, height, width))

    def difference(actual: Tensor, expected: Tensor) -> str:
        found = float((actual - expected).abs().max() / expected.abs().max())
        if found > 1e-4:
            sys.exit(f"scores differ by {found:.1e} of the largest; one of the two ways is wrong")
        return f"{found:.1e}"

    keyframe = medians(repeat, lambda: plain.keyframe(image), lambda: ours.keyframe(image.float()))
    agreed = difference(ours.keyframe(image.float()), plain.keyframe(image))
    yield line(f"keyframe {size}", *keyframe, difference=agreed)

    half = Segmenter(network, precision="bf16", device="cpu")
    with tempfile.TemporaryDirectory() as folder:
        graphs: Any = open_network(export_model(network, Path(folder) / "int8", "openvino", "int8", allow_loss=1.0))
        formats: dict[str, Callable[[], object]] = {"int8": lambda: graphs.keyframe(image.float().numpy())}
        if multiplies_bf16(torch.device("cpu")):
            formats = {"bf16": lambda: half.by_image_network(half.model.keyframe, image), **formats}
        expected = plain.keyframe(image)
        for name, way in formats.items():
            times = medians(repeat, lambda: plain.keyframe(image), way)
            found = float((torch.as_tensor(way()) - expected).abs().max() / expected.abs().max())
            yield line(f"keyframe {size}, {name}", *times, difference=f"{found:.1e}")

    scores, mixed = smooth_scores(classes, height // 8, width // 8)
    small = ours.small(previous)
    step = medians(
        repeat, lambda: plain.step(scores, previous, image), lambda: ours.step(scores, small, ours.small(image))
    )
    agreed = difference(ours.step(scores, small, ours.small(image)).scores, plain.step(scores, previous, image))
    yield line(f"step {size}", *step, difference=agreed)

    labels = medians(
        repeat, lambda: plain_labels(scores, (height, width)), lambda: full_size_labels(scores[0], (height, width))
    )
    unequal = full_size_labels(scores[0], (height, width)) != plain_labels(scores, (height, width))
    share = float(unequal.float().mean())
    if share > 1e-4:
        sys.exit(f"{share:.1e} of the labels differ; one of the two ways is wrong")
    yield line(f"labels {size}", *labels, difference=f"{share:.1e}", mixed=round(mixed, 2))

    yield line(f"frame {size}", *(_sum((1, step[i]), (1, labels[i])) for i in range(2)))
    parts = (((0.25, keyframe[i]), (0.75, step[i]), (1, labels[i])) for i in range(2))
    yield line(f"interval 4 {size}", *(_sum(*weighed) for weighed in parts))


def _sum(*weighed: tuple[float, Times]) -> Times:
    wall, cpu = (sum(weight * times[i] for weight, times in weighed) for i in range(2))
    return wall, cpu


def run_command(folder: Path, frames: int, height: int, width: int) -> Times:
    """Run `twospeed segment` on a made clip; return (wall, cpu) seconds a frame. Only the latter count imports."""
    clip = folder / f"{frames}.mp4"
    with VideoWriter(clip, 30) as writer:
        for image in images(frames, height, width):
            writer.write(image)
    weights = "default"
    if find("segment_nano").weights is None:  # not shipped: random ones take as long, or longer
        torch.manual_seed(0)
        save_model(create_model("segment_nano", None), folder / "random.safetensors", model_name="segment_nano")
        weights = str(folder / "random.safetensors")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    arguments = ["segment", clip, "--model", "segment_nano", "--weights", weights, "-o", folder / "out", "--quiet"]
    subprocess.run([sys.executable, "-m", "twospeed", *map(str, arguments)], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    record = json.loads((folder / "out" / "run.json").read_text())
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return record["seconds"] / frames, cpu / frames


def measure_command(frames: int) -> Iterator[dict[str, object]]:
    """Frames per second of the whole command."""
    with tempfile.TemporaryDirectory() as folder:
        spent = run_command(Path(folder), frames, 360, 480)
    print(f"twospeed segment, 480x360, {frames} frames: {1 / spent[0]:.1f} frames per second")
    yield line("command 480x360", None, spent)


def measure_memory() -> Iterator[dict[str, object]]:
    """Peak memory of the whole command on a short and a long video."""
    peaks = []
    with tempfile.TemporaryDirectory() as folder:
        for frames in (100, 1000):  # the shorter first: what is told is the largest of all that have run
            spent = run_command(Path(folder), frames, 96, 160)
            peaks.append(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024)
            yield line(f"command 160x96, {frames} frames", None, spent, peak_mb=round(peaks[-1], 1))
    print(f"peak memory grew by {peaks[1] - peaks[0]:.1f} MB from 100 to 1,000 frames")


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="480x360 alone; tells that both ways agree")
    parser.add_argument("--memory", action="store_true", help="peak memory of the command, short and long video")
    parser.add_argument("--repeat", type=int, default=7)
    parser.add_argument("--threads", type=int, default=None, help="of torch; its own choice if left out")
    parser.add_argument("--no-history", action="store_true", help="print only")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    torch.set_grad_enabled(False)

    def lines() -> Iterator[dict[str, object]]:
        if arguments.memory:
            yield from measure_memory()
            return
        for (height, width), classes in SIZES.items():
            if not arguments.quick or width < 1000:
                yield from measure(height, width, classes, 3 if arguments.quick else arguments.repeat)
        yield from measure_command(40 if arguments.quick else 300)

    for values in lines():
        if not arguments.no_history:
            append("segment", COLUMNS, [values])


if __name__ == "__main__":
    main()
