"""Calibration in its order: what is done, what is held out, what is undone when it fails; and what is refused."""

import pytest
import torch
import transformers
from families import BACKBONES, images, text, tiny_model
from made_conversions import batches, hidden, trained

import hf_tanhmax
from hf_tanhmax import conversion, set_polarity, to_softmax
from hf_tanhmax.conversion import align, calibrate, refit, transfer
from hf_tanhmax.conversion.calibration import calibrate as module
from hf_tanhmax.conversion.calibration.calibrate import split


def llama(**changes):
    settings = {"tanhmax_polarity": 0.3, "tanhmax_shift": "balanced"}
    return tiny_model(hf_tanhmax.TanhMaxLlamaForCausalLM, **{**settings, **changes})


def weights(model):
    return {name: value.detach().clone() for name, value in model.named_parameters()}


# What is done


def test_all_parts_in_their_order():
    model, other, data = trained("bert"), trained("bert"), batches("bert", 10)
    report = calibrate(model, data, balance=0.4, refit=True, transfer_steps=3)
    aligned = align(other, data[:9], balance=0.4)
    transferred = transfer(other, data[:9], steps=3)
    refitted = refit(other, data[:9], originals=transferred.originals)
    torch.testing.assert_close(weights(model), weights(other), atol=0, rtol=0)
    assert report.alignment.residual == aligned.residual
    assert report.transfer.error_after == transferred.error_after
    assert report.refit.error_after == refitted.error_after
    assert (report.polarity, report.shift, report.balance, report.tokens) == (1.0, None, 0.4, aligned.rows)
    assert (report.quality.held_out, report.quality.rows) == (True, 35)
    assert report.quality.cosine_after > report.quality.cosine_before
    assert not model.training


def test_softmax_is_found_again():
    model, data = trained("bert", torch.float32), batches("bert", 10)
    set_polarity(model, 0.0)
    before = hidden(model, data[0])
    set_polarity(model, 1.0)
    report = calibrate(model, data, refit=True, transfer_steps=3)
    softmax = to_softmax(model, originals=report.originals)
    torch.testing.assert_close(hidden(softmax, data[0]), before, atol=4e-5, rtol=0)


def test_a_balanced_shift_is_refitted_by_default():
    model, data = llama(), batches("bert", 10)
    report = calibrate(model, data)
    assert report.alignment is report.transfer is None
    assert report.refit.rows == report.tokens == 9 * 35
    assert (report.polarity, report.shift, report.balance) == (0.3, "balanced", 0.3)
    assert report.quality.kl_after < report.quality.kl_before
    assert report.quality.perplexity_softmax > 1
    only = calibrate(llama(), data, refit=False, transfer_steps=4)
    assert only.refit is None
    assert only.transfer.steps == 4


def test_at_polarity_0_a_model_is_aligned_for_polarity_1():
    model, data = trained("bert", tanhmax_polarity=0.0), batches("bert", 10)
    before = hidden(model, data[0])
    report = calibrate(model, data)
    torch.testing.assert_close(hidden(model, data[0]), before)
    assert report.polarity == 1.0
    assert report.quality.cosine_after < 0.9999


# What is held out


