"""How long STCN takes for a frame, beside a plain implementation of its formulas; memory and speed of `track_nano`.

    python benchmarks/track.py            one object, 480x854, fp32, 1, 5, 10 and 50 remembered frames
    python benchmarks/track.py --quick    a quarter of the size, fewer repetitions, 1 and 5 remembered frames
    python benchmarks/track.py --formats  a frame with 10 remembered frames in fp32, bf16 and int8, beside plain fp32
    python benchmarks/track.py --memory   peak memory at frames 100 and 1,000, frames per second of `track_nano`

| part | ours | plain |
|---|---|---|
| encode | `for_inference(...).encode_key` | convolutions and batch norms one by one, channels first |
| read | `MemoryBank.read`, top 20 | the whole similarity matrix, `topk`, a dense affinity, one matrix product |
| decode | `.decode` | as encode |
| value | `.encode_value` and `MemoryBank.add`, for each remembered frame | as encode, memory grown by `torch.cat` |
| frame | encode + read + decode | the same |

Weights are random but equal on both sides; `difference` is the largest between the logits, of the largest logit; query
cells whose 20th and 21st best match are equal to rounding, so that either may be read, are given the same readout. Both
ways take turns; medians are kept. Seconds are of the wall clock and (`cpu`) of all threads together: on a machine that
others use too, compare the latter. Decoding and writing of video are not counted.

`--formats` leaves bf16 out where the processor has no instructions for it; int8 is what `twospeed export --precision
int8` writes, calibrated on its rendered clip, run by ONNX Runtime. What a format costs in masks says
benchmarks/precision.py; the largest difference of logits, with equal matches not set alike, says little of it.

Lines are appended to benchmarks/history/track.csv; with `--memory`, `ours_s` is seconds a frame, and `peak_mb` what the
process held at most.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from record import append, stamp
from twospeed.evaluation.export import export_model
from twospeed.export.networks import open_network
from twospeed.models.banks import MemoryBank
from twospeed.models.stcn.builders import stcn
from twospeed.models.stcn.inference import for_inference
from twospeed.ops.bf16 import autocast, multiplies_bf16
from twospeed.pipelines.tracker import Tracker
from twospeed.weights.load import create_model

COLUMNS = (
    *("date", "machine", "load", "threads", "commit", "what", "plain_s", "ours_s", "ratio"),
    *("plain_cpu_s", "ours_cpu_s", "cpu_ratio", "difference", "peak_mb"),
)
Times = tuple[float, float]  # wall, cpu


class PlainSTCN:
    """The published formulas, layer by layer, on a state dict: nothing fused, shared or kept channels last."""

    def __init__(self, state: dict[str, Tensor]):
        self.state = {name: value.contiguous() for name, value in state.items()}

    def conv(self, name: str, x: Tensor, stride: int = 1) -> Tensor:
        """A convolution of padding kernel // 2."""
        weight = self.state[f"{name}.weight"]
        return F.conv2d(x, weight, self.state.get(f"{name}.bias"), stride, weight.shape[-1] // 2)

    def norm(self, name: str, x: Tensor) -> Tensor:
        """Batch norm with its running statistics."""
        keys = ("running_mean", "running_var", "weight", "bias")
        return F.batch_norm(x, *(self.state[f"{name}.{key}"] for key in keys))

    def backbone(self, prefix: str, x: Tensor, depths: tuple[int, ...], convs: int) -> list[Tensor]:
        """A ResNet's first stages; convs: 3 in a bottleneck (stride on the second), 2 in a basic block."""
        x = F.max_pool2d(F.relu(self.norm(f"{prefix}.bn1", self.conv(f"{prefix}.conv1", x, 2))), 3, 2, 1)
        features = []
        for stage, depth in enumerate(depths):
            for index in range(depth):
                block, stride = f"{prefix}.layer{stage + 1}.{index}", 2 if stage and not index else 1
                y = x
                for i in range(1, convs + 1):
                    strided = stride if i == convs - 1 else 1
                    y = self.norm(f"{block}.bn{i}", self.conv(f"{block}.conv{i}", y, strided))
                    y = F.relu(y) if i < convs else y
                if f"{block}.downsample.0.weight" in self.state:
                    x = self.norm(f"{block}.downsample.1", self.conv(f"{block}.downsample.0", x, stride))
                x = F.relu(x + y)
            features.append(x)
        return features

    def encode_key(self, frame: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Shapes: (1, 3, H, W) -> key, thin, f16, f8, f4."""
        f4, f8, f16 = self.backbone("key_encoder", frame, (3, 4, 6), 3)
        return self.conv("key_projection", f16), self.conv("thin_projection", f16), f16, f8, f4

    def block(self, name: str, x: Tensor) -> Tensor:
        """Pre-activation residual block without norm."""
        y = self.conv(f"{name}.conv2", F.relu(self.conv(f"{name}.conv1", F.relu(x))))
        return y + (self.conv(f"{name}.skip", x) if f"{name}.skip.weight" in self.state else x)

    def encode_value(self, frame: Tensor, f16: Tensor, mask: Tensor) -> Tensor:
        """Shapes: (1, 3, H, W), (1, C16, h, w), (1, 1, H, W) -> (1, V, h, w)."""
        x = torch.cat([frame, mask, torch.zeros_like(mask)], 1)
        x = self.backbone("value_encoder.backbone", x, (2, 2, 2), 2)[-1]
        x = self.block("value_encoder.fusion.block1", torch.cat([x, f16], 1))
        return self.block("value_encoder.fusion.block2", x + self.attention("value_encoder.fusion.attention", x))

    def attention(self, name: str, x: Tensor) -> Tensor:
        """CBAM: channel gate, then spatial gate."""
        gate = torch.zeros(1)
        for pooled in (x.mean((2, 3)), x.amax((2, 3))):
            hidden = F.relu(F.linear(pooled, self.state[f"{name}.squeeze.weight"], self.state[f"{name}.squeeze.bias"]))
            gate = gate + F.linear(hidden, self.state[f"{name}.excite.weight"], self.state[f"{name}.excite.bias"])
        x = x * gate.sigmoid()[:, :, None, None]
        where = torch.cat([x.amax(1, keepdim=True), x.mean(1, keepdim=True)], 1)
        return x * self.conv(f"{name}.spatial", where).sigmoid()

    def up(self, name: str, x: Tensor, skip: Tensor) -> Tensor:
        """To twice the resolution, with the skip feature."""
        x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        return self.block(f"{name}.block", self.conv(f"{name}.skip_projection", skip) + x)

    def decode(self, readout: Tensor, thin: Tensor, f8: Tensor, f4: Tensor) -> Tensor:
        """Shapes: readout (1, V, h, w) and the frame's features -> logits (1, 1, H, W)."""
        x = self.block("decoder.compress", torch.cat([readout, thin], 1))
        x = self.up("decoder.up_8_4", self.up("decoder.up_16_8", x, f8), f4)
        return F.interpolate(self.conv("decoder.predict", F.relu(x)), scale_factor=4, mode="bilinear")

    def similarity(self, query: Tensor, keys: Tensor) -> Tensor:
        """Shapes: query (1, C, h, w), keys (C, N) -> (N, P)."""
        return (2 * keys.T @ query[0].flatten(1) - keys.square().sum(0)[:, None]) / len(keys) ** 0.5

    def undecided(self, query: Tensor, keys: Tensor) -> Tensor:
        """Query cells whose 20th and 21st match differ by no more than rounding does. Shapes: -> bool (1, 1, h, w)."""
        best = self.similarity(query, keys).topk(21, dim=0).values
        rounding = 1e-5 * float(keys.square().sum(0).max()) / len(keys) ** 0.5
        return (best[19] - best[20] < rounding).view(1, 1, *query.shape[-2:])

    def read(self, query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Shapes: query (1, C, h, w), keys (C, N), values (V, N) -> (1, V, h, w)."""
        similarity = self.similarity(query, keys)
        best, index = similarity.topk(20, dim=0)
        affinity = torch.zeros_like(similarity).scatter_(0, index, best.softmax(0))
        return (values @ affinity).view(1, -1, *query.shape[-2:])


class Scene(NamedTuple):
    """What both ways are given."""

    frame: Tensor  # (1, 3, H, W)
    mask: Tensor  # (1, 1, H, W)
    keys: Tensor  # (T, C, h, w), of remembered frames
    values: Tensor  # (T, V, h, w)


def random_network() -> torch.nn.Module:
    """STCN with weights and statistics at which no layer is idle."""
    torch.manual_seed(0)
    network = stcn().eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.4, 0.9)
            module.running_mean.normal_(std=0.1)  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]
    return network


def scene(plain: PlainSTCN, height: int, width: int, frames: int) -> Scene:
    """An image, a mask, and as many remembered frames: one that is encoded, the others near it."""
    generator = torch.Generator().manual_seed(1)
    frame = torch.randn(1, 3, height, width, generator=generator)
    mask = torch.zeros(1, 1, height, width)
    mask[..., height // 4 : height // 2, width // 4 : width // 2] = 1
    key, _, f16, _, _ = plain.encode_key(frame)
    value = plain.encode_value(frame, f16, mask)
    near = [x + x.std() * torch.randn(frames, *x.shape[1:], generator=generator) for x in (key, value)]
    return Scene(frame, mask, *near)


def medians(repeat: int, *ways: Callable[[], object]) -> list[Times]:
    """Run the ways in turn; return the median (wall, cpu) seconds of each. The first round is not counted."""
    spent: list[list[Times]] = [[] for _ in ways]
    for turn in range(repeat + 1):
        for times, way in zip(spent, ways, strict=True):
            wall, cpu = time.perf_counter(), time.process_time()
            way()
            if turn:
                times.append((time.perf_counter() - wall, time.process_time() - cpu))
    return [tuple(statistics.median(column) for column in zip(*times, strict=True)) for times in spent]  # type: ignore[misc]


def line(what: str, plain: Times | None, ours: Times, **more: object) -> dict[str, object]:
    """One line of the history; also printed."""
    values: dict[str, object] = {
        **stamp(),
        "threads": torch.get_num_threads(),
        "what": what,
        "ours_s": round(ours[0], 4),
        "ours_cpu_s": round(ours[1], 4),
    }
    told = f"{what:<24} ours {ours[0]:.3f} s, cpu {ours[1]:.3f} s"
    if plain is not None:
        values |= {"plain_s": round(plain[0], 4), "ratio": round(plain[0] / ours[0], 2)}
        values |= {"plain_cpu_s": round(plain[1], 4), "cpu_ratio": round(plain[1] / ours[1], 2)}
        told += f"; plain {plain[0]:.3f} s, cpu {plain[1]:.3f} s; {values['ratio']} x, cpu {values['cpu_ratio']} x"
    print(told + "".join(f"; {name} {value}" for name, value in more.items()), flush=True)
    return values | more


def measure(height: int, width: int, memories: list[int], repeat: int) -> Iterator[dict[str, object]]:
    """Time the parts of a frame, both ways in turn."""
    network = random_network()
    plain, ours = PlainSTCN(network.state_dict()), for_inference(network)  # type: ignore[arg-type]
    frame, mask, keys, values = scene(plain, height, width, max(memories))
    last = frame.contiguous(memory_format=torch.channels_last)
    size = f"{width}x{height}"

    encode = medians(repeat, lambda: plain.encode_key(frame), lambda: ours.encode_key(last))
    yield line(f"encode {size}", *encode)
    features, (key, thin, f16, f8, f4) = ours.encode_key(last), plain.encode_key(frame)

    def remember_plain() -> None:
        value = plain.encode_value(frame, f16, mask)
        torch.cat([plain_values, value[0].flatten(1)], 1)
        torch.cat([plain_keys, key[0].flatten(1)], 1)

    def remember() -> None:
        bank.add(features.key[0], ours.encode_value(last, features.f16, mask)[0], temporary=True)

    plain_keys, plain_values = (x[:5].transpose(0, 1).flatten(1).contiguous() for x in (keys, values))
    bank = MemoryBank()
    yield line(f"value {size}", *medians(repeat, remember_plain, remember))

    readout = plain.read(key, plain_keys, plain_values)
    decode = medians(
        repeat, lambda: plain.decode(readout, thin, f8, f4), lambda: ours.decode(readout[:, None], features)
    )
    yield line(f"decode {size}", *decode)

    for count in memories:
        bank = MemoryBank(top_k=20)
        for k, v in zip(keys[:count], values[:count], strict=True):
            bank.add(k, v[None])
        plain_keys, plain_values = (x[:count].transpose(0, 1).flatten(1).contiguous() for x in (keys, values))
        read = medians(repeat, partial(plain.read, key, plain_keys, plain_values), partial(bank.read, features.key[0]))
        yield line(f"read {size}, memory {count}", *read)
        recalled = plain.read(key, plain_keys, plain_values)
        tossed = plain.undecided(key, plain_keys)
        expected = plain.decode(recalled, thin, f8, f4)
        actual = ours.decode(torch.where(tossed, recalled, bank.read(features.key[0]))[None], features)
        difference = float((actual - expected).abs().max() / expected.abs().max())
        whole = [tuple(map(sum, zip(encode[i], read[i], decode[i], strict=True))) for i in range(2)]
        yield line(f"frame {size}, memory {count}", *whole, difference=f"{difference:.1e}")  # type: ignore[arg-type]
        print(f"{int(tossed.sum())} of {tossed.numel()} query cells have equal 20th and 21st matches, to rounding")
        if difference > 1e-4:
            sys.exit(f"logits differ by {difference:.1e} of the largest; one of the two ways is wrong")


def measure_formats(height: int, width: int, count: int, repeat: int) -> Iterator[dict[str, object]]:
    """Time a whole frame of STCN in each number format, all in turn with the plain formulas in fp32."""
    network = random_network()
    plain = PlainSTCN(network.state_dict())
    frame, _, keys, values = scene(plain, height, width, count)
    last = frame.contiguous(memory_format=torch.channels_last)
    plain_keys, plain_values = (x.transpose(0, 1).flatten(1).contiguous() for x in (keys, values))

    def published() -> Tensor:
        key, thin, _, f8, f4 = plain.encode_key(frame)
        return plain.decode(plain.read(key, plain_keys, plain_values), thin, f8, f4)

    def in_torch(ours: Any, bank: MemoryBank, dtype: torch.dtype) -> Tensor:
        with autocast("cpu", dtype, ours):
            features = ours.encode_key(last)
            return ours.decode(bank.read(features.key[0])[None], features).float()

    def filled(arrays: list[Any], **options: Any) -> MemoryBank:
        bank = MemoryBank(top_k=20, **options)
        for k, v in zip(*arrays, strict=True):
            bank.add(k, v[None])
        return bank

    ways: dict[str, Callable[[], Any]] = {}
    for dtype, name in ((torch.float32, "fp32"), (torch.bfloat16, "bf16")):
        if dtype == torch.float32 or multiplies_bf16(torch.device("cpu")):
            ours: Any = for_inference(network, dtype=dtype)  # type: ignore[arg-type]
            with autocast("cpu", dtype):
                kind = ours.encode_key(last).key.dtype
            ways[name] = partial(in_torch, ours, filled([keys.to(kind), values.to(kind)]), dtype)
    with tempfile.TemporaryDirectory() as folder:
        graphs: Any = open_network(export_model(network, Path(folder) / "int8", precision="int8", allow_loss=1.0))
        bank = filled([keys.numpy(), values.numpy()], read=graphs.read)

        def in_graphs() -> Tensor:
            features = graphs.encode_key(frame.numpy())
            return torch.from_numpy(graphs.decode(bank.read(features.key[0])[None], features))

        ways["int8"] = in_graphs
        expected = published()
        times = medians(repeat, published, *ways.values())
        for (name, way), own in zip(ways.items(), times[1:], strict=True):
            difference = float((way().flatten() - expected.flatten()).abs().max() / expected.abs().max())
            yield line(f"frame {width}x{height}, memory {count}, {name}", times[0], own, difference=f"{difference:.1e}")


def measure_memory(quick: bool) -> Iterator[dict[str, object]]:
    """Peak memory of a long video with a bounded memory, and frames per second of the shipped network."""
    network = create_model("track_nano", None)
    images = np.random.default_rng(0).integers(0, 256, (8, 480, 854, 3), np.uint8)

    def run(height: int, width: int, frames: int, **options: object) -> Iterator[int]:
        tracker = Tracker(network, size=None, device="cpu", **options)  # type: ignore[arg-type]
        mask = np.zeros((height, width), np.uint8)
        mask[height // 4 : height // 2, width // 4 : width // 2] = 1
        for i in range(frames):
            tracker.step(np.ascontiguousarray(images[i % 8, :height, :width]), mask if i == 0 else None)
            yield i + 1

    started, peaks = (time.perf_counter(), time.process_time()), {}
    last = 300 if quick else 1000
    for frame in run(96, 160, last, max_memory_frames=10, memory_every=2):
        if frame in (100, last):
            peaks[frame] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            spent = tuple((now - then) / frame for now, then in zip(_now(), started, strict=True))
            yield line(f"nano 160x96, frame {frame}", None, spent, peak_mb=round(peaks[frame], 1))  # type: ignore[arg-type]
    print(f"peak memory grew by {peaks[last] - peaks[100]:.1f} MB from frame 100 to frame {last}")

    for height, width in ((240, 427), (480, 854)):
        frames, begun = (20 if quick else 60), _now()
        for frame in run(height, width, frames + 6, max_memory_frames=10):
            if frame == 6:  # the first are slower: memory is still being reserved
                begun = _now()
        spent = tuple((now - then) / frames for now, then in zip(_now(), begun, strict=True))
        print(f"nano {width}x{height}: {1 / spent[0]:.1f} frames per second")
        yield line(f"nano {width}x{height}", None, spent)  # type: ignore[arg-type]


def _now() -> Times:
    return time.perf_counter(), time.process_time()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="smaller and shorter; tells that both ways agree")
    parser.add_argument("--formats", action="store_true", help="a frame in fp32, bf16 and int8")
    parser.add_argument("--memory", action="store_true", help="peak memory and frames per second of track_nano")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--threads", type=int, default=None, help="of torch; its own choice if left out")
    parser.add_argument("--no-history", action="store_true", help="print only")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    torch.set_grad_enabled(False)
    if arguments.memory:
        lines = measure_memory(arguments.quick)
    elif arguments.formats:
        lines = measure_formats(*((240, 432, 5, 2) if arguments.quick else (480, 864, 10, arguments.repeat)))
    elif arguments.quick:
        lines = measure(240, 432, [1, 5], 2)
    else:
        lines = measure(480, 864, [1, 5, 10, 50], arguments.repeat)  # 854 padded to the stride
    for values in lines:
        if not arguments.no_history:
            append("track", COLUMNS, [values])


if __name__ == "__main__":
    main()
