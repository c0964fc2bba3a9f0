"""SlowFast networks have the parameters and multiply-adds that the authors' code has, and that the papers print.

A multiply-add is one multiplication with its addition; convolutions, linear layers and the matrix products of non-local
blocks count.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from tests.conftest import GOLDENS
from twospeed.weights.catalog import find
from twospeed.weights.load import build

FACTS = json.loads((GOLDENS / "slowfast" / "facts.json").read_text())["models"]
RES3_AND_4 = {"nonlocal_res3": (1, 3), "nonlocal_res4": (1, 3, 5), "nonlocal_pool": (1, 2, 2)}
ALL_TEMPORAL = {"res4_temporal_blocks": 23}

# The facts' names of networks -> how they are built here
VARIANTS = {
    "SlowFast 4x16 R50": ("slowfast_r50_4x16", {}),
    "SlowFast 8x8 R50": ("slowfast_r50_8x8", {}),
    "SlowFast 4x16 R50 + NL (config: res3 1,3; res4 1,3,5)": ("slowfast_r50_4x16", RES3_AND_4),
    "SlowFast 8x8 R50 + NL (config: res3 1,3; res4 1,3,5)": (
        "slowfast_r50_8x8",
        {**RES3_AND_4, "fusion_kernel": 5},
    ),
    "SlowFast 8x8 R101_50_50": ("slowfast_r101_8x8", {}),
    "SlowFast 8x8 R101_50_50 + NL res4 6,13,20": ("slowfast_r101_8x8_nl", {"nonlocal_pool": (1, 2, 2)}),
    "SlowFast 8x8 R101_50_50 + NL, pool [2,2,2]": ("slowfast_r101_8x8_nl", {}),
    "SlowFast 8x8 R101_50_101": ("slowfast_r101_8x8", {"res4_temporal_blocks": (6, 23)}),
    "SlowFast 8x8 R101_101_101": ("slowfast_r101_8x8", ALL_TEMPORAL),
    "SlowFast 8x8 R101_101_101 + NL": ("slowfast_r101_8x8_nl", {**ALL_TEMPORAL, "nonlocal_pool": (1, 2, 2)}),
    "SlowFast 8x8 R101_101_101 + NL, pool [2,2,2]": ("slowfast_r101_8x8_nl", ALL_TEMPORAL),
    "SlowFast 16x8 R101_50_50": ("slowfast_r101_16x8", {}),
    "SlowFast 16x8 R101_50_50 + NL": ("slowfast_r101_16x8_nl", {"nonlocal_pool": (1, 2, 2)}),
    "SlowFast 16x8 R101_50_50 + NL, pool [2,2,2]": ("slowfast_r101_16x8_nl", {}),
    "SlowFast 16x8 R101_101_101": ("slowfast_r101_16x8", ALL_TEMPORAL),
    "Slow 4x16 R50": ("slow_r50_4x16", {}),
    "Slow 8x8 R50": ("slow_r50_8x8", {}),
    "Fast-only (beta=1) 32x2 R101, 23 temporal": ("fast_r101_32x2", {}),
    "Fast-only (beta=1) 32x2 R101, 23 temporal + NL": ("fast_r101_32x2_nl", {"nonlocal_pool": (1, 2, 2)}),
    "Fast-only (beta=1) 32x2 R101, 23 temporal + NL, pool [2,2,2]": ("fast_r101_32x2_nl", {}),
    "Fast-only (beta=1) 32x2 R101, 6 temporal": ("fast_r101_32x2", {"res4_temporal_blocks": 6}),
    "Fast-only (beta=1) 32x2 R101, 6 temporal + NL": (
        "fast_r101_32x2_nl",
        {"res4_temporal_blocks": 6, "nonlocal_pool": (1, 2, 2)},
    ),
    "Fast-only (beta=1) 32x2 R101, 6 temporal + NL, pool [2,2,2]": (
        "fast_r101_32x2_nl",
        {"res4_temporal_blocks": 6},
    ),
}

# At 224 pixels too: pooled non-local positions round down there
CROPS_OF_TRAINING = ("SlowFast 4x16 R50", "SlowFast 8x8 R101_50_50 + NL, pool [2,2,2]", "Slow 8x8 R50")

# What the papers print, in 1e9 multiply-adds of a 256-pixel view (slowfast.md section 9: those with NL pool (2, 2, 2))
PAPERS = {
    "slowfast_r50_4x16": 36.1,
    "slowfast_r50_8x8": 65.7,
    "slowfast_r101_8x8": 106,
    "slowfast_r101_8x8_nl": 115,
    "slowfast_r101_16x8": 213,
    "slowfast_r101_16x8_nl": 234,
    "fast_r101_32x2_nl": 552,
}


def cost_of_view(name: str, size: int = 256, **options: Any) -> tuple[int, int]:
    """Count parameters, and multiply-adds of one view, on the meta device."""
    with torch.device("meta"):
        network: Any = build(find(name), options)
        clip = torch.empty(1, 3, network.frames, size, size)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    for module in list(network.modules()):
        for child_name, child in module.named_children():
            if isinstance(child, nn.BatchNorm3d):  # not counted, and half of the time that counting takes
                setattr(module, child_name, nn.Identity())
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.eval()(clip)
    return parameters, counter.get_total_flops() // 2


def test_every_published_variant_is_listed():
    described = {name for name in FACTS if not name.startswith(("AVA", "Fast-only (beta=1) 32x2 R50"))}
    assert described == set(VARIANTS)


@pytest.mark.parametrize("variant", VARIANTS)
def test_parameters_and_multiply_adds_are_the_authors(variant):
    name, options = VARIANTS[variant]
    facts = FACTS[variant]
    for size in (256, 224) if variant in CROPS_OF_TRAINING else (256,):
        parameters, multiply_adds = cost_of_view(name, size, **options)
        assert parameters / 1e6 == pytest.approx(facts["parameters_millions"], abs=6e-5)
        assert multiply_adds / 1e9 == pytest.approx(facts[f"gmacs_{size}"], abs=6e-4)


@pytest.mark.parametrize("name", PAPERS)
def test_the_default_of_a_name_costs_what_its_paper_prints(name):
    assert cost_of_view(name)[1] / 1e9 == pytest.approx(PAPERS[name], abs=0.55)


@pytest.mark.parametrize(
    ("published", "name"),
    [
        ("AVA SlowFast 32x2 R50 (one box)", "slowfast_r50_8x8"),
        ("AVA SlowFast 32x2 R101_50_50 + NL (one box)", "slowfast_r101_8x8_nl"),
        ("AVA SlowFast 64x2 R101_50_50 + NL (one box)", "slowfast_r101_16x8_nl"),
    ],
)
def test_the_backbone_of_the_detection_networks_costs_what_theirs_does(published, name):
    options = {"num_classes": 80, "res5_stride": 1, "res5_dilation": 2, "crop_size": None}
    parameters, multiply_adds = cost_of_view(name, 256, **options)
    assert parameters / 1e6 == pytest.approx(FACTS[published]["parameters_millions"], abs=6e-5)
    assert multiply_adds / 1e9 == pytest.approx(FACTS[published]["gmacs_256"], abs=1e-3)
