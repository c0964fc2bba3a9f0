import pytest
import torch

from twospeed.errors import InputError
from twospeed.models.slowfast import builders
from twospeed.models.slowfast.blocks import NonLocal
from twospeed.models.slowfast.inference import for_inference
from twospeed.models.slowfast.network import SlowFast
from twospeed.ops import bf16, onednn
from twospeed.ops.fuse import fuse_batch_norm
from twospeed.weights.load import create_model, save_model

TINY = {"depths": (1, 1, 2, 1), "width": 16, "beta_inverse": 4, "num_classes": 5, "frames": 8}


def tiny(seed=0, **options):
    """A network with statistics and scales that a mistake in folding them would show."""
    torch.manual_seed(seed)
    network = SlowFast(**{**TINY, "zero_init_final_bn": False, **options}).eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm3d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, std=0.1)
            torch.nn.init.normal_(module.running_mean, std=0.1)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
    if "head" not in options:
        torch.nn.init.normal_(network.head.projection.weight, std=0.5)
    return network


def relative(found, expected):
    return float((found - expected).abs().max() / expected.abs().max())


VARIANTS = {
    "slowfast": {},
    "kernel 7": {"fusion_kernel": 7},
    "plain stride": {"slow_sampling": "stride"},
    "alpha 8": {"alpha": 8},
    "time to channel": {"fusion": "time_to_channel"},
    "time to channel, summed": {"fusion": "time_to_channel", "fusion_merge": "sum"},
    "conv, summed": {"fusion_channel_ratio": 4, "fusion_merge": "sum"},
    "sample": {"fusion": "time_strided_sample"},
    "slow only": {"pathways": ("slow",)},
    "fast only": {"pathways": ("fast",)},
    "some temporal blocks": {"res4_temporal_blocks": (1, 2)},
    "non-local": {"nonlocal_res3": (0,), "nonlocal_res4": (1,), "nonlocal_pool": (2, 2, 2)},
    "non-local, softmax": {"nonlocal_res4": (0, 1), "nonlocal_mode": "softmax", "nonlocal_pool": (1, 2, 2)},
    "non-local, unpooled": {"nonlocal_res4": (0,), "nonlocal_pool": (1, 1, 1)},
    "stride 16": {"res5_stride": 1, "res5_dilation": 2},
    "global pool": {"crop_size": None},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_fused_network_computes_the_same(variant):
    network = tiny(**VARIANTS[variant])
    clip = torch.randn(2, 3, 8, 48, 64)
    with torch.no_grad():
        expected = network(clip)
        state = {key: value.clone() for key, value in network.state_dict().items()}
        fused = for_inference(network)
        assert fused(clip).shape == expected.shape
        assert relative(fused(clip), expected) < 2e-5
        assert relative(fused(clip), expected) < 2e-5  # a second call: nothing of the first is left behind
        for ours, theirs in zip(fused.features(clip), network.features(clip), strict=True):
            assert relative(ours, theirs) < 1e-4  # a softmax of large affinities amplifies rounding
    assert all(torch.equal(value, network.state_dict()[key]) for key, value in state.items())


def test_the_fused_network_works_without_fused_kernels(monkeypatch):
    network, clip = tiny(), torch.randn(1, 3, 8, 64, 64)
    monkeypatch.setattr(onednn, "works", lambda dtype: False)
    with torch.no_grad():
        assert relative(for_inference(network)(clip), network(clip)) < 2e-5


def test_bfloat16_is_close():
    network, clip = tiny(), torch.randn(1, 3, 8, 64, 64)
    with torch.no_grad():
        logits = for_inference(network, torch.bfloat16)(clip)
        assert logits.dtype == torch.float32
        assert float((logits.softmax(2) - network(clip).softmax(2)).abs().max()) < 0.03


@pytest.mark.parametrize("fused", [True, False])
def test_convolutions_that_are_wrong_in_bfloat16_are_computed_in_single_precision(monkeypatch, caplog, fused):
    network, clip = tiny(), torch.randn(1, 3, 8, 64, 64)
    fast = for_inference(network, torch.bfloat16)
    if not fused:
        monkeypatch.setattr(onednn, "works", lambda dtype: False)
    monkeypatch.setattr(bf16, "_verdicts", {})
    monkeypatch.setattr(bf16, "_largest_error", lambda *_: float("nan"))  # of a machine where all of them are wrong
    with torch.no_grad():
        assert float((fast(clip).softmax(2) - network(clip).softmax(2)).abs().max()) < 0.03
    assert "conv2d" in caplog.text
    assert ("fused_convolution" in caplog.text) == (fused and onednn.works(torch.bfloat16))


def test_the_clip_given_to_the_fused_network_is_not_changed():
    network = for_inference(tiny())
    clip = torch.randn(1, 3, 8, 64, 64).contiguous(memory_format=torch.channels_last_3d)
    before = clip.clone()
    network(clip)
    assert torch.equal(clip, before)


def test_fusing_needs_running_statistics():
    with pytest.raises(ValueError, match="running statistics"):
        fuse_batch_norm(torch.nn.Conv3d(2, 2, 1), torch.nn.BatchNorm3d(2, track_running_stats=False))


def test_one_position_at_the_training_crop_more_beyond_and_whole_below():
    network = tiny(crop_size=64)
    with torch.no_grad():
        assert network(torch.randn(1, 3, 8, 64, 64)).shape == (1, 1, 5)
        assert network(torch.randn(1, 3, 8, 96, 128)).shape == (1, 2 * 3, 5)
        assert network(torch.randn(2, 3, 8, 32, 32)).shape == (2, 1, 5)
        assert tiny(crop_size=None)(torch.randn(1, 3, 8, 96, 128)).shape == (1, 1, 5)


def test_any_number_of_frames_that_alpha_divides():
    network = tiny()
    with torch.no_grad():
        assert network(torch.randn(1, 3, 16, 64, 64)).shape[2] == 5
    with pytest.raises(InputError, match="6 frames, not a multiple of alpha = 4; this network expects 8"):
        network(torch.randn(1, 3, 6, 64, 64))
    with pytest.raises(InputError, match=r"\(2, 8, 3, 64, 64\), expected \(N, 3, T, H, W\)"):
        network(torch.randn(2, 8, 3, 64, 64))


def test_slow_frames_reach_the_slow_pathway():
    network = tiny(depths=(1, 1, 1, 1))
    slow, fast = network.split(torch.arange(8.0).view(1, 1, 8, 1, 1).expand(1, 3, 8, 2, 2))
    assert slow[0, 0, :, 0, 0].tolist() == [0, 7]
    assert fast.shape[2] == 8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pathways": ("fast", "slow")}, "pathways"),
        ({"depths": (1, 1, 1)}, "depths"),
        ({"beta_inverse": 3}, "multiple of beta_inverse"),
        ({"fusion_kernel": 4}, "fusion_kernel=4"),
        ({"fusion": "magic"}, "fusion='magic'"),
        ({"fusion_merge": "product"}, "fusion_merge='product'"),
        ({"fusion_merge": "sum"}, "as many lateral as Slow channels"),
        ({"nonlocal_res4": (2,)}, "res4 has blocks 0 to 1"),
        ({"nonlocal_res3": (-1,)}, "res3 has blocks 0 to 0"),
        ({"nonlocal_res4": (0,), "nonlocal_mode": "cosine"}, "nonlocal_mode='cosine'"),
        ({"res4_temporal_blocks": (1, 1, 1)}, "2 pathways"),
    ],
)
def test_numbers_that_make_no_network_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        SlowFast(**{**TINY, **options})


