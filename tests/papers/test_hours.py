"""Hours to train: every entry has them, from the paper or estimated from multiply-adds that are counted here again."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from twospeed.cli.train import apply_settings, load_recipe, parse_options, starting_settings
from twospeed.evaluation.semseg import BENCHMARKS
from twospeed.models.bisenet.network import BiSeNet
from twospeed.models.gsv.loss import freeze_keyframe_network, roll_out
from twospeed.models.unrolled import UnrolledPropagation
from twospeed.papers.facts import PAPERS, Training, Weights, read_paper
from twospeed.papers.tables import fill
from twospeed.recipes.slowfast_maskrcnn import let_learn
from twospeed.weights.catalog import KINETICS_600, find
from twospeed.weights.load import build

SIZES = {
    "kinetics400": 240_000, "kinetics600": 392_000, "kinetics700": 545_000,  # report, section 3: less val and test
    "cityscapes": 2_975, "camvid": 367,  # GSVNet, section 4.1
    "davis": 4_219,  # frames of DAVIS-2017's 60 training sequences
}  # fmt: skip
FRAME = {"cityscapes": (1024, 2048), "camvid": (720, 960)}

ENTRIES = {f"{name} {key}": weights for name in PAPERS for key, weights in read_paper(name).weights.items()}
COUNTED = {step.command: step for weights in ENTRIES.values() if not weights.hours for step in weights.train}


def test_hours_are_multiply_adds_by_what_a_gpu_computes():
    """78e12 multiply-adds a second, of which 30 %: an hour is 8.424e16."""
    weights = Weights("", (Training("a", 1_000_000, 8.424e11), Training("b", 500_000, 16.848e10)))
    assert [round(step.estimated_hours, 6) for step in weights.train] == [10, 1]
    assert weights.hours_to_train() == (
        "about 11 on one A100 "
        "(estimate: 9.3e17 multiply-adds at 30 % of its TF32 peak, 156 TFLOPS; without reading data)"
    )
    assert replace(weights, hours="about 30 (section F.4)").hours_to_train() == "about 30 (section F.4)"


@pytest.mark.parametrize("name", PAPERS)
def test_no_cell_is_without_hours(name):
    paper = read_paper(name)
    printed = [line for table in paper.tables for line in fill(paper, table).missing]
    assert not any("not given" in line for line in printed)
    lines = [line for line in printed if "hours to train" in line]
    assert len(lines) >= len(paper.weights)
    assert all(("(estimate: " in line) != ("(section " in line.partition("hours to train")[2]) for line in lines)


def test_where_the_paper_gives_hours_the_estimate_is_of_their_order():
    """The supplement's section F.4: around 30 hours for stages 0 and 3, on other GPUs."""
    steps = [counted("stcn", "--preset static"), counted("stcn", "--preset video")]
    assert sum(Training("", *step).estimated_hours for step in steps) == pytest.approx(30, rel=0.5)


@pytest.mark.slow
@pytest.mark.parametrize("command", COUNTED)
def test_what_is_stored_is_what_is_counted(command):
    recipe, options = command.removeprefix("twospeed train ").split(" ", 1)
    samples, multiply_adds = counted(recipe, options)
    assert COUNTED[command].samples == pytest.approx(samples, rel=0.03)
    assert COUNTED[command].multiply_adds == pytest.approx(multiply_adds, rel=0.01)


def test_kinetics_600_starts_are_those_of_the_network():
    """The preset has those of 16x8: the commands of the other networks name theirs."""
    for key, model in (("k700-8x8", "slowfast_r101_8x8_nl"), ("k700-16x8", "slowfast_r101_16x8_nl")):
        (step,) = read_paper("slowfast_ava").weights[key].train
        assert settings("slowfast_kinetics", step.command.split("slowfast_kinetics ")[1]).weights == KINETICS_600[model]


# ---------------------------------------------------------------- samples, and multiply-adds of one, of a recipe


def settings(recipe: str, options: str) -> Any:
    words = shlex.split(options)
    preset = words[words.index("--preset") + 1] if "--preset" in words else None
    if preset is not None:
        del words[words.index("--preset") : words.index("--preset") + 2]
    module = load_recipe(recipe)
    start = starting_settings(module, recipe, preset, None)
    return apply_settings(start, parse_options(words, type(start)))


