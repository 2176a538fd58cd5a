"""`torch.distributed.pipelining`: a model in two stages, each in a process of its own, computes and trains what the whole does.

A stage is cut by hand, as training libraries do it: some of the layers, with the embeddings before the first and the head behind the last.
"""

import copy
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from packaging.version import Version
from processes import Checks, launch, main, passed
from torch import nn

checks = Checks()
SHARED = Path(sys.argv[1]) if __name__ == "__main__" else Path()
ROWS, MICROBATCHES, LENGTH, CUT = 6, 3, 7, 1
SETTINGS = (
    {},
    {"tanhmax_polarity": "learned"},
    {"tanhmax_layers": [1, 2], "tanhmax_polarity": 0.4},
    {"tanhmax_heads": [0, 2], "tanhmax_polarity": 0.7},
    {"tanhmax_shift": "balanced"},
)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return launch(__file__, tmp_path_factory.mktemp("shared"))


class PassedOn(nn.Module):
    """Hidden states of the stage before, in the place of embeddings."""

    def forward(self, *_, inputs_embeds, **__):
        return inputs_embeds


class LlamaStage(nn.Module):
    def __init__(self, model, stage):
        super().__init__()
        self.part, self.stage = copy.deepcopy(model), stage
        backbone = self.part.model
        backbone.layers = backbone.layers[CUT:] if stage else backbone.layers[:CUT]
        if stage:
            backbone.embed_tokens = None
        else:
            backbone.norm, self.part.lm_head = nn.Identity(), None

    def forward(self, inputs):
        if self.stage:
            return self.part(inputs_embeds=inputs, use_cache=False).logits
        return self.part.model(inputs, use_cache=False).last_hidden_state


class BertStage(nn.Module):
    def __init__(self, model, stage):
        super().__init__()
        self.part, self.stage = copy.deepcopy(model), stage
        encoder = self.part.bert.encoder
        encoder.layer = encoder.layer[CUT:] if stage else encoder.layer[:CUT]
        if stage:
            self.part.bert.embeddings = PassedOn()
        else:
            self.part.bert.pooler = self.part.classifier = None

    def forward(self, inputs):
        return self.part(inputs_embeds=inputs).logits if self.stage else self.part.bert(inputs).last_hidden_state


def cases():
    """A model of each family for each setting, its stage, and the targets of its loss."""
    from families import text, tiny_model

    import hf_tanhmax
    from hf_tanhmax.integration.registration import SCORE_BIAS

    rows = text(ROWS, LENGTH)
    for cls, stage, targets in (
        (hf_tanhmax.TanhMaxLlamaForCausalLM, LlamaStage, rows),
        (hf_tanhmax.TanhMaxBertForSequenceClassification, BertStage, torch.arange(ROWS) % 2),
    ):
        for settings in SETTINGS:
            model = tiny_model(cls, **settings)
            for name, bias in model.named_parameters():
                if name.endswith(SCORE_BIAS):
                    bias.data = torch.linspace(0.1, 1.5, len(bias))
            yield model, stage(model, dist.get_rank()), rows, targets


def loss_of(logits, targets):
    return F.cross_entropy(logits.flatten(0, -2), targets.flatten())


def run(schedule, model, stage, rows, targets):
    """Outputs and losses of the last stage, and gradients of this one's, equal those of the whole model."""
    from torch.distributed.pipelining import PipelineStage

    last = dist.get_rank() == 1
    pipeline = schedule(PipelineStage(stage, dist.get_rank(), 2, torch.device("cpu")), MICROBATCHES, loss_fn=loss_of)
    losses = []
    logits = pipeline.step(target=targets, losses=losses) if last else pipeline.step(rows)
    wanted = model(rows).logits
    loss = loss_of(wanted, targets)
    loss.backward()
    if last:
        torch.testing.assert_close(logits, wanted, atol=2e-5, rtol=2e-5)
        torch.testing.assert_close(torch.stack(losses).mean(), loss, atol=1e-6, rtol=1e-6)
    gradients = {name: value.grad for name, value in model.named_parameters()}
    own = {whole_name(name): value.grad for name, value in stage.named_parameters()}
    assert len(own) > 5
    for name, gradient in own.items():
        torch.testing.assert_close(gradient, gradients[name], atol=2e-5, rtol=1e-4)


def whole_name(name):
    """The name that a parameter of a stage has in the whole model, where layers are counted on."""
    words = name.removeprefix("part.").split(".")
    return ".".join(str(int(word) + CUT * dist.get_rank()) if word.isdigit() else word for word in words)


@checks
def gpipe():
    from torch.distributed.pipelining import ScheduleGPipe

    for case in cases():
        run(ScheduleGPipe, *case)


@checks
def one_forward_one_backward():
    from torch.distributed.pipelining import Schedule1F1B

    for case in cases():
        run(Schedule1F1B, *case)


@pytest.mark.slow
@pytest.mark.parametrize("name", checks)
def test_pipelining(name, found):
    passed(name, found)


# `pipeline(...)`, which traces a model and cuts it: in one process, as between gloo processes stages of softmax models go wrong as well


def traced(cls, cut, **settings):
    from families import text, tiny_model
    from torch.distributed.pipelining import SplitPoint, pipeline

    model, inputs = tiny_model(cls, **settings), (text(2, LENGTH), torch.tensor([[1] * LENGTH, [1] * 5 + [0] * (LENGTH - 5)]))
    with torch.no_grad():
        wanted = model(*inputs).logits
    pipe = pipeline(model, mb_args=inputs, split_spec={cut: SplitPoint.BEGINNING})
    return [pipe.get_stage_module(stage).eval() for stage in (0, 1)], inputs, wanted


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("settings", [{}, {"tanhmax_polarity": "learned"}], ids=str)
def test_traced_stages_of_bert(settings):
    import hf_tanhmax

    (first, second), inputs, wanted = traced(hf_tanhmax.TanhMaxBertForSequenceClassification, "bert.encoder.layer.1", **settings)
    with torch.no_grad():
        torch.testing.assert_close(second(*first(*inputs)), wanted, atol=2e-5, rtol=2e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["LlamaForCausalLM", "TanhMaxLlamaForCausalLM"])
def test_traced_stages_of_llama_with_softmax_as_well(name):
    """Transformers before 5.24 wrote a LLaMA so that its first stage misses an input; since then torch's tracer cuts it rightly."""
    import transformers

    import hf_tanhmax

    cls = getattr(transformers, name, None) or getattr(hf_tanhmax, name)
    (first, second), inputs, wanted = traced(cls, "model.layers.1", use_cache=False)
    if Version(transformers.__version__) < Version("5.24"):
        with pytest.raises(RuntimeError, match="Expected positional argument for parameter"):
            first(*inputs)
        return
    with torch.no_grad():
        passed_on = first(*inputs)
        torch.testing.assert_close(second(*(passed_on if isinstance(passed_on, tuple) else (passed_on,))), wanted, atol=2e-5, rtol=2e-5)


if __name__ == "__main__":
    main(checks, SHARED)
