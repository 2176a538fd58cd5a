"""Every written token by every token before it: against one explanation a token, and against integrals along each path."""

import json

import pytest
import torch
from families import softmax_twin, text, tiny_model
from tiny_tokenizers import byte_pieces
from walked import WALKED

import hf_tanhmax
from hf_tanhmax.interpret import GENERATION_METHODS, explain_generation, explain_whole_generation
from hf_tanhmax.interpret.attribution import generation

LLAMA = hf_tanhmax.TanhMaxLlamaForCausalLM


def ending_never(**changes):
    model = tiny_model(LLAMA, **changes)
    model.generation_config.eos_token_id = None
    return model


def test_rows_are_the_explanations_of_each_next_token():
    model, ids = ending_never(), text(1, 5)
    found = explain_whole_generation(model, None, {"input_ids": ids}, new_tokens=4)
    written = model.generate(ids, max_new_tokens=4, do_sample=False, eos_token_id=-1)[0]
    assert found.targets == tuple(written[5:].tolist())
    assert (found.prompt, len(found.tokens), found.scores.shape) == (5, 9, (4, 9))
    assert found.written == found.tokens[5:]
    for place in range(4):
        step = explain_generation(model, None, {"input_ids": written[None, : 5 + place]}, methods=("input_x_gradient",))
        assert found.logits[place] == pytest.approx(step.logit, abs=1e-5)
        assert found.probabilities[place] == pytest.approx(step.probability, abs=1e-5)
        torch.testing.assert_close(found.scores[place, : 5 + place], step.scores["input_x_gradient"], atol=1e-5, rtol=1e-4)
        assert not found.scores[place, 5 + place :].any()
        told = found.conservation[place]
        assert told.total == pytest.approx(step.conservation["input_x_gradient"].total, abs=1e-5)
        assert (told.expected, told.expected_is) == (pytest.approx(step.logit, abs=1e-5), "the logit")
    assert any("rows are far from what they should add up to" in note for note in found.notes)


@pytest.mark.parametrize("tokens_per_batch", [8192, 14])
def test_sequential_integrated_gradients_are_integrals_of_one_tokens_path(monkeypatch, tokens_per_batch):
    """By Gauss-Legendre along each path in float64, dimensions added up."""
    monkeypatch.setattr(generation, "TOKENS_PER_BATCH", tokens_per_batch)
    model, ids = ending_never(initializer_range=0.1).double(), text(1, 5)
    found = explain_whole_generation(model, None, {"input_ids": ids}, new_tokens=3, method="sequential_integrated_gradients")
    whole = torch.tensor([[*ids[0].tolist(), *found.targets]])
    table = model.get_input_embeddings().weight.detach()
    nodes, weights = __import__("numpy").polynomial.legendre.leggauss(40)
    for place in range(3):
        for position in range(5 + place):
            total = 0.0
            for node, weight in zip(nodes, weights, strict=True):
                embeddings = table[whole[:, : 5 + place]].clone()
                change = embeddings[0, position] - table[2]  # from the token of the baseline
                embeddings[0, position] = table[2] + (node + 1) / 2 * change
                embeddings.requires_grad_()
                logit = model(inputs_embeds=embeddings, use_cache=False).logits[0, -1, found.targets[place]]
                (gradient,) = torch.autograd.grad(logit, embeddings)
                total += weight / 2 * float(gradient[0, position] @ change)
            assert float(found.scores[place, position]) == pytest.approx(total, abs=1e-3)
        assert not found.scores[place, 5 + place :].any()
    with torch.no_grad():
        empty = model(input_ids=torch.full((1, 5), 2)).logits[0, -1, found.targets[0]]
    assert found.conservation[0].expected == pytest.approx(float(found.logits[0]) - float(empty), abs=1e-5)
    assert found.conservation[0].expected_is == "the change of the logit from the baseline"


