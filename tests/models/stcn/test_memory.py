"""Reading the memory: against the authors' numbers, and the properties that any reader must have."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.goldens import seeded
from twospeed.models.banks import MemoryBank
from twospeed.models.memory import _top_k, read_memory


def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    memory_key = 0.9 * torch.from_numpy(seeded.array("stcn.mk", (1, 64, 288)))
    memory_value = torch.from_numpy(seeded.array("stcn.mv", (2, 512, 288)))[None]
    query_key = 0.9 * torch.from_numpy(seeded.array("stcn.qk", (1, 64, 8, 12)))
    return query_key, memory_key, memory_value


def affinity(**options) -> np.ndarray:
    """The weights themselves: values that are the identity. (1, N, P)."""
    query_key, memory_key, _ = inputs()
    return read_memory(query_key, memory_key, torch.eye(288)[None, None], **options)[0].flatten(2).numpy()


@pytest.mark.parametrize(("name", "top_k"), [("full", None), ("top20", 20), ("top50", 50)])
def test_readout_equals_the_authors(golden, name, top_k):
    case = golden("vos/stcn_memory_read")
    readout = read_memory(*inputs(), top_k=top_k)[0, :, ::8]
    np.testing.assert_allclose(readout, case.outputs[f"readout_{name}"], **case.case["tolerance"])


def test_affinity_equals_the_authors(golden):
    case = golden("vos/stcn_memory_read")
    np.testing.assert_allclose(affinity()[..., ::4], case.outputs["affinity_full"], **case.case["tolerance"])
    top20 = affinity(top_k=20)
    np.testing.assert_allclose(top20[..., ::4], case.outputs["affinity_top20"], **case.case["tolerance"])
    assert ((top20 > 0).sum(1) == case.outputs["affinity_top20_nonzero_per_query"]).all()


@pytest.mark.parametrize("sigma", [7, 3])
def test_kernelized_reading_equals_the_authors(golden, sigma):
    case = golden("vos/stcn_memory_read_kernelized")
    readout = read_memory(*inputs(), top_k=20, kernel_sigma=sigma)[0, :, ::8]
    np.testing.assert_allclose(readout, case.outputs[f"readout_sigma{sigma}"], **case.case["tolerance"])
    weights = affinity(top_k=20, kernel_sigma=sigma)[..., ::4]
    np.testing.assert_allclose(weights, case.outputs[f"affinity_sigma{sigma}"], **case.case["tolerance"])


@pytest.mark.parametrize("temporary", [True, False])
def test_a_temporary_frame_reads_like_a_permanent_one(golden, temporary):
    case = golden("vos/stcn_memory_read")
    query_key, memory_key, memory_value = inputs()
    bank = MemoryBank(top_k=20)
    for t in range(3):
        cells = slice(96 * t, 96 * (t + 1))
        bank.add(
            memory_key[0, :, cells].unflatten(1, (8, 12)),
            memory_value[0, :, :, cells].unflatten(2, (8, 12)),
            temporary=temporary and t == 2,
        )
    np.testing.assert_allclose(bank.read(query_key[0])[:, ::8], case.outputs["readout_top20"], **case.case["tolerance"])


@settings(max_examples=50, deadline=None)
@given(rows=st.integers(1, 6), n=st.integers(1, 900), k=st.integers(1, 40), seed=st.integers(0, 9999))
def test_top_k_by_groups_is_exact(rows, n, k, seed):
    k = min(k, n)
    x = torch.randn(rows, n, generator=torch.Generator().manual_seed(seed))
    values, index = _top_k(x, k)
    assert torch.equal(values.sort(-1).values, x.topk(k).values.sort(-1).values)
    assert torch.equal(x.gather(1, index), values)
    assert all(len(set(row)) == k for row in index.tolist())


def test_large_keys_do_not_overflow():
    query_key, memory_key, memory_value = inputs()
    for top_k in (None, 20):
        readout = read_memory(100 * query_key, 100 * memory_key, memory_value, top_k=top_k)
        assert readout.isfinite().all()
        assert readout.abs().max() > 0.1


def test_top_k_beyond_the_memory_is_the_full_read():
    torch.testing.assert_close(read_memory(*inputs(), top_k=10_000), read_memory(*inputs()), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("similarity", ["l2", "dot"])
def test_similarity_is_the_formula(similarity):
    query_key, memory_key, memory_value = inputs()
    product = memory_key[0].T @ query_key[0].flatten(1)  # (N, P)
    scores = product if similarity == "dot" else 2 * product - memory_key[0].square().sum(0)[:, None]
    expected = memory_value[0] @ (scores / 8).softmax(0)
    actual = read_memory(query_key, memory_key, memory_value, similarity=similarity)
    torch.testing.assert_close(actual[0].flatten(2), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("top_k", [None, 5])
def test_reading_is_differentiable(top_k):
    tensors = [x.clone().requires_grad_() for x in inputs()]
    read_memory(*tensors, top_k=top_k).square().sum().backward()
    assert all(x.grad is not None and x.grad.abs().sum() > 0 for x in tensors)


def fill(bank: MemoryBank, frames: int, objects: int = 1, **options) -> None:
    for t in range(frames):
        key = torch.full((4, 2, 3), float(t))
        bank.add(key, torch.full((objects, 5, 2, 3), float(t)), **options)


def test_the_bound_keeps_annotated_and_newest_frames():
    bank = MemoryBank(max_frames=4)
    fill(bank, 1, permanent=True)
    fill(bank, 30)
    assert bank.frames == 4
    kept = sorted({float(bank._values[0, 6 * slot, 0]) for slot in range(4)})
    assert kept == [0.0, 27.0, 28.0, 29.0]


def test_rows_are_preallocated_by_doubling():
    bank = MemoryBank()
    buffers = set()
    for _ in range(100):
        fill(bank, 1)
        buffers.add(bank._values.data_ptr())
    assert len(buffers) <= 9


def test_a_late_object_sees_only_frames_since_it_appeared():
    torch.manual_seed(0)
    keys, values = torch.randn(4, 8, 2, 3), torch.randn(4, 2, 5, 2, 3)
    bank, alone = MemoryBank(top_k=None), MemoryBank(top_k=None)
    for t in range(4):
        bank.add(keys[t], values[t, : 1 if t < 2 else 2])
        if t >= 2:
            alone.add(keys[t], values[t, 1:])
    query = torch.randn(8, 2, 3)
    torch.testing.assert_close(bank.read(query)[1:], alone.read(query))


def test_an_object_that_is_forgotten_sees_only_frames_since_then():
    torch.manual_seed(0)
    keys, values = torch.randn(5, 8, 2, 3), torch.randn(5, 3, 5, 2, 3)
    bank, whole, later = (MemoryBank(top_k=4) for _ in range(3))
    for t in range(5):
        if t == 3:
            bank.forget([1])
        bank.add(keys[t], values[t])
        whole.add(keys[t], values[t])
        if t >= 3:
            later.add(keys[t], values[t])
    query = torch.randn(8, 2, 3)
    read = bank.read(query)
    torch.testing.assert_close(read[[0, 2]], whole.read(query)[[0, 2]])
    torch.testing.assert_close(read[1], later.read(query)[1])
    restored = MemoryBank(top_k=4)
    restored.restore(*bank.state())
    torch.testing.assert_close(restored.read(query), read)


def test_frames_that_show_no_object_any_more_are_freed():
    torch.manual_seed(0)
    keys, values = torch.randn(5, 8, 2, 3), torch.randn(5, 2, 5, 2, 3)
    bank, later = MemoryBank(top_k=4), MemoryBank(top_k=4)
    for t in range(3):
        bank.add(keys[t], values[t], permanent=t == 1, hidden=[0] if t == 1 else [])
    bank.forget([1])
    assert bank.frames == 2
    bank.forget([0])
    assert bank.frames == 0
    for t in (3, 4):
        for each in (bank, later):
            each.add(keys[t], values[t])
    query = torch.randn(8, 2, 3)
    torch.testing.assert_close(bank.read(query), later.read(query))


def test_after_a_cut_only_permanent_frames_are_left():
    bank = MemoryBank()
    fill(bank, 2)
    fill(bank, 1, permanent=True)
    fill(bank, 1, temporary=True)
    bank.forget_passing()
    assert bank.frames == 1
