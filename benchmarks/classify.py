"""How long SlowFast 8x8 (ResNet-50) takes for a clip, beside PyTorchVideo's, with the same weights and scores.

    uv sync --group bench
    python benchmarks/classify.py
    python benchmarks/classify.py --video clip.mp4 --repeat 5
    python benchmarks/classify.py --clips FOLDER      int8 alone; on videos, too: how often it gives another class

| job | ours | theirs |
|---|---|---|
| network fp32 | `for_inference`, one clip of 32 x 256 x 256 | PyTorchVideo's `slowfast_r50`, fp32 |
| network bf16 | the same in bfloat16 | PyTorchVideo's `slowfast_r50`, fp32 |
| classify | `Classifier` on a video, 2 clips x 3 crops: decoding to scores | our network alone on as many views |
| int8, fp32 | `twospeed export --format openvino --precision int8`, one clip | ours, fp32 |
| int8, bf16 | the same | ours, bf16 |

Weights are random but equal on both sides; `difference` is the largest between softmax scores (of one view in the
first two rows). Both ways take turns; the best of the repetitions is kept. Seconds are for one view, of the wall clock
and (`cpu`) of all threads together: on a machine that others use too, compare the latter. bf16 is left out where the
processor has no instructions for it. int8 (`--int8`) is calibrated on the rendered clip of the export; since no weights
of this network are free, classes are compared with `slowfast_lite0`, which ships. Lines are appended to
benchmarks/history/classify.csv.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from record import append, stamp
from twospeed.evaluation.export import export_model
from twospeed.export.networks import open_network
from twospeed.models.slowfast import builders
from twospeed.models.slowfast.convert import to_ours
from twospeed.models.slowfast.inference import for_inference
from twospeed.models.slowfast.network import SlowFast, slow_frame_indices
from twospeed.ops.onednn import works
from twospeed.pipelines.classify import Classifier
from twospeed.video.writer import VideoWriter
from twospeed.weights.catalog import find
from twospeed.weights.load import create_model

COLUMNS = (
    *("date", "machine", "load", "threads", "commit", "job", "seconds", "their_seconds", "ratio"),
    *("cpu_seconds", "their_cpu_seconds", "cpu_ratio", "difference"),
)


def two_networks() -> tuple[torch.nn.Module, SlowFast]:
    """PyTorchVideo's network and ours, with the same random weights."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pytorchvideo.models.hub import slowfast_r50

        torch.manual_seed(0)
        theirs = slowfast_r50(pretrained=False).eval()
    with torch.no_grad():
        for module in theirs.modules():
            if isinstance(module, torch.nn.BatchNorm3d):  # its last norms are zero at first: nothing would be compared
                module.weight.uniform_(0.4, 0.9)
                module.running_mean.normal_(std=0.1)
                module.running_var.uniform_(0.5, 1.5)
        theirs.blocks[6].proj.weight.normal_(std=0.2)  # so that scores differ between classes
    ours = builders.slowfast_r50_8x8(average="logits").eval()
    ours.load_state_dict(to_ours(theirs.state_dict()))
    return theirs, ours


def best_of(repeat: int, *ways: Callable[[], object]) -> list[tuple[float, float]]:
    """Run the ways in turn; return the least (wall, cpu) seconds of each. The first round is not counted."""
    best = [(float("inf"), float("inf"))] * len(ways)
    for turn in range(repeat + 1):
        for i, way in enumerate(ways):
            wall, cpu = time.perf_counter(), time.process_time()
            way()
            spent = time.perf_counter() - wall, time.process_time() - cpu
            if turn:
                best[i] = min(best[i][0], spent[0]), min(best[i][1], spent[1])
    return best


def make_clip(path: Path) -> None:
    """Drifting texture, 340x256, 30 frames per second, 10 s: the size of a Kinetics video."""
    texture = np.random.default_rng(0).integers(0, 256, (40, 100, 3), np.uint8).repeat(16, 0).repeat(16, 1)
    with VideoWriter(path, 30) as writer:
        for i in range(300):
            writer.write(np.ascontiguousarray(texture[i : i + 256, 2 * i : 2 * i + 340]))


def row(
    job: str, ours: tuple[float, float], theirs: tuple[float, float], difference: float | None
) -> dict[str, object]:
    """One line of the history; also printed."""
    line = {
        **stamp(),
        "threads": torch.get_num_threads(),
        "job": job,
        "seconds": round(ours[0], 3),
        "their_seconds": round(theirs[0], 3),
        "ratio": round(theirs[0] / ours[0], 2),
        "cpu_seconds": round(ours[1], 3),
        "their_cpu_seconds": round(theirs[1], 3),
        "cpu_ratio": round(theirs[1] / ours[1], 2),
        "difference": "" if difference is None else f"{difference:.1e}",
    }
    print(
        f"{job:<14} {ours[0]:.3f} s a view (theirs {theirs[0]:.3f}, {line['ratio']} x); cpu {ours[1]:.3f} s "
        f"(theirs {theirs[1]:.3f}, {line['cpu_ratio']} x); scores differ by {line['difference'] or 'nothing measured'}"
    )
    return line


