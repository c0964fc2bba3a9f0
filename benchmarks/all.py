"""The table of docs/results.md: our speed beside a plain way and beside what this machine can do, in one run.

    twospeed bench --all                    measure, print, append to benchmarks/history/all.csv, write the page's table
    python benchmarks/all.py --only track   some of the jobs (`--help` lists them); the page stays
    python benchmarks/all.py --only jf --join   the same, as a further part of the history's last run, and on the page
    python benchmarks/all.py --page         write the page's table anew from the history, without measuring

| column | what |
|---|---|
| ours | seconds of the fastest form that ships, from `optimise`, median or best as the job's own script has it |
| plain | of the published formulas, layer by layer; classify: of PyTorchVideo where installed, else as trained; |
|       | beside whole commands, which decode and write files: the network alone, on generated images |
| limit | multiply-adds of the job, as the network states them, at the rate of this machine's large matrix products, |
|       | measured beside it: other programs make that rate too low, and the share too high |
| share | limit / ours. Winograd's algorithm multiplies less than the network states: more than 100 % is possible |
| peak | memory that ours alone held at most, in a process of its own, libraries included; of models `twospeed bench` |

The scripts of the jobs (`track.py`, `segment.py`, `classify.py`, `jf.py`) check that both ways agree, and stop where
they do not. Some minutes on two quiet cores.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch.nn import functional

import classify
import jf
import segment
import track
from record import HISTORY, append, stamp
from twospeed.data.clips.synthetic import render_clip
from twospeed.data.samples import SequenceSample
from twospeed.environment import peak_memory
from twospeed.evaluation.speed import segmenter_steps, tracker_steps
from twospeed.evaluation.vos import evaluate_davis
from twospeed.models.banks import MemoryBank
from twospeed.models.optimise import optimise
from twospeed.models.slowfast.inference import for_inference
from twospeed.ops.bf16 import multiplies_bf16
from twospeed.ops.full_labels import full_size_labels
from twospeed.ops.onednn import works
from twospeed.pipelines.inputs import Precision
from twospeed.pipelines.segment import Segmenter
from twospeed.video.indexed_png import write_indexed_png
from twospeed.video.writer import VideoWriter
from twospeed.weights.cost import cost_of, segmenter_cost
from twospeed.weights.load import create_model

COLUMNS = (
    *("run", "date", "machine", "load", "threads", "commit"),
    *("job", "ours_s", "plain", "plain_s", "limit_s", "peak_mb"),
)
PAGE = Path(__file__).parents[1] / "docs" / "results.md"
BEGIN, END = "<!-- table of `twospeed bench --all` -->", "<!-- end of the table -->"
FORMULAS = "published formulas"
Row = dict[str, object]


def product_rate(dtype: torch.dtype, side: int = 2048) -> float:
    """Return multiply-adds a second of a large matrix product, the best of five and of two libraries.

    torch computes a product by MKL, which is slow on some processors, and a convolution of one pixel by oneDNN.
    """
    a, b = torch.randn(side, side).to(dtype), torch.randn(side, side).to(dtype)
    images = a.view(1, side, 32, -1).contiguous(memory_format=torch.channels_last)
    seconds = []
    for work in (lambda: a @ b, lambda: functional.conv2d(images, b[..., None, None])):
        for _ in range(6):
            start = time.perf_counter()
            work()
            seconds.append(time.perf_counter() - start)
    return float(side**3 / min(seconds[1:6] + seconds[7:]))


def row(job: str, ours: float, plain: tuple[str, float] | None = None, gmacs: float = 0, rate: float = 0) -> Row:
    values: Row = {"job": job, "ours_s": f"{ours:.4g}", "plain": "", "plain_s": "", "limit_s": "", "peak_mb": ""}
    if plain is not None:
        values |= {"plain": plain[0], "plain_s": f"{plain[1]:.4g}"}
    if gmacs:
        values["limit_s"] = f"{gmacs * 1e9 / rate:.4g}"
    return values


def of_track() -> Iterator[Row]:
    """STCN beside its formulas."""
    rate = product_rate(torch.float32)
    for line in track.measure(480, 864, [10], 3):
        if str(line["what"]).startswith("frame"):
            times = float(str(line["ours_s"])), (FORMULAS, float(str(line["plain_s"])))
            yield row("stcn, 480p frame, 10 in memory", *times, cost_of("stcn").gmacs, rate) | peak("stcn")


def of_segment() -> Iterator[Row]:
    """GSVNet beside its formulas."""
    rate = product_rate(torch.float32)
    (height, width), classes = min(segment.SIZES.items())
    cost = segmenter_cost(segment.random_network(classes), height, width)
    gmacs = {"keyframe": cost.keyframe_gmacs, "step": cost.step_gmacs}
    for line in segment.measure(height, width, classes, 5):
        name, _, rest = str(line["what"]).partition(" ")
        number_format = rest.partition(", ")[2]
        if name in ("keyframe", "step", "labels"):
            times = float(str(line["ours_s"])), (FORMULAS, float(str(line["plain_s"])))
            what = f"{name}, {number_format}" if number_format else name
            limit = (0.0, 0.0) if number_format else (gmacs.get(name, 0.0), rate)
            held = peak(f"gsvnet {what}") if number_format != "int8" else {}  # whose process has exported it, too
            yield row(f"gsvnet_swiftnet_r18, {width}x{height}, {what}", *times, *limit) | held


def of_classify() -> Iterator[Row]:
    """SlowFast beside PyTorchVideo's, or beside the network as it is trained."""
    clip = torch.randn(1, 3, 32, 256, 256, generator=torch.Generator().manual_seed(0))
    gmacs = cost_of("slowfast_r50_8x8").gmacs
    if importlib.util.find_spec("pytorchvideo"):
        theirs, network = classify.two_networks()
        slow = classify.slow_frame_indices(32, 4)
        name, plain = "PyTorchVideo", lambda: theirs([clip[:, :, slow], clip]).softmax(1)
    else:
        torch.manual_seed(0)
        network = create_model("slowfast_r50_8x8", None).eval()
        name, plain = "the network as trained", lambda: network(clip).mean(1).softmax(1)
    expected = plain()
    for dtype in (torch.float32, torch.bfloat16):
        if dtype == torch.bfloat16 and not works(dtype):
            continue
        ours = for_inference(network, dtype)
        difference = float((ours(clip).float().mean(1).softmax(1) - expected).abs().max())
        if difference > (1e-4 if dtype == torch.float32 else 0.02):
            raise SystemExit(f"scores in {dtype} differ by {difference:.1e}; one of the two ways is wrong")
        times = classify.best_of(2, lambda: ours(clip), plain)  # noqa: B023  # called at once
        kind = "bf16" if dtype == torch.bfloat16 else "fp32"
        job = f"slowfast_r50_8x8, view of 32x256x256, {kind}"
        yield row(job, times[0][0], (name, times[1][0]), gmacs, product_rate(dtype)) | peak(f"slowfast {kind}")


