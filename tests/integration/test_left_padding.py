"""Left padding in float16: what overflows there is the norm of a row of zeros, in softmax attention as in TanhMax.

A padding query sees no key, so its output is 0, in torch's own attention too. Gemma embeds its padding token as 0, so the row stays 0 up to
the last layer, and each RMSNorm multiplies its gradient by `eps ** -0.5`, which is 1000. It has a gradient only if the loss asks it for the
first real token, as shifted labels do. (In stock eager attention such a query sees all keys alike, so that its row is not 0.)
"""

import pytest
import torch
from transformers import Gemma3ForCausalLM, Gemma3TextConfig

import hf_tanhmax

PADDING, LENGTH = 5, 11


def not_finite(implementation, tanhmax, *, first_token):
    """The parameters of a tiny Gemma 3 whose gradients are not finite, with the loss of all real tokens or all but the first."""
    sizes = {
        "hidden_size": 24,
        "intermediate_size": 13,
        "head_dim": 8,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 53,
    }
    layers = {"num_hidden_layers": 2, "layer_types": ["sliding_attention", "full_attention"], "sliding_window": 3}
    rest = {"initializer_range": 1.0, "pad_token_id": 0, "query_pre_attn_scalar": 8, "attn_implementation": implementation}
    model = Gemma3ForCausalLM(Gemma3TextConfig(**sizes, **layers, **rest)).eval()
    if tanhmax:
        hf_tanhmax.use_tanhmax(model)
    tokens, mask = torch.randint(3, 53, (2, LENGTH), generator=torch.Generator().manual_seed(7)), torch.ones(2, LENGTH, dtype=torch.int64)
    mask[1, :PADDING] = tokens[1, :PADDING] = 0
    labels = tokens.masked_fill(mask == 0, -100)
    if not first_token:
        labels[1, PADDING] = -100
    model.half()(input_ids=tokens, attention_mask=mask, labels=labels, use_cache=False).loss.backward()
    return {name for name, parameter in model.named_parameters() if not parameter.grad.isfinite().all()}


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_the_row_before_the_first_token_overflows_as_in_torchs_own_attention(implementation):
    torch.manual_seed(0)
    stock = not_finite("sdpa", False, first_token=True)
    torch.manual_seed(0)
    assert not_finite(implementation, True, first_token=True) <= stock


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_other_rows_have_finite_gradients(implementation):
    assert not not_finite(implementation, True, first_token=False)
