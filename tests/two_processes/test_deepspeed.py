"""DeepSpeed's ZeRO-2 and ZeRO-3 in two processes on the CPU: train as one process, are saved and loaded, and read score biases whole.

DeepSpeed clips gradients to norm 1 where its config has no `gradient_clipping`; with it 0, it trains as one process does. See
`pip install --group client-deepspeed` in pyproject.toml.
"""

import copy
import sys
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from processes import Checks, launch, main, passed, raises

checks = Checks()
SHARED = Path(sys.argv[1]) if __name__ == "__main__" else Path()
STEPS, RATE = 3, 0.01


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    pytest.importorskip("deepspeed", reason="deepspeed is not installed: see the group client-deepspeed")
    built = str(tmp_path_factory.mktemp("extensions"))  # a compilation that was killed leaves a lock, for which torch would wait for ever
    return launch(__file__, tmp_path_factory.mktemp("shared"), DS_ACCELERATOR="cpu", TORCH_EXTENSIONS_DIR=built)


def llama(softmax=False, **settings):
    import transformers
    from families import tiny_model

    import hf_tanhmax
    from hf_tanhmax.integration.registration import SCORE_BIAS

    model = tiny_model(transformers.LlamaForCausalLM if softmax else hf_tanhmax.TanhMaxLlamaForCausalLM, use_cache=False, **settings)
    for name, bias in model.named_parameters():
        if name.endswith(SCORE_BIAS):
            bias.data = torch.linspace(0.1, 1.5, len(bias))
    return model


def row(number=None):
    from families import text

    rows = text(2, 9)
    return rows if number is None else rows[number : number + 1]


def sgd(model):
    return torch.optim.SGD(model.parameters(), lr=RATE, foreach=False)


def engine(model, stage, **more):
    import deepspeed

    config = {
        "train_micro_batch_size_per_gpu": 1,
        "zero_optimization": {"stage": stage, "stage3_gather_16bit_weights_on_model_save": True},
        "zero_allow_untested_optimizer": True,
        "gradient_clipping": 0.0,
    } | more
    return deepspeed.initialize(model=model, optimizer=sgd(model), config={k: v for k, v in config.items() if v is not None})[0]


def train(shared, steps=STEPS):
    mine = row(dist.get_rank())
    for _ in range(steps):
        shared.backward(shared(mine, labels=mine).loss)
        shared.step()


def alone(model, steps=STEPS, norm=None):
    trained = copy.deepcopy(model)
    optimizer = sgd(trained)
    for _ in range(steps):
        (sum(trained(row(number), labels=row(number)).loss for number in (0, 1)) / 2).backward()
        if norm:
            torch.nn.utils.clip_grad_norm_(trained.parameters(), norm)
        optimizer.step()
        optimizer.zero_grad()
    return trained


def whole(model):
    from hf_tanhmax.training.health import whole_parameter

    return {name: whole_parameter(value) for name, value in model.named_parameters()}


def difference(found, wanted):
    pairs = dict(wanted.named_parameters())
    assert found.keys() == pairs.keys()
    return max(float((value - pairs[name]).abs().max()) for name, value in found.items())


def of_a_rounding(model, norm=None):
    """How far a rounding error in every weight leads one process away from itself: another order of a sum may do as much."""
    nudged = copy.deepcopy(model)
    with torch.no_grad():
        for value in nudged.parameters():
            value.mul_(1 + 2**-23 * torch.randint(-1, 2, value.shape))
    return difference(dict(alone(nudged, norm=norm).named_parameters()), alone(model, norm=norm))


def kinds():
    yield from ((stage, settings) for stage in (2, 3) for settings in ({"tanhmax_polarity": 0.6}, {"tanhmax_polarity": "learned"}))


@checks
def training_equals_one_process():
    for stage, settings in (*kinds(), (2, {"softmax": True}), (3, {"softmax": True})):
        model = llama(**settings)
        shared = engine(copy.deepcopy(model), stage)
        if stage == 3:
            assert all(value.numel() == 0 and value.ds_numel for value in shared.module.parameters())
        train(shared, 1)
        assert difference(whole(shared.module), alone(model, 1)) <= (0.0 if stage == 2 else 2**-22)  # ZeRO-3 adds up in another order,
        train(shared, STEPS - 1)
        gap = difference(whole(shared.module), alone(model))
        assert gap <= (0.0 if stage == 2 else of_a_rounding(model)), gap  # and later steps widen that
        assert difference(whole(shared.module), model) > 1e-3


