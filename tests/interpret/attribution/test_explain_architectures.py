"""`explain` beyond BERT, ViT and LLaMA: whatever asks Transformers' attention interface, TanhMax by name and softmax."""

import pytest
import torch
import transformers
from families import images, text
from supported_models import ARCHITECTURES

from hf_tanhmax.interpret import explain

FAST = ("weights", "contributions", "rollout")
HEADS = {
    "RobertaModel": "RobertaForSequenceClassification",
    "DistilBertModel": "DistilBertForSequenceClassification",
    "ModernBertModel": "ModernBertForSequenceClassification",
    "GPT2Model": "GPT2LMHeadModel",
    "Gemma2Model": "Gemma2ForCausalLM",
    "Qwen3Model": "Qwen3ForCausalLM",
    "Dinov2Model": "Dinov2ForImageClassification",
}


def headed(backbone, attn_implementation):
    values = next(architecture.values for architecture in ARCHITECTURES if architecture.cls == backbone)
    cls = getattr(transformers, HEADS[backbone])
    torch.manual_seed(0)
    return cls(cls.config_class(**values, attn_implementation=attn_implementation)).eval()


@pytest.mark.filterwarnings("ignore:.*computes softmax:UserWarning")
@pytest.mark.parametrize("signed", [True, False], ids=["tanhmax", "softmax"])
@pytest.mark.parametrize("backbone", HEADS)
def test_explains(backbone, signed):
    model = headed(backbone, "tanhmax_eager" if signed else "eager")
    inputs = {"pixel_values": images(1)} if backbone == "Dinov2Model" else {"input_ids": text(1, 9)}
    with torch.no_grad():
        want = model(**inputs, output_attentions=True)
    found = explain(model, inputs, 1, methods=FAST)
    logits = want.logits[0] if want.logits.dim() == 2 else want.logits[0, -1]
    assert found.logit == pytest.approx(float(logits[1]), abs=1e-4)
    torch.testing.assert_close(found.weights, torch.cat(want.attentions), atol=1e-5, rtol=1e-4)
    assert found.signed == (signed,) * len(found.layers)
    assert bool((found.weights < 0).any()) == signed
    assert bool(found.contributions.abs().sum((1, 2, 3)).all())
