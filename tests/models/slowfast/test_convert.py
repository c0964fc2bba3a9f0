import re

import numpy as np
import pytest
import torch

import twospeed
from tests.models.slowfast.test_network import tiny
from twospeed.models.slowfast import builders, convert
from twospeed.models.slowfast.transfer import inflate, initialise_from

NAMES = sorted(
    name for name in twospeed.list_models("classify") if name.startswith(("slow", "fast")) and "lite" not in name
)
SMALL = {"width": 8, "num_classes": 4}


def as_pytorchvideo(ours, pathways):
    """Our names -> PyTorchVideo's, written from its own table, the other way round."""
    theirs = {}
    layers = {"a": "conv_a", "a_bn": "norm_a", "b": "conv_b", "b_bn": "norm_b", "c": "conv_c", "c_bn": "norm_c"}
    for name, value in ours.items():
        stage, _, rest = name.partition(".")
        if stage == "head":
            new = f"blocks.{6 if pathways == 2 else 5}.proj.{name.split('.')[-1]}"
        elif stage.endswith("_fuse"):
            layer = rest.replace("conv_f2s", "conv_fast_to_slow").replace("bn.", "norm.")
            new = f"blocks.{int(stage[1]) - 1}.multipathway_fusion.{layer}"
        else:
            pathway, part, layer = re.fullmatch(r"pathway(\d)_(stem|res\d+)\.(.*)", rest).groups()
            layer = re.sub(r"branch2\.(\w+)\.", lambda m: f"branch2.{layers[m[1]]}.", layer)
            layer = layer.replace("branch1.", "branch1_conv.").replace("branch1_bn.", "branch1_norm.")
            if part == "stem":
                layer = layer.replace("bn.", "norm.")
            inside = f"multipathway_blocks.{pathway}." if pathways == 2 else ""
            block = "" if part == "stem" else f"res_blocks.{part[3:]}."
            new = f"blocks.{int(stage[1]) - 1}.{inside}{block}{layer}"
        theirs[new] = value
    return theirs


def as_caffe2(ours):
    """Our names -> Caffe2 blobs as numpy arrays, trailing ones cut off, with its momenta and counters."""
    kinds = {"weight": "s", "bias": "b", "running_mean": "rm", "running_var": "riv"}
    last = {}
    for name in ours:
        if match := re.match(r"s(\d)\.pathway0_res(\d+)", name):
            last[match[1]] = max(int(match[2]), last.get(match[1], 0))
    blobs = {"lr": np.float32(0.1), "model_iter": np.int64(7)}
    for name, value in ours.items():
        if name.endswith("num_batches_tracked"):
            continue
        layer, _, kind = name.rpartition(".")
        is_norm = layer.endswith("bn")
        ending = f"bn_{kinds[kind]}" if is_norm else kind[0]
        if layer == "head.projection":
            blob = "pred"
        elif match := re.fullmatch(r"s1\.pathway(\d)_stem\.(conv|bn)", layer):
            blob = ("t_" if match[1] == "1" else "") + ("conv1" if match[2] == "conv" else "res_conv1")
        elif match := re.fullmatch(r"s(\d)_fuse\.\w+", layer):
            stage = match[1]
            blob = "t_pool1_subsample" if stage == "1" else f"t_res{stage}_{last[stage]}_branch2c_bn_subsample"
        elif match := re.fullmatch(r"s(\d)\.pathway0_nonlocal(\d+)\.(\w+)", layer):
            blob = f"nonlocal_conv{match[1]}_{match[2]}" + ("" if is_norm else match[3].replace("conv", ""))
        else:
            match = re.fullmatch(r"s(\d)\.pathway(\d)_res(\d+)\.branch(1|2\.[abc])(?:_bn)?", layer)
            blob = ("t_" if match[2] == "1" else "") + f"res{match[1]}_{match[3]}_branch{match[4].replace('.', '')}"
        array = value.numpy()
        while array.ndim > 2 and array.shape[-1] == 1:
            array = array[..., 0]
        blobs[f"{blob}_{ending}"] = array
        blobs[f"{blob}_{ending}_momentum"] = np.zeros_like(array)
    return blobs


@pytest.mark.parametrize("name", NAMES)
def test_every_network_is_rebuilt_from_the_names_and_shapes_of_its_weights(name):
    with torch.device("meta"):
        state = getattr(builders, name)().state_dict()
    options = convert.options_from(convert.to_ours(state), name)
    with torch.device("meta"):
        rebuilt = getattr(builders, name)(**options).state_dict()
    assert {key: value.shape for key, value in rebuilt.items()} == {key: value.shape for key, value in state.items()}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("slowfast_r101_8x8", {"res4_temporal_blocks": 23}),
        ("slowfast_r101_8x8", {"res4_temporal_blocks": (6, 23), "fusion_kernel": 7}),
        ("slowfast_r50_8x8", {"nonlocal_res3": (1, 3), "nonlocal_res4": (1, 3, 5), "fusion_kernel": 5}),
        ("slowfast_r50_8x8", {"fusion": "time_to_channel", "alpha": 8, "num_classes": 7}),
        ("slowfast_r50_8x8", {"fusion": "time_to_channel", "fusion_merge": "sum", "alpha": 8}),
        ("slowfast_r50_8x8", {"fusion": "time_strided_sample", "width": 32, "beta_inverse": 4}),
    ],
)
def test_what_shapes_determine_is_read_from_them(name, options):
    with torch.device("meta"):
        state = getattr(builders, name)(**options).state_dict()
    found = convert.options_from(state, name)
    assert {key: found[key] for key in options} == options


