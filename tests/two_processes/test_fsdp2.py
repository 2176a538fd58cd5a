"""FSDP 2 through accelerate: two processes train, save, reload and resume what one process does.

accelerate leaves FSDP out in silence where there is no GPU, so `as_on_gpus` tells it that there is one. That parameters are shared out in
fact is checked here.
"""

import copy
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from as_on_gpus import as_on_gpus
from processes import Checks, launch, main, passed

checks = Checks()
SHARED = Path(sys.argv[1]) if __name__ == "__main__" else Path()
STEPS, RATE = 3, 0.1


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    pytest.importorskip("accelerate", reason="accelerate is not installed")
    return launch(__file__, tmp_path_factory.mktemp("shared"))


def models():
    """LLaMA and BERT at a fixed and at a learned polarity, the same in both processes, with another score bias for every head."""
    from families import tiny_model

    import hf_tanhmax
    from hf_tanhmax.integration.registration import SCORE_BIAS

    for family, cls in (("llama", hf_tanhmax.TanhMaxLlamaForCausalLM), ("bert", hf_tanhmax.TanhMaxBertForSequenceClassification)):
        for settings in (
            {"tanhmax_polarity": 0.6},
            {"tanhmax_polarity": "learned"},
            {"tanhmax_shift": "balanced", "tanhmax_layers": [0, 2]},
        ):
            model = tiny_model(cls, **settings)
            for name, bias in model.named_parameters():
                if name.endswith(SCORE_BIAS):
                    bias.data = torch.linspace(0.1, 1.5, len(bias))
            yield family, model


def batch(family, row=None):
    from families import inputs_for

    inputs = inputs_for(family, {"llama": "AutoModelForCausalLM", "bert": "AutoModelForSequenceClassification"}[family], labels=True)
    return inputs if row is None else {name: value[row : row + 1] for name, value in inputs.items()}


def accelerator(model, kind="FULL_STATE_DICT"):
    from accelerate import Accelerator, FullyShardedDataParallelPlugin
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
    as_on_gpus()
    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2,
        auto_wrap_policy="transformer_based_wrap",
        state_dict_type=kind,
        transformer_cls_names_to_wrap=[name for name in model._no_split_modules if not name.endswith("Embeddings")],
    )
    return Accelerator(fsdp_plugin=plugin)


def optimizer(model):
    return torch.optim.AdamW(model.parameters(), lr=1e-2, foreach=False)


def step(model, optim, losses, backward):
    loss = sum(losses) / len(losses)
    backward(loss)
    optim.step()
    optim.zero_grad()
    return float(loss.detach())


def train(accelerate, halves, optim, family, steps=STEPS):
    return [step(halves, optim, [halves(**batch(family, dist.get_rank())).loss], accelerate.backward) for _ in range(steps)]


def train_alone(model, optim, family, steps=STEPS):
    return [step(model, optim, [model(**batch(family, row)).loss for row in (0, 1)], torch.Tensor.backward) for _ in range(steps)]


def shared_out(model):
    """Every parameter is a DTensor, and together the two processes hold it once."""
    from torch.distributed.tensor import DTensor

    mine = torch.tensor(0)
    for name, value in model.named_parameters():
        assert isinstance(value, DTensor), f"{name} is a {type(value).__name__}"
        mine += value.to_local().numel()
    dist.all_reduce(mine)
    assert mine == sum(value.numel() for value in model.parameters())


def difference(halves, model):
    pairs = dict(model.named_parameters())
    return max(float((value.full_tensor() - pairs[name]).detach().abs().max()) for name, value in halves.named_parameters())


def alone(model, family, steps=STEPS):
    trained = copy.deepcopy(model)
    train_alone(trained, optimizer(trained), family, steps)
    return trained


def prepared(model, accelerate):
    halves = copy.deepcopy(model)
    return accelerate.prepare(halves, optimizer(halves))


def same_bits(found, wanted):
    pairs = dict(wanted.named_parameters())
    assert pairs.keys() == dict(found.named_parameters()).keys()
    for name, value in found.named_parameters():
        assert torch.equal(value, pairs[name]), name


@checks
def accelerate_leaves_it_out_unless_told_otherwise():
    """What the other checks' lever is for: red when accelerate shares out on a CPU by itself."""
    from accelerate import Accelerator, FullyShardedDataParallelPlugin, PartialState
    from accelerate.state import AcceleratorState
    from accelerate.utils import DistributedType

    AcceleratorState._reset_state(reset_partial_state=True)
    assert PartialState(cpu=True).num_processes == 2
    assert Accelerator(cpu=True, fsdp_plugin=FullyShardedDataParallelPlugin(fsdp_version=2)).distributed_type == DistributedType.MULTI_CPU


@checks
def training_equals_one_process():
    for family, model in models():
        accelerate = accelerator(model)
        halves, optim = prepared(model, accelerate)
        shared_out(halves)
        train(accelerate, halves, optim, family)
        trained = alone(model, family)
        assert difference(halves, trained) == 0.0
        assert difference(halves, model) > 1e-3


@checks
def whole_state_dict_is_saved_and_reloads_to_the_bit():
    for number, (family, model) in enumerate(models()):
        accelerate = accelerator(model)
        halves, optim = prepared(model, accelerate)
        train(accelerate, halves, optim, family)
        gathered, folder = accelerate.get_state_dict(halves), SHARED / f"whole-{number}"
        if dist.get_rank() == 0:
            accelerate.unwrap_model(halves).save_pretrained(folder, state_dict=gathered)
            again, report = type(model).from_pretrained(folder, output_loading_info=True)
            assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")), report
            assert again.config.tanhmax_settings == model.config.tanhmax_settings
            trained = alone(model, family)
            same_bits(again, trained)
            with torch.no_grad():
                assert torch.equal(again.eval()(**batch(family)).logits, trained.eval()(**batch(family)).logits)
        dist.barrier()


@checks
def sharded_state_dict_resumes_and_merges_to_the_bit():
    """A checkpoint in two files, one of each process: training goes on from it as if it had never stopped, and a model is made of it."""
    from accelerate.utils import merge_fsdp_weights

    for number, (family, model) in enumerate(models()):
        folder = SHARED / f"sharded-{number}"
        accelerate = accelerator(model, "SHARDED_STATE_DICT")
        halves, optim = prepared(model, accelerate)
        train(accelerate, halves, optim, family, steps=2)
        accelerate.save_state(str(folder))
        assert len(list((folder / "pytorch_model_fsdp_0").glob("*.distcp"))) == 2
        accelerate = accelerator(model, "SHARDED_STATE_DICT")
        halves, optim = prepared(model, accelerate)
        accelerate.load_state(str(folder))
        shared_out(halves)
        assert difference(halves, alone(model, family, steps=2)) == 0.0
        train(accelerate, halves, optim, family, steps=1)
        assert difference(halves, alone(model, family, steps=3)) == 0.0
        merge_fsdp_weights(str(folder / "pytorch_model_fsdp_0"), str(folder))
        if dist.get_rank() == 0:
            model.config.save_pretrained(folder)
            same_bits(type(model).from_pretrained(folder), alone(model, family, steps=2))
        dist.barrier()


@pytest.mark.slow
@pytest.mark.parametrize("name", checks)
def test_fsdp2(name, found):
    passed(name, found)


if __name__ == "__main__":
    main(checks, SHARED)
