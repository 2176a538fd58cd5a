"""What is known of torch's `context_parallel` before a ring: whether it is on, and what a mask of one rank says."""

import sys

import pytest
import torch

from hf_tanhmax.attention.api import context_mesh, ring_module
from hf_tanhmax.attention.ring_context import _read_mask
from hf_tanhmax.attention.ring_layout import Layout

LENGTH = 6  # of a rank
CAUSAL = torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril()
PADDING = torch.tensor([True, True, False, True, False, True])


def test_torchs_own_attention_has_no_mesh(monkeypatch):
    assert context_mesh() is None
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", lambda *_: None)  # as others replace it
    assert context_mesh() is None


def test_a_checkpoints_file_alone_has_no_ring(monkeypatch):
    monkeypatch.setitem(sys.modules, "hf_tanhmax.attention.ring_context", None)
    with pytest.raises(ImportError, match="needs the package: pip install hf-tanhmax"):
        ring_module()


@pytest.mark.parametrize("zigzag", [True, False])
@pytest.mark.parametrize("causal", [True, False])
def test_a_mask_of_padding_and_causality_is_read(causal, zigzag):
    shown = PADDING.clone()
    shown[0] = True
    mask = ((CAUSAL if causal else torch.ones_like(CAUSAL)) & shown)[None, None]
    found, is_causal = _read_mask(mask, Layout(2, LENGTH, zigzag), 1, None)
    assert is_causal == causal
    assert found.flatten().tolist() == shown.tolist()


def test_two_chunks_are_taken_for_two_sequences_by_transformers():
    chunk = torch.arange(LENGTH) // 3
    mask = CAUSAL & (chunk[:, None] == chunk)
    found, is_causal = _read_mask(mask, Layout(2, LENGTH, zigzag=True), 0, None)
    assert is_causal
    assert found.all()
    with pytest.raises(NotImplementedError, match=r"this one, of shape \(6, 6\), is neither causality nor padding nor"):
        _read_mask(mask, Layout(2, LENGTH, zigzag=False), 0, None)


@pytest.mark.parametrize(("zigzag", "bounds"), [(False, (0, 2, 9, 12)), (True, (0, 2, 12))])
def test_bounds_of_packed_sequences_explain_a_mask(zigzag, bounds):
    sequence = torch.tensor([0, 0, 1, 1, 1, 1])  # of the first rank of two
    mask = CAUSAL & (sequence[:, None] == sequence)
    layout = Layout(2, LENGTH, zigzag)
    assert _read_mask(mask, layout, 0, bounds)[1]
    with pytest.raises(NotImplementedError, match="is neither causality nor padding nor the packed sequences of cu_seqlens"):
        _read_mask(mask, layout, 0, (0, 3, 9, 12))
