"""`explain` on the three families: identities of contributions, orientation under the flip that changes nothing, captum's completeness."""

import re

import pytest
import torch
import transformers
from families import TINY, images, real_weights, softmax_twin, text, tiny_model
from PIL import Image
from tiny_tokenizers import word_pieces

import hf_tanhmax
from hf_tanhmax.interpret import EXPLAIN_METHODS, explain, explain_generation, upsampled
from hf_tanhmax.interpret.attribution.hooks import record_attention

CLASSIFIERS = (
    hf_tanhmax.TanhMaxBertForSequenceClassification,
    hf_tanhmax.TanhMaxViTForImageClassification,
    hf_tanhmax.TanhMaxLlamaForSequenceClassification,
)
FAST = tuple(method for method in EXPLAIN_METHODS if method != "integrated_gradients")


def one(cls):
    return {"pixel_values": images(1)} if "ViT" in cls.__name__ else {"input_ids": text(1, 7)}


@pytest.mark.parametrize("cls", CLASSIFIERS)
def test_contributions_add_up_to_output_times_gradient(cls):
    model, inputs = tiny_model(cls).double(), one(cls)
    found = explain(model, inputs, 1, methods=FAST)
    with record_attention(model, [0, 1, 2]) as records:
        logit = model(**{name: value.double() if value.is_floating_point() else value for name, value in inputs.items()}).logits[0, 1]
    outputs = [record.outputs for record in records]
    for layer, (output, gradient) in enumerate(zip(outputs, torch.autograd.grad(logit, outputs), strict=True)):
        want = (output * gradient).sum(-1)[0].T
        torch.testing.assert_close(found.contributions[layer].sum(-1), want.float(), atol=1e-6, rtol=1e-5)
    assert found.logit == pytest.approx(float(logit.detach()), abs=1e-6)
    assert found.weights.shape == (3, TINY[found.family]["num_attention_heads"], len(found.tokens), len(found.tokens))
    assert found.weights.min() < 0
    assert found.signed == (True, True, True)
    assert set(found.scores) == set(FAST)


@pytest.mark.parametrize("cls", CLASSIFIERS)
def test_weights_are_those_of_output_attentions(cls):
    model, inputs = tiny_model(cls), one(cls)
    found = explain(model, inputs, methods=("weights",), layers=[0, -1])
    model.set_attn_implementation("eager")
    with torch.no_grad():
        output = model(**inputs, output_attentions=True)
    torch.testing.assert_close(found.weights, torch.cat([output.attentions[0], output.attentions[2]]))
    assert found.layers == (0, 2)
    assert found.target == int(output.logits.argmax())
    assert found.probability == pytest.approx(float(output.logits.softmax(-1).max()), abs=1e-6)


def query_and_partner(model, partner):
    """W_q of head 1 in layer 1, and W_v or W_o, as slices that can be flipped in place."""
    names = dict(model.named_parameters())
    layer = {
        name.split("layers.1.")[-1].split("layer.1.")[-1]: value
        for name, value in names.items()
        if "layer.1." in name or "layers.1." in name
    }
    size = model.config.hidden_size // model.config.num_attention_heads
    head = slice(size, 2 * size)
    for name, value in layer.items():
        if any(f"{part}." in f"{name}" for part in ("query", "q_proj")):
            value.data[head] *= -1
        if partner == "value" and any(f"{part}." in f"{name}" for part in ("value", "v_proj")):
            value.data[head] *= -1
        if partner == "output" and name in ("attention.output.dense.weight", "attention.o_proj.weight", "self_attn.o_proj.weight"):
            value.data[:, head] *= -1


