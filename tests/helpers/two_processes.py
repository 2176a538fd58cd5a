"""What `test_distributed` checks in two processes at once, over gloo: `torchrun --nproc_per_node 2 tests/helpers/two_processes.py FOLDER`.

Every check runs in both processes and compares with the same model in one process, on the same or on all rows. Each process writes what
became of every check to `FOLDER/<rank>.json`.
"""

import copy
import sys
from pathlib import Path

import torch
import torch.distributed as dist
import transformers
from families import TINY, inputs_for, run, tensors_of, text, tiny_model
from processes import Checks, main, raises
from torch.distributed import init_device_mesh
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from transformers.distributed import DistributedConfig

import hf_tanhmax
from hf_tanhmax.integration.patching import attention_modules
from hf_tanhmax.integration.registration import SCORE_BIAS

CHECKS = check = Checks()
SHARED = Path(sys.argv[1]) if __name__ == "__main__" else Path()
CAUSAL = hf_tanhmax.TanhMaxLlamaForCausalLM
# For each family a class with a loss, its Auto class, and the sizes that two processes can share out evenly.
CASES = {
    "bert": (hf_tanhmax.TanhMaxBertForSequenceClassification, "AutoModelForSequenceClassification", {}),
    "vit": (hf_tanhmax.TanhMaxViTForImageClassification, "AutoModelForImageClassification", {}),
    "llama": (CAUSAL, "AutoModelForCausalLM", {"vocab_size": 54, "intermediate_size": 14}),
}
# Transformers puts a distributed model on the kind of device that torch was built for, whether there is one or not.
BUILT_FOR = torch.accelerator.current_accelerator()
DISTRIBUTED_CONFIG = ("tensor_parallel", "pipeline_parallel", "fsdp_of_transformers")


def saved(family, **settings):
    """A model, the same in both processes, with another score bias for every head; and the folder that one of them saved it in."""
    cls, _, sizes = CASES[family]
    model = tiny_model(cls, **sizes, **settings)
    for index, bias in enumerate(score_biases(model).values()):
        bias.data = torch.linspace(0.1, 1.5 + index, len(bias))
    folder = SHARED / "-".join([family, *(f"{name}{value}" for name, value in settings.items())])
    if dist.get_rank() == 0:
        model.save_pretrained(folder)
    dist.barrier()
    return model, folder


def distributed(family, folder, **sizes):
    auto = getattr(transformers, CASES[family][1])
    return auto.from_pretrained(folder, distributed_config=DistributedConfig(**sizes)).eval()


def all_rows(family):
    return inputs_for(family, CASES[family][1], labels=True)


def my_row(family):
    """The one of two rows that belongs to this process."""
    return {name: value[dist.get_rank() : dist.get_rank() + 1] for name, value in all_rows(family).items()}


def score_biases(model):
    return {name: value for name, value in model.named_parameters() if name.endswith(SCORE_BIAS)}


