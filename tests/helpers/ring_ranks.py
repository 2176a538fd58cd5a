"""What `test_ring` checks in several processes at once, over gloo: `torchrun --nproc_per_node N tests/helpers/ring_ranks.py FOLDER`.

Every process makes the whole sequence, computes it alone, and compares its part with what the ring gives it. Each writes what became of
every check to `FOLDER/<rank>.json`.
"""

import copy
import os
import sys
import tempfile
from contextlib import contextmanager
from itertools import pairwise

os.environ.setdefault("TRITON_INTERPRET", "1")

import torch
import torch.distributed as dist
from processes import Checks, main, raises
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor.experimental import context_parallel
from torch.distributed.tensor.experimental._attention import _cp_options, _templated_ring_attention, set_rotate_method
from torch.distributed.tensor.experimental._context_parallel import _attention as torchs
from transformers import AutoModelForMaskedLM

import hf_tanhmax
from hf_tanhmax import tanhmax_attention
from hf_tanhmax.attention import ring
from hf_tanhmax.attention.ring import ring_attention
from hf_tanhmax.attention.ring_layout import Layout

CHECKS = check = Checks()
OF_TWO = ("kernels", "in_a_context", "trainer")  # once is enough, or there is nothing to see with more ranks
B, H, HK, D, DV = 2, 4, 2, 5, 3
LENGTH = 24
POLARITY = torch.tensor([1.0, 0.3, 0.05, 1.7], dtype=torch.float64)
PACKED = torch.tensor([0, 3, 4, 4, 17, 23, 24])


