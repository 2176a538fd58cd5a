"""AttnLRP: nothing is lost where attention weights are constants, what the map loses, and LXT's own numbers on softmax models."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from families import hooks_of, images, softmax_twin, text, tiny_model

import hf_tanhmax
from hf_tanhmax.interpret import explain
from hf_tanhmax.interpret.attribution.decomposition.attnlrp import attnlrp
from hf_tanhmax.interpret.attribution.target import Target

BERT = hf_tanhmax.TanhMaxBertForSequenceClassification
LLAMA = hf_tanhmax.TanhMaxLlamaForCausalLM
CASES = ((BERT, None), (hf_tanhmax.TanhMaxViTForImageClassification, None), (LLAMA, 4))


def inputs_of(cls):
    return {"pixel_values": images(1).double()} if "ViT" in cls.__name__ else {"input_ids": text(1, 5)}


def constant_weights(call):
    return replace(call, query=call.query.detach(), key=call.key.detach()).compute_with_weights()


@pytest.mark.parametrize(("cls", "position"), CASES)
def test_nothing_is_lost_where_weights_are_constants(cls, position):
    """Norms, activations, gated MLPs and the pooler conserve the logit; these models have no biases."""
    model, inputs, target = tiny_model(cls).double(), inputs_of(cls), Target(1, position, "")
    logit = float(target.of(model(**inputs).logits).detach())
    relevance = attnlrp(model, inputs, target, constant_weights)
    assert float(relevance.double().sum()) == pytest.approx(logit, abs=2e-6)
    assert float(attnlrp(model, inputs, target).sum()) != pytest.approx(logit, abs=1e-3)


@pytest.mark.parametrize(("polarity", "scale", "lost"), [(1.0, 1e-2, 1e-4), (0.0, 1e-2, 1.0)])
def test_what_the_map_loses(polarity, scale, lost):
    """Of TanhMax's weights a share of the order of the squared scores; of softmax's nearly all, as those come from no score."""
    scores = (scale * torch.randn(7, generator=torch.Generator().manual_seed(0))).double().requires_grad_()
    weights = hf_tanhmax.tanhmax(scores, polarity=polarity)
    upper = torch.linspace(1, 2, 7, dtype=torch.double) * weights.detach().sign()  # every weight speaks for
    (gradient,) = torch.autograd.grad((weights * upper).sum(), scores)
    before, after = float((weights * upper).sum().detach()), float((scores * gradient).sum().detach())
    assert abs(1 - after / before) < 10 * lost
    assert abs(1 - after / before) > lost / 100


@pytest.mark.parametrize("shift", [None, "balanced"])
@pytest.mark.parametrize("polarity", [0.0, 0.4, 1.0])
def test_the_jacobian_of_the_rule(polarity, shift):
    scores = torch.randn(5, generator=torch.Generator().manual_seed(1)).double()
    have = torch.autograd.functional.jacobian(lambda a: hf_tanhmax.tanhmax(a, polarity=polarity, shift=shift), scores)
    if shift is None:
        total = (scores.exp() + polarity * (-scores).exp()).sum()
        weights, sizes = ((scores.exp() + sign * polarity * (-scores).exp()) / total for sign in (-1, 1))
        want = torch.diag(sizes) - torch.outer(weights, weights)
    else:
        first, second = scores.softmax(0), (-scores).softmax(0)
        parts = [torch.diag(share) - torch.outer(share, share) for share in (first, second)]
        want = (parts[0] + polarity * parts[1]) / (1 + polarity)
    torch.testing.assert_close(have, want)


@pytest.mark.parametrize(("cls", "position"), CASES)
def test_scores_and_their_sum(cls, position):
    model, inputs = tiny_model(cls).double(), inputs_of(cls)
    found = explain(model, inputs, 1, methods=("attnlrp",), position=position)
    torch.testing.assert_close(found.scores["attnlrp"], attnlrp(model, inputs, Target(1, position, "")))
    told = found.conservation["attnlrp"]
    assert told.total == pytest.approx(float(found.scores["attnlrp"].sum()), abs=1e-5)
    assert (told.expected, told.expected_is) == (found.logit, "the logit")
    assert told.is_far == any(note.startswith("AttnLRP scores sum to") for note in found.notes)


def test_the_model_is_left_as_it_was():
    model, ids = tiny_model(LLAMA), text(1, 5)
    with torch.no_grad():
        before = model(input_ids=ids).logits
        hooks = hooks_of(model)
    attnlrp(model, {"input_ids": ids}, Target(1, 4, ""))
    with torch.no_grad():
        torch.testing.assert_close(model(input_ids=ids).logits, before, rtol=0, atol=0)
    assert hooks_of(model) == hooks
    assert all(parameter.grad is None for parameter in model.parameters())


def test_another_norm_is_refused():
    model = tiny_model(LLAMA)

    class OddRMSNorm(torch.nn.Module):
        variance_epsilon = 1e-6

        def forward(self, hidden):
            return hidden.tanh()

    model.model.norm = OddRMSNorm()
    with pytest.raises(ValueError, match=r"TanhMaxLlamaForCausalLM cannot be explained by attnlrp: the norm model.norm is no root mean sq"):
        explain(model, {"input_ids": text(1, 5)}, 1, methods=("attnlrp",), position=4)
    del OddRMSNorm.variance_epsilon
    with pytest.raises(ValueError, match=r"the norm model.norm says no epsilon, so what it divides by is not known"):
        explain(model, {"input_ids": text(1, 5)}, 1, methods=("attnlrp",), position=4)


LXT = """
import json, sys, types, warnings
warnings.simplefilter("ignore")
for name, old in (("bert", "modeling_bert"), ("vit_torch", "vision_transformer")):  # copies of classes that Transformers has no more
    module = types.ModuleType(f"lxt.efficient.models.{name}")
    module.attnLRP, module.cp_LRP = {}, {}
    setattr(module, old, module)
    sys.modules[module.__name__] = module
