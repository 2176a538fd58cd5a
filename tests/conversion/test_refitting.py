"""Refitted output projections: those of least squares, in every family; what is kept, resumed, undone; and what is refused."""

import copy
import json
import math
import os
import re
import subprocess
import sys
import weakref
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import transformers
from families import BACKBONES, LAYERS, assert_same, images, real_weights, run, text, tiny_model
from made_conversions import silenced

import hf_tanhmax
from hf_tanhmax import TanhMaxSettings, convert, set_polarity, to_softmax, use_tanhmax
from hf_tanhmax.conversion.gauge import align
from hf_tanhmax.conversion.layers import Layer
from hf_tanhmax.conversion.originals import undo_refit
from hf_tanhmax.conversion.refitting import refit
from hf_tanhmax.conversion.streams import Streams
from hf_tanhmax.integration.registration import SCORE_BIAS

every_family = pytest.mark.parametrize("family", BACKBONES)
OUTPUTS = {"bert": "attention.output.dense", "vit": "attention.o_proj", "llama": "self_attn.o_proj"}
SHIFTED = {"tanhmax_shift": "balanced", "tanhmax_polarity": 0.3}
FITTED = {"polarity": 0.3, "shift": "balanced", "layers": None, "heads": None}


def student(family, dtype=torch.float64, **changes):
    """A TanhMax backbone whose biases are as arbitrary as training leaves them."""
    model = tiny_model(BACKBONES[family], **{**SHIFTED, **changes})
    generator = torch.Generator().manual_seed(3)
    for name, value in model.named_parameters():
        if name.endswith("bias"):
            value.data.normal_(0, 0.2, generator=generator)
    return model.to(dtype)


def batches(family, count=3):
    """Inputs of 35 to 44 rows a batch, of texts with padding on the right, on the left, and in the second batch none."""
    if family == "vit":
        return [{"pixel_values": images(4).roll(shift, 0) * (1 + shift)} for shift in range(count)]
    mask = torch.ones(3, 4, 11, dtype=torch.int64)
    mask[0, 1, 8:] = mask[0, 3, 5:] = mask[2, 1, :6] = 0
    return [{"input_ids": text(4, 11).roll(shift, 1), "attention_mask": mask[shift % 3]} for shift in range(count)]


def last(model, batch):
    """Last hidden states of the real rows."""
    states = run(model, {name: value.to(model.dtype) if value.is_floating_point() else value for name, value in batch.items()})
    mask = batch.get("attention_mask")
    return states.last_hidden_state[mask.bool()] if mask is not None else states.last_hidden_state.flatten(0, 1)


def softmax_of(family, batch, dtype=torch.float64, **changes):
    return last(student(family, dtype, **{**changes, "tanhmax_polarity": 0.0}), batch)


def state(model):
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def assert_equal(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], atol=0, rtol=0, equal_nan=True, msg=name)


# What it computes


@every_family
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_model_comes_closer_to_softmax(family, dtype):
    model, data = student(family, dtype), batches(family)
    softmax, before = softmax_of(family, data[1], dtype).double(), last(model, data[1]).double()
    report = refit(model, data)
    after = last(model, data[1]).double()
    assert (after - softmax).norm() < 0.85 * (before - softmax).norm()
    assert {value.dtype for value in model.parameters()} == {dtype}
    assert all(after < before for before, after in zip(report.error_before, report.error_after, strict=True))
    assert (report.batches, report.rows) == (3, 120 if family == "vit" else 117)
    assert report.polarity == model.config.tanhmax_polarity == 0.3
    assert model.config.tanhmax_refitted_polarity == FITTED
    assert report.layers == tuple(f"{'encoder.layer' if family == 'bert' else 'layers'}.{index}" for index in range(LAYERS))
    assert report.seconds > 0
    assert not model.training


def streams_of(model, batch, layer, family, *, polarity):
    """Input of a layer, its heads' outputs and what its output projection adds, of real rows."""
    set_polarity(model, polarity)
    seen = {}
    path = ("encoder.layer" if family == "bert" else "layers") + f".{layer}"
    hooks = [
        model.get_submodule(path).register_forward_pre_hook(lambda _, inputs: seen.update(before=inputs[0])),
        model.get_submodule(f"{path}.{OUTPUTS[family]}").register_forward_hook(lambda _, i, o: seen.update(heads=i[0], added=o)),
    ]
    run(model, {name: value.double() if value.is_floating_point() else value for name, value in batch.items()})
    for hook in hooks:
        hook.remove()
    mask = batch["attention_mask"].bool() if "attention_mask" in batch else torch.ones(seen["before"].shape[:2], dtype=torch.bool)
    return [seen[name][mask] for name in ("before", "heads", "added")]


