"""Without gradients an operator is called past the dispatcher, but not where anything looks on that the dispatcher serves."""

import pytest
import torch
from operations import Seen
from torch.fx.experimental.proxy_tensor import make_fx

from hf_tanhmax import tanhmax_attention
from hf_tanhmax.attention import ops

TENSORS = torch.linspace(-1.0, 1.0, 3 * 2 * 5 * 8).view(3, 1, 2, 5, 8).unbind()


@pytest.fixture
def direct(monkeypatch):
    """How often the dispatcher is passed by."""
    calls = []

    def _noted(*given):
        calls.append(given)
        return ops._fused_attention(*given)

    monkeypatch.setitem(ops.DIRECTLY, ops.fused_attention, _noted)
    return calls


def attend(*tensors, **arguments):
    return tanhmax_attention(*tensors, implementation="cpu", **arguments)


def test_a_plain_call_without_gradients_is_direct_and_the_same(direct):
    expected = attend(*TENSORS)
    assert not direct
    with torch.no_grad():
        assert torch.equal(attend(*TENSORS), expected)
        assert torch.equal(attend(*TENSORS, polarity=torch.nn.Parameter(torch.ones(2))), attend(*TENSORS, polarity=torch.ones(2)))
    with torch.inference_mode():
        assert torch.equal(attend(*TENSORS), expected)
    assert len(direct) == 4


class Own(torch.Tensor):
    pass


@torch.no_grad()
def test_whoever_looks_on_sees_the_operator(direct):
    with Seen() as seen:
        attend(*TENSORS)
    assert any("fused_attention" in name for name in seen.names)
    assert "fused_attention" in make_fx(attend)(*TENSORS).code
    torch.func.vmap(attend)(*(tensor[None] for tensor in TENSORS))
    attend(TENSORS[0].as_subclass(Own), *TENSORS[1:])
    torch.compile(attend, backend="eager", fullgraph=True)(*TENSORS)
    assert not direct
