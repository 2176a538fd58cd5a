"""A step of an engine equals attention of each request by itself: on the CPU, and by the Triton kernels through the block table."""

import pytest
import torch
from vllm_paged import CALLS, DECODING, DIM, FULL, MIXED, Paged

from hf_tanhmax.attention import api
from hf_tanhmax.vllm import step as step_module
from hf_tanhmax.vllm.step import kernels_run

BATCHES = {"mixed": MIXED, "decoding": DECODING, "full blocks": FULL, "one new": [(9, 9)], "one continued": [(33, 17)]}


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("call", CALLS)
def test_on_the_cpu(batch, call):
    paged = Paged(BATCHES[batch])
    assert (paged.attend(CALLS[call]) - paged.expected(CALLS[call])).abs().max() < 1e-5


@pytest.mark.slow_in_interpreter
@pytest.mark.parametrize("batch", ["mixed", "decoding"])
@pytest.mark.parametrize("call", CALLS)
def test_by_the_triton_kernels(batch, call, monkeypatch):
    tables = []
    attend = api.decode_attention
    monkeypatch.setattr(api, "decode_attention", lambda *flat: tables.append(flat[-2]) or attend(*flat))
    paged, asked = Paged(BATCHES[batch]), CALLS[call]._replace(implementation="triton")
    assert (paged.attend(asked) - paged.expected(CALLS[call])).abs().max() < 1e-5
    assert any(table is not None for table in tables)  # decoding requests are read through it


def shapes_of_calls(paged, monkeypatch):
    shapes = []
    attend = step_module.tanhmax_attention
    monkeypatch.setattr(
        step_module, "tanhmax_attention", lambda *args, **options: shapes.append(tuple(args[0].shape)) or attend(*args, **options)
    )
    assert (paged.attend(CALLS["window"]) - paged.expected(CALLS["window"])).abs().max() < 1e-5
    return shapes


def test_requests_of_a_kind_are_one_call(monkeypatch):
    assert shapes_of_calls(Paged(MIXED), monkeypatch) == [(4, 6, 1, DIM), (1, 6, 20, DIM), (1, 6, 5, DIM), (1, 6, 23, DIM)]


def test_a_long_request_is_not_padded_for(monkeypatch):
    paged = Paged([(5, 1), (400, 1), (17, 1), (300, 1), (130, 1)])
    assert shapes_of_calls(paged, monkeypatch) == [(2, 6, 1, DIM), (2, 6, 1, DIM), (1, 6, 1, DIM)]


def test_layers_share_what_a_step_looks_up():
    paged = Paged(DECODING)
    step, output = paged.step(), torch.zeros_like(paged.query)
    for call in ("tanhmax", "heads", "window"):
        step.attend(paged.query, paged.key, paged.value, paged.cache, CALLS[call], output)
        assert (output - paged.expected(CALLS[call])).abs().max() < 1e-5
    (group,) = step.alike
    assert len(group.gathers) == 1
    assert len(group.masks) == 2  # with a window and without


def test_without_a_gpu_kernels_do_not_run():
    paged = Paged(DECODING)
    assert not kernels_run(paged.query, paged.cache)
