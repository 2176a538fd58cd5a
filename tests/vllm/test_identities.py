"""The identities over a paged flash kernel: its part is played by softmax attention with a log-sum-exp, in the same layouts."""

import pytest
import torch
from vllm_paged import CALLS, DECODING, DIM, HEADS, MIXED, Paged, flash

from hf_tanhmax.vllm.identities import FlashCall, attend_by_identities

BATCHES = {"mixed": MIXED, "decoding": DECODING}


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