def of_jf() -> Iterator[Row]:
    """J and F of generated masks as files, beside a plain reading of the formulas."""
    with tempfile.TemporaryDirectory() as folder:
        samples = list(generated_masks(Path(folder)))
        frames = sum(len(sample.frames) - 2 for sample in samples)
        results = Path(folder) / "results"
        ours, plain = [], []
        for _ in range(3):
            start = time.perf_counter()
            found = evaluate_davis(samples, 2016, predictions=results).scores["global"]["J&F-Mean"]
            ours.append(time.perf_counter() - start)
            start = time.perf_counter()
            expected = jf.plain_scores(samples, results)
            plain.append(time.perf_counter() - start)
            if abs(found - expected) > 1e-9:
                raise SystemExit(f"the two ways disagree: J&F {found} and {expected}")
    yield row(f"J&F of {frames} masks of 854x480, files read", min(ours), (FORMULAS, min(plain))) | peak("jf")


def generated_masks(folder: Path, sequences: int = 4, frames: int = 30) -> Iterator[SequenceSample]:
    """Moving ellipses with rough borders as annotations, somewhat moved and eroded as results."""
    rng = np.random.default_rng(0)
    for name in (f"video{i}" for i in range(sequences)):
        annotations = {}
        phase, rough = (
            rng.uniform(0, 6),
            cv2.resize(rng.normal(size=(60, 107)), (854, 480), interpolation=cv2.INTER_CUBIC),
        )
        for frame in (f"{i:05d}" for i in range(frames)):
            t = phase + int(frame) / 9
            mask = np.zeros((480, 854), np.uint8)
            centre = (int(427 + 200 * np.cos(t)), int(240 + 100 * np.sin(t)))
            cv2.ellipse(mask, centre, (150, 90), 20 * t, 0, 360, 1, -1)
            mask[cv2.GaussianBlur(mask.astype(np.float64), (0, 0), 4) + 0.2 * rough > 0.6] = 1
            for kind, labels in (("annotations", mask), ("results", np.roll(cv2.erode(mask, np.ones((3, 3))), 3, 1))):
                path = folder / kind / name / f"{frame}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                write_indexed_png(path, labels)
            annotations[frame] = folder / "annotations" / name / f"{frame}.png"
        yield SequenceSample(name, tuple(annotations), {}, annotations, foreground=True)


