"""Draw GSVNet's figures: where its edge map and the errors of warped labels lie (Fig. A7), and labels side by side.

    python -m experiments.gsvnet_figures CAMVID OUT [--dataset camvid] [--model segment_nano] [--weights default]

For the first labelled frames of the validation set, `--steps` frames after a keyframe: OUT/NAME_edges.png has the
image, the edge map that guides the refinement, and the error map of the warped labels; OUT/NAME_labels.png has (Figs. 4
and A10 to A17) the labels of the network, of its image network alone at `--image-scale`, and the annotation. Printed is
how well the two maps go together: the share of all pixels that are at an edge, and the share of the errors that are.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from twospeed.data.benchmarks.camvid import CamVid
from twospeed.data.benchmarks.cityscapes import Cityscapes
from twospeed.evaluation.label_runs import plan_chains
from twospeed.evaluation.semseg import BENCHMARKS, MOST_SECONDS_APART
from twospeed.models.gsv.filtering import edge_map
from twospeed.models.gsv.network import GSVNet, ScaledImages, Step
from twospeed.ops.full_labels import full_size_labels
from twospeed.output.overlay import draw_caption
from twospeed.pipelines.segment import NEVER, Segmenter
from twospeed.weights.load import create_model

Pixels = NDArray[np.uint8]


def full_size(grid: torch.Tensor, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Bring a map on the grid, (1, 1, h, w), to a frame's size by its nearest cells: bool (H, W)."""
    rows, columns = (torch.arange(n) * m // n for n, m in zip(size, grid.shape[-2:], strict=True))
    return np.asarray((grid[0, 0][rows][:, columns] > 0.5).cpu().numpy(), np.bool_)


def painted(mask: NDArray[np.bool_]) -> Pixels:
    """White where a map is set, as an image (H, W, 3)."""
    return np.repeat((mask * np.uint8(255))[..., None], 3, axis=2)


def beside(panels: dict[str, Pixels]) -> Pixels:
    """Put captioned images into one row."""
    return np.concatenate([draw_caption(image, name) for name, image in panels.items()], axis=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--dataset", choices=("camvid", "cityscapes"), default="camvid")
    parser.add_argument("--model", default="segment_nano")
    parser.add_argument("--weights", default="default")
    parser.add_argument("--keyframe-weights")
    parser.add_argument("--steps", type=int, default=3, help="frames from the keyframe to the labelled one")
    parser.add_argument("--image-scale", type=float, default=0.5, help="of the image network alone")
    parser.add_argument("--frames", type=int, default=4, help="how many labelled frames are drawn")
    chosen = parser.parse_args()
    benchmark = BENCHMARKS[chosen.dataset]
    data = CamVid(chosen.data, "val") if chosen.dataset == "camvid" else Cityscapes(chosen.data, "val")
    parts = {} if chosen.keyframe_weights is None else {"keyframe_weights": chosen.keyframe_weights}
    model = create_model(chosen.model, chosen.weights, **parts)
    if not isinstance(model, GSVNet):
        parser.error(f"{chosen.model} propagates no labels; choose a GSVNet")
    segmenter = Segmenter(model, NEVER, labels=benchmark.classes)
    alone = Segmenter(ScaledImages(model.keyframe_network, chosen.image_scale), labels=benchmark.classes)
    steps: list[Step] = []
    original = segmenter.model.step
    segmenter.model.step = lambda *inputs: steps.append(original(*inputs)) or steps[-1]
    chosen.out.mkdir(parents=True, exist_ok=True)
    colours = np.array([*benchmark.classes.colours, *[(0, 0, 0)] * 256], np.uint8)[:256]
    counts = np.zeros(4)  # pixels, those at an edge, errors, those at an edge
    most = int(MOST_SECONDS_APART * benchmark.frame_rate)
    for chain in plan_chains(data, (chosen.steps,), most=most)[: chosen.frames]:
        segmenter.reset()
        images = [frame.image() for frame in chain.frames]
        labels = [segmenter.step(image) for image in images][-1].labels
        frame, size, step = chain.frames[-1], images[-1].shape[:2], steps[-1]
        truth = frame.labels()
        known = truth < len(benchmark.classes)
        wrong = (full_size_labels(step.warped[0], size).cpu().numpy() != truth) & known
        edges = edge_map(step.warped, model.edges)
        edges = full_size(edges if model.edges == "binary" else (edges - 0.5).abs() * 2, size)
        counts += known.sum(), (edges & known).sum(), wrong.sum(), (wrong & edges).sum()
        panels = {"image": images[-1], "edge map": painted(edges), "errors of warped labels": painted(wrong)}
        Image.fromarray(beside(panels)).save(chosen.out / f"{frame.name}_edges.png")
        panels = {
            f"{chosen.model}, keyframe {chosen.steps} frames ago": colours[labels],
            f"image network alone x{chosen.image_scale:g}": colours[alone.step(images[-1]).labels],
            "annotation": colours[truth],
        }
        Image.fromarray(beside(panels)).save(chosen.out / f"{frame.name}_labels.png")
    if not counts[0]:
        parser.error(f"{chosen.data}: no labelled frame has {chosen.steps} frames of video before it")
    at_edges, of_errors, wrong_share = (100 * counts[[1, 3, 2]] / np.maximum(counts[[0, 2, 0]], 1)).tolist()
    print(f"{at_edges:.1f} % of the pixels are at an edge, {of_errors:.1f} % of the errors")
    print(f"{wrong_share:.1f} % of the pixels are wrong after warping")


if __name__ == "__main__":
    main()
