"""The layer for the CPU with what vLLM hands it."""

from types import SimpleNamespace

import pytest
import torch
from vllm_paged import CALLS, MIXED, SIZE, Paged

pytest.importorskip("vllm.version", reason="vLLM is not installed (pip install --group client-vllm)")
pytestmark = pytest.mark.filterwarnings("default")


@pytest.fixture(scope="module")
def module():
    from hf_tanhmax.vllm import cpu_backend

    return cpu_backend


def batch(paged):
    """The metadata of a step; the new keys are not in the cache yet, and these are their slots."""
    places = []
    for row, (length, new) in enumerate(paged.requests):
        positions = torch.arange(length - new, length)
        places.append(paged.table[row, positions // SIZE] * SIZE + positions % SIZE)
    slots = torch.cat(places).long()
    paged.cache[slots // SIZE, :, slots % SIZE] = 50.0
    return SimpleNamespace(
        num_actual_tokens=paged.starts[-1],
        query_start_loc=torch.tensor(paged.starts, dtype=torch.int32),
        seq_lens=torch.tensor(paged.lengths, dtype=torch.int32),
        block_table=paged.table,
        slot_mapping=slots,
    )


@pytest.mark.parametrize("call", CALLS)
def test_new_keys_go_into_the_cache_and_all_are_attended_to(module, call):
    paged = Paged(MIXED)
    expected, cache = paged.expected(CALLS[call]), paged.cache.clone()
    metadata, impl = batch(paged), object.__new__(module.TanhMaxImpl)
    vars(impl).update(call=CALLS[call])
    output = torch.zeros(paged.starts[-1] + 5, *paged.query.shape[1:])
    padded = [torch.cat([each, torch.full_like(each[:5], 9.0)]) for each in (paged.query, paged.key, paged.value)]
    impl.forward(None, *padded, paged.cache, metadata, output=output)
    assert torch.equal(paged.cache, cache)
    assert (output[: paged.starts[-1]] - expected).abs().max() < 1e-5
    assert not output[paged.starts[-1] :].any()


def test_layers_of_a_batch_share_its_step(module):
    metadata = batch(Paged(MIXED))
    assert module.step_of(metadata) is module.step_of(metadata)


def test_while_warming_up_there_is_no_batch(module):
    impl, output = object.__new__(module.TanhMaxImpl), torch.ones(2, 3, 4)
    assert impl.forward(None, None, None, None, None, None, output=output) is output
    assert output.all()


def test_the_backend_is_vllms_with_our_layers(module):
    assert module.TanhMaxBackend.get_impl_cls() is module.TanhMaxImpl
    assert module.TanhMaxBackend.forward_includes_kv_cache_update