@cache
def counted(recipe: str, options: str) -> tuple[float, float]:
    return RECIPES[recipe](load_recipe(recipe), settings(recipe, options))


def multiply_adds(forward: Callable[[], Tensor]) -> float:
    """Count a forward pass and its backward pass, which skips what is frozen; nothing is computed."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        forward().sum().backward()
    return counter.get_total_flops() / 2


def kinetics(module: Any, config: Any) -> tuple[float, float]:
    def forward() -> Tensor:
        network = module.build(config).train()
        return network(torch.empty(1, 3, network.frames, config.crop, config.crop))

    return config.epochs * SIZES[config.train.parts[0]], multiply_adds(forward)


def ava(module: Any, config: Any) -> tuple[float, float]:
    def forward() -> Tensor:
        network = module.build(config).train()
        return network(torch.empty(1, 3, network.frames, config.crop, config.crop), [torch.empty(1, 4)])

    return config.iterations * config.batch, multiply_adds(forward)


def stcn(module: Any, config: Any) -> tuple[float, float]:
    (side,), (batch,), (objects,) = config.crop, config.batch, config.objects

    def forward() -> Tensor:
        network = UnrolledPropagation(module.build(config).train())
        return network(torch.empty(1, 3, 3, side, side), torch.empty(1, objects, side, side), torch.empty(1, objects))

    return config.iterations * batch, multiply_adds(forward)


def segmentation(module: Any, config: Any) -> tuple[float, float]:
    def forward() -> Tensor:
        network = module.build(replace(config, backbone=None)).eval()  # a batch of 1 has no statistics
        images = torch.empty(1, 3, config.crop, config.crop)
        return (
            sum(s.sum() for s in network.training_scores(images)) if isinstance(network, BiSeNet) else network(images)
        )

    return config.epochs * SIZES[config.dataset], multiply_adds(forward)


def propagation(module: Any, config: Any) -> tuple[float, float]:
    """The mean over distances, of which every epoch has as many snippets each."""
    height, width = (int(side * config.patch) // 32 * 32 for side in FRAME[config.dataset])

    def forward() -> Tensor:
        given = {"flow": config.flow, "delay_kernel": config.delay_kernel, "learned_delay": config.learned_delay}
        classes = len(BENCHMARKS[config.dataset].classes)
        options = {**given, "intra": config.intra, "fusion": config.fusion, "num_classes": classes}
        network = freeze_keyframe_network(build(find(config.model), options))
        network.keyframe_scale = 1.0
        return sum(roll_out(network, torch.empty(1, d + 1, 3, height, width))[-1].sum() for d in config.distances)

    count = len(config.distances)
    return config.epochs * count * SIZES[config.dataset], multiply_adds(forward) / count


def maskrcnn(module: Any, config: Any) -> tuple[float, float]:
    """A stage alone, of frames at 749 x 1333, padded: the sampled regions, a quarter of them with masks."""
    stage = "video" if config.epochs else "detector"
    frames = config.stretch if config.epochs else 1

    def forward() -> Tensor:
        network = build(find(config.model), config.model_options)
        let_learn(config, network, stage)
        around = network.window // 2 if config.epochs else 0
        detector, heads = network.detector, network.detector.roi_heads
        pyramid = detector.backbone(torch.empty(frames + 2 * around, 3, 768, 1344))
        scores = sum(part.sum() for level in detector.rpn.head(list(pyramid.values())) for part in level)
        if config.epochs:
            pyramid = {k: network.slow_fast(v.transpose(0, 1)[None])[0].transpose(0, 1) for k, v in pyramid.items()}
        read = sum(level.mean() for level in pyramid.values())
        boxes = heads.box_predictor(heads.box_head(torch.empty(512 * frames, 256, 7, 7) * read))
        masks = heads.mask_predictor(heads.mask_head(torch.empty(128 * frames, 256, 14, 14) * read))
        return scores + masks.sum() + sum(part.sum() for part in boxes)

    epochs = config.epochs or config.detector_epochs
    return epochs * SIZES["davis"], multiply_adds(forward) / frames


RECIPES = {
    "slowfast_kinetics": kinetics, "slowfast_ava": ava, "stcn": stcn, "segmentation": segmentation,
    "gsvnet": propagation, "slowfast_maskrcnn": maskrcnn,
}  # fmt: skip