def test_builders_refuse_unknown_options_by_name():
    with pytest.raises(InputError, match="unknown option colour; a SlowFast network takes num_classes"):
        builders.slowfast_r50_8x8(colour=True)


def test_a_clip_too_small_for_nonlocal_pooling_is_refused():
    network = tiny(nonlocal_res4=(0,), nonlocal_pool=(2, 2, 2), alpha=8)
    for model in (network, for_inference(network)):
        with pytest.raises(InputError, match="smaller nonlocal_pool"):
            model(torch.randn(1, 3, 8, 64, 64))


def test_fresh_residuals_add_nothing():
    """Zero-initialised last norms: at the start a block is its shortcut, a non-local block the identity."""
    block = NonLocal(8, (1, 2, 2), "dot_product")
    torch.nn.init.zeros_(block.bn.weight)
    x = torch.randn(1, 8, 2, 4, 4)
    assert torch.equal(block.eval()(x), x)
    network = SlowFast(**TINY)
    assert all(not block.branch2.c_bn.weight.any() for block in network.s3.children())
    assert float(network.head.projection.weight.detach().std()) == pytest.approx(0.01, rel=0.1)


def test_training_reaches_every_parameter():
    network = tiny(nonlocal_res4=(0,), nonlocal_pool=(1, 2, 2)).train()
    network(torch.randn(2, 3, 8, 64, 64)).square().mean().backward()
    silent = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum()]
    # the biases before a batch norm cannot matter in training, nor can theta's constant part
    assert all("nonlocal" in name and name.endswith(".bias") for name in silent)


def test_a_head_of_another_kind_receives_the_features():
    class Corner(torch.nn.Module):
        def forward(self, features, boxes):
            return features[0][:, :3, 0, 0, 0] + boxes

    network = tiny(head=Corner())
    clip = torch.randn(1, 3, 8, 64, 64)
    with torch.no_grad():
        found = network(clip, torch.full((1, 3), 2.0))
        assert torch.allclose(found, network.features(clip)[0][:, :3, 0, 0, 0] + 2)
        assert torch.allclose(for_inference(network)(clip, torch.full((1, 3), 2.0)), found, atol=1e-4)


def test_the_slow_pathway_takes_every_alpha_th_frame_where_that_is_asked_for(tmp_path):
    clip = torch.arange(8.0).view(1, 1, 8, 1, 1).expand(1, 3, 8, 32, 32)
    seen = {kind: tiny(slow_sampling=kind).split(clip)[0][0, 0, :, 0, 0].tolist() for kind in ("linspace", "stride")}
    assert seen == {"linspace": [0, 7], "stride": [0, 4]}
    network = create_model("slowfast_r50_4x16", None, width=16, slow_sampling="stride")
    save_model(network, tmp_path / "w.safetensors", model_name="slowfast_r50_4x16")
    assert create_model("slowfast_r50_4x16", tmp_path / "w.safetensors").slow_sampling == "stride"
    with pytest.raises(InputError, match="slow_sampling='random': choose linspace or stride"):
        tiny(slow_sampling="random")