@checks
def gradients_are_clipped_to_norm_1_unless_the_config_says_otherwise():
    """What makes the first steps differ from those of one process, with softmax too: red when DeepSpeed's default changes."""
    for stage in (2, 3):
        for settings in ({"softmax": True}, {"tanhmax_polarity": "learned"}):
            model = llama(**settings)
            shared = engine(copy.deepcopy(model), stage, gradient_clipping=None)
            train(shared)
            assert difference(whole(shared.module), alone(model)) > 1e-3
            assert difference(whole(shared.module), alone(model, norm=1.0)) <= max(2**-22, of_a_rounding(model, norm=1.0))


@checks
def saved_weights_reload():
    """What `save_16bit_model` writes, and what `zero_to_fp32` makes of a checkpoint, are the trained model with its logits."""
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    for stage, settings in kinds():
        model = llama(**settings)
        shared = engine(copy.deepcopy(model), stage)
        train(shared)
        folder = SHARED / f"saved-{stage}-{settings['tanhmax_polarity']}"
        shared.module.config.save_pretrained(folder)
        shared.save_16bit_model(str(folder), "pytorch_model.bin")
        shared.save_checkpoint(str(folder / "checkpoint"))
        dist.barrier()
        shared.eval()
        with torch.no_grad():
            logits = shared(row()).logits
        again, report = type(model).from_pretrained(folder, output_loading_info=True)
        assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")), report
        rebuilt = copy.deepcopy(model)
        rebuilt.load_state_dict(get_fp32_state_dict_from_zero_checkpoint(str(folder / "checkpoint")))
        for loaded in (again, rebuilt):
            assert loaded.config.tanhmax_settings == model.config.tanhmax_settings
            assert difference(whole(shared.module), loaded) == 0.0
            with torch.no_grad():
                assert torch.equal(loaded.eval()(row()).logits, logits)
        resumed = engine(copy.deepcopy(model), stage)
        resumed.load_checkpoint(str(folder / "checkpoint"))
        shared.train()
        for each in (shared, resumed):
            train(each, steps=1)
        gone_on, from_file = whole(shared.module), whole(resumed.module)
        assert all(torch.equal(from_file[name], value) for name, value in gone_on.items())
        assert difference(gone_on, loaded) > 1e-3


@checks
def health_reads_polarities_whole():
    from hf_tanhmax.training.health import attention_health

    model = llama(tanhmax_polarity="learned")
    batches = [{"input_ids": row(), "attention_mask": torch.ones_like(row())}]
    wanted = attention_health(model, batches)
    shared = engine(copy.deepcopy(model), 3)
    found = attention_health(shared.module, batches)
    assert found["polarity_per_head"] == wanted["polarity_per_head"]
    assert found["overall"] == wanted["overall"]


@checks
def loaded_shared_out():
    """`from_pretrained` where Transformers makes parameters empty from the start (zero.Init)."""
    from transformers.integrations.deepspeed import HfDeepSpeedConfig

    import hf_tanhmax

    settings = {"train_micro_batch_size_per_gpu": 1, "zero_optimization": {"stage": 3}, "gradient_clipping": 0.0}
    for polarity in (0.6, "learned"):
        model, folder = llama(tanhmax_polarity=polarity), SHARED / f"init-{polarity}"
        if dist.get_rank() == 0:
            model.save_pretrained(folder)
        dist.barrier()
        kept = HfDeepSpeedConfig(settings)
        empty = hf_tanhmax.TanhMaxLlamaForCausalLM.from_pretrained(folder, use_cache=False)
        assert all(value.numel() == 0 and value.ds_numel for value in empty.parameters())
        assert difference(whole(empty), model) == 0.0
        shared = engine(empty, 3)
        train(shared)
        assert difference(whole(shared.module), alone(model)) <= max(2**-22, of_a_rounding(model))
        del kept


@checks
def a_checkpoint_without_attention_is_refused_shared_out_too():
    from safetensors.torch import load_file, save_file
    from transformers.integrations.deepspeed import HfDeepSpeedConfig

    import hf_tanhmax

    model, folder = llama(), SHARED / "empty"
    if dist.get_rank() == 0:
        model.save_pretrained(folder)
        weights = {name: value for name, value in load_file(folder / "model.safetensors").items() if "self_attn" not in name}
        save_file(weights, folder / "model.safetensors", {"format": "pt"})
    dist.barrier()
    kept = HfDeepSpeedConfig({"train_micro_batch_size_per_gpu": 1, "zero_optimization": {"stage": 3}})
    with raises(ValueError, "the checkpoint has no weight of the attention of a TanhMaxLlamaForCausalLM"):
        hf_tanhmax.TanhMaxLlamaForCausalLM.from_pretrained(folder)
    del kept


def start():
    import deepspeed

    deepspeed.init_distributed("gloo", timeout=timedelta(seconds=60))


@pytest.mark.slow
@pytest.mark.parametrize("name", checks)
def test_deepspeed(name, found):
    passed(name, found)


if __name__ == "__main__":
    main(checks, SHARED, start)
