"""Explanations, ablations and faithfulness of architectures beyond BERT, ViT and LLaMA: each works, or is refused in a sentence."""

import pytest
import torch
from walked import WALKED, picture, tokenizer

from hf_tanhmax.interpret import EXPLAIN_METHODS, ablate_negatives, explain, explain_generation, faithfulness
from hf_tanhmax.interpret.attribution.hooks import record_attention

EXPLAINED = [
    *("mistral", "gemma3_text", "distilbert", "deit", "dinov2_with_registers", "beit", "siglip_vision"),
    *("clip_classifier", "t5", "bart_classifier", "bart_decoder"),
]
SPECIAL = {
    "deit": ("[CLS]", "[1]"),
    "dinov2_with_registers": ("[CLS]", "[1]", "[2]", "[3]", "[4]"),
    "beit": ("[CLS]",),
    "clip_classifier": ("[CLS]",),
}
ENCODERS = ("t5", "bart_classifier")
TEXT = "a gripping, funny film"


def explained(name, **options):
    case, model = WALKED[name], WALKED[name].model()
    if case.kind == "image":
        return explain(model, picture(), processor=case.processor(), **options)
    options["tokenizer"] = case.processor()
    return explain(model, TEXT, position=-1 if model.can_generate() else None, **options)


@pytest.mark.filterwarnings("ignore:.*compute attention by themselves")
@pytest.mark.parametrize("name", EXPLAINED)
def test_explained_by_every_method(name):
    found = explained(name, steps=32)
    layers, _, queries, keys = found.weights.shape
    assert (queries, keys) == (len(found.tokens), len(found.tokens))
    assert layers == len(found.layers) == 2
    assert found.signed == (True, True)
    assert set(found.scores) == set(EXPLAIN_METHODS)
    assert all(scores.shape == (keys,) and scores.isfinite().all() for scores in found.scores.values())
    assert bool(found.contributions.any())
    if WALKED[name].kind == "image":
        assert found.grid == (3, 3)
        assert found.tokens == (*SPECIAL.get(name, ()), *(f"{row}, {column}" for row in range(3) for column in range(3)))
        assert found.by_word("gradient").all()
    else:
        assert found.word_texts[-1] == "film"
    assert any("the self-attention of the encoder is shown" in note for note in found.notes) == (name in ENCODERS)
    assert (found.position is None) >= (name in ENCODERS)


def test_contributions_of_an_encoder_add_up_to_output_times_gradient():
    model = WALKED["t5"].model().double()
    inputs = {"input_ids": WALKED["t5"].inputs()["input_ids"], "decoder_input_ids": torch.tensor([[0, 7, 9]])}
    found = explain(model, inputs, 5, methods=("contributions",), position=1)
    with record_attention(model, [0, 1]) as records:
        logit = model(**inputs).logits[0, 1, 5]
    outputs = [record.outputs for record in records]
    for layer, (output, gradient) in enumerate(zip(outputs, torch.autograd.grad(logit, outputs), strict=True)):
        torch.testing.assert_close(found.contributions[layer].sum(-1), (output * gradient).sum(-1)[0].T.float(), atol=1e-6, rtol=1e-5)
    assert found.logit == pytest.approx(float(logit.detach()), abs=1e-6)


def test_the_first_word_of_an_encoder_and_decoder_is_explained():
    model, words = WALKED["t5"].model(), WALKED["t5"].processor()
    found = explain_generation(model, words, TEXT, methods=("contributions",))
    with torch.no_grad():
        logits = model(**words(TEXT, return_tensors="pt"), decoder_input_ids=torch.tensor([[0]])).logits
    assert found.target == int(logits[0, -1].argmax())


def test_tokens_behind_the_patches_are_told_from_them():
    """Detection tokens, at one of which a class is read."""
    found = explain(WALKED["yolos"].model(), {"pixel_values": WALKED["yolos"].inputs()["pixel_values"]}, position=2, steps=8)
    assert found.tokens[:2] == ("[CLS]", "0, 0")
    assert found.tokens[9:] == ("2, 2", "[10]", "[11]", "[12]", "[13]")
    assert found.words[-5:] == (8, None, None, None, None)
    assert found.scores["gradient"][1:10].all()
    assert not found.scores["gradient"][10:].any()


@pytest.mark.parametrize("name", ["roberta", "dinov2_with_registers", "bart_classifier", "bart_decoder"])
def test_ablated(name):
    case, model = WALKED[name], WALKED[name].model()
    rows = [picture(), picture().rotate(90)] if case.kind == "image" else [TEXT, "not funny at all"]
    labels = [0, 1] if model.config.num_labels == 2 and "Classification" in case.cls else None
    found = ablate_negatives(model, rows, case.processor(), labels=labels, samples=20, progress=False)
    assert found.negative_mass > 0.1
    assert all(mass > 0.1 for mass in found.negative_mass_per_layer)
    assert len(found.negative_mass_per_layer) == {"bart_classifier": 4}.get(name, 2)
    assert f"in all {len(found.negative_mass_per_layer)} layers" in found.attention


@pytest.mark.parametrize("name", ["deit", "t5"])
def test_faithful(name):
    case = WALKED[name]
    rows, options = ([picture()], {"processor": case.processor()}) if case.kind == "image" else ([TEXT, "not funny"], {})
    words = None if case.kind == "image" else case.processor()
    report = faithfulness(case.model(), words, rows, ("contributions", "rollout"), draws=2, progress=False, **options)
    assert all(len(values) == len(rows) for by_method in report.values.values() for values in by_method.values())


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("clip", "TanhMaxCLIPModel has several parts that embed inputs; explain one of them that has a head, such as a classifier"),
        ("clip_text", "TanhMaxCLIPTextModel returns no logits of classes or tokens to explain; load a classification"),
        ("t5_encoder", r"TanhMaxT5ForTokenClassification has logits for each of 7 positions; give position= the one to explain"),
        ("albert", r"TanhMaxAlbert.* calls layer 0 .* 2 times in a forward pass, as its layers share weights"),
    ],
)
def test_refused_in_a_sentence(name, said):
    with pytest.raises(ValueError, match=said):
        explain(WALKED[name].model(), TEXT, tokenizer=tokenizer("text"))


def test_a_text_that_is_longer_than_there_are_positions_is_refused():
    """RoBERTa counts positions from behind the padding token's: of 64 it reads 63."""
    model, tokens = WALKED["roberta"].model(), torch.full((1, 64), 7)
    assert explain(model, {"input_ids": tokens[:, 1:]}, methods=("contributions",)).weights.shape[-1] == 63
    with pytest.raises(ValueError, match=r"has 64 tokens, but TanhMaxRobertaForSequenceClassification reads 63; shorten it, or give max_l"):
        explain(model, {"input_ids": tokens})


def test_inputs_that_are_neither_text_nor_image_are_refused():
    with pytest.raises(ValueError, match="either input_ids or pixel_values as tensors, but this one holds input_features"):
        explain(WALKED["whisper"].model(), {"input_features": torch.zeros(1, 5, 100)})
    with pytest.raises(ValueError, match=r"holds input_ids, pixel_values; of a model of several inputs, give those of one"):
        explain(WALKED["clip"].model(), WALKED["clip"].inputs())
    with pytest.raises(
        ValueError, match=r"TanhMaxBartForCond.* has no head whose quality can be measured here; load a classifier of texts"
    ):
        ablate_negatives(WALKED["bart"].model(), [TEXT], WALKED["bart"].processor())
