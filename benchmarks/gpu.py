"""Everything that a graphics card has to show, in one run of at most eight minutes.

    python benchmarks/gpu.py                    all parts
    python benchmarks/gpu.py --only checks,jobs some of them
    python benchmarks/gpu.py --seconds 300      less time: parts that would not begin before it is over are named

| part | what |
|---|---|
| limits | multiply-adds a second of large matrix products (fp32, tf32, fp16, bf16), bytes a second of large copies |
| checks | each job in fp16 and bf16 beside fp32: largest difference of scores, share of pixels with another label |
| waits | synchronisations a frame, as CUDA itself reports them (`torch.cuda.set_sync_debug_mode`) |
| jobs | frames or clips a second of every job, fp32 and bf16, most memory, and the share of the limits |
| training | some steps of a network with AMP, and with NCCL of one process |
| tests | `pytest -m gpu` |

The share of the limits is the time that a job's multiply-adds take at the rate of large matrix products, divided by the
time that it took. A part that fails is named, the others run, and the exit code is 1. Without CUDA nothing is
measured, which is said; exit code 0. Lines are appended to benchmarks/history/gpu.csv.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from record import append, stamp

COLUMNS = ("date", "machine", "load", "commit", "part", "what", "value", "unit", "share", "peak_mb")
Line = dict[str, object]

LEAST_S = {"limits": 20, "checks": 60, "waits": 30, "jobs": 120, "training": 60, "tests": 90}
"""Seconds that are to be left for a part to begin, in the order in which they run."""

LARGEST_DIFFERENCE = 0.05  # of the largest score, in half precision
MOST_OTHER_LABELS = 0.01  # of all pixels


def line(
    part: str, what: str, value: float, unit: str, share: float | None = None, peak_mb: float | None = None
) -> Line:
    told = "" if share is None else f"; {100 * share:.0f} % of the limit"
    told += "" if peak_mb is None else f"; {peak_mb:.0f} MB"
    print(f"{part:<9} {what:<46} {value:10.4g} {unit}{told}", flush=True)
    values: Line = {**stamp(), "part": part, "what": what, "value": f"{value:.4g}", "unit": unit}
    return values | {"share": share and round(share, 3), "peak_mb": peak_mb and round(peak_mb)}


def seconds_of(work: Callable[[], object], repeat: int = 10) -> float:
    """Return the seconds of one call, of `repeat` that the card runs after another."""
    for _ in range(3):
        work()
    torch.cuda.synchronize()
    begun, ended = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begun.record()
    for _ in range(repeat):
        work()
    ended.record()
    torch.cuda.synchronize()
    return begun.elapsed_time(ended) / 1000 / repeat


def product_rate(dtype: torch.dtype, *, tf32: bool = False, side: int = 8192) -> float:
    """Return multiply-adds a second of a square matrix product."""
    kept = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = tf32
    try:
        a, b = (torch.randn(side, side, device="cuda").to(dtype) for _ in range(2))
        return side**3 / seconds_of(lambda: a @ b)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = kept


def limits() -> Iterator[Line]:
    """What the card itself can do."""
    for name, dtype, tf32 in (
        ("fp32", torch.float32, False), ("tf32", torch.float32, True),
        ("fp16", torch.float16, False), ("bf16", torch.bfloat16, False),
    ):  # fmt: skip
        yield line("limits", f"{name} matrix product", product_rate(dtype, tf32=tf32) / 1e12, "T multiply-adds/s")
    source = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    yield line(
        "limits", "copy within the card", 2 * source.numel() / seconds_of(lambda: target.copy_(source)) / 1e9, "GB/s"
    )
    host = torch.empty(1 << 28, dtype=torch.uint8, pin_memory=True)
    part = source[: host.numel()]
    rate = host.numel() / seconds_of(lambda: part.copy_(host, non_blocking=True)) / 1e9
    yield line("limits", "copy from pinned memory", rate, "GB/s")


def images(count: int, height: int, width: int) -> list[np.ndarray]:
    """A drifting texture of coarse patches."""
    rng = np.random.default_rng(0)
    wide = rng.integers(0, 256, (-(-height // 16), -(-width // 16) + 1, 3), dtype=np.uint8).repeat(16, 0).repeat(16, 1)
    return [np.ascontiguousarray(np.roll(wide, 2 * i, 1)[:height, :width]) for i in range(count)]


def first_mask(height: int, width: int) -> np.ndarray:
    labels = np.zeros((height, width), np.uint8)
    labels[height // 4 : height // 2, width // 4 : width // 2] = 1
    labels[height // 2 : 3 * height // 4, width // 2 : 3 * width // 4] = 2
    return labels


def compare(what: str, exact: Tensor, other: Tensor, *, are_labels: bool = True) -> Iterator[Line]:
    """Compare scores (C, ...) of one input in two precisions; where the best of them are labels, compare those instead.

    Near the border of an object a rounding may turn a probability of 0.4 into one of 0.6, so there only labels count.
    Raises ValueError where they differ too much.
    """
    exact, other = exact.float(), other.float()
    if are_labels:
        share, most, of = float((exact.argmax(0) != other.argmax(0)).float().mean()), MOST_OTHER_LABELS, "of all labels"
    else:
        share, most, of = float((exact - other).abs().max() / exact.abs().max()), LARGEST_DIFFERENCE, "of the largest"
    yield line("checks", f"{what}: difference", share, of)
    if not share <= most:
        raise ValueError(f"{what}: differs from fp32 by {share:.3g} {of}; at most {most} is right")


def checks() -> Iterator[Line]:
    """Half precision beside fp32, which is computed without TF32; and fp32 beside a CPU."""
    from twospeed import Segmenter, Tracker
    from twospeed.weights.load import create_model

    frames, mask = images(6, 480, 854), first_mask(480, 854)

    def tracked(precision: str, device: str) -> Tensor:
        tracker = Tracker("track_nano", precision=precision, device=device, size=None)  # type: ignore[arg-type]
        result = tracker.step(frames[0], mask)
        for frame in frames[1:]:
            result = tracker.step(frame)
        return torch.from_numpy(result.probabilities)

    exact = tracked("fp32", "cuda")
    yield from compare("track_nano, CPU", exact, tracked("fp32", "cpu"))
    yield from compare("track_nano, bf16", exact, tracked("bf16", "cuda"))
    scores = {}
    for device in ("cuda", "cpu"):
        segmenter = Segmenter("segment_nano", 4, device=device)
        for frame in frames:
            scores[device] = torch.from_numpy(segmenter.step(frame).scores)
    yield from compare("segment_nano, CPU", scores["cuda"], scores["cpu"])
    torch.manual_seed(0)
    image = torch.randn(1, 3, 480, 848, device="cuda")
    clip = torch.randn(1, 3, 32, 224, 224, device="cuda")
    stcn, slowfast = (create_model(name, None, device="cuda").eval() for name in ("stcn", "slowfast_r50_8x8"))
    runs: dict[str, Callable[[], Tensor]] = {
        "stcn, key": lambda: stcn.encode_key(image).key[0],
        "slowfast_r50_8x8": lambda: slowfast(clip).mean(1)[0],
    }
    with torch.inference_mode():
        for what, run in runs.items():
            exact = run()
            for dtype in (torch.float16, torch.bfloat16):
                with torch.autocast("cuda", dtype):
                    yield from compare(f"{what}, {str(dtype)[6:]}", exact, run(), are_labels=False)


def waits() -> Iterator[Line]:
    """How often the host waits in a frame, by CUDA's own account."""
    from twospeed import Segmenter, Tracker

    frames, mask = images(8, 480, 854), first_mask(480, 854)
    tracker = Tracker("track_nano", device="cuda", size=None, max_memory_frames=4)
    segmenter = Segmenter("segment_nano", 4, device="cuda")
    for frame in frames[:3]:
        tracker.step(frame, mask if frame is frames[0] else None)
        segmenter.step(frame)
    for what, step in (("Tracker.step", tracker.step), ("Segmenter.step", segmenter.step)):
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                for frame in frames[3:]:
                    step(frame)
            finally:
                torch.cuda.set_sync_debug_mode("default")
        # The wait for the result is an event's, which this mode does not count
        yield line("waits", what, len(found) / len(frames[3:]), "a frame, beside the result")
        for warning in found[:3]:
            print(f"          {str(warning.message).splitlines()[0]} ({warning.filename}:{warning.lineno})")


