"""The identities over a paged flash kernel: its part is played by softmax attention with a log-sum-exp, in the same layouts."""

import pytest
import torch
from vllm_paged import CALLS, DECODING, DIM, HEADS, KV_HEADS, MIXED, SIZE, Paged

from hf_tanhmax.vllm.identities import FlashCall, attend_by_identities

BATCHES = {"mixed": MIXED, "decoding": DECODING}


def flash(q, k, v, *, cu_seqlens_q, seqused_k, block_table, softmax_scale, causal, window_size, softcap, return_softmax_lse, **told):
    """Outputs `[tokens, heads, dim]` and log-sum-exps `[heads, tokens]` of softmax attention over `[blocks, keys of a block, kv_heads, dim]`."""
    assert causal
    assert return_softmax_lse
    assert told == {"max_seqlen_q": max(cu_seqlens_q.diff()), "max_seqlen_k": max(seqused_k), "fa_version": 3}
    assert k.shape[1:] == (SIZE, KV_HEADS, DIM)
    output, lse = torch.zeros_like(q), q.new_zeros(q.shape[1], q.shape[0], dtype=torch.float32)
    for number, length in enumerate(seqused_k.tolist()):
        rows = slice(int(cu_seqlens_q[number]), int(cu_seqlens_q[number + 1]))
        blocks = block_table[number, : -(-length // SIZE)]
        key, value = (each[blocks].flatten(0, 1)[:length].repeat_interleave(q.shape[1] // KV_HEADS, 1) for each in (k, v))
        scores = torch.einsum("mhd,nhd->hmn", q[rows], key) * softmax_scale
        if softcap:
            scores = softcap * torch.tanh(scores / softcap)
        back = torch.arange(length - q[rows].shape[0], length)[:, None] - torch.arange(length)
        seen = (back >= 0) & ((back <= window_size[0]) if window_size[0] >= 0 else True)
        scores = scores.masked_fill(~seen, -torch.inf)
        output[rows] = torch.einsum("hmn,nhd->mhd", scores.softmax(-1), value)
        lse[:, rows] = scores.logsumexp(-1).float()
    return output, lse


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("call", CALLS)
def test_they_equal_the_definition(batch, call):
    paged = Paged(BATCHES[batch])
    told = {
        "cu_seqlens_q": torch.tensor(paged.starts),
        "max_seqlen_q": max(new for _, new in paged.requests),
        "seqused_k": torch.tensor(paged.lengths),
        "max_seqlen_k": max(paged.lengths),
        "block_table": paged.table,
        "fa_version": 3,
    }
    found = attend_by_identities(paged.query, paged.cache, CALLS[call], FlashCall(flash, told))
    assert found.shape == (paged.starts[-1], HEADS, DIM)
    assert (found - paged.expected(CALLS[call])).abs().max() < 1e-5