def part(tensor, zigzag=True, dim=2):
    layout = Layout(dist.get_world_size(), tensor.shape[dim] // dist.get_world_size(), zigzag)
    return tensor.index_select(dim, layout.positions(dist.get_rank()))


def made(dtype, batch=B, length=LENGTH, value_dim=DV, seed=0):
    """Query, key, value and an upstream gradient of the whole sequence."""
    generator = torch.Generator().manual_seed(seed)
    shapes = ((H, D), (HK, D), (HK, value_dim), (H, value_dim))
    return [torch.randn(batch, heads, length, dim, generator=generator, dtype=torch.float64).to(dtype) for heads, dim in shapes]


def both(dtype=torch.float32, *, zigzag=True, alone="auto", ring_by="auto", keep=None, polarity=1.0, batch=B, value_dim=DV, **arguments):
    """Output and gradients of one process, of which this rank's part is taken, and of the ring: pairs by name."""
    *tensors, upstream = made(dtype, batch, value_dim=value_dim)
    whole = [tensor.clone().requires_grad_() for tensor in tensors]
    mine = [part(tensor, zigzag).requires_grad_() for tensor in tensors]
    exact = torch.promote_types(dtype, torch.float32)
    learned = [polarity.to(exact).clone().requires_grad_() if isinstance(polarity, torch.Tensor) else polarity for _ in range(2)]
    wanted = tanhmax_attention(*whole, keep=keep, polarity=learned[0], implementation=alone, **arguments)
    wanted.backward(upstream)
    of_keys = None if keep is None else part(keep, zigzag, 3)
    found = ring_attention(*mine, keep=of_keys, polarity=learned[1], zigzag=zigzag, implementation=ring_by, **arguments)
    found.backward(part(upstream, zigzag))
    pairs = {"output": (found, part(wanted, zigzag))}
    for name, own, other in zip(("query", "key", "value"), mine, whole, strict=True):
        pairs[name] = (own.grad, part(other.grad, zigzag))
    if isinstance(polarity, torch.Tensor):
        total = learned[1].grad.clone()
        dist.all_reduce(total)
        pairs["polarity"] = (total, learned[0].grad)
    return pairs


def close(pairs, output, gradients):
    for name, (found, wanted) in pairs.items():
        scale = max(1.0, float(wanted.abs().max())) if name == "polarity" else 1.0
        largest = float((found.double() - wanted.double()).abs().max())
        assert largest <= (output if name == "output" else gradients) * scale, f"{name}: {largest:.1e}"


VARIANTS = {
    "full": {},
    "causal": {"is_causal": True},
    "balanced": {"shift": "balanced"},
    "balanced, causal": {"shift": "balanced", "is_causal": True},
    "window": {"window": 5},
    "window, causal": {"window": 7, "is_causal": True},
    "softcap, scale": {"softcap": 1.5, "scale": 0.9, "is_causal": True},
    "softcap, balanced": {"softcap": 1.5, "shift": "balanced"},
    "packed": {"cu_seqlens": PACKED, "batch": 1},
    "packed, causal": {"cu_seqlens": PACKED, "batch": 1, "is_causal": True},
    "packed, causal, balanced": {"cu_seqlens": PACKED, "batch": 1, "is_causal": True, "shift": "balanced"},
    "packed, causal, window": {"cu_seqlens": PACKED, "batch": 1, "is_causal": True, "window": 4},
}


@check
def in_float32_as_one_process():
    for arguments in VARIANTS.values():
        close(both(polarity=POLARITY, **arguments), 1e-6, 1e-5)
    for polarity in (1.0, 0.4, 0.0):
        for name in ("causal", "balanced"):
            close(both(polarity=polarity, **VARIANTS[name]), 1e-6, 1e-5)


@check
def in_float64_as_the_reference():
    for number, arguments in enumerate(VARIANTS.values()):
        polarity = (1.0, POLARITY)[number % 2]
        for zigzag in (True, False):
            close(both(torch.float64, alone="reference", polarity=polarity, zigzag=zigzag, **arguments), 1e-14, 1e-13)


@check
def in_bfloat16_within_its_rounding():
    for name in ("causal", "balanced", "packed, causal"):
        for polarity in (1.0, POLARITY):
            close(both(torch.bfloat16, polarity=polarity, **VARIANTS[name]), 8e-3, 4e-2)


@check
def kernels_as_one_process():
    """In Triton's interpreter."""
    for name, polarity, dtype in (
        ("causal", 1.0, torch.float32),
        ("packed, causal", POLARITY, torch.float32),
        ("balanced, causal", POLARITY, torch.float32),
        ("causal", POLARITY, torch.bfloat16),
        ("balanced, causal", POLARITY, torch.bfloat16),
    ):
        pairs = both(dtype, ring_by="triton", polarity=polarity, value_dim=D, **VARIANTS[name])
        close(pairs, *((1e-6, 1e-5) if dtype == torch.float32 else (8e-3, 4e-2)))


@check
def large_scores_of_one_rank_alone():
    """Parts whose sums differ by e^80."""
    for arguments in ({}, {"is_causal": True}, {"shift": "balanced"}):
        query, key, value, upstream = made(torch.float64)
        key[:, :, 1] *= 60.0
        whole = [tensor.clone().requires_grad_() for tensor in (query, key, value)]
        mine = [part(tensor).requires_grad_() for tensor in (query, key, value)]
        wanted = tanhmax_attention(*whole, implementation="reference", **arguments)
        wanted.backward(upstream)
        found = ring_attention(*mine, **arguments)
        found.backward(part(upstream))
        torch.testing.assert_close(found, part(wanted), atol=1e-13, rtol=1e-12)
        for own, other in zip(mine, whole, strict=True):
            torch.testing.assert_close(own.grad, part(other.grad), atol=1e-11, rtol=1e-11)


def unmoved(before, after):
    """The same but for the order of summation, which largest scores may change."""
    torch.testing.assert_close(before, after, atol=1e-14, rtol=0)


def padding():
    """Half of the keys of one entry, all keys of the other, and here those of one rank as well."""
    keep = torch.ones(B, 1, 1, LENGTH, dtype=torch.bool)
    keep[0, ..., LENGTH // 2 :] = False
    keep[0, ..., 1] = False
    keep[1] = False
    return keep


@check
def padding_is_not_seen_and_empty_rows_are_zero():
    keep = padding()
    for arguments in ({}, {"is_causal": True}, {"shift": "balanced"}, {"shift": "balanced", "is_causal": True}):
        for dtype in (torch.float32, torch.float64):
            pairs = both(dtype, keep=keep, polarity=POLARITY, **arguments)
            close(pairs, 1e-6, 1e-5)
            hidden = ~part(keep, dim=3)[:, 0, 0]
            for name, (found, _) in pairs.items():
                assert found.isfinite().all(), name
                assert not found[1].any() or name == "polarity", name  # the entry that sees nothing
                if name in ("key", "value"):
                    assert not found.transpose(1, 2)[hidden].any(), name
        mine = [part(tensor) for tensor in made(torch.float64)[:3]]
        of_keys = part(keep, dim=3)
        before = ring_attention(*mine, keep=of_keys, **arguments)
        for tensor in mine[1:]:
            tensor.transpose(1, 2)[~of_keys[:, 0, 0]] = 1e4
        unmoved(before, ring_attention(*mine, keep=of_keys, **arguments))


@check
def padding_on_one_rank_alone():
    keep = torch.ones(B, 1, 1, LENGTH, dtype=torch.bool)
    keep[0, ..., 1] = False  # which rank 0 has
    mine = [part(tensor) for tensor in made(torch.float64)[:3]]
    wanted = tanhmax_attention(*made(torch.float64)[:3], keep=keep, implementation="reference")
    own = part(keep, dim=3)
    found = ring_attention(*mine, keep=None if own.all() else own)
    torch.testing.assert_close(found, part(wanted), atol=1e-13, rtol=0)


@check
def heads_may_have_masks_of_their_own():
    keep = torch.rand(B, H, 1, LENGTH, generator=torch.Generator().manual_seed(1)) > 0.4
    close(both(torch.float64, alone="reference", keep=keep, is_causal=True), 1e-14, 1e-13)


@check
def the_future_is_not_seen():
    for zigzag in (True, False):
        for arguments in ({}, {"shift": "balanced"}):
            tensors = made(torch.float64)[:3]
            before = ring_attention(*(part(tensor, zigzag) for tensor in tensors), is_causal=True, zigzag=zigzag, **arguments)
            for tensor in tensors:
                tensor[:, :, LENGTH // 2 :] = 1e4
            after = ring_attention(*(part(tensor, zigzag) for tensor in tensors), is_causal=True, zigzag=zigzag, **arguments)
            past = part(torch.arange(LENGTH)[None, None], zigzag)[0, 0] < LENGTH // 2
            unmoved(before[:, :, past], after[:, :, past])
            assert past.all() or not torch.equal(before, after)


@check
def packed_sequences_do_not_see_each_other():
    tensors = made(torch.float64, batch=1)[:3]
    before = ring_attention(*map(part, tensors), cu_seqlens=PACKED)
    for tensor in tensors:
        tensor[:, :, 4:17] = 1e4
    after = ring_attention(*map(part, tensors), cu_seqlens=PACKED)
    positions = part(torch.arange(LENGTH)[None, None])[0, 0]
    others = (positions < 4) | (positions >= 17)
    unmoved(before[:, :, others], after[:, :, others])


@check
def tensors_of_any_layout():
    """As Transformers gives them: transposed."""
    mine = [part(tensor).transpose(1, 2).contiguous().transpose(1, 2) for tensor in made(torch.float64)[:3]]
    wanted = tanhmax_attention(*made(torch.float64)[:3], is_causal=True, implementation="reference")
    torch.testing.assert_close(ring_attention(*mine, is_causal=True), part(wanted), atol=1e-13, rtol=0)


@check
def queries_of_another_length():
    """Attention from one sequence to another: without positions nothing asks for as many queries as keys."""
    query = made(torch.float64, length=dist.get_world_size() * 7, seed=2)[0]
    key, value = made(torch.float64)[1:3]
    wanted = tanhmax_attention(query, key, value, implementation="reference")
    found = ring_attention(part(query, False), part(key, False), part(value, False), zigzag=False)
    torch.testing.assert_close(found, part(wanted, False), atol=1e-13, rtol=0)


@check
def autocast():
    mine = [part(tensor) for tensor in made(torch.float32)[:3]]
    plain = ring_attention(*(tensor.bfloat16() for tensor in mine), is_causal=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = ring_attention(mine[0].bfloat16(), *mine[1:], is_causal=True)
    assert mixed.dtype == torch.bfloat16
    assert torch.equal(plain, mixed)


# What is sent


@contextmanager
def counted():
    """The bytes that this rank hands to point-to-point sends, and the order of sends and of computed parts."""
    found, events = [], []
    original, parts = dist.batch_isend_irecv, (ring.forward_part, ring.backward_part)

    def counting(operations):
        sends = [each.tensor for each in operations if each.op is dist.isend]
        found.extend(tensor.numel() * tensor.element_size() for tensor in sends)
        events.append("send")
        return original(operations)

    def noted(function):
        def call(*arguments, **keywords):
            events.append("part")
            return function(*arguments, **keywords)

        return call

    dist.batch_isend_irecv, ring.forward_part, ring.backward_part = counting, noted(parts[0]), noted(parts[1])
    try:
        yield found, events
    finally:
        dist.batch_isend_irecv, (ring.forward_part, ring.backward_part) = original, parts


def bytes_of_ring(dtype=torch.float32, **arguments):
    """Sent in a forward pass, and in a backward pass."""
    *tensors, upstream = made(dtype, value_dim=D)
    mine = [part(tensor).requires_grad_() for tensor in tensors]
    with counted() as (forward, _):
        output = ring_attention(*mine, is_causal=True, **arguments)
    with counted() as (backward, _):
        output.backward(part(upstream))
    return sum(forward), sum(backward)


def bytes_of_torch():
    """The same of torch's own ring of softmax attention, over a stock kernel."""
    *tensors, upstream = made(torch.float32, value_dim=D)
    query, key, value = map(part, tensors)
    key, value = (tensor.contiguous() for tensor in (key, value))
    sent, original = [], torchs._AllToAllRotater.exchange_buffers

    def counting(self, buffer):
        sent.append(buffer.numel() * buffer.element_size())
        return original(self, buffer)

    def forward(query, key, value, is_causal, **_):
        return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(query, key, value, 0.0, is_causal)

    def backward(grad_out, query, key, value, out, logsumexp, is_causal):
        operator = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
        return operator(grad_out, query, key, value, out, logsumexp, 0.0, is_causal)

    set_rotate_method("alltoall")
    torchs._AllToAllRotater.exchange_buffers = counting
    try:
        group = dist.group.WORLD
        output, lse, *_ = _templated_ring_attention(group, 2, forward, query, key, value, is_causal=True)
        first = sum(sent)
        gradient = part(upstream).contiguous()
        torchs._templated_ring_attention_backward(
            group, 2, backward, gradient, "grad_out", query, key, value, output, lse, is_causal=True
        )  # fmt: skip
    finally:
        torchs._AllToAllRotater.exchange_buffers = original
    return output, (first, sum(sent) - first)


@check
def as_many_bytes_as_a_ring_of_softmax():
    size, length = dist.get_world_size(), LENGTH // dist.get_world_size()
    assert _cp_options.enable_load_balance
    output, softmax = bytes_of_torch()
    found = ring_attention(*(part(tensor) for tensor in made(torch.float32, value_dim=D)[:3]), is_causal=True, polarity=0.0)
    torch.testing.assert_close(found, output, atol=1e-6, rtol=0)
    numbers = B * HK * length * 2 * D
    for arguments in ({}, {"polarity": 0.0}, {"shift": "balanced"}, {"polarity": POLARITY.float()}):
        assert bytes_of_ring(**arguments) == softmax == (4 * numbers * (size - 1), 4 * numbers * (2 * size - 1))
    assert bytes_of_ring(torch.bfloat16) == (2 * numbers * (size - 1), 2 * numbers * (size - 1) + 4 * numbers * size)


@check
def the_next_keys_travel_while_these_are_used():
    size = dist.get_world_size()
    *tensors, upstream = made(torch.float32)
    mine = [part(tensor).requires_grad_() for tensor in tensors]
    with counted() as (_, events):
        output = ring_attention(*mine, is_causal=True)
    assert events == [*["send", "part"] * (size - 1), "part"]
    with counted() as (_, events):
        output.backward(part(upstream))
    assert events == [*["send", "part", "send"] * (size - 1), "part", "send"]


# Through models, within torch's context


def llama(**settings):
    sizes = {"hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 2, "intermediate_size": 40}
    config = hf_tanhmax.TanhMaxLlamaConfig(
        vocab_size=53, max_position_embeddings=64, initializer_range=0.3, use_cache=False, **sizes, **settings
    )
    torch.manual_seed(0)
    return hf_tanhmax.TanhMaxLlamaForCausalLM(config).double()


def batch_of(step, length=32):
    ids = torch.randint(3, 53, (2, length), generator=torch.Generator().manual_seed(step))
    labels = torch.nn.functional.pad(ids, (0, 1), value=-100)[:, 1:].contiguous()
    return ids, labels, torch.arange(length).expand(2, -1).contiguous()


def sharded(mesh, *buffers):
    return context_parallel(mesh, buffers=list(buffers), buffer_seq_dims=[1] * len(buffers), no_restore_buffers=set(buffers))


def mesh_of_all():
    return init_device_mesh("cpu", (dist.get_world_size(),))


@check
def a_llama_is_fine_tuned_as_by_one_process():
    mesh = mesh_of_all()
    for settings in ({}, {"tanhmax_polarity": "learned"}, {"tanhmax_polarity": 0.4, "tanhmax_shift": "balanced"}):
        alone = llama(**settings)
        shared = copy.deepcopy(alone)
        optimizers = [torch.optim.SGD(model.parameters(), lr=0.1) for model in (alone, shared)]
        curve = []
        for step in range(4):
            ids, labels, positions = batch_of(step)
            wanted = alone(ids, labels=ids).loss
            wanted.backward()
            count = torch.tensor(labels.ne(-100).sum().item())
            with sharded(mesh, ids, labels, positions):
                found = shared(ids, position_ids=positions, labels=ids, shift_labels=labels, num_items_in_batch=count).loss
                found.backward()
            total = found.detach().clone()
            dist.all_reduce(total)
            for parameter in shared.parameters():
                dist.all_reduce(parameter.grad)
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
            torch.testing.assert_close(total, wanted.detach(), atol=2e-6, rtol=0)  # the loss is in float32
            curve.append(float(total))
        assert len(set(curve)) == 4
        for own, other in zip(shared.parameters(), alone.parameters(), strict=True):
            torch.testing.assert_close(own, other, atol=1e-6, rtol=0)


@check
def without_a_context_a_model_is_alone():
    model = llama()
    ids, _, positions = batch_of(0)
    wanted = model(ids).logits
    with sharded(mesh_of_all(), ids, positions):
        inside = model(ids, position_ids=positions).logits
    torch.testing.assert_close(inside, part(wanted, dim=1), atol=1e-11, rtol=0)
    assert torch.equal(model(batch_of(0)[0]).logits, wanted)


@check
def an_encoder_with_padding():
    config = hf_tanhmax.TanhMaxBertConfig(
        vocab_size=53, hidden_size=32, num_attention_heads=4, num_hidden_layers=2, intermediate_size=40, initializer_range=0.3
    )
    torch.manual_seed(0)
    model = AutoModelForMaskedLM.from_config(config).double().eval()
    ids, _, positions = batch_of(0)
    mask = torch.ones_like(ids)
    mask[0, 27:] = 0
    mask[1, 5:] = 0
    wanted = part(model(ids, attention_mask=mask, position_ids=positions).logits, dim=1)
    with sharded(mesh_of_all(), ids, mask, positions):
        found = model(ids, attention_mask=mask, position_ids=positions).logits
    torch.testing.assert_close(found[mask.bool()], wanted[mask.bool()], atol=1e-11, rtol=0)


@check
def packed_sequences_in_a_model():
    model = llama()
    ids, _, _ = batch_of(0)
    ids, bounds = ids[:1], torch.tensor([0, 3, 4, 17, 32])
    positions = torch.cat([torch.arange(stop - first) for first, stop in pairwise(bounds)])[None]
    wanted = part(model(ids, position_ids=positions, cu_seq_lens_q=bounds).logits, dim=1)
    apart = [model(ids[:, first:stop]).logits for first, stop in pairwise(bounds)]
    torch.testing.assert_close(part(torch.cat(apart, 1), dim=1), wanted, atol=1e-11, rtol=0)
    with sharded(mesh_of_all(), ids, positions):
        found = model(ids, position_ids=positions, cu_seq_lens_q=bounds).logits
        torch.testing.assert_close(found, wanted, atol=1e-11, rtol=0)
        with raises(NotImplementedError, "position ids must be those of one sequence"):
            model(ids, position_ids=positions)


@check
def in_a_context_compiled_code_is_compiled_anew():
    compiled = torch.compile(lambda *tensors: tanhmax_attention(*tensors, is_causal=True), backend="eager")
    tensors = made(torch.float64)[:3]
    wanted = compiled(*tensors)
    buffers = [tensor.clone() for tensor in tensors]
    with context_parallel(mesh_of_all(), buffers=buffers, buffer_seq_dims=[2] * 3):
        torch.testing.assert_close(compiled(*(buffer.clone() for buffer in buffers)), part(wanted), atol=1e-13, rtol=0)


@check
def in_a_context_without_a_zigzag():
    """What torch does where a sequence has no two chunks for each rank."""
    tensors = made(torch.float64, length=dist.get_world_size() * 7)[:3]
    wanted = tanhmax_attention(*tensors, is_causal=True, implementation="reference")
    buffers = [tensor.clone() for tensor in tensors]
    with context_parallel(mesh_of_all(), buffers=buffers, buffer_seq_dims=[2] * 3):
        torch.testing.assert_close(tanhmax_attention(*buffers, is_causal=True), part(wanted, False), atol=1e-13, rtol=0)


@check
def groups_of_two():
    """Data parallelism beside context parallelism: each pair of ranks shares a sequence of its own."""
    groups = [dist.new_group([first, first + 1]) for first in range(0, dist.get_world_size(), 2)]
    number, rank = divmod(dist.get_rank(), 2)
    tensors = made(torch.float64, seed=number)[:3]
    positions = Layout(2, LENGTH // 2, zigzag=True).positions(rank)
    mine = [tensor[:, :, positions].requires_grad_() for tensor in tensors]
    found = ring_attention(*mine, group=groups[number], is_causal=True)
    found.sum().backward()
    wanted = tanhmax_attention(*tensors, is_causal=True, implementation="reference")[:, :, positions]
    torch.testing.assert_close(found, wanted, atol=1e-13, rtol=0)
    if len(groups) > 1:
        with raises(ValueError, f"rank {dist.get_rank()} is not in the group that ring attention was given"):
            ring_attention(*mine, group=groups[1 - number])


# What is refused


@check
def ranks_that_disagree():
    last = dist.get_world_size() - 1
    odd = dist.get_rank() == last
    mine = [part(tensor) for tensor in made(torch.float32)[:3]]

    def shaped(index, *slices):
        return [tensor[slices] if odd and number in index else tensor for number, tensor in enumerate(mine)]

    everything = slice(None)
    cases = {
        "has dtype torch.float64 where rank 0 has torch.float32": ([tensor.double() if odd else tensor for tensor in mine], {}),
        f"rank {last} has batch 1 where rank 0 has 2": (shaped((0, 1, 2), slice(1)), {}),
        "has key_heads 1 where rank 0 has 2": (shaped((1, 2), everything, slice(1)), {}),
        "has keys 2 where rank 0 has": (shaped((1, 2), everything, everything, slice(2)), {}),
        "has is_causal 1 where rank 0 has 0": (mine, {"is_causal": odd}),
        "has zigzag 0 where rank 0 has 1": (mine, {"zigzag": not odd}),
        "has scale 0.25 where rank 0 has 0.5": (mine, {"scale": 0.25 if odd else 0.5}),
        "has window 3 where rank 0 has None": (mine, {"window": 3 if odd else None}),
        "has polarity 0.25 where rank 0 has 1": (mine, {"polarity": 0.25 if odd else 1.0}),
        "has polarity in a tensor where rank 0 has 1": (mine, {"polarity": torch.ones(H) if odd else 1.0}),
        "has balanced_shift 1 where rank 0 has 0": (mine, {"shift": "balanced" if odd else None}),
        "has gradient 1 where rank 0 has 0": ([tensor.clone().requires_grad_(odd) for tensor in mine], {}),
        "has packed_sequences": ([tensor[:1] for tensor in mine], {"cu_seqlens": torch.tensor([0, 3 if odd else 4, LENGTH])}),
    }
    for sentence, (tensors, arguments) in cases.items():
        with raises(ValueError, "the ranks of a ring must make the same call, but rank ", sentence):
            ring_attention(*tensors, **arguments)
    sentence = "ring attention has no dropout" if odd else f"rank {last} of the ring has refused its call, and says why"
    with raises((NotImplementedError, ValueError), sentence):
        ring_attention(*mine, dropout_p=0.1 if odd else 0.0)
    ring_attention(*mine)  # nobody waits for anybody


@check
def sequences_that_the_ranks_do_not_divide():
    size = dist.get_world_size()
    odd = [tensor[:, :, :5] for tensor in made(torch.float32)[:3]]
    with raises(ValueError, "a zigzag layout gives each of", f"has 5 positions; pad the sequence to a multiple of {2 * size}"):
        ring_attention(*odd, is_causal=True)
    ring_attention(*odd, is_causal=True, zigzag=False)
    with raises(ValueError, "a rank holds as many queries as keys", "has 5 and 6"):
        ring_attention(odd[0], *(tensor[:, :, :6] for tensor in made(torch.float32)[1:3]), is_causal=True)


@check
def what_a_ring_lacks():
    mine = [part(tensor) for tensor in made(torch.float32)[:3]]
    length = mine[0].shape[2]
    with raises(NotImplementedError, "ring attention has no dropout", "dropout_p is 0.1; set it to 0"):
        ring_attention(*mine, dropout_p=0.1)
    with raises(NotImplementedError, "keep says which of this rank's keys take part"):
        ring_attention(*mine, keep=torch.ones(length, length, dtype=torch.bool))
    with raises(NotImplementedError, "has the implementations auto, cpu, triton, but not 'composed'"):
        ring_attention(*mine, implementation="composed")
    with raises(NotImplementedError, "implementation='triton'", "there is no other way round the ring"):
        ring_attention(*(tensor.double() for tensor in mine), implementation="triton")
    one = [tensor[:1] for tensor in mine]
    with raises(ValueError, f"cu_seqlens must ascend from 0 to the length of the whole sequence, {dist.get_world_size()} times"):
        ring_attention(*one, cu_seqlens=torch.tensor([0, length]))
    with raises(ValueError, "cu_seqlens packs sequences into a batch of one, but the batch is 2"):
        ring_attention(*mine, cu_seqlens=PACKED)
    with raises(TypeError, "cu_seqlens must be int32 or int64 [sequences + 1]"):
        ring_attention(*one, cu_seqlens=PACKED.float())
    with raises(RuntimeError, "once_differentiable"):
        twice(mine)


def twice(tensors):
    query = tensors[0].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(ring_attention(query, *tensors[1:]).square().sum(), query, create_graph=True)
    gradient.sum().backward()


@check
def what_a_context_lacks():
    buffers = [tensor.clone() for tensor in made(torch.float32)[:3]]
    with context_parallel(mesh_of_all(), buffers=buffers, buffer_seq_dims=[2] * 3):
        length = buffers[0].shape[2]
        square = torch.zeros(length, length)
        for name, arguments in {
            "bias": {"bias": square},
            "additive mask": {"additive_mask": square},
            "returned weights": {"return_weights": True},
            "block_table": {"block_table": torch.zeros(2, 1, dtype=torch.int64)},
        }.items():
            with raises(NotImplementedError, "a rank sees the keys of the others only as they pass by", f"there is no {name}"):
                tanhmax_attention(*buffers, **arguments)
        with raises(NotImplementedError, "ring attention has no dropout"):
            tanhmax_attention(*buffers, dropout_p=0.1)
        mask = torch.ones(length, length, dtype=torch.bool)
        mask[1, 0] = False
        with raises(NotImplementedError, "is neither causality nor padding nor the packed sequences of cu_seqlens"):
            tanhmax_attention(*buffers, keep=mask)
        with raises(NotImplementedError, "but not 'reference'"):
            tanhmax_attention(*buffers, implementation="reference")


@check
def trainer_with_a_cp_size_of_two():
    """Transformers' Trainer, FSDP2 and context parallelism by accelerate. The last check: it sets accelerate's state for good."""
    from accelerate import FullyShardedDataParallelPlugin
    from accelerate import state as of_accelerate
    from accelerate.parallelism_config import ParallelismConfig
    from accelerate.utils import DistributedType
    from transformers import Trainer, TrainingArguments

    config, original = ParallelismConfig(cp_size=2), of_accelerate.AcceleratorState.__init__

    def told(self, *arguments, **keywords):
        """Where there is no accelerator, accelerate leaves FSDP out in silence, unless its state says otherwise."""
        original(self, *arguments, **keywords)
        if keywords.get("_from_accelerator"):
            plugin = FullyShardedDataParallelPlugin(fsdp_version=2, auto_wrap_policy="transformer_based_wrap")
            known = {"distributed_type": DistributedType.FSDP, "fsdp_plugin": plugin, "parallelism_config": config}
            of_accelerate.AcceleratorState._shared_state.update(known)
            of_accelerate.PartialState._shared_state["distributed_type"] = DistributedType.FSDP

    of_accelerate.AcceleratorState.__init__ = told
    shared = llama(tanhmax_polarity="learned").float()
    alone, ids = copy.deepcopy(shared), batch_of(0)[0]
    arguments = {"max_steps": 3, "per_device_train_batch_size": 2, "logging_steps": 1, "learning_rate": 0.1, "optim": "sgd"}
    arguments |= {"lr_scheduler_type": "constant", "max_grad_norm": 0, "report_to": [], "save_strategy": "no", "disable_tqdm": True}
    with tempfile.TemporaryDirectory() as folder:
        settings = TrainingArguments(folder, use_cpu=True, parallelism_config=config, **arguments)
        trainer = Trainer(shared, settings, train_dataset=[{"input_ids": row, "labels": row} for row in ids])
        trainer.train()
    assert trainer.accelerator.distributed_type == DistributedType.FSDP
    found = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    optimizer, wanted = torch.optim.SGD(alone.parameters(), lr=0.1), []
    for _ in range(3):
        loss = alone(ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        wanted.append(float(loss))
    assert len(set(wanted)) == 3
    torch.testing.assert_close(torch.tensor(found), torch.tensor(wanted), atol=2e-5, rtol=0)


def checks_of(size):
    """The checks that so many processes make."""
    return [name for name in CHECKS if size == 2 or not name.startswith(OF_TWO)]


if __name__ == "__main__":
    main({name: CHECKS[name] for name in checks_of(int(os.environ["WORLD_SIZE"]))}, sys.argv[1])