def jobs() -> Iterator[Line]:
    """Frames and clips a second, and what of it is the network's arithmetic."""
    from twospeed.evaluation.speed import clip_scores, segmenter_steps, tracker_steps
    from twospeed.weights.cost import cost_of

    rate = product_rate(torch.float32, side=4096)
    measured: list[tuple[str, str, Iterator[float], float, int]] = []
    for name in ("track_nano", "track_small", "stcn"):
        laps = tracker_steps(name, 854, 480, memory_frames=10, objects=1, device="cuda")
        measured.append((name, "854x480, 10 memory frames", laps, cost_of(name).gmacs, 60))
    laps = segmenter_steps("segment_nano", 854, 480, keyframe_every=4, device="cuda")
    measured.append(("segment_nano", "854x480, keyframe every 4", laps, 0.0, 40))
    laps = segmenter_steps("gsvnet_swiftnet_r18", 2048, 1024, keyframe_every=4, device="cuda")
    measured.append(("gsvnet_swiftnet_r18", "2048x1024, keyframe every 4", laps, 0.0, 20))
    for name, count, side in (("slow_r50_8x8", 8, 256), ("slowfast_r50_8x8", 32, 256)):
        measured.append(
            (name, f"{count}x{side}x{side}", clip_scores(name, count, side, device="cuda"), cost_of(name).gmacs, 20)
        )
    for name, what, laps, gmacs, count in measured:
        torch.cuda.reset_peak_memory_stats()
        list(islice(laps, 5))  # kernels are chosen, memory is taken
        seconds = float(np.median(list(islice(laps, count))))
        share = gmacs * 1e9 / rate / seconds if gmacs else None
        yield line("jobs", f"{name} {what}", 1 / seconds, "a second", share, torch.cuda.max_memory_allocated() / 1e6)


