"""Every modelling file of Transformers, read; and architectures that run on the meta device, held against what PyTorch is called for."""

import contextlib
import importlib
import re
from itertools import islice
from pathlib import Path

import pytest
import torch
import transformers
from attention_probe import architectures, example, interface_without_attention, made, probing
from thorough import THOROUGH
from torch import nn
from transformers import PreTrainedModel

from hf_tanhmax import TanhMaxSettings, use_tanhmax
from hf_tanhmax.integration.chosen_modules import modules_by_layer
from hf_tanhmax.integration.detection.attention_facts import attention_facts
from hf_tanhmax.integration.detection.dataflow import SELF, Instance, Method
from hf_tanhmax.integration.detection.forward_source import Reading
from hf_tanhmax.integration.registration import EAGER, FUSED, PAGED

with torch.device("meta"):  # looks up once which functions make tensors, and must see them as they are outside of a test
    torch.empty(0)

# Softmaxes that were read and are no attention: they route, choose, give a distribution or the expected value of one, or are never used.
OTHER_SOFTMAXES = re.compile(
    r"(Router|Gate|TopKGating|Experts|FFN|CDMoE|MoeBlock|HyperConnection)$|HungarianMatcher$|GumbelVectorQuantizer$|(Rec|SLA)Head$|Integral$|LQE$"
    r"|FeaturesToDepth|DepthEstimationHeads|ConfidenceHead|InterestPointDecoder|ConvFlow|^Sam2MultiScaleAttention$"
)


def classes():
    for path in sorted(Path(transformers.__file__).parent.glob("models/*/modeling_*.py")):
        name = f"transformers.models.{path.parent.name}.{path.stem}"
        try:
            module = importlib.import_module(name)
        except ImportError:  # of a package that is not installed
            continue
        for cls in vars(module).values():
            if isinstance(cls, type) and issubclass(cls, nn.Module) and cls.__module__ == name:
                yield cls


def read(cls):
    reading = Reading(Instance(cls), (FUSED, EAGER, PAGED))
    reading.follow(Method(SELF, cls.forward))
    return reading.found


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_every_class_of_transformers():
    found = {cls.__name__: (read(cls), issubclass(cls, PreTrainedModel)) for cls in classes()}
    assert len(found) > 6000
    asking = {name for name, (each, _) in found.items() if each.asks}
    attending = {name for name, (each, whole) in found.items() if each.attends or (each.pools and not whole)}
    assert {"LlamaAttention", "BertSelfAttention", "GPT2Attention", "DogeAttention", "Qwen2_5OmniAttention", "Sam3Attention"} <= asking
    assert len(asking) > 400
    assert not asking & attending
    wanted = {"ChameleonVQVAEEncoderAttnBlock", "JanusVQVAEAttnBlock", "EsmFoldAttention", "EvollaSequenceAlignerCrossAttention"}
    wanted |= {"EsmFold2MSAPairWeightedAveraging", "Kosmos2_5VisionAttention", "DisentangledSelfAttention", "MgpstrA3Module"}
    assert wanted <= attending
    rest = [name for name, (each, whole) in found.items() if each.normalises and name not in attending | asking and not whole]
    assert [name for name in rest if "Attention" not in name and not OTHER_SOFTMAXES.search(name) and not found[name][0].maps] == []


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_no_attention_is_overlooked_while_a_model_runs():
    """What was read names every module in which PyTorch is called for softmax attention; of one in ten models, or of all if asked for."""
    ran, wrong = 0, set()
    for config_class, cls in islice(architectures(), 0, None, 1 if THOROUGH else 10):
        try:
            model = made(config_class, cls)
            inputs = example(model)
        except Exception:  # a default configuration that makes no model
            continue
        facts = {type(module): attention_facts(module) for module in model.modules()}
        try:
            use_tanhmax(model, TanhMaxSettings(layers=range(len(modules_by_layer(model)))) if modules_by_layer(model) else None)
            patched = True
        except (ValueError, NotImplementedError):  # refused as a whole, so what asks the interface computes softmax
            patched = False
        with probing() as probe, interface_without_attention(), torch.no_grad(), contextlib.suppress(Exception):
            model(**inputs)
            ran += 1  # and where it failed, what ran until then was seen
        known = {each for each, fact in facts.items() if fact.bypasses or fact.refused or (fact.asks and not patched)}
        wrong |= {each.__name__ for each in probe.attending if each in facts and each not in known}
    assert wrong == set()
    assert ran > (100 if THOROUGH else 8)