def measure(video: Path, repeat: int) -> Iterator[dict[str, object]]:
    """Yield the lines one by one, so that a run that is cut short leaves what it has measured."""
    torch.set_grad_enabled(False)
    theirs, network = two_networks()
    ours = for_inference(network)
    clip = torch.randn(1, 3, 32, 256, 256, generator=torch.Generator().manual_seed(0))
    slow = slow_frame_indices(32, 4)

    def their_way() -> Tensor:
        logits: Tensor = theirs([clip[:, :, slow], clip])
        return logits.softmax(dim=1)

    def our_way(model: torch.nn.Module) -> Tensor:
        logits: Tensor = model(clip)
        return logits.mean(dim=1).softmax(dim=1)

    expected = their_way()
    times = best_of(repeat, lambda: our_way(ours), their_way)
    yield row("network fp32", *times, float((our_way(ours) - expected).abs().max()))
    if works(torch.bfloat16):
        half = for_inference(network, torch.bfloat16)
        times = best_of(repeat, lambda: our_way(half), their_way)
        yield row("network bf16", *times, float((our_way(half) - expected).abs().max()))
    else:
        print("network bf16   left out: this processor has no bfloat16 convolutions")

    classifier = Classifier(network, clips=2, crops=3)
    views = torch.randn(3, 3, 32, 256, 256).contiguous(memory_format=torch.channels_last_3d)
    times = best_of(max(1, repeat // 2), lambda: classifier.classify(video), lambda: (ours(views), ours(views)))
    whole, alone = ((wall / 6, cpu / 6) for wall, cpu in times)
    yield row("classify", whole, alone, None)


def measure_int8(repeat: int, videos: Path | None) -> Iterator[dict[str, object]]:
    """Time the exported network beside ours in the same run, and count on real clips where both say the same."""
    torch.set_grad_enabled(False)
    torch.manual_seed(0)
    network = create_model("slowfast_r50_8x8", None).eval()
    clip = torch.randn(1, 3, 32, 256, 256, generator=torch.Generator().manual_seed(0))
    with tempfile.TemporaryDirectory() as folder:
        exported = export_model(
            network, Path(folder) / "int8", "openvino", "int8", task="classify",
            preprocessing=find("slowfast_r50_8x8").preprocessing, allow_loss=1.0,
        )  # fmt: skip
        graph = open_network(exported)
        for dtype, name in ((torch.float32, "fp32"), (torch.bfloat16, "bf16")):
            if works(dtype):
                ours = for_inference(network, dtype)
                times = best_of(repeat, lambda: graph(clip.numpy()), lambda: ours(clip))  # noqa: B023  # at once
                yield row(f"int8, {name}", *times, None)
    if videos is not None:
        print_agreement(sorted(path for path in videos.rglob("*") if path.suffix in (".avi", ".mp4")))


def print_agreement(videos: Sequence[Path]) -> None:
    """Print on how many videos a trained network says the same in fp32, bf16 and int8, calibrated on the first."""
    with tempfile.TemporaryDirectory() as folder:
        int8 = Path(folder) / "int8"
        export_model("slowfast_lite0", int8, "openvino", "int8", source=videos[0], allow_loss=1.0)
        ways = {
            "fp32": Classifier("slowfast_lite0", clips=1, crops=1),
            "bf16": Classifier("slowfast_lite0", clips=1, crops=1, precision="bf16"),
            "int8": Classifier(int8, clips=1, crops=1),
        }
        found = {name: [way.classify(video).probabilities for video in videos] for name, way in ways.items()}
    for name in ("bf16", "int8"):
        pairs = list(zip(found["fp32"], found[name], strict=True))
        same = sum(a.argmax() == b.argmax() for a, b in pairs)
        largest = max(float(np.abs(a - b).max()) for a, b in pairs)
        print(
            f"slowfast_lite0 in {name}: {same} of {len(videos)} videos get the class that they get in fp32; "
            f"probabilities differ by {largest:.3f} at most"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--video", type=Path, help="a video for the third job; one is made if left out")
    parser.add_argument("--int8", action="store_true", help="the exported int8 network beside ours, and nothing else")
    parser.add_argument("--clips", type=Path, help="with --int8: a folder of videos on which both are compared")
    parser.add_argument("--repeat", type=int, default=4)
    parser.add_argument("--threads", type=int, default=None, help="of torch; its own choice if left out")
    parser.add_argument("--no-history", action="store_true", help="print only")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as folder:
        video = arguments.video
        if video is None:
            video = Path(folder) / "clip.mp4"
            make_clip(video)
        int8 = arguments.int8 or arguments.clips is not None
        lines = measure_int8(arguments.repeat, arguments.clips) if int8 else measure(video, arguments.repeat)
        for line in lines:
            if not arguments.no_history:
                append("classify", COLUMNS, [line])


if __name__ == "__main__":
    main()