def training() -> Iterator[Line]:
    """A few steps with AMP; then in a process group of one by NCCL, whose loss is to be the same."""
    from twospeed.ops.bf16 import autocast
    from twospeed.weights.load import create_model

    def steps(model: nn.Module, dtype: torch.dtype, count: int = 6) -> tuple[float, float]:
        """Return seconds a step and the last loss."""
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        clip = torch.randn(8, 3, 4, 160, 160, device="cuda", generator=torch.Generator("cuda").manual_seed(0))
        target = torch.arange(8, device="cuda") % 5
        started, loss = 0.0, torch.zeros(())
        for i in range(count):
            if i == 2:
                torch.cuda.synchronize()
                started = time.perf_counter()
            with autocast("cuda", dtype):
                loss = nn.functional.cross_entropy(model(clip).float().mean(1), target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        value = float(loss)
        if not np.isfinite(value):
            raise ValueError(f"the loss is {value} after {count} steps in {dtype}")
        return (time.perf_counter() - started) / (count - 2), value

    def network() -> nn.Module:
        torch.manual_seed(0)
        model = create_model("slow_r50_4x16", None, device="cuda").train()
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0  # the losses are compared
        return model

    losses = []
    for dtype in (torch.float32, torch.bfloat16):
        seconds, loss = steps(network(), dtype)
        losses.append(loss)
        yield line("training", f"slow_r50_4x16, 8 clips, {str(dtype)[6:]}, loss {loss:.3f}", 1 / seconds, "steps/s")
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=os.environ.get("MASTER_PORT", "29533"))
    torch.distributed.init_process_group("nccl", rank=0, world_size=1)
    try:
        parallel = nn.parallel.DistributedDataParallel(network(), device_ids=[0])
        seconds, loss = steps(parallel, torch.bfloat16)
    finally:
        torch.distributed.destroy_process_group()
    yield line("training", f"the same by NCCL of one, bf16, loss {loss:.3f}", 1 / seconds, "steps/s")
    if abs(loss - losses[1]) > 0.05 * max(1.0, abs(losses[1])):
        raise ValueError(f"NCCL of one ends at a loss of {loss:.3f}, one process without it at {losses[1]:.3f}")


def tests() -> Iterator[Line]:
    """`pytest -m gpu`."""
    root = Path(__file__).parents[1]
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", "-m", "gpu", "tests"], cwd=root, check=False)
    if done.returncode:
        raise ValueError(f"pytest -m gpu ends with exit code {done.returncode}")
    yield line("tests", "pytest -m gpu", time.perf_counter() - started, "s")


PARTS: dict[str, Callable[[], Iterator[Line]]] = {
    "limits": limits, "checks": checks, "waits": waits, "jobs": jobs, "training": training, "tests": tests,
}  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", type=lambda text: text.split(","), default=list(PARTS), help="parts, by commas")
    parser.add_argument("--seconds", type=float, default=480, help="in which all is to be done")
    parser.add_argument("--no-history", action="store_true", help="only print")
    options = parser.parse_args()
    if unknown := [name for name in options.only if name not in PARTS]:
        parser.error(f"no part is called {unknown[0]!r}; there are {', '.join(PARTS)}")
    if not torch.cuda.is_available():
        print("no CUDA device here: nothing was measured")
        return 0
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, CUDA {torch.version.cuda}")
    torch.backends.cudnn.allow_tf32 = False  # fp32 is to be fp32 here
    started, failed, left_out = time.perf_counter(), [], []
    for name in (name for name in PARTS if name in options.only):
        if time.perf_counter() - started + LEAST_S[name] > options.seconds:
            left_out.append(name)
            continue
        try:
            for values in PARTS[name]():
                if not options.no_history:
                    append("gpu", COLUMNS, [values])
        except Exception:
            traceback.print_exc()
            failed.append(name)
        torch.cuda.empty_cache()
    print(
        f"{time.perf_counter() - started:.0f} s" + (f"; left out for time: {', '.join(left_out)}" if left_out else "")
    )
    if failed:
        print(f"failed: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