@every_family
@pytest.mark.parametrize("layer", [0, 2])
@pytest.mark.parametrize("bias", [True, False])
def test_it_is_least_squares(family, layer, bias):
    """By `torch.linalg.lstsq` on all rows, and on rows that stand for the penalties, of whole models that run as they are."""
    ridge, data = 0.03, batches(family)
    softmax, before, refitted = student(family), student(family), student(family)
    refit(refitted, data, ridge=ridge, bias=bias)
    wanted = [streams_of(softmax, batch, layer, family, polarity=0.0) for batch in data]
    undone = state(refitted)
    path = f"{'encoder.layer' if family == 'bert' else 'layers'}.{layer}.{OUTPUTS[family]}"
    refitted.config.tanhmax_refitted_polarity = None
    output = refitted.get_submodule(path)
    output.load_state_dict({"bias": torch.zeros(output.out_features), **before.get_submodule(path).state_dict()}, strict=bias)
    have = [streams_of(refitted, batch, layer, family, polarity=0.3) for batch in data]
    (wanted_before, _, wanted_added), (student_before, heads, added) = (map(torch.cat, zip(*each, strict=True)) for each in (wanted, have))
    weights = ((wanted_before + wanted_added).square().mean(-1, keepdim=True)) ** -0.5
    left = (wanted_before + wanted_added - student_before - added) * weights
    inputs = torch.cat([heads, torch.ones(len(heads), int(bias), dtype=heads.dtype)], 1) * weights
    width = heads.shape[1]
    penalty = (ridge * (heads * weights).square().sum() / width).sqrt()
    rows = torch.diag(torch.cat([penalty.expand(width), (1e-3 * weights.square().sum()).sqrt().expand(int(bias))]))
    pulled = torch.zeros(width + bias, left.shape[1], dtype=left.dtype)
    pulled[:width] = penalty * 0.3 * output.weight.detach().T
    change = torch.linalg.lstsq(torch.cat([inputs, rows]), torch.cat([left, pulled])).solution
    torch.testing.assert_close(undone[f"{path}.weight"] - output.weight.detach(), change[:width].T, atol=1e-9, rtol=1e-7)
    if bias:
        torch.testing.assert_close(undone[f"{path}.bias"] - output.bias.detach(), change[width], atol=1e-9, rtol=1e-7)
    if layer == 0:
        report = refit(student(family), data, ridge=ridge, bias=bias)
        norm = (wanted_added * weights).norm()
        assert report.error_before[0] == pytest.approx(float(left.norm() / norm))
        assert report.error_after[0] == pytest.approx(float((left - inputs @ change).norm() / norm))


@every_family
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_where_tanhmax_is_softmax_nothing_changes(family, dtype):
    """To rounding, with score biases so high that their polarity is 1e-34.

    A processor that multiplies bfloat16 rounds the weights of attention to it, here those of a balanced shift and there those of softmax,
    and a fit to few rows takes that up: it changes a projection by as little.
    """
    options = {"tanhmax_polarity": "learned", "tanhmax_score_bias": 40.0}
    model = tiny_model(BACKBONES[family], tanhmax_shift="balanced", **options).to(dtype)
    before = state(model)
    report = refit(model, batches(family))
    for name, value in before.items():
        found = model.state_dict()[name]
        if dtype == torch.float32:
            torch.testing.assert_close(found, value, atol=1e-6, rtol=1e-5, msg=name)
        elif value.dim() == 2:
            assert (found - value).float().norm() < 2**-5 * value.float().norm(), name
    assert max(report.error_before) < (1e-5 if dtype == torch.float32 else 2**-5)
    assert model.config.tanhmax_refitted_polarity == {**FITTED, "polarity": "learned"}


@every_family
def test_without_a_shift(family):
    """The refit is of whatever the model computes; plain TanhMax is further from softmax."""
    model, data = student(family, tanhmax_shift=None), batches(family)
    softmax, before = softmax_of(family, data[0]), last(model, data[0])
    refit(model, data)
    assert (last(model, data[0]) - softmax).norm() < (before - softmax).norm()


@pytest.mark.parametrize("scale", [0.0, 1e-40])
def test_a_layer_whose_heads_compute_nothing(scale, either_subnormals):
    model = silenced(student("bert", torch.float32), "value")
    model.encoder.layer[0].attention.self.value.bias.data.fill_(scale)
    refit(model, batches("bert"))
    assert all(value.isfinite().all() for value in model.parameters())
    wanted = last(silenced(student("bert", torch.float32, tanhmax_polarity=0.0), "value"), batches("bert")[0])
    assert (last(model, batches("bert")[0]) - wanted).norm() < 0.5 * wanted.norm()


