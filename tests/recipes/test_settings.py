"""All recipes call the same thing by the same name, and the page on settings lists these names."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from twospeed.cli.train import load_recipe, settings_type
from twospeed.recipes import available

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "settings.md"
EVERYWHERE = {"out", "seed", "log_every", "checkpoint_minutes", "stop_after_steps"}
FORMER = {
    "warmup", "warm_up_iterations", "clip_norm", "clips_per_step", "clips_per_forward", "samples_per_forward",
    "lr_clips", "lr_steps", "bn_weight_decay", "checkpoint_every", "stop_after", "stop_after_epochs", "average_decay",
}  # fmt: skip


def settings_of(recipe: str) -> set[str]:
    return {field.name for field in dataclasses.fields(settings_type(load_recipe(recipe)))}


@pytest.mark.parametrize("recipe", list(available()))
def test_a_recipe_speaks_the_common_vocabulary(recipe):
    names = settings_of(recipe)
    assert names >= EVERYWHERE
    assert not names & FORMER


def test_the_page_lists_settings_that_there_are():
    rows = [line.split("|")[1] for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    listed = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert len(listed) > 25
    assert listed <= set().union(*map(settings_of, available()))
