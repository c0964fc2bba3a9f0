"""The catalogue: every name builds, every default is of the variant that is counted, every address is an address."""

from __future__ import annotations

import pytest

from twospeed.weights.catalog import CATALOG, PUBLISHED, published_for
from twospeed.weights.cost import cost_of


def test_a_model_is_counted_in_the_variant_of_its_default_weights():
    assert cost_of("slowfast_r101_8x8").parameters == 62_826_968  # PyTorchVideo's: temporal kernels in all of res4


@pytest.mark.parametrize(
    "name", [name for name, entry in CATALOG.items() if entry.weights and entry.task != "classify"]
)
def test_every_model_that_ships_is_counted(name):
    cost = cost_of(name)
    assert cost.parameters > 10_000
    assert cost.gmacs > 0.1


def test_published_files_fit_models_that_exist():
    for file in PUBLISHED:
        assert set(file.models) <= set(CATALOG), file.what
        assert file.url.startswith("https://")
    assert len({file.url for file in PUBLISHED}) == len(PUBLISHED)
    assert any("SLOWFAST_64x2" in file.url for file in published_for("slowfast_r101_16x8_nl_ava"))


def test_default_weights_state_licence_and_training_data():
    for entry in CATALOG.values():
        if entry.weights is not None:
            assert entry.weights.licence, entry.name
            assert entry.weights.trained_on, entry.name


def test_trackers_say_whether_they_need_masks():
    for name, entry in CATALOG.items():
        if entry.task == "track":
            assert entry.needs_masks == (not name.startswith(("slowfast_maskrcnn", "find_nano"))), name


def test_the_report_s_scores_are_of_the_network_with_its_context_branch():
    (name,) = [name for name in CATALOG["slowfast_r101_16x8_nl_ava"].scores if "(report)" in name]
    assert name.endswith("built with context=True")