def test_a_learned_polarity_pulls_each_head_by_its_own():
    """With a ridge so high that the pull is all there is."""
    model = student("llama", tanhmax_polarity="learned")
    for each in model.modules():
        if hasattr(each, SCORE_BIAS):
            getattr(each, SCORE_BIAS).data.copy_(torch.tensor([0.1, 0.5, 1.0, 4.0]))
    before = model.layers[1].self_attn.o_proj.weight.detach().clone()
    refit(model, batches("llama"), ridge=1e9)
    factors = (1 + torch.exp(torch.tensor([-0.2, -1.0, -2.0, -8.0], dtype=torch.float64))).repeat_interleave(6)
    torch.testing.assert_close(model.layers[1].self_attn.o_proj.weight.detach(), before * factors, atol=1e-6, rtol=1e-6)


@every_family
def test_layers_and_heads_that_are_chosen(family):
    """The projections of other layers stay; other heads of a layer are not pulled."""
    changes = {"tanhmax_layers": [0, 2], "tanhmax_heads": [1]}
    model, data = student(family, **changes), batches(family)
    before, softmax, unfitted = state(model), softmax_of(family, data[0], **changes), last(model, data[0])
    report = refit(model, data)
    assert [name[-1] for name in report.layers] == ["0", "2"]
    changed = {name for name, value in before.items() if not torch.equal(value, model.state_dict()[name])}
    assert {re.search(r"\d", name).group() for name in changed} == {"0", "2"}
    assert (last(model, data[0]) - softmax).norm() < (unfitted - softmax).norm()
    strong = student(family, **changes)
    refit(strong, data, ridge=1e9)
    path = next(name for name in before if name.endswith(f"{OUTPUTS[family]}.weight"))
    factors = torch.ones(strong.config.num_attention_heads, dtype=torch.float64)
    factors[1] = 1.3
    pulled = before[path] * factors.repeat_interleave(before[path].shape[1] // len(factors))
    torch.testing.assert_close(strong.state_dict()[path], pulled, atol=1e-6, rtol=1e-6)


def test_padding_does_not_matter():
    data = batches("llama")
    longer = [{name: F.pad(value, (0, 6)) for name, value in batch.items()} for batch in data]
    one, other = student("llama"), student("llama")
    refit(one, data)
    refit(other, longer)
    for name, value in one.state_dict().items():
        torch.testing.assert_close(value, other.state_dict()[name], atol=1e-9, rtol=1e-7)


def test_how_rows_are_split_into_batches_does_not_matter():
    whole, one, other = batches("bert", 2), student("bert"), student("bert")
    refit(one, whole)
    refit(other, iter([{name: value[i : i + 1] for name, value in batch.items()} for batch in whole for i in range(4)]))
    for name, value in one.state_dict().items():
        torch.testing.assert_close(value, other.state_dict()[name], atol=1e-9, rtol=1e-7)


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_heads_of_every_kind_come_along(implementation):
    """With labels and a cache in the config, by either implementation, in training mode."""
    model = tiny_model(hf_tanhmax.TanhMaxLlamaForCausalLM, attn_implementation=implementation, **SHIFTED).double()
    other = tiny_model(hf_tanhmax.TanhMaxLlamaModel, **SHIFTED).double()
    other.load_state_dict({name.removeprefix("model."): value for name, value in model.state_dict().items() if name.startswith("model.")})
    model.train()
    refit(model, [{**batch, "labels": batch["input_ids"]} for batch in batches("llama")])
    assert model.training
    assert model.config.use_cache
    report = refit(other, batches("llama"))
    for name, value in other.state_dict().items():
        torch.testing.assert_close(model.model.state_dict()[name], value, atol=1e-9, rtol=1e-7)
    softmax = to_softmax(model, originals=report.originals)  # whose names lack the prefix
    assert not softmax.config.attention_bias


def test_another_architecture():
    config = transformers.Qwen2Config(
        **{key: value for key, value in student("llama").config.to_dict().items() if key in ("hidden_size", "vocab_size")},
        num_attention_heads=4, num_key_value_heads=2, num_hidden_layers=3, intermediate_size=13, initializer_range=0.3,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.Qwen2Model(config).eval().double()
    softmax, data = copy.deepcopy(model), batches("llama")
    use_tanhmax(model, TanhMaxSettings(polarity=0.3, shift="balanced"))
    before = last(model, data[1])
    with pytest.raises(NotImplementedError, match=r"Qwen2Attention has no bias, and its config no attention_bias.*bias=False"):
        refit(model, data, bias=True)
    report = refit(model, data)
    assert not report.bias
    wanted = last(softmax, data[1])
    assert (last(model, data[1]) - wanted).norm() < (before - wanted).norm()
    with pytest.raises(ValueError, match=r"polarity 0.0 was asked for, but .* refitted to polarity 0.3"):
        hf_tanhmax.restore(model)
    undo_refit(model, report.originals)
    assert hf_tanhmax.restore(model) == 3
    assert_equal(state(model), state(softmax))


# What is kept


@every_family
def test_it_is_saved_and_loaded_to_the_bit(family, tmp_path):
    model, (batch, *_) = student(family, torch.float32), batches(family)
    refit(model, batches(family))
    model.save_pretrained(tmp_path)
    again, loaded = type(model).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(loaded[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert_equal(state(again), state(model))
    assert_same(run(again, batch), run(model, batch), atol=0, rtol=0)
    assert again.config.tanhmax_refitted_polarity == FITTED
    if family == "llama":
        assert again.config.attention_bias
        attention = again.layers[1].self_attn
        assert not any(getattr(attention, f"{name}_proj").bias.any() for name in "qkv")
        assert attention.o_proj.bias.any()


@pytest.mark.slow
def test_the_published_file_loads_it_to_the_bit(tmp_path):
    """In a process that has no package."""
    model, batch = student("llama", torch.float32), batches("llama")[0]
    refit(model, batches("llama"))
    model.save_pretrained(tmp_path / "model")
    torch.save({"inputs": batch, "states": run(model, batch).last_hidden_state, "weights": state(model)}, tmp_path / "expected.pt")
    code = """
import sys
sys.modules["hf_tanhmax"] = None
import torch, transformers
model = transformers.AutoModel.from_pretrained(sys.argv[1] + "/model", trust_remote_code=True)
expected = torch.load(sys.argv[1] + "/expected.pt")
assert all(torch.equal(value, expected["weights"][name]) for name, value in model.state_dict().items())
assert expected["weights"].keys() == model.state_dict().keys()
assert model.config.tanhmax_refitted_polarity["polarity"] == 0.3
with torch.no_grad():
    assert torch.equal(model(**expected["inputs"]).last_hidden_state, expected["states"])
try:
    model.config.tanhmax_polarity = 0.5
except ValueError as error:
    print(error)
"""
    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules")}
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert "refitted to polarity 0.3" in done.stdout


@every_family
def test_a_config_names_it_only_where_there_is_one(family):
    model = student(family)
    assert "tanhmax_refitted_polarity" not in json.loads(model.config.to_json_string(use_diff=False))
    refit(model, batches(family))
    assert json.loads(model.config.to_json_string())["tanhmax_refitted_polarity"] == FITTED


@every_family
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("by_file", [True, False])
def test_softmax_is_exact_with_the_originals(family, bias, by_file, tmp_path):
    softmax = to_softmax(student(family, torch.float32))
    before, (batch, *_) = state(softmax), batches(family)
    model = convert(softmax, polarity=0.3, shift="balanced")
    report = refit(model, batches(family), bias=bias)
    originals = report.originals
    if by_file:
        from safetensors.torch import save_file

        originals = tmp_path / "softmax_projections.safetensors"
        save_file(report.originals, originals)
    found = to_softmax(model, originals=originals)
    assert_equal(state(found), before)
    assert found.config.to_dict() == to_softmax(student(family, torch.float32)).config.to_dict()
    want = type(softmax)(softmax.config).eval()
    want.load_state_dict(before)
    assert_same(run(found, batch), run(want, batch), atol=0, rtol=0)


@every_family
def test_softmax_is_exact_with_the_originals_where_polarity_is_learned(family):
    softmax = to_softmax(student(family, torch.float32))
    before, config = state(softmax), softmax.config.to_dict()
    model = convert(softmax, polarity="learned", shift="balanced", score_bias=0.5)
    with pytest.raises(ValueError, match=r"this model has learned score biases, which a softmax model has no place for"):
        to_softmax(model, originals={})
    report = refit(model, batches(family))
    with pytest.raises(ValueError, match=r"were refitted to polarity learned, and softmax computes something else.*pass originals="):
        to_softmax(model)
    found = to_softmax(model, originals=report.originals)
    assert_equal(state(found), before)
    assert found.config.to_dict() == config


@every_family
def test_it_can_be_undone(family):
    model = student(family)
    before, config = state(model), model.config.to_dict()
    report = refit(model, batches(family))
    undo_refit(model, report.originals)
    assert_equal(state(model), before)
    assert model.config.to_dict() == config
    set_polarity(model, 0.7)
    with pytest.raises(ValueError, match=r"no projection of this .* was refitted, so there is nothing to undo"):
        undo_refit(model, report.originals)
    with pytest.raises(ValueError, match=r"no projection of this .* was refitted, so it needs no originals"):
        to_softmax(model, originals=report.originals)


def test_the_report_leaves_the_originals_out():
    report = refit(student("bert"), batches("bert"))
    assert "originals" not in repr(report)
    values = json.loads(json.dumps(report.values()))
    assert values.keys() == {"polarity", "ridge", "bias", "rows", "batches", "seconds", "layers", "error_before", "error_after"}
    again = type(report)(**{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()})
    assert again == report
    assert report.describe() == again.describe()
    assert "3 layers refitted to polarity 0.3 on 117 tokens" in report.describe()


# After transfer: the softmax model has other parameters


def test_parameters_of_the_softmax_model_may_be_others():
    softmax, data = student("bert"), batches("bert")
    originals = {name: value.detach().clone() for name, value in softmax.named_parameters() if ".query." in name or ".key." in name}
    moved = student("bert")
    generator = torch.Generator().manual_seed(9)
    for name in originals:
        parameter = moved.get_parameter(name)
        parameter.data.add_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * 0.05)
    wrong, right = copy.deepcopy(moved), moved
    moved.config.tanhmax_refitted_polarity = 0.3
    for layer in moved.modules():  # a deep copy has a config of its own
        assert getattr(layer, "config", moved.config).tanhmax_refitted_polarity == 0.3
    wanted = softmax_of("bert", data[0])
    refit(wrong, data)
    report = refit(right, data, originals=originals)
    assert (last(right, data[0]) - wanted).norm() < 0.9 * (last(wrong, data[0]) - wanted).norm()
    assert not report.originals.keys() & originals.keys()
    back = to_softmax(right, originals={**originals, **report.originals})
    assert_equal(state(back), state(to_softmax(student("bert"))))
    with pytest.raises(ValueError, match=r"originals hold encoder.layer.0.attention.output.dense.bias.*, which was refitted already"):
        refit(right, data, originals=report.originals)


# Memory and interruption


def ended_after(monkeypatch, calls):
    """Let the run end by an exception when a layer is about to be run for this time."""
    original, left = Layer.__call__, [calls]

    def counting(*args, **kwargs):
        left[0] -= 1
        if left[0] < 0:
            raise InterruptedError
        return original(*args, **kwargs)

    monkeypatch.setattr(Layer, "__call__", counting)


@every_family
@pytest.mark.parametrize("calls", [2, 5, 14, 20, 25])
def test_a_run_that_ended_goes_on_to_the_same_bits(family, calls, monkeypatch, tmp_path):
    whole, data = student(family, torch.float32), batches(family)
    whole_report = refit(whole, data)
    first = student(family, torch.float32)
    before = state(first)
    with monkeypatch.context() as patch:
        ended_after(patch, calls)
        with pytest.raises(InterruptedError):
            refit(first, data, folder=tmp_path)
    assert_equal(state(first), before)
    assert first.config.tanhmax_refitted_polarity is None
    second = student(family, torch.float32)
    report = refit(second, data, folder=tmp_path)
    assert_equal(state(second), state(whole))
    assert report.error_after == whole_report.error_after
    assert report.rows == whole_report.rows
    third = student(family, torch.float32)
    with monkeypatch.context() as patch:
        ended_after(patch, 2)  # which is all that checks of the first batch take: nothing is left to fit
        refit(third, data, folder=tmp_path)
    assert_equal(state(third), state(whole))


@pytest.mark.parametrize(
    ("changes", "options", "match"),
    [
        ({}, {"ridge": 0.5}, "other settings"),
        ({"tanhmax_polarity": 0.2}, {}, "other settings"),
        ({"tanhmax_shift": None}, {}, "other settings"),
        ({"initializer_range": 0.2}, {}, "other weights and batches"),
        ({}, {"batches": 2}, "other batches"),
        ({}, {"mask": 10}, "other batches"),
    ],
    ids=str,
)
def test_a_folder_of_another_refit(changes, options, match, tmp_path):
    refit(student("bert"), batches("bert"), folder=tmp_path)
    data = batches("bert", options.pop("batches", 3))
    data[0]["attention_mask"][:, options.pop("mask", 11) :] = 0
    with pytest.raises(ValueError, match=f"holds a refit with {match}; continue with the same, or name another folder"):
        refit(student("bert", **changes), data, folder=tmp_path, **options)
    (tmp_path / "refit.json").write_text("[]")
    with pytest.raises(ValueError, match=r"refit.json is no record of a refit; delete it"):
        refit(student("bert"), data, folder=tmp_path)


def test_memory_does_not_grow_with_the_data(monkeypatch):
    """Of the inputs, the hidden states that are read and those that are computed, as many live at once with 12 batches as with 2."""
    alive, peaks = [], []

    def tracked(tensors):
        for each in tensors:
            if isinstance(each, torch.Tensor):
                alive.append(weakref.ref(each, alive.remove))
        peaks[-1] = max(peaks[-1], len(alive))

    def tracking(owner, name):
        original = getattr(owner, name)

        def _call(*args, **kwargs):
            found = original(*args, **kwargs)
            tracked([found])
            return found

        monkeypatch.setattr(owner, name, _call)

    def inputs(count):
        for _ in range(count):
            batch = {name: value.clone() for name, value in data.items()}
            tracked(batch.values())
            yield batch

    data = batches("bert", 1)[0]
    tracking(Layer, "__call__")
    tracking(Streams, "load")
    for count in (2, 12):
        peaks.append(0)
        refit(student("bert"), inputs(count))
    assert 3 < peaks[0] == peaks[1] < 12


def test_nothing_is_left_on_the_disk(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    refit(student("bert"), batches("bert"))
    assert not list(tmp_path.iterdir())
    refit(student("bert"), batches("bert"), folder=tmp_path / "kept")
    kept = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    assert kept == ["kept/fitted/0", "kept/fitted/1", "kept/fitted/2", "kept/refit.json"]


def test_a_bar_is_shown_if_asked_for(capsys):
    refit(student("bert"), batches("bert"), progress=True)
    assert "refit: 100%" in capsys.readouterr().err
    refit(student("bert"), batches("bert"))
    assert not capsys.readouterr().err


# What is refused


def refused(model, error, match, data=None, **options):
    """It is refused, and the model is as it was."""
    before, config = state(model), model.config.to_dict()
    with pytest.raises(error, match=match):
        refit(model, batches("bert") if data is None else data, **options)
    assert_equal(state(model), before)
    assert model.config.to_dict() == config


@pytest.mark.parametrize("ridge", [0, -1, math.inf, math.nan, True, "0.2"])
def test_a_ridge_that_cannot_be(ridge):
    refused(student("bert"), ValueError, "ridge must be a number above 0", ridge=ridge)


def test_batches_that_are_none():
    refused(student("bert"), ValueError, "there are no batches to refit with", [])
    refused(student("bert"), TypeError, "batches must be a list of mappings of the model's inputs, .* but holds str", batches("bert")[0])


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_too_few_rows(family):
    width = student(family).config.hidden_size
    refused(
        student(family),
        ValueError,
        rf"the batches have 14 rows \(.*\), but {width + 1} are needed at least to fit the {width + 1} numbers",
        [{"input_ids": text(2, 7)}],
    )


def test_inputs_for_another_kind_of_model():
    refused(student("bert"), ValueError, "TanhMaxBertModel cannot run on a batch of pixel_values: You must", batches("vit"))
    refused(student("vit"), ValueError, "TanhMaxViTModel cannot run on a batch of input_ids, attention_mask: ", batches("bert"))
    bad = [*batches("llama"), {"input_ids": text(2, 9, vocabulary=999)}]
    refused(student("llama"), ValueError, "cannot run on a batch of input_ids: index out of range", bad)


@every_family
def test_activations_that_are_not_finite(family):
    model = student(family)
    path = f"{'encoder.layer' if family == 'bert' else 'layers'}.1"
    next(model.get_submodule(path).parameters()).data[0] = math.nan
    refused(model, ValueError, f"{path} has hidden states that are NaN or infinite for these batches; try float32", batches(family))


def test_a_softmax_model():
    refused(
        to_softmax(student("bert")),
        ValueError,
        r"BertModel computes softmax, so there is nothing to refit; convert it first, .*polarity=0.2",
    )


@every_family
def test_polarity_0(family):
    refused(student(family, tanhmax_polarity=0.0), ValueError, "is 0, which is softmax, so there is nothing to refit", batches(family))


@every_family
def test_a_second_refit(family):
    model = student(family)
    refit(model, batches(family))
    refused(model, ValueError, "were refitted already, to polarity 0.3", batches(family))


def test_aligning_after_a_refit():
    model = student("bert")
    refit(model, batches("bert"))
    with pytest.raises(ValueError, match="the projections of this model were refitted, so polarity 0 is not what to align it to"):
        align(model, batches("bert"))


@pytest.mark.parametrize("way", ["set", "block", "patch", "softmax", "config"])
def test_another_polarity(way, tmp_path):
    model = student("llama")
    report = refit(model, batches("llama"))
    before = last(model, batches("llama")[0])
    said = r"polarity 0.6 was asked for, but the projections of this model were refitted to polarity 0.3 \(tanhmax_refitted_polarity\)"
    if way == "softmax":
        with pytest.raises(ValueError, match=r"were refitted to polarity 0.3, and softmax computes something else.*pass originals="):
            to_softmax(model)
    elif way == "config":
        model.save_pretrained(tmp_path)
        config = json.loads((tmp_path / "config.json").read_text())
        (tmp_path / "config.json").write_text(json.dumps({**config, "tanhmax_polarity": 0.6}))
        for load in (transformers.AutoConfig, transformers.AutoModel):
            with pytest.raises(Exception, match=said):
                load.from_pretrained(tmp_path)
        with pytest.raises(ValueError, match=said):
            model.config.tanhmax_polarity = 0.6
    else:
        ways = {
            "set": lambda: set_polarity(model, 0.6),
            "patch": lambda: use_tanhmax(model, TanhMaxSettings(polarity=0.6)),
            "block": lambda: hf_tanhmax.tanhmax_on(model, polarity=0.6).__enter__(),
        }
        with pytest.raises(ValueError, match=said):
            ways[way]()
        set_polarity(model, 0.3)
    assert torch.equal(last(model, batches("llama")[0]), before)
    assert report.originals


OTHERS = {
    "shift": (None, "shift None was asked for, but the projections of this model were refitted to shift balanced"),
    "layers": ([0], r"layers \[0\] was asked for, but the projections of this model were refitted to layers \[0, 2\]"),
    "heads": ([0, 1], r"heads \[0, 1\] was asked for, but the projections of this model were refitted to heads None"),
}


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("way", ["file", "live", "patch"])
def test_other_settings(name, way, tmp_path):
    """What projections were fitted to holds for all that they depend on."""
    model, (other, said) = student("bert", torch.float32, tanhmax_layers=[0, 2]), OTHERS[name]
    refit(model, batches("bert"))
    before = last(model, batches("bert")[0])
    if way == "file":
        model.save_pretrained(tmp_path)
        config = json.loads((tmp_path / "config.json").read_text())
        (tmp_path / "config.json").write_text(json.dumps({**config, f"tanhmax_{name}": other}))
        for load in (transformers.AutoConfig, transformers.AutoModel):
            with pytest.raises(Exception, match=said):
                load.from_pretrained(tmp_path)
    elif way == "live":
        with pytest.raises(ValueError, match=said):
            setattr(model.config, f"tanhmax_{name}", other)
        model.save_pretrained(tmp_path)
        model = transformers.AutoModel.from_pretrained(tmp_path)
    else:
        settings = {"polarity": 0.3, "shift": "balanced", "layers": [0, 2], name: [1] if name == "layers" else other}
        with pytest.raises(ValueError, match=r"layers None was asked for" if name == "layers" else said):
            use_tanhmax(model, TanhMaxSettings(**settings))
        assert use_tanhmax(model, TanhMaxSettings(0.3, [2], shift="balanced")) == 1  # the other is fitted to that already
    assert torch.equal(last(model, batches("bert")[0]), before)


@pytest.mark.parametrize("whole", [None, [0, 1, 2]])
def test_all_layers_and_heads_are_all_by_any_name(whole):
    model = student("bert", tanhmax_layers=whole, tanhmax_heads=whole)
    refit(model, batches("bert"))
    model.config.tanhmax_layers = model.config.tanhmax_heads = None
    model.config.tanhmax_layers = model.config.tanhmax_heads = [0, 1, 2]
    assert use_tanhmax(model, TanhMaxSettings(0.3, shift="balanced")) == LAYERS


def test_a_patched_model_remembers_its_settings_too(tmp_path):
    model = to_softmax(student("bert", torch.float32))
    use_tanhmax(model, TanhMaxSettings(0.3, [1], [0], shift="balanced"))
    refit(model, batches("bert"))
    before = last(model, batches("bert")[0])
    model.save_pretrained(tmp_path)
    again = transformers.AutoModel.from_pretrained(tmp_path)
    for other in ({"layers": [0]}, {"layers": None}, {"heads": [1]}, {"shift": None}):
        with pytest.raises(ValueError, match=f"^{next(iter(other))} .* was asked for, but the projections of this model were refitted to"):
            use_tanhmax(again, TanhMaxSettings(**{"polarity": 0.3, "layers": [1], "heads": [0], "shift": "balanced", **other}))
    assert use_tanhmax(again, TanhMaxSettings(0.3, [1], [0], shift="balanced")) == 1
    assert torch.equal(last(again, batches("bert")[0]), before)


def test_layers_that_differ():
    model = to_softmax(student("bert"))
    use_tanhmax(model, TanhMaxSettings(0.3, [0], shift="balanced"))
    use_tanhmax(model, TanhMaxSettings(0.3, [1]))
    refused(model, ValueError, "layers of BertModel have shift balanced and others None; give all the same", batches("bert"))


def test_a_config_that_holds_the_polarity_alone(tmp_path):
    """As earlier versions wrote it: nothing is known of the rest."""
    model = student("bert", tanhmax_refitted_polarity=0.3)
    model.config.tanhmax_shift = None
    with pytest.raises(ValueError, match=r"polarity 0.6 was asked for, but .* refitted to polarity 0.3"):
        set_polarity(model, 0.6)


def test_a_polarity_that_grows_while_it_trains():
    model = student("bert")
    refit(model, batches("bert"))
    callback = hf_tanhmax.PolarityCallback(start=0.1, end=1.0)
    state = transformers.TrainerState(max_steps=10)
    with pytest.raises(ValueError, match=r"polarity 0.1 was asked for, but .* refitted to polarity 0.3"):
        callback.on_train_begin(None, state, None, model=model)


def test_originals_of_another_model():
    model, other = student("bert"), student("bert", hidden_size=27, num_attention_heads=3)
    report = refit(model, batches("bert"))
    theirs = refit(other, batches("bert"))
    with pytest.raises(ValueError, match=r"TanhMaxBertModel has no encoder.layer.0.attention.output.dense.weight of shape \(27, 27\)"):
        to_softmax(model, originals=theirs.originals)
    some = {name: value for name, value in report.originals.items() if ".1." not in name}
    with pytest.raises(ValueError, match=r"the originals lack those of encoder.layer.1.attention; pass all"):
        undo_refit(model, some)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # PEFT asks by an old name
def test_projections_that_are_no_plain_layers():
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(student("llama"), LoraConfig(target_modules=["o_proj"], r=2))
    with pytest.raises(NotImplementedError, match=r"the output projection of LlamaAttention is of class Linear and no nn.Linear.*merge"):
        refit(model, batches("llama"))


def test_weights_that_are_not_there():
    model = student("bert")
    model.encoder.layer[1].attention.output.dense.to("meta")
    with pytest.raises(ValueError, match="the output projection of BertSelfAttention is not in memory, so it cannot be refitted"):
        refit(model, batches("bert"))
    model = student("bert")
    model.hf_quantizer = object()
    with pytest.raises(ValueError, match="this TanhMaxBertModel is quantised, so it cannot be refitted"):
        refit(model, batches("bert"))


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA"), MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
)
@pytest.mark.parametrize("where", ["model", "layer"])
def test_batches_that_do_not_fit(error, where, monkeypatch):
    """Into the memory that the model takes for a batch, or that one layer takes later, run by itself."""
    model = student("bert")
    part, left = (model.embeddings, 0) if where == "model" else (model.encoder.layer[1], 1)
    forward, calls = part.forward, []

    def failing(*args, **kwargs):
        calls.append(args)
        if len(calls) > left:
            raise error
        return forward(*args, **kwargs)

    monkeypatch.setattr(part, "forward", failing)
    said = "^a batch of 4 x 11 does not fit into memory; give batches of fewer rows, or of shorter ones: "
    refused(model, torch.OutOfMemoryError, said, batches("bert"))
    assert len(calls) == left + 1


def test_no_attention():
    with pytest.raises(ValueError, match="Linear has no attention module that asks Transformers' attention interface"):
        refit(torch.nn.Linear(3, 3), batches("bert"))


@pytest.mark.weights
@pytest.mark.slow
def test_a_real_checkpoint():
    name = real_weights("bert")
    tokenizer = transformers.AutoTokenizer.from_pretrained(name)
    words = Path(hf_tanhmax.__file__).with_name("functional.py").read_text().split()
    data = [tokenizer([" ".join(words[i : i + 40]) for i in range(j, j + 600, 40)], padding=True, return_tensors="pt") for j in (0, 600)]
    model = convert(name, transformers.AutoModel, polarity=0.3, shift="balanced")
    softmax = last(convert(name, transformers.AutoModel, polarity=0.0), data[0])
    before = last(model, data[0])
    report = refit(model, data)
    after = last(model, data[0])
    assert (after - softmax).norm() < 0.6 * (before - softmax).norm()
    assert max(report.error_after) < max(report.error_before)
