"""Sizes, names and windows of the SlowFast Mask R-CNN."""

from __future__ import annotations

import pytest
import torch

from twospeed import CheckpointError, InputError, WeightsUnavailable, create_model, list_models
from twospeed.models.slowfast_maskrcnn.convert import to_ours
from twospeed.models.slowfast_maskrcnn.pathways import PathwayStream, SlowFastModule, temporal_kernels
from twospeed.weights.cost import cost_of
from twospeed.weights.load import recognise, save_model

TABLE_1 = {
    "1_1": 45_421_851,
    "3_3": 46_398_747,
    "7_7": 48_407_835,
    "1_7": 45_618_459,
    "3_7": 46_570_779,
}


@pytest.mark.parametrize("name", TABLE_1)
def test_parameters_are_those_of_the_reports_table_1(name):
    with torch.device("meta"):
        model = create_model(f"slowfast_maskrcnn_{name}", None)
    assert sum(p.numel() for p in model.parameters()) == TABLE_1[name]
    assert f"slowfast_maskrcnn_{name}" in list_models("track")


def test_trainable_batch_norm_has_more():
    with torch.device("meta"):
        model = create_model("slowfast_maskrcnn_3_7", None, frozen_batch_norm=False)
    assert sum(p.numel() for p in model.parameters()) > TABLE_1["3_7"]
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("frames", range(1, 33))
def test_kernels_shrink_every_pathway_to_one_frame(frames):
    assert sum(kernel - 1 for kernel in temporal_kernels(frames)) == frames - 1


@pytest.mark.parametrize(("m", "n"), [(1, 1), (1, 3), (3, 5), (5, 5), (5, 7), (1, 9), (7, 9), (9, 11)])
@torch.inference_mode()
def test_a_stream_equals_every_window(m, n):
    """Any odd m-n, clips shorter and longer than the window: the stream is the module on zero-padded windows."""
    torch.manual_seed(m + n)
    module = SlowFastModule(m, n, channels=8).eval()
    for layer in module.modules():
        if isinstance(layer, torch.nn.BatchNorm3d):
            layer.running_mean.normal_()
            layer.bias.normal_()
    for length in (1, 2, n, n + 3):
        frames = torch.randn(length, 1, 8, 3, 5)
        border = torch.zeros(n // 2, 1, 8, 3, 5)
        padded = torch.cat([border, frames, border])
        windows = [module(padded[t : t + n].permute(1, 2, 0, 3, 4))[:, :, 0] for t in range(length)]
        stream = PathwayStream(module)
        early = [result for frame in frames if (result := stream.push(frame)) is not None]
        assert len(early) == max(0, length - n // 2)
        streamed = early + stream.finish()
        torch.testing.assert_close(torch.stack(streamed), torch.stack(windows), rtol=1e-4, atol=1e-5)
        whole = module(padded.permute(1, 2, 0, 3, 4))  # (1, 8, length, 3, 5): all windows at once
        torch.testing.assert_close(whole.unbind(2), tuple(windows), rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_a_long_stream_holds_no_more_than_a_short_one():
    module = SlowFastModule(3, 7, channels=8).eval()
    stream, held = PathwayStream(module), []
    for _ in range(40):
        stream.push(torch.randn(1, 8, 2, 2))
        held.append(sum(len(q) for q in (*stream._spans.values(), *stream._waiting.values())))
    assert len(set(held[6:])) == 1


@pytest.mark.parametrize(("m", "n"), [(2, 7), (3, 6), (7, 3), (0, 1)])
def test_windows_that_have_no_middle_are_refused(m, n):
    with pytest.raises(ValueError, match=f"{m} slow and {n} fast frames; give odd numbers"):
        SlowFastModule(m, n)


def old_names(state: dict) -> dict:
    """The same weights as a checkpoint of the authors made with torchvision before 0.13."""
    renamed = {}
    for name, value in state.items():
        for i in range(4):
            name = name.replace(f"_blocks.{i}.0.", f"_blocks.{i}.").replace(
                f"mask_head.{i}.0.", f"mask_head.mask_fcn{i + 1}."
            )
        renamed[name.replace("rpn.head.conv.0.0.", "rpn.head.conv.")] = value
    return renamed


def test_old_and_new_authors_names_lead_to_ours(golden):
    shapes = golden("vos/slowfast_vos_model_3-7").case["state_dict"]
    state = {name: torch.empty(shape) for name, shape in shapes.items()}
    with torch.device("meta"):
        expected = create_model("slowfast_maskrcnn_3_7", None).state_dict()
    for names in (state, old_names(state)):
        ours = to_ours(names)
        assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in expected.items()}
        assert recognise(names) == "slowfast_maskrcnn_3_7"
    assert old_names(state).keys() != state.keys()


def test_our_file_comes_back_and_other_windows_are_refused(tmp_path):
    torch.manual_seed(0)
    model = create_model("slowfast_maskrcnn_1_1", None, frozen_batch_norm=False)
    save_model(model, tmp_path / "m.safetensors", model_name="slowfast_maskrcnn_1_1")
    again = create_model("slowfast_maskrcnn_1_1", tmp_path / "m.safetensors")  # batch norm is read from the names
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    with pytest.raises(CheckpointError, match="holds weights of slowfast_maskrcnn_1_1; choose that model"):
        create_model("slowfast_maskrcnn_3_7", tmp_path / "m.safetensors")
    with pytest.raises(CheckpointError, match="the weights say frozen_batch_norm=False"):
        create_model("slowfast_maskrcnn_1_1", tmp_path / "m.safetensors", frozen_batch_norm=True)


def test_no_weights_are_published():
    with pytest.raises(WeightsUnavailable, match="no weights are published for slowfast_maskrcnn_3_7; pass weights="):
        create_model("slowfast_maskrcnn_3_7", "default")


def test_an_unknown_option_is_named():
    with pytest.raises(InputError, match=r"slowfast_maskrcnn_3_7: .*num_frames"):
        create_model("slowfast_maskrcnn_3_7", None, num_frames=3)


def test_costs_are_counted_without_computing():
    one, seven = cost_of("slowfast_maskrcnn_1_1"), cost_of("slowfast_maskrcnn_7_7")
    assert (one.parameters, seven.parameters) == (TABLE_1["1_1"], TABLE_1["7_7"])
    assert one.gmacs < seven.gmacs < 3 * one.gmacs
    assert cost_of("stm").gmacs > cost_of("stcn").gmacs > 50
