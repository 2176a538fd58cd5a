"""Rules of relevance as gradients: each is checked against the relevance that it should give, input times gradient, in float64."""

import pytest
import torch
from torch import nn

from hf_tanhmax.interpret.attribution.decomposition.rules import is_rms_norm, linear_norms_and_activations, normalised, scaled_gradient


def relevance(module, tensor):
    """Input times the gradient of the sum of the output."""
    tensor = tensor.clone().requires_grad_()
    output = module(tensor)
    return output, tensor * torch.autograd.grad(output.sum(), tensor)[0]


@pytest.fixture
def tensor():
    return torch.randn(3, 6, dtype=torch.float64)


def test_a_gradient_is_multiplied_and_the_value_is_as_it_was(tensor):
    tensor.requires_grad_()
    scaled = scaled_gradient(tensor, 0.25)
    assert torch.equal(scaled, tensor)
    assert torch.equal(torch.autograd.grad(scaled.sum(), tensor)[0], torch.full_like(tensor, 0.25))


@pytest.mark.parametrize("activation", [nn.GELU(), nn.SiLU(), nn.Tanh(), nn.ReLU()])
def test_relevance_passes_an_activation_unchanged(activation, tensor):
    tensor[0, 0] = 0.0
    module = nn.Sequential(activation)
    expected = module(tensor)
    with linear_norms_and_activations(module):
        output, found = relevance(module, tensor)
    assert torch.equal(output, expected)
    torch.testing.assert_close(found, expected)
    assert not torch.allclose(relevance(module, tensor)[1], expected) or isinstance(activation, nn.ReLU), "the rule changed something"


def test_a_layer_norm_is_linear_and_loses_its_bias_alone(tensor):
    norm = nn.LayerNorm(6, dtype=torch.float64)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    with linear_norms_and_activations(nn.Sequential(norm)):
        output, found = relevance(norm, tensor)
    torch.testing.assert_close(output, norm(tensor))
    torch.testing.assert_close(found.sum(-1), (output - norm.bias).sum(-1))
    torch.testing.assert_close(normalised(norm, tensor, tensor) + norm.bias, norm(tensor))


def test_the_product_of_a_gated_mlp_gives_each_factor_half(tensor):
    class Gated(nn.Module):
        def __init__(self):
            super().__init__()
            self.gate_proj, self.up_proj, self.down_proj = (nn.Linear(6, 6, bias=False, dtype=torch.float64) for _ in range(3))

        def forward(self, hidden):
            return self.down_proj(self.gate_proj(hidden) * self.up_proj(hidden))

    module = Gated()
    output, twice = relevance(module, tensor)
    with linear_norms_and_activations(module):
        found = relevance(module, tensor)[1]
    torch.testing.assert_close(found, twice / 2)
    torch.testing.assert_close(found.sum(-1), output.sum(-1))


def test_an_rms_norm_is_known_by_its_name_and_must_be_one(tensor):
    class MyRMSNorm(nn.Module):
        eps = 1e-6

        def forward(self, hidden):
            return hidden / (1 + hidden.pow(2).mean(-1, keepdim=True)).sqrt()

    class NoEpsilonRMSNorm(nn.Identity):
        pass

    assert is_rms_norm(MyRMSNorm())
    assert not is_rms_norm(nn.LayerNorm(6))
    with linear_norms_and_activations(nn.Sequential(norm := MyRMSNorm())), pytest.raises(ValueError, match="norm 0 is no root mean square"):
        norm(tensor)
    with linear_norms_and_activations(nn.Sequential(norm := NoEpsilonRMSNorm())), pytest.raises(ValueError, match="norm 0 says no epsilon"):
        norm(tensor)
