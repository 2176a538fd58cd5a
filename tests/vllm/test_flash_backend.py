"""The layers for CUDA with what vLLM hands them, on the CPU: our kernels in Triton's interpreter, and the identities over a stand-in."""

from types import SimpleNamespace

import pytest
import torch
from vllm_paged import CALLS, MIXED, Paged, flash

pytest.importorskip("vllm.version", reason="vLLM is not installed (pip install --group client-vllm)")
pytestmark = pytest.mark.filterwarnings("default")

PLAIN = [name for name in CALLS if name != "softmax"]


@pytest.fixture(scope="module")
def module():
    from hf_tanhmax.vllm import flash_backend

    return flash_backend


def common(paged):
    """What vLLM's runner hands to the builder, with three requests of padding."""
    table = torch.nn.functional.pad(paged.table, (0, 0, 0, 3))
    return SimpleNamespace(
        num_reqs=len(paged.requests),
        query_start_loc_cpu=torch.tensor(paged.starts + paged.starts[-1:] * 3, dtype=torch.int32),
        seq_lens_cpu_upper_bound=torch.tensor([*paged.lengths, 0, 0, 0], dtype=torch.int32),
        block_table_tensor=table,
    )


def built(module, paged, monkeypatch):
    """The metadata of a batch: vLLM's part is what its builder returns of it."""
    given = common(paged)
    lengths = torch.tensor([*paged.lengths, 0, 0, 0], dtype=torch.int32)
    metadata = SimpleNamespace(
        num_actual_tokens=paged.starts[-1],
        query_start_loc=given.query_start_loc_cpu,
        max_query_len=max(new for _, new in paged.requests),
        seq_lens=lengths,
        max_seq_len=max(paged.lengths),
        block_table=given.block_table_tensor,
    )
    monkeypatch.setattr(module.FlashAttentionMetadataBuilder, "build", lambda *_: metadata)
    return object.__new__(module.TanhMaxBuilder).build(0, given)


def forward(module, paged, call, metadata):
    impl = object.__new__(module.TanhMaxImpl)
    vars(impl).update(call=call, vllm_flash_attn_version=3)
    output = torch.zeros(paged.starts[-1] + 5, *paged.query.shape[1:])
    padded = [torch.cat([each, torch.full_like(each[:5], 9.0)]) for each in (paged.query, paged.key, paged.value)]
    impl.forward(None, *padded, paged.cache, metadata, output=output)
    assert not output[paged.starts[-1] :].any()
    return output[: paged.starts[-1]]


@pytest.mark.parametrize("call", PLAIN)
def test_without_our_kernels_the_identities_run(module, call, monkeypatch):
    paged = Paged(MIXED)
    monkeypatch.setattr(module.flash_attn, "flash_attn_varlen_func", flash, raising=False)
    found = forward(module, paged, CALLS[call], built(module, paged, monkeypatch))
    assert (found - paged.expected(CALLS[call])).abs().max() < 1e-5


@pytest.mark.slow_in_interpreter
@pytest.mark.parametrize("call", PLAIN)
def test_our_kernels_run_as_triton_does(module, call, monkeypatch):
    paged = Paged(MIXED)
    monkeypatch.setattr(module, "kernels_run", lambda *_: True)
    found = forward(module, paged, CALLS[call]._replace(implementation="triton"), built(module, paged, monkeypatch))
    assert (found - paged.expected(CALLS[call])).abs().max() < 1e-5


def test_memory_is_profiled_without_a_batch(module):
    impl, output = object.__new__(module.TanhMaxImpl), torch.ones(2, 3, 4)
    assert not impl.forward(None, None, None, None, None, None, output=output).any()


def test_attention_stays_out_of_cuda_graphs(module):
    from vllm.v1.attention.backend import AttentionCGSupport

    assert module.TanhMaxBackend.get_builder_cls().get_cudagraph_support(None, None) is AttentionCGSupport.NEVER
    assert module.TanhMaxBackend.get_impl_cls() is module.TanhMaxImpl
    assert module.TanhMaxBackend.get_name() == "FLASH_ATTN"


@pytest.mark.parametrize(("window", "expected"), [((-1, -1), None), ((23, 0), 24)])
def test_windows_of_vllm(module, window, expected):
    impl = object.__new__(module.TanhMaxImpl)
    view = SimpleNamespace(tanhmax_polarity=1.0, tanhmax_heads=None, tanhmax_shift=None)
    vars(impl).update(scale=1.0, logits_soft_cap=0, sliding_window=window, view=view)
    impl.process_weights_after_loading(torch.float32)
    assert impl.call.window == expected