@pytest.mark.parametrize(
    ("cls", "partner"), [(CLASSIFIERS[0], "value"), (CLASSIFIERS[0], "output"), (CLASSIFIERS[1], "output"), (CLASSIFIERS[2], "output")]
)
def test_a_flip_that_changes_no_output_changes_raw_weights_only(cls, partner):
    model, inputs = tiny_model(cls), one(cls)
    before = explain(model, inputs, 0, methods=FAST)
    query_and_partner(model, partner)
    after = explain(model, inputs, 0, methods=FAST)
    assert after.logit == pytest.approx(before.logit, abs=1e-6)
    torch.testing.assert_close(after.weights[1, 1], -before.weights[1, 1])
    torch.testing.assert_close(after.weights[1, 0], before.weights[1, 0])
    torch.testing.assert_close(after.oriented, before.oriented, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(after.contributions, before.contributions, atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(after.scores["oriented"], before.scores["oriented"], atol=1e-6, rtol=1e-5)
    assert not torch.allclose(after.scores["weights"], before.scores["weights"], atol=1e-4)


@pytest.mark.parametrize("cls", CLASSIFIERS)
def test_integrated_gradients_are_complete(cls):
    model, inputs = tiny_model(cls, initializer_range=0.1), one(cls)
    found = explain(model, inputs, 0, methods=("integrated_gradients",), steps=64)
    if "input_ids" in inputs:
        token = 2 if "Llama" in cls.__name__ else 0
        tokens = torch.full_like(inputs["input_ids"], token)
        if "Llama" in cls.__name__:
            tokens[0, 0] = inputs["input_ids"][0, 0]
            assert "keep the first token" in found.notes[-2]
            assert float(found.scores["integrated_gradients"][0]) == 0
        baseline = {"inputs_embeds": model.get_input_embeddings()(tokens)}
    else:
        baseline = {"pixel_values": torch.zeros_like(inputs["pixel_values"])}
    with torch.no_grad():
        gain = found.logit - float(model(**baseline).logits[0, 0])
    assert float(found.scores["integrated_gradients"].sum()) == pytest.approx(gain, abs=1e-2 * max(1.0, abs(gain)))
    assert "integrated gradients" in found.notes[-1]


@pytest.mark.parametrize("cls", [CLASSIFIERS[0], CLASSIFIERS[1], CLASSIFIERS[2]])
def test_a_softmax_model_works_and_says_so(cls):
    model, inputs = softmax_twin(tiny_model(cls)), one(cls)
    with pytest.warns(UserWarning, match="computes softmax"):
        found = explain(model, inputs, 1, methods=FAST)
    assert found.signed == (False, False, False)
    assert "computes softmax" in found.notes[0]
    output = model(**inputs, output_attentions=True)
    torch.testing.assert_close(found.weights, torch.cat(output.attentions))
    assert found.logit == pytest.approx(float(output.logits[0, 1].detach()), abs=1e-5)
    assert bool(found.one_signed.all())


def test_explains_the_next_token():
    model, ids = tiny_model(hf_tanhmax.TanhMaxLlamaForCausalLM), text(1, 7)
    found = explain_generation(model, None, {"input_ids": ids}, 5, methods=FAST)
    assert found.position == 6
    assert found.logit == pytest.approx(float(model(input_ids=ids).logits[0, -1, 5].detach()), abs=1e-5)
    assert found.target_name == "id 5"
    assert float(found.weights.triu(1).abs().max()) == 0


def test_finds_the_position_that_the_logit_is_read_from():
    bert = explain(tiny_model(CLASSIFIERS[0]), one(CLASSIFIERS[0]), methods=("weights",))
    llama = explain(tiny_model(CLASSIFIERS[2]), one(CLASSIFIERS[2]), methods=("weights",))
    assert (bert.position, llama.position) == (0, 6)


def test_padding_is_cut_away():
    model = tiny_model(CLASSIFIERS[0])
    ids = text(1, 7)
    padded = {"input_ids": torch.cat([ids, torch.zeros(1, 3, dtype=torch.long)], 1), "attention_mask": torch.tensor([[1] * 7 + [0] * 3])}
    torch.testing.assert_close(explain(model, padded, 0, methods=FAST).scores, explain(model, {"input_ids": ids}, 0, methods=FAST).scores)


@pytest.mark.weights
def test_real_weights_and_their_tokenizer():
    folder = real_weights("bert")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    torch.manual_seed(0)
    model = hf_tanhmax.convert(folder, transformers.AutoModelForSequenceClassification, polarity=1.0, num_labels=2)
    found = explain(model, "An unforgettable film; don't miss it!", tokenizer=tokenizer, steps=64)
    assert found.tokens == ("[CLS]", "an", "un", "##for", "##get", "##table", "film", ";", "don", "'", "t", "miss", "it", "!", "[SEP]")
    assert found.word_texts == ("An", "unforgettable", "film", ";", "don't", "miss", "it", "!")
    assert found.weights.shape == (6, 12, 15, 15)
    assert found.position == 0
    gap = float(re.search(r"miss ([-+.e\d]+) logits", found.notes[-1]).group(1))
    assert abs(gap) < 0.1 * float(found.scores["integrated_gradients"].abs().sum())
    with record_attention(model, list(range(6))) as records:
        logit = model(**tokenizer("An unforgettable film; don't miss it!", return_tensors="pt")).logits[0, found.target]
    outputs = [record.outputs for record in records]
    for layer, (output, gradient) in enumerate(zip(outputs, torch.autograd.grad(logit, outputs), strict=True)):
        torch.testing.assert_close(found.contributions[layer].sum(-1), (output * gradient).sum(-1)[0].T, atol=1e-6, rtol=1e-3)


def test_a_picture_and_its_processor():
    model = tiny_model(hf_tanhmax.TanhMaxViTForImageClassification)
    processor = transformers.ViTImageProcessorPil(size={"height": 15, "width": 15})
    picture = Image.effect_mandelbrot((40, 30), (-2, -1.5, 1, 1.5), 50).convert("RGB")
    found = explain(model, picture, processor=processor, methods=("contributions", "gradient"))
    assert found.grid == (3, 3)
    assert (found.image.size, found.image.mode) == ((40, 30), "RGB")
    assert upsampled(found.scores["contributions"], found.grid, (30, 40)).shape == (30, 40)
    pixels = processor(images=picture, return_tensors="pt")
    torch.testing.assert_close(explain(model, pixels, methods=("contributions",)).scores["contributions"], found.scores["contributions"])


@pytest.mark.parametrize(
    ("sentence", "said"),
    [
        ("zebra quux", r"the model knows none of these words: .*\[UNK\] in the place of “zebra”, “quux”"),
        ("a zebra film", r"the tokenizer has \[UNK\] in the place of “zebra”, so the model has not read it"),
    ],
)
def test_words_that_the_model_does_not_know_are_told(sentence, said):
    model = tiny_model(hf_tanhmax.TanhMaxBertForSequenceClassification)
    with pytest.warns(UserWarning, match=said):
        found = explain(model, sentence, tokenizer=word_pieces(), methods=FAST)
    assert re.search(said, found.notes[0])
    assert found.unknown
    assert found.knows_no_word == (sentence == "zebra quux")
    known = explain(model, "a good film", tokenizer=word_pieces(), methods=FAST)
    assert (known.unknown, known.knows_no_word) == ((), False)
    assert not any(re.search(said, note) for note in known.notes)


def test_a_text_that_was_cut_is_told():
    model = tiny_model(hf_tanhmax.TanhMaxBertForSequenceClassification)
    with pytest.warns(UserWarning, match="the text was cut: the model has read 5 of its 8 tokens, and nothing here is about the other 3"):
        found = explain(model, "a good film " * 2, tokenizer=word_pieces(), methods=("weights",), max_length=5)
    assert found.cut == 3
    assert found.notes[0].startswith("the text was cut")