@pytest.mark.parametrize("name", NAMES)
def test_pytorchvideo_names(name):
    if name.endswith("_nl"):
        pytest.skip("PyTorchVideo has no non-local blocks")
    with torch.device("meta"):
        network = getattr(builders, name)(**SMALL)
    ours = network.state_dict()
    theirs = as_pytorchvideo(ours, len(network.pathways))
    for prefix in ("", "model.", "module."):
        converted = convert.to_ours({prefix + key: value for key, value in theirs.items()})
        assert converted.keys() == ours.keys()
        assert all(converted[key] is ours[key] for key in ours)
        assert convert.options_from(converted, name)["average"] == "logits"
        assert convert.to_ours(converted) == converted
        assert convert.options_from(convert.to_ours(converted), name)["average"] == "logits"


@pytest.mark.parametrize("name", ["slowfast_r50_8x8_nl", "slow_r50_8x8", "slowfast_r50_4x16"])
def test_caffe2_blobs(name):
    torch.manual_seed(0)
    ours = getattr(builders, name)(**SMALL).state_dict()
    blobs = as_caffe2(ours)
    converted = convert.to_ours(blobs)
    assert converted.keys() == ours.keys()
    assert all(torch.equal(converted[key], ours[key]) for key in ours)
    network = twospeed.create_model(name, weights={"blobs": blobs})
    assert network.num_classes == 4
    assert network.average == "probabilities"


def test_a_strange_key_is_kept_for_the_report():
    state = tiny().state_dict()
    assert convert.to_ours({**state, "s9.extra": torch.zeros(1)})["s9.extra"].shape == (1,)
    video = {"blocks.0.conv.weight": torch.zeros(8, 3, 1, 7, 7), "blocks.7.odd.weight": torch.zeros(1)}
    assert "blocks.7.odd.weight" in convert.to_ours(video)


def test_every_wrong_key_is_listed_at_once():
    with torch.device("cpu"):
        state = builders.slow_r50_4x16(**SMALL).state_dict()
    state["s2.pathway0_res0.branch2.b.weight"] = torch.zeros(2, 2, 1, 3, 3)
    del state["s3.pathway0_res1.branch2.a.weight"]
    state["stranger"] = torch.zeros(1)
    with pytest.raises(twospeed.CheckpointError) as caught:
        twospeed.create_model("slow_r50_4x16", weights=state)
    for key in ("s2.pathway0_res0.branch2.b.weight", "s3.pathway0_res1.branch2.a.weight", "stranger"):
        assert key in str(caught.value)


@pytest.mark.parametrize(
    ("made", "asked", "message"),
    [
        ("slow_r50_4x16", "slowfast_r50_8x8", "the Slow pathway alone; slowfast_r50_8x8 does not: .*slow_"),
        ("slowfast_r50_8x8", "slow_r50_8x8", "both pathways"),
        ("fast_r101_32x2", "slow_r50_8x8", "the Fast pathway alone"),
        ("slowfast_r101_8x8", "slowfast_r50_8x8", "23 blocks in res4, slowfast_r50_8x8 has 6: choose the r101"),
    ],
)
def test_weights_of_another_network_name_the_likely_cause(made, asked, message):
    with torch.device("meta"):
        state = getattr(builders, made)(**SMALL).state_dict()
    with pytest.raises(twospeed.CheckpointError, match=message):
        convert.options_from(state, asked)


def test_an_option_that_disagrees_with_the_weights_is_refused():
    state = builders.slow_r50_4x16(**SMALL).state_dict()
    with pytest.raises(twospeed.CheckpointError, match="num_classes=4"):
        twospeed.create_model("slow_r50_4x16", weights=state, num_classes=400)


@pytest.mark.parametrize(
    ("name", "recognised"),
    [
        ("slowfast_r50_4x16", "slowfast_r50_4x16"),
        ("slowfast_r50_8x8_nl", "slowfast_r50_8x8_nl"),
        ("slowfast_r101_16x8", "slowfast_r101_8x8"),  # shapes cannot tell the number of frames
        ("slow_r50_4x16", "slow_r50_8x8"),
        ("fast_r101_32x2_nl", "fast_r101_32x2_nl"),
    ],
)
def test_weights_are_recognised(name, recognised):
    with torch.device("meta"):
        state = getattr(builders, name)(**SMALL).state_dict()
    assert convert.recognise(state) == recognised
    assert convert.recognise({"key_encoder.conv1.weight": torch.zeros(1)}) is None
    assert (
        convert.recognise({"conv1.weight": torch.zeros(64, 3, 7, 7), "layer1.0.conv1.weight": torch.zeros(1)}) is None
    )