def of_models() -> Iterator[Row]:
    """What ships and what the papers name, with random weights, each in a process of its own: speed and memory."""
    rate = product_rate(torch.float32)
    for name, frames in (
        *(("track_tiny", 20), ("track_nano", 20), ("track_small", 20), ("stcn", 6), ("stm", 4)),
        *(("segment_nano", 24), ("gsvnet_swiftnet_r18", 24), ("slowfast_lite0", 6), ("slowfast_r50_8x8", 3)),
    ):
        command = [sys.executable, "-m", "twospeed", "bench", name, "--frames", str(frames), "--json"]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True)
        facts = json.loads(done.stdout)
        gmacs = 0.0 if "Segmenter" in facts["clock_counts"] else cost_of(name).gmacs
        size = "" if "view" in facts["clock_counts"] else " of 854x480"
        line = row(f"{name}, {facts['clock_counts']}{size}", facts["median_s"], None, gmacs, rate)
        yield line | {"peak_mb": f"{facts['peak_memory_mb']:.0f}"}


def of_commands() -> Iterator[Row]:
    """Whole commands on a rendered clip, as they say of themselves in run.json, beside the network alone."""
    alone = {
        "track": tracker_steps("track_nano", 854, 480, memory_frames=10, objects=1, device="cpu"),
        "segment": segmenter_steps("segment_nano", 480, 360, keyframe_every=4, device="cpu"),
    }
    for name, width, height, frames in (("track", 854, 480, 60), ("segment", 480, 360, 120)):
        network_s = float(np.median(list(islice(alone[name], 20))))
        with tempfile.TemporaryDirectory() as folder:
            clip, mask, out = (Path(folder) / part for part in ("clip.mp4", "first.png", "out"))
            with VideoWriter(clip, 25) as writer:
                for image, labels in render_clip(0, frames=frames, height=height, width=width, objects=1):
                    if not writer.frames_written:
                        write_indexed_png(mask, labels)
                    writer.write(image)
            options: list[str | Path] = ["--mask", mask] if name == "track" else ["--keyframe-every", "4"]
            network, graphs = f"{name}_nano", Path(folder) / "graphs"
            export = [sys.executable, "-m", "twospeed", "export", network, "--format", "onnx", "-o", graphs]
            subprocess.run(export, check=True, capture_output=True)
            ways: dict[str, list[str | Path]] = {network: ["--model", network]}
            if multiplies_bf16(torch.device("cpu")):
                ways[f"{network} in bf16"] = ["--model", network, "--precision", "bf16"]
            ways[f"{network} as ONNX"] = ["--model", graphs]  # without find_nano
            for model, given in ways.items():
                held = of_child("-c", AS_COMMAND, name, clip, *options, *given, "-o", out, "--quiet")
                seconds = 1 / json.loads((out / "run.json").read_text())["frames_per_second"]
                job = f"`twospeed {name}`, {model}, {width}x{height}"
                yield row(job, seconds, ("network alone", network_s)) | held


AS_COMMAND = """
import sys
from twospeed.cli.main import exit_code
from twospeed.environment import peak_memory, use_threads_well
use_threads_well()
if code := exit_code(sys.argv[1:]):
    sys.exit(code)
print(peak_memory() or "")
"""
"""Runs a command as `python -m twospeed` does, and prints the bytes that it held at most."""


def of_child(*arguments: str | Path) -> Row:
    """Run Python; return the peak that it prints last, as a part of a row. Empty where the system does not say."""
    done = subprocess.run(
        [sys.executable, *arguments], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True
    )
    held = done.stdout.splitlines()[-1] if done.stdout else ""
    return {"peak_mb": f"{int(held) / 1e6:.0f}" if held else ""}


def peak(name: str) -> Row:
    """Measure one of `ALONE` in a process of its own."""
    return of_child(__file__, "--peak", name)


def stcn_alone() -> None:
    """A frame with 10 in memory, as track.py has it."""
    ours: Any = optimise(track.random_network())
    frame = torch.randn(1, 3, 480, 864).contiguous(memory_format=torch.channels_last)
    features, bank = ours.encode_key(frame), MemoryBank()
    value = ours.encode_value(frame, features.f16, torch.ones(1, 1, 480, 864))[0]
    for _ in range(10):
        bank.add(features.key[0], value)
    ours.decode(bank.read(features.key[0])[:, None], features)