def whole(tensor):
    """A tensor that processes share out, gathered."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def close(found, wanted, **tolerance):
    torch.testing.assert_close(found, wanted, **(tolerance or {"atol": 2e-5, "rtol": 2e-4}))


def same_outputs(found, wanted):
    pairs = list(zip(tensors_of(found), tensors_of(wanted), strict=True))
    assert pairs
    for have, want in pairs:
        close(have, want)


def train(model, rows, rate=0.1):
    """One step of gradient descent; returns the gradients, gathered."""
    losses = [model(**row).loss for row in rows]
    (sum(losses) / len(losses)).backward()
    gradients = {name: whole(value.grad).clone() for name, value in model.named_parameters() if value.grad is not None}
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, foreach=False)
    optimizer.step()
    optimizer.zero_grad()
    return gradients


def rows_of_both(family):
    inputs = all_rows(family)
    return [{name: value[row : row + 1] for name, value in inputs.items()} for row in range(2)]


def same_gradients(found, wanted):
    assert found.keys() == wanted.keys()
    for name, gradient in wanted.items():
        close(found[name], gradient, atol=2e-5, rtol=1e-3)
    if any(name.endswith(SCORE_BIAS) for name in wanted):
        assert all(wanted[name].abs().min() > 0 for name in wanted if name.endswith(SCORE_BIAS))


def same_weights(found, wanted):
    pairs = dict(wanted.named_parameters())
    for name, value in found.named_parameters():
        close(whole(value).data, pairs[name].data, atol=2e-5, rtol=1e-3)


def saves_and_reloads(model, family, wanted):
    """A checkpoint written by both processes is whole: one process loads it and has the weights of the model that it equals."""
    folder = SHARED / f"again-{len(list(SHARED.iterdir()))}"
    dist.barrier()
    model.save_pretrained(folder)
    dist.barrier()
    again, report = type(wanted).from_pretrained(folder, output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")), report
    assert again.config.tanhmax_settings == wanted.config.tanhmax_settings
    same_weights(again, wanted)
    same_outputs(run(again, all_rows(family)), run(model, all_rows(family)))


# Tensor parallelism: each process has half of the heads


def sees_half_of_the_heads(model):
    attention = attention_modules(model)[0]
    whole_width = attention.q_proj.weight.shape[0]
    assert attention.q_proj.weight.to_local().shape[0] * 2 == whole_width


@check
def tensor_parallel_outputs():
    for settings in ({}, {"tanhmax_polarity": 0.3}, {"tanhmax_layers": [1]}):
        model, folder = saved("llama", **settings)
        halves = distributed("llama", folder, tp_size=2)
        sees_half_of_the_heads(halves)
        same_outputs(run(halves, all_rows("llama")), run(model, all_rows("llama")))
        prompt = text(2, 5)
        greedy = {"max_new_tokens": 4, "do_sample": False, "eos_token_id": None}
        assert torch.equal(halves.generate(prompt, **greedy), model.generate(prompt, **greedy))


@check
def tensor_parallel_training():
    for settings in ({}, {"tanhmax_polarity": "learned"}):
        model, folder = saved("llama", **settings)
        halves = distributed("llama", folder, tp_size=2)
        same_outputs(run(halves, all_rows("llama")), run(model, all_rows("llama")))
        for bias in score_biases(halves).values():
            assert bias.to_local().shape == (2,)
        rows = [all_rows("llama")]
        same_gradients(train(halves, rows), train(model, rows))
        same_weights(halves, model)
        saves_and_reloads(halves, "llama", model)


@check
def tensor_parallel_polarity_is_set():
    model, folder = saved("llama", tanhmax_polarity=0.0)
    halves = distributed("llama", folder, tp_size=2)
    for polarity in (0.0, 0.6, 1.0):
        hf_tanhmax.set_polarity(halves, polarity)
        hf_tanhmax.set_polarity(model, polarity)
        same_outputs(run(halves, all_rows("llama")), run(model, all_rows("llama")))


@check
def tensor_parallel_heads_that_cannot_be_placed():
    _, folder = saved("llama", tanhmax_heads=[0, 3])
    with raises(NotImplementedError, "tanhmax_heads counts the 4 heads of the whole LlamaAttention"):
        run(distributed("llama", folder, tp_size=2), all_rows("llama"))


@check
def tensor_parallel_live_patch():
    """A native model that is split already: a polarity is fine, score biases of all heads are not."""
    native = tiny_model(transformers.LlamaForCausalLM, **CASES["llama"][2])
    if dist.get_rank() == 0:
        native.save_pretrained(SHARED / "native")
    dist.barrier()
    halves = transformers.AutoModelForCausalLM.from_pretrained(SHARED / "native", distributed_config=DistributedConfig(tp_size=2))
    with hf_tanhmax.tanhmax_on(halves), hf_tanhmax.tanhmax_on(native):
        same_outputs(run(halves, all_rows("llama")), run(native, all_rows("llama")))
    hf_tanhmax.use_tanhmax(halves, hf_tanhmax.TanhMaxSettings(polarity="learned"))
    with raises(ValueError, "has 4 score biases but sees 2 heads"):
        run(halves, all_rows("llama"))


# Pipeline parallelism: each process has some of the layers


@check
def pipeline_parallel_outputs():
    for settings in ({}, {"tanhmax_polarity": "learned"}, {"tanhmax_layers": [1]}, {"tanhmax_heads": [0, 3]}):
        model, folder = saved("llama", **settings)
        part = distributed("llama", folder, pp_size=2)
        assert sum(map(torch.numel, part.parameters())) < 0.7 * sum(map(torch.numel, model.parameters()))
        inputs = {"input_ids": all_rows("llama")["input_ids"], "use_cache": False}
        same_outputs([run(part, inputs).logits], [run(model, inputs).logits])


# FSDP 2: each process has half of every parameter


def has_half_of_everything(model):
    mine, everything = 0, 0
    for value in model.parameters():
        mine, everything = mine + value.to_local().numel(), everything + value.numel()
    assert 0.4 * everything < mine < 0.6 * everything


@check
def fsdp_of_transformers():
    for family in TINY:
        for settings in ({}, {"tanhmax_polarity": "learned"}):
            model, folder = saved(family, **settings)
            halves = distributed(family, folder, fsdp_size=2)
            has_half_of_everything(halves)
            same_outputs(run(halves, all_rows(family)), run(model, all_rows(family)))
            same_gradients(train(halves, [my_row(family)]), train(model, rows_of_both(family)))
            same_weights(halves, model)
            saves_and_reloads(halves, family, model)


@check
def fsdp_of_torch_layer_by_layer():
    """As accelerate does it: every module of `_no_split_modules`, then the model."""
    for family in TINY:
        for start, polarities in ((0.0, (0.6, 1.0)), ("learned", (None,))):
            model, _ = saved(family, tanhmax_polarity=start)
            halves = copy.deepcopy(model)
            layers = [module for module in halves.modules() if type(module).__name__ in halves._no_split_modules]
            assert len(layers) >= TINY[family]["num_hidden_layers"]
            for module in [*layers, halves]:
                fully_shard(module, mesh=init_device_mesh("cpu", (2,)))
            has_half_of_everything(halves)
            for polarity in polarities:
                if polarity is not None:
                    hf_tanhmax.set_polarity(halves, polarity)
                    hf_tanhmax.set_polarity(model, polarity)
                same_outputs(run(halves, all_rows(family)), run(model, all_rows(family)))
                same_gradients(train(halves, [my_row(family)]), train(model, rows_of_both(family)))
            gathered = get_model_state_dict(halves, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
            if dist.get_rank() == 0:
                folder = SHARED / f"gathered-{family}-{start}"
                halves.save_pretrained(folder, state_dict=gathered)
                again = type(model).from_pretrained(folder)
                same_weights(again, model)
                assert again.config.tanhmax_settings == model.config.tanhmax_settings
            dist.barrier()


# Data parallelism: each process has everything, and half of the rows


@check
def data_parallel():
    for family in TINY:
        for settings in ({"tanhmax_polarity": 0.0}, {"tanhmax_polarity": "learned"}):
            model, _ = saved(family, **settings)
            wrapped = DistributedDataParallel(copy.deepcopy(model), find_unused_parameters=False)
            for polarity in (0.0, 0.6):
                if settings["tanhmax_polarity"] != "learned":
                    hf_tanhmax.set_polarity(wrapped, polarity)
                    hf_tanhmax.set_polarity(model, polarity)
                found = {name.removeprefix("module."): value for name, value in train(wrapped, [my_row(family)]).items()}
                same_gradients(found, train(model, rows_of_both(family)))
            same_weights(wrapped.module, model)


def is_left_out(name):
    """Whether a check would not run on the CPU."""
    return name.startswith(DISTRIBUTED_CONFIG) and BUILT_FOR is not None


if __name__ == "__main__":
    main({name: function for name, function in CHECKS.items() if not is_left_out(name)}, SHARED)