import torch
from lxt.efficient import patches
from transformers import AttentionInterface, activations
from transformers.models.llama import modeling_llama
from families import images, softmax_twin, text, tiny_model
import hf_tanhmax
from hf_tanhmax.interpret.attribution.decomposition.attnlrp import attnlrp, first_hidden
from hf_tanhmax.interpret.attribution.target import Target

CASES = (("TanhMaxBertForSequenceClassification", None), ("TanhMaxViTForImageClassification", None), ("TanhMaxLlamaForCausalLM", 4))
models = [softmax_twin(tiny_model(getattr(hf_tanhmax, name))).double() for name, _ in CASES]
inputs = [{"pixel_values": images(1).double()} if "ViT" in name else {"input_ids": text(1, 5)} for name, _ in CASES]
targets = [Target(1, position, "") for _, position in CASES]
for model in models:  # biases, as trained models have
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.1)
ours = [attnlrp(*case).tolist() for case in zip(models, inputs, targets)]
patches.patch_method(patches.gated_mlp_forward, modeling_llama.LlamaMLP)
patches.patch_method(patches.rms_norm_forward, modeling_llama.LlamaRMSNorm)
patches.patch_method(patches.layer_norm_forward, torch.nn.LayerNorm)
for elementwise in (activations.GELUActivation, torch.nn.Tanh):
    patches.patch_method(patches.non_linear_forward, elementwise, keep_original=True)
AttentionInterface.register("lxt", patches.wrap_attention_forward(modeling_llama.eager_attention_forward))
theirs = []
for model, given, target in zip(models, inputs, targets):
    model.set_attn_implementation("lxt")
    for module in model.modules():
        module.num_key_value_groups = getattr(module, "num_key_value_groups", 1)
    with first_hidden(model) as hidden:
        mask = {} if target.position is None else {"attention_mask": torch.full((1, 1, 5, 5), float("-inf")).double().triu(1)}
        target.of(model(**given, **mask).logits).sum().backward()
    theirs.append((hidden[0] * hidden[0].grad)[0].sum(-1).tolist())
print(json.dumps([ours, theirs]))
"""


@pytest.mark.slow
def test_lxts_numbers_on_softmax_models():
    pytest.importorskip("lxt", reason="its rules are compared with ours: pip install --no-deps lxt")
    paths = [str(Path(__file__).parents[4]), str(Path(__file__).parents[3] / "helpers"), *sys.path]
    code = f"import sys; sys.path[:0] = {paths!r}\n{LXT}"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-2000:]
    ours, theirs = json.loads(run.stdout.splitlines()[-1])
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(torch.tensor(mine), torch.tensor(other), rtol=1e-5, atol=1e-6)


def test_softmax_models_have_scores():
    model = softmax_twin(tiny_model(BERT))
    with pytest.warns(UserWarning, match="computes softmax"):
        found = explain(model, {"input_ids": text(1, 5)}, 1, methods=("attnlrp",))
    assert bool(found.scores["attnlrp"].all())
