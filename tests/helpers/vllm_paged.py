"""Requests over a paged cache laid out as vLLM lays it out, their attention by the reference, and a stand-in for vLLM's flash kernel."""

import torch

from hf_tanhmax import tanhmax_attention
from hf_tanhmax.vllm.step import LayerCall, Step

HEADS, KV_HEADS, DIM, SIZE = 6, 3, 16, 8

# For each request how many tokens it has, and how many of them are new.
MIXED = [(29, 1), (7, 7), (19, 5), (1, 1), (40, 1), (13, 13), (37, 23), (3, 0), (8, 1)]
DECODING = [(5, 1), (17, 1), (1, 1), (31, 1)]
FULL = [(16, 1), (16, 1)]

PER_HEAD = torch.tensor([0.0, 1.0, 0.3, 0.9, 0.01, 0.5])
CALLS = {
    "tanhmax": LayerCall(0.3, None, None, 1.0, None),
    "softmax": LayerCall(0.3, None, None, 0.0, None),
    "window": LayerCall(0.3, 6, None, 0.7, None),
    "heads": LayerCall(0.3, None, None, PER_HEAD, None),
    "softcap": LayerCall(0.3, 6, 2.0, 1.0, None),
    "balanced": LayerCall(0.3, None, None, 1.0, "balanced"),
    "balanced heads": LayerCall(0.3, 11, None, PER_HEAD, "balanced"),
}


class Paged:
    """Random queries, keys and values of some requests, whose keys lie in blocks in disorder; all other blocks hold large numbers."""

    def __init__(self, requests, dtype=torch.float32):
        generator = torch.Generator().manual_seed(3)

        def normal(*shape):
            return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

        self.requests = requests
        self.lengths = [length for length, _ in requests]
        self.starts = [0, *torch.tensor([new for _, new in requests]).cumsum(0).tolist()]
        tokens, width = self.starts[-1], -(-max(self.lengths) // SIZE) + 2
        self.query, self.key, self.value = (normal(tokens, heads, DIM) for heads in (HEADS, KV_HEADS, KV_HEADS))
        self.query *= 2.0
        self.table = torch.randperm(len(requests) * width, generator=generator).view(len(requests), width).int()
        self.cache = torch.full((len(requests) * width, KV_HEADS, SIZE, 2 * DIM), 50.0, dtype=dtype)
        self.dense = []
        for number, (length, new) in enumerate(requests):
            key, value = normal(KV_HEADS, length, DIM), normal(KV_HEADS, length, DIM)
            rows = slice(self.starts[number], self.starts[number + 1])
            if new:
                key[:, -new:], value[:, -new:] = self.key[rows].transpose(0, 1), self.value[rows].transpose(0, 1)
            self.dense.append((key, value))
            for place in range(length):
                block = self.table[number, place // SIZE]
                self.cache[block, :, place % SIZE] = torch.cat([key[:, place], value[:, place]], -1)

    def step(self):
        return Step(self.starts, self.lengths, self.table, torch.tensor(self.lengths, dtype=torch.int32))

    def attend(self, call):
        output = torch.full((self.starts[-1] + 3, HEADS, DIM), float("nan"), dtype=self.query.dtype)
        self.step().attend(self.query, self.key, self.value, self.cache, call, output)
        assert output[self.starts[-1] :].isnan().all()  # rows of no token are left alone
        return output[: self.starts[-1]]

    def expected(self, call):
        """In float64, `[tokens, heads, dim]`."""
        found = []
        for number, (key, value) in enumerate(self.dense):
            query = self.query[self.starts[number] : self.starts[number + 1]].transpose(0, 1)[None].double()
            arguments = call._replace(implementation="reference")._asdict()
            result = tanhmax_attention(query, key[None].double(), value[None].double(), is_causal="lower_right", **arguments)
            found.append(result[0].transpose(0, 1))
        return torch.cat(found)


def flash(q, k, v, *, cu_seqlens_q, seqused_k, block_table, softmax_scale, causal, window_size, softcap, return_softmax_lse, **told):
    """Outputs `[tokens, heads, dim]` and log-sum-exps `[heads, tokens]` of softmax over `[blocks, keys of a block, kv_heads, dim]`."""
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
