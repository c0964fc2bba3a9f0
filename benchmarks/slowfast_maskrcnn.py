"""How long SlowFast Mask R-CNN takes for a frame: its configurations beside 1-1, and beside recomputing each window.

    python benchmarks/slowfast_maskrcnn.py           frames of 854x480, seen at 749x1333 as published; some 15 minutes
    python benchmarks/slowfast_maskrcnn.py --quick   frames of 214x120, fewer repetitions: tells that both ways agree

| part | ours | plain |
|---|---|---|
| m-n | one frame of a stream, prepared by `for_inference`, as `UnsupervisedTracker` runs it | the same of 1-1 |
| stream 3-7 | the same | a stream of the network as it is trained |
| window 7-7 | the same | seven frames encoded, the module on their window, heads: nothing is kept between frames |

`ratio` is plain / ours; for m-n beside 1-1 it is below one, and `more` is what m-n takes more, in percent of 1-1 (the
report: 3-7 takes 22). Streams are in their middle: ends of a clip, where frames are missing, are not timed. A frame is
scaled, passes the network and comes back as masks of its own size; reading is not counted. Weights are random; 1,000
proposals (`--quick`: 100) and 10 detections a frame, as many as there can be. `difference` is the largest between the
enhanced features of both ways, of the largest feature. All ways take turns; medians are kept. Seconds are of the wall
clock and (`cpu`) of all threads together: on a machine that others use too, compare the latter. Lines are appended to
benchmarks/history/slowfast_maskrcnn.csv.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from record import append
from track import line, medians
from twospeed.models.slowfast_maskrcnn.inference import for_inference
from twospeed.models.slowfast_maskrcnn.network import SlowFastMaskRCNN
from twospeed.models.slowfast_maskrcnn.pathways import PathwayStream
from twospeed.models.slowfast_maskrcnn.stream import Detections, DetectionStream

COLUMNS = (
    *("date", "machine", "load", "threads", "commit", "what", "plain_s", "ours_s", "ratio"),
    *("plain_cpu_s", "ours_cpu_s", "cpu_ratio", "more", "cpu_more", "difference"),
)
CONFIGURATIONS = ((1, 1), (3, 3), (7, 7), (1, 7), (3, 7))


def random_network(slow: int, fast: int, **options: Any) -> SlowFastMaskRCNN:
    """A network with weights and statistics at which no layer is idle, and as many detections as there can be."""
    torch.manual_seed(0)
    network = SlowFastMaskRCNN(slow, fast, score_thresh=0.0, **options).eval()
    for module in network.modules():
        if hasattr(module, "running_mean"):
            torch.nn.init.uniform_(module.weight, 0.4, 0.9)
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
    return network


def filled(stream: DetectionStream, frame: Tensor, window: int) -> DetectionStream:
    """Bring a stream to its middle, where each frame that comes lets one go."""
    for _ in range(window):
        stream.push(frame)
    return stream


def recompute(network: SlowFastMaskRCNN, frames: list[Tensor]) -> Detections:
    """The middle frame's detections, from a window of frames alone."""
    window = [network.encode(frame) for frame in frames]
    middle = window[len(window) // 2]
    return network.detect(middle, network.enhance(list(window)))


def difference(network: SlowFastMaskRCNN, frames: list[Tensor]) -> float:
    """Largest difference between the enhanced features of the prepared and the plain network, of the largest."""
    ours, features = for_inference(network), [network.encode(frame) for frame in frames]
    expected, worst = network.enhance(list(features)), 0.0
    for name, level in expected.items():
        stream, result = PathwayStream(ours.slow_fast), None
        for one in features:
            result = stream.push(one.pyramid[name])
        assert result is not None  # of the middle frame: the window is complete
        worst = max(worst, float((result - level).abs().max() / level.abs().max()))
    return worst


def measure(height: int, width: int, repeat: int, **options: Any) -> Iterator[dict[str, object]]:
    """Time all ways in turn."""
    frames = [torch.rand(3, height, width, generator=torch.Generator().manual_seed(i)) for i in range(8)]
    size = f"{width}x{height}"
    ways = []
    for slow, fast in CONFIGURATIONS:
        stream = DetectionStream(for_inference(random_network(slow, fast, **options)))
        ways.append(partial(filled(stream, frames[0], fast).push, frames[1]))
    times = medians(repeat, *ways)
    for (slow, fast), ours in zip(CONFIGURATIONS, times, strict=True):
        more = [round(100 * (mine / base - 1), 1) for mine, base in zip(ours, times[0], strict=True)]
        yield line(f"{slow}-{fast} {size}", times[0], ours, more=more[0], cpu_more=more[1])
    del ways

    network = random_network(3, 7, **options)
    plain, fast_one = (filled(DetectionStream(each), frames[0], 7) for each in (network, for_inference(network)))
    yield line(
        f"stream 3-7 {size}", *medians(repeat, partial(plain.push, frames[1]), partial(fast_one.push, frames[1]))
    )
    del plain, fast_one

    network = random_network(7, 7, **options)
    stream = filled(DetectionStream(for_inference(network)), frames[0], 7)
    window = medians(max(1, repeat // 3), partial(recompute, network, frames[:7]), partial(stream.push, frames[1]))
    apart = difference(network, frames[:7])
    yield line(f"window 7-7 {size}", *window, difference=f"{apart:.1e}")
    if apart > 1e-4:
        sys.exit(f"features differ by {apart:.1e} of the largest; one of the two ways is wrong")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="smaller and shorter; tells that both ways agree")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--threads", type=int, default=None, help="of torch; its own choice if left out")
    parser.add_argument("--no-history", action="store_true", help="print only")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    torch.set_grad_enabled(False)
    small = {"min_size": 200, "max_size": 333, "proposals": 100}
    for values in measure(120, 214, 2, **small) if arguments.quick else measure(480, 854, arguments.repeat):
        if not arguments.no_history:
            append("slowfast_maskrcnn", COLUMNS, [values])


if __name__ == "__main__":
    main()