def image_resnet(width=8):
    """A ResNet-50 for images in torchvision's names, `width` channels wide."""
    state = {"conv1.weight": torch.randn(width, 3, 7, 7), "fc.weight": torch.randn(10, width * 32)}
    state |= {"fc.bias": torch.randn(10), **norm("bn1", width)}
    channels = width
    for layer, depth in enumerate((3, 4, 6, 3), start=1):
        inner = width * 2 ** (layer - 1)
        for i in range(depth):
            prefix = f"layer{layer}.{i}"
            state[f"{prefix}.conv1.weight"] = torch.randn(inner, channels, 1, 1)
            state[f"{prefix}.conv2.weight"] = torch.randn(inner, inner, 3, 3)
            state[f"{prefix}.conv3.weight"] = torch.randn(inner * 4, inner, 1, 1)
            for n, size in ((1, inner), (2, inner), (3, inner * 4)):
                state |= norm(f"{prefix}.bn{n}", size)
            if i == 0:
                state[f"{prefix}.downsample.0.weight"] = torch.randn(inner * 4, channels, 1, 1)
                state |= norm(f"{prefix}.downsample.1", inner * 4)
            channels = inner * 4
    return state


def norm(name, size):
    return {f"{name}.{kind}": torch.rand(size) for kind in ("weight", "bias", "running_mean", "running_var")}


def test_image_weights_fill_a_slow_network_and_see_a_still_as_the_image_network_does():
    state = image_resnet()
    network = builders.slow_r50_8x8(**SMALL)
    done = initialise_from(network, state)
    assert set(done.kept) == {"head.projection.weight", "head.projection.bias"}
    assert not done.unused
    assert len(done.inflated) == 6 + 3  # the temporal kernels of res4 and res5
    kernel = network.s4.pathway0_res2.branch2.a.weight
    assert torch.allclose(kernel.sum(dim=2), state["layer3.2.conv1.weight"], atol=1e-6)
    assert "inflated over time" in str(done)


def test_inflation_keeps_the_answer_to_a_still():
    weight, image = torch.randn(4, 3, 3, 3), torch.randn(1, 3, 9, 9)
    still = image.unsqueeze(2).expand(1, 3, 5, 9, 9)
    flat = torch.nn.functional.conv2d(image, weight)
    deep = torch.nn.functional.conv3d(still, inflate(weight, 5))
    assert torch.allclose(deep[:, :, 0], flat, atol=1e-5)


def test_slow_only_weights_start_a_slowfast_network():
    torch.manual_seed(1)
    slow = builders.slow_r50_8x8(**SMALL).state_dict()
    network = builders.slowfast_r50_8x8(**SMALL)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    done = initialise_from(network, slow)
    entering = "s3.pathway0_res0.branch2.a.weight"  # its input also holds fused channels
    assert entering in done.kept
    assert torch.equal(network.state_dict()[entering], before[entering])
    assert torch.equal(
        network.state_dict()["s3.pathway0_res1.branch2.a.weight"], slow["s3.pathway0_res1.branch2.a.weight"]
    )
    assert all(
        "pathway1" in key or "fuse" in key or "in the weights," in why or "head" in key
        for key, why in done.kept.items()
    )

    widened = initialise_from(network, slow, widen=True)
    assert entering in widened.widened
    filled = network.state_dict()[entering]
    assert torch.equal(filled[:, : slow[entering].shape[1]], slow[entering])
    assert torch.equal(filled[:, slow[entering].shape[1] :], before[entering][:, slow[entering].shape[1] :])


def test_weights_of_something_else_are_refused():
    with pytest.raises(twospeed.CheckpointError, match="none of these 1 entries fits"):
        initialise_from(tiny(), {"decoder.weight": torch.zeros(3)})


def test_a_saved_network_remembers_what_its_weights_cannot_tell(tmp_path):
    from twospeed.weights.load import save_model

    made = builders.slow_r50_8x8(**SMALL, average="logits", frames=16, nonlocal_res4=(1,), nonlocal_pool=(1, 2, 2))
    save_model(made, tmp_path / "w.safetensors", model_name="slow_r50_8x8")
    again = twospeed.create_model("slow_r50_8x8", weights=tmp_path / "w.safetensors")
    assert again.recorded_options == made.recorded_options
    other = twospeed.create_model("slow_r50_8x8", weights=tmp_path / "w.safetensors", nonlocal_pool=(2, 2, 2))
    assert other.recorded_options["nonlocal_pool"] == [2, 2, 2]