@pytest.mark.parametrize("count", [10, 25])
def test_of_many_batches_the_last_tenth_is_held_out(count):
    class Counting(list):
        read = 0

        def __getitem__(self, index):
            Counting.read += 1
            return super().__getitem__(index)

    data = Counting({"input_ids": text(2, 3) + index} for index in range(count))
    parts = split(data)
    assert Counting.read == 0
    assert [len(parts.fitted), len(parts.held)] == [count - count // 10, count // 10]
    assert [*map(id, parts.fitted), *map(id, parts.held)] == [id(each) for each in list.__iter__(data)]


@pytest.mark.parametrize(("sizes", "held"), [([20], 2), ([2], 1), ([16, 16, 4], 4), ([16, 16, 1], 3), ([1, 1, 1], 1), ([2, 1], 1)])
def test_of_a_few_batches_a_tenth_of_the_rows_is_held_out(sizes, held):
    ids = torch.arange(3 * sum(sizes)).view(-1, 3)
    data = [{"input_ids": part, "interpolate": True} for part in ids.split(sizes)]
    parts = split(data)
    assert parts.held_out
    assert torch.cat([each["input_ids"] for each in parts.held]).shape[0] == held
    found = torch.cat([each["input_ids"] for each in [*parts.fitted, *reversed(parts.held)]])
    torch.testing.assert_close(found, ids)


def test_one_input_is_not_held_out():
    parts = split(iter([{"input_ids": text(1, 3)}]))
    assert not parts.held_out
    assert len(parts.fitted) == len(parts.held) == 1


def test_a_batch_that_cannot_be_cut_is_held_out_whole():
    data = [{"input_ids": text(4, 3), "lengths": [3, 3]} for _ in range(3)]
    parts = split(data)
    assert [len(parts.fitted), len(parts.held)] == [2, 1]


# What is refused


def unchanged(model, error, match, data, **options):
    before, config = weights(model), model.config.to_dict()
    with pytest.raises(error, match=match):
        calibrate(model, data, **options)
    torch.testing.assert_close(weights(model), before, atol=0, rtol=0)
    assert model.config.to_dict() == config


def test_what_failed_is_undone(monkeypatch):
    def fail(*_, **__):
        raise ValueError("it cannot be refitted")

    for part in ("refit_outputs", "transfer"):
        model = llama()
        with monkeypatch.context() as patched:
            patched.setattr(module, part, fail)
            unchanged(model, ValueError, "it cannot be refitted", batches("bert", 10), transfer_steps=2, refit=True)

    class Broken(module.Comparison):
        def quality(self):
            raise ValueError("converted, it computes NaN")

    monkeypatch.setattr(module, "Comparison", Broken)
    unchanged(llama(), ValueError, "converted, it computes NaN", batches("bert", 10), transfer_steps=2)


def test_what_cannot_be_calibrated():
    data = batches("bert", 10)
    with pytest.raises(ValueError, match=r"BertModel is not a TanhMax class; call hf_tanhmax\.convert\(\.\.\., calibrate=inputs\)"):
        calibrate(tiny_model(transformers.BertModel), data)
    unchanged(
        llama(tanhmax_shift=None),
        ValueError,
        'LlamaAttention rotates its keys by their positions, .*; convert it with shift="balanced" instead, at a polarity',
        data,
    )
    unchanged(llama(), ValueError, "a balanced shift balances every row by itself, so there is nothing to calibrate", data, refit=False)
    unchanged(trained("bert", tanhmax_polarity="learned"), ValueError, "a learned polarity starts close to softmax", data)
    unchanged(trained("bert"), ValueError, r"balance must be in \(0, 1\]", data, balance=0)
    unchanged(trained("bert"), ValueError, "transfer_steps must be 0 or a whole number above", data, transfer_steps=-1)
    unchanged(trained("bert"), ValueError, "there is nothing to calibrate with; give some inputs", [])
    unchanged(trained("bert"), TypeError, "batches must be a list of mappings of the model's inputs, .* but holds str", data[0])
    unchanged(trained("bert"), ValueError, "cannot run on a batch of pixel_values", [{"pixel_values": images(4)}])


def test_too_few_rows():
    unchanged(trained("bert"), ValueError, r"the batches have 6 rows \(.*\), but 7 are needed at least", [{"input_ids": text(3, 3)}])
    data = [{"input_ids": text(6, 3)}]
    unchanged(llama(), ValueError, r"the batches have 15 rows \(.*\), but 25 are needed at least to fit the 25 numbers of every", data)


def test_a_model_that_was_calibrated_before():
    model = llama()
    calibrate(model, batches("bert", 10))
    unchanged(model, ValueError, r"were refitted already, to polarity 0\.3", batches("bert", 10))


# The package


def test_every_public_name_is_there():
    assert all(callable(getattr(conversion, name)) for name in conversion.__all__)
    with pytest.raises(AttributeError, match=r"module 'hf_tanhmax\.conversion' has no attribute 'aline'"):
        _ = conversion.aline
    assert set(BACKBONES)