@pytest.mark.parametrize("method", GENERATION_METHODS)
def test_what_was_written_otherwise(method):
    model, ids = softmax_twin(tiny_model(LLAMA)), text(1, 4)
    found = explain_whole_generation(model, None, {"input_ids": ids}, written=[7, 2, 9], method=method)
    assert found.targets == (7, 2, 9)
    with torch.no_grad():
        logits = model(input_ids=torch.cat([ids, torch.tensor([[7, 2, 9]])], 1)).logits[0]
    torch.testing.assert_close(found.logits, logits[[3, 4, 5], [7, 2, 9]], atol=1e-5, rtol=1e-5)


def test_writing_ends_at_an_end_token():
    model = tiny_model(LLAMA)
    ids = text(1, 5)
    model.generation_config.eos_token_id = int(model(input_ids=ids).logits[0, -1].argmax())
    assert explain_whole_generation(model, None, {"input_ids": ids}, new_tokens=6).targets == (model.generation_config.eos_token_id,)


def test_a_file_of_it(tmp_path):
    words = byte_pieces()
    model = ending_never(vocab_size=len(words))
    found = explain_whole_generation(model, words, "a film", new_tokens=2)
    found.save(tmp_path / "a.json")
    told = json.loads((tmp_path / "a.json").read_text())
    assert told["tokens"] == list(found.tokens)
    assert [len(row) for row in told["scores"]] == [found.prompt, found.prompt + 1]
    torch.testing.assert_close(torch.tensor(told["scores"][1]), found.scores[1, : found.prompt + 1])
    assert set(told["conservation"][0]) == {"total", "expected", "expected_is", "gap", "far"}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"new_tokens": 508},
            r"the generation is too long: 5 tokens of the text and 508 new ones are 513, but at most 64 are explained tog",
        ),
        (
            {"new_tokens": 6, "longest": 10},
            r"5 tokens of the text and 6 new ones are 11, but at most 10 are .*; give a shorter text or fewer",
        ),
        ({"written": [3] * 60}, r"the generation is too long: 5 tokens of the text and 60 new ones are 65, but at most 64"),
        ({"new_tokens": 0}, "a generation has at least one new token, but got 0"),
        ({"written": []}, "a generation has at least one new token, but got 0"),
        ({"written": [3, 53]}, "written token 53 is not in the vocabulary: the model has 53 tokens, 0 to 52"),
        ({"written": ["a"]}, "written token 'a' is not in the vocabulary"),
        ({"method": "weights"}, "there is no method 'weights'; choose from input_x_gradient, sequential_integrated_gradients"),
    ],
)
def test_what_cannot_be_explained(options, said):
    with pytest.raises(ValueError, match=said):
        explain_whole_generation(tiny_model(LLAMA), None, {"input_ids": text(1, 5)}, **options)


def test_models_that_do_not_write_or_read_what_they_write():
    bert = tiny_model(hf_tanhmax.TanhMaxBertForSequenceClassification)
    with pytest.raises(ValueError, match="TanhMaxBertForSequenceClassification does not write texts, so there is no generation to explain"):
        explain_whole_generation(bert, None, {"input_ids": text(1, 5)})
    with pytest.raises(ValueError, match="TanhMaxT5ForConditionalGeneration writes from an encoder, whose tokens are not before those"):
        explain_whole_generation(WALKED["t5"].model(), None, WALKED["t5"].inputs())


def test_a_generation_that_half_precision_does_not_hold_is_refused():
    model = ending_never()
    model.model.embed_tokens.weight.data.mul_(1e-4)
    with pytest.raises(ValueError, match="the scores hold NaN or infinity, so there is nothing to explain: try float32"):
        explain_whole_generation(model.half(), None, {"input_ids": text(1, 9)}, new_tokens=4)
    assert explain_whole_generation(model.float(), None, {"input_ids": text(1, 9)}, new_tokens=4).scores.isfinite().all()