def gsvnet_alone(part: str) -> None:
    """A part of a frame, as segment.py has it."""
    (height, width), classes = min(segment.SIZES.items())
    image = torch.from_numpy(next(segment.images(1, height, width))).permute(2, 0, 1)[None]
    scores, _ = segment.smooth_scores(classes, height // 8, width // 8)
    if part == "labels":
        full_size_labels(scores[0], (height, width))
        return
    precision: Precision = "bf16" if part == "keyframe, bf16" else "fp32"
    segmenter = Segmenter(segment.random_network(classes), precision=precision, device="cpu")
    if part == "step":
        small = segmenter.model.small(image)
        segmenter.model.step(scores, small, small)
    else:
        segmenter.by_image_network(segmenter.model.keyframe, image)


def slowfast_alone(dtype: torch.dtype) -> None:
    """One view."""
    optimise(create_model("slowfast_r50_8x8", None).eval(), dtype)(torch.randn(1, 3, 32, 256, 256))


def jf_alone() -> None:
    """The masks of `of_jf`."""
    with tempfile.TemporaryDirectory() as folder:
        evaluate_davis(list(generated_masks(Path(folder))), 2016, predictions=Path(folder) / "results")


ALONE: dict[str, Callable[[], None]] = {
    "stcn": stcn_alone,
    **{f"gsvnet {part}": partial(gsvnet_alone, part) for part in ("keyframe", "keyframe, bf16", "step", "labels")},
    "slowfast fp32": partial(slowfast_alone, torch.float32),
    "slowfast bf16": partial(slowfast_alone, torch.bfloat16),
    "jf": jf_alone,
}
"""What is run, ours alone, in a process whose peak memory is measured."""


JOBS: dict[str, Callable[[], Iterator[Row]]] = {
    "track": of_track, "segment": of_segment, "classify": of_classify, "jf": of_jf,
    "models": of_models, "commands": of_commands,
}  # fmt: skip


def table(rows: Sequence[Mapping[str, str]]) -> str:
    """The lines of one run as the page has them."""
    first = rows[0]
    lines = [
        f"{first['machine']}, {first['threads']} threads, load {first['load']} at the start, {first['date']}, commit "
        f"{first['commit'][:7] or 'unknown'}.",
        "Seconds; `limit` is what the job's multiply-adds take at the rate of this machine's large matrix products.",
        "",
        "| job | ours | plain | ratio | limit | share of the limit | peak memory, MB |",
        "|---|---|---|---|---|---|---|",
    ]
    for values in rows:
        ours = float(values["ours_s"])
        cells = [values["job"], values["ours_s"], "", "", "", "", values["peak_mb"]]
        if values["plain_s"]:
            cells[2:4] = [f"{values['plain_s']} ({values['plain']})", f"{float(values['plain_s']) / ours:.2f}"]
        if values["limit_s"]:
            cells[4:6] = [values["limit_s"], f"{100 * float(values['limit_s']) / ours:.0f} %"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def last_run(history: Path) -> list[dict[str, str]]:
    """The lines of the last run that the history has."""
    with history.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [values for values in rows if values["run"] == rows[-1]["run"]]


def as_part_of(last: Mapping[str, str], facts: Row) -> Row:
    """The facts of new lines that join a run. Raises SystemExit where another machine or code measured that."""
    for name in ("machine", "threads", "commit"):
        if last[name] != str(facts[name]):
            raise SystemExit(f"the last run has {name} {last[name]}, this one {facts[name]}; they make no table")
    return {**facts, "run": last["run"]}


def write_page(page: Path, rows: Sequence[Mapping[str, str]]) -> None:
    """Put the table between its two marks. Raises ValueError for a page without them."""
    text = page.read_text()
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{page}: has no place for the table, between {BEGIN} and {END}")
    page.write_text(f"{before}{BEGIN}\n{table(rows)}\n{END}{after}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=list(JOBS), action="append", help="this job alone; may be repeated")
    parser.add_argument("--join", action="store_true", help="add to the history's last run, and write the page's table")
    parser.add_argument("--page", action="store_true", help="write the page's table from the history, measure nothing")
    parser.add_argument("--no-history", action="store_true", help="only print")
    parser.add_argument("--peak", choices=list(ALONE), help="run this once, print the bytes held at most, and end")
    options = parser.parse_args()
    if options.peak:
        with torch.inference_mode():
            ALONE[options.peak]()
        print(peak_memory() or "")
        return
    history = HISTORY / "all.csv"
    if not options.page:
        torch.set_grad_enabled(False)
        facts: Row = {"run": f"{time.time():.0f}", **stamp(), "threads": torch.get_num_threads()}
        if options.join:
            facts = as_part_of(last_run(history)[0], facts)
        rows = []
        for name in options.only or JOBS:
            measured = [{key: str(value) for key, value in (facts | line).items()} for line in JOBS[name]()]
            if not options.no_history:
                append("all", COLUMNS, measured)  # at once: --join completes a run that was stopped
            rows += measured
        print(table(rows))
        if options.no_history or (options.only and not options.join):
            return
    write_page(PAGE, last_run(history))
    print(f"\n{PAGE}: has the table of the last run")


if __name__ == "__main__":
    main()
