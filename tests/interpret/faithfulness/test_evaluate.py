"""`faithfulness` against a loop that erases by hand, one forward pass at a time."""

import json

import numpy
import pytest
import torch
from families import images, softmax_twin, text, tiny_model
from scipy import stats

import hf_tanhmax
from hf_tanhmax.interpret import explain
from hf_tanhmax.interpret.faithfulness.evaluate import DEFAULT_METHODS, faithfulness
from hf_tanhmax.interpret.faithfulness.metrics import MEASURES

CHEAP = ("weights", "oriented", "contributions", "random")


def batches(*lengths):
    return [{"input_ids": text(1, 23)[:, start : start + length]} for start, length in enumerate(lengths)]


def probability(model, inputs, target):
    with torch.no_grad():
        return float(model(**inputs).logits.double().softmax(-1)[0, target])


def deleted(inputs, place):
    kept = [index for index in range(inputs["input_ids"].shape[1]) if index != place]
    return {"input_ids": inputs["input_ids"][:, kept]}


def masked(inputs, *places):
    tokens = inputs["input_ids"].clone()
    tokens[0, list(places)] = 0
    return {"input_ids": tokens}


def test_tau_of_input_erasure_is_that_of_a_naive_loop():
    model = tiny_model(hf_tanhmax.TanhMaxBertForSequenceClassification)
    inputs = batches(7, 5, 7)
    report = faithfulness(model, None, inputs, CHEAP, ("deletion_tau", "mask_abs_tau"), batch_size=4, progress=False)
    for index, one in enumerate(inputs):
        found = explain(model, one, methods=("contributions",))
        whole = probability(model, one, found.target)
        count = one["input_ids"].shape[1]
        by_deletion = [whole - probability(model, deleted(one, place), found.target) for place in range(count)]
        by_mask = [abs(whole - probability(model, masked(one, place), found.target)) for place in range(count)]
        scores = found.scores["contributions"].double()
        assert report.values["deletion_tau"]["contributions"][index] == pytest.approx(stats.kendalltau(scores, by_deletion).statistic)
        assert report.values["mask_abs_tau"]["contributions"][index] == pytest.approx(stats.kendalltau(scores.abs(), by_mask).statistic)


def test_comprehensiveness_and_curves_by_hand():
    model = tiny_model(hf_tanhmax.TanhMaxBertForSequenceClassification)
    (one,) = batches(4)
    measures = ("comprehensiveness", "sufficiency", "deletion_auc", "insertion_auc")
    report = faithfulness(model, None, [one], ("contributions",), measures, targets=[1], removal="mask", progress=False)
    order = explain(model, one, 1, methods=("contributions",)).scores["contributions"].argsort(descending=True).tolist()
    p = [probability(model, masked(one, *order[:top]), 1) for top in range(5)]
    q = [probability(model, masked(one, *order[top:]), 1) for top in range(5)]
    value = {measure: report.values[measure]["contributions"][0] for measure in measures}
    assert value["comprehensiveness"] == pytest.approx(p[0] - numpy.mean([p[1], p[1], p[1], p[1], p[2]]), abs=1e-6)
    assert value["sufficiency"] == pytest.approx(p[0] - numpy.mean([q[1], q[1], q[1], q[1], q[2]]), abs=1e-6)
    assert value["deletion_auc"] == pytest.approx((p[0] + 2 * p[1] + 2 * p[2] + 2 * p[3] + p[4]) / 8, abs=1e-6)
    assert value["insertion_auc"] == pytest.approx((q[0] + 2 * q[1] + 2 * q[2] + 2 * q[3] + q[4]) / 8, abs=1e-6)


@pytest.mark.parametrize("twin", [False, True], ids=["tanhmax", "softmax"])
def test_the_batch_size_changes_nothing(twin):
    model = tiny_model(hf_tanhmax.TanhMaxBertForSequenceClassification)
    model = softmax_twin(model) if twin else model
    one, other = (faithfulness(model, None, batches(7, 5, 6), CHEAP, batch_size=size, draws=3, progress=False) for size in (1, 16))
    assert one.signed == (not twin,) * 3
    for measure in MEASURES:
        assert set(one.values[measure]) == ({""} if MEASURES[measure].of_model else set(CHEAP))
        for method, values in one.values[measure].items():
            numpy.testing.assert_allclose(other.values[measure][method], values, atol=1e-5, err_msg=f"{measure} {method}")


@pytest.mark.parametrize("cls", [hf_tanhmax.TanhMaxLlamaForCausalLM, hf_tanhmax.TanhMaxLlamaForSequenceClassification])
def test_decoders(cls):
    report = faithfulness(tiny_model(cls), None, batches(6, 5), ("contributions", "random"), draws=2, progress=False)
    assert numpy.isfinite([value for of in report.values.values() for found in of.values() for value in found]).all()


def test_pictures_are_masked():
    model = tiny_model(hf_tanhmax.TanhMaxViTForImageClassification)
    pictures = [{"pixel_values": picture[None]} for picture in images(2)]
    measures = ("attention_tau", "mask_tau", "comprehensiveness", "insertion_auc")
    report = faithfulness(model, None, pictures, ("contributions", "integrated_gradients"), measures, steps=4, progress=False)
    found = explain(model, pictures[0], methods=("contributions",))
    whole = probability(model, pictures[0], found.target)
    effects = []
    for row in range(3):
        for column in range(3):
            pixels = pictures[0]["pixel_values"].clone()
            pixels[..., 5 * row : 5 * row + 5, 5 * column : 5 * column + 5] = 0
            effects.append(whole - probability(model, {"pixel_values": pixels}, found.target))
    want = stats.kendalltau(found.by_word("contributions").double(), effects).statistic
    assert report.values["mask_tau"]["contributions"][0] == pytest.approx(want)


def test_all_measures_of_pictures_are_those_that_delete_nothing():
    model = tiny_model(hf_tanhmax.TanhMaxViTForImageClassification)
    report = faithfulness(model, None, [{"pixel_values": images(1)}], ("contributions",), draws=1, progress=False)
    assert set(MEASURES) - set(report.measures) == {"deletion_tau", "deletion_abs_tau"}
    with pytest.raises(ValueError, match="a patch cannot be deleted from a picture"):
        faithfulness(model, None, [{"pixel_values": images(1)}], ("contributions",), ("deletion_tau",), progress=False)


def test_the_report_is_a_table_and_json():
    model = tiny_model(hf_tanhmax.TanhMaxBertForSequenceClassification)
    report = faithfulness(
        model, None, batches(5, 6), DEFAULT_METHODS, ("attention_tau", "sign_agreement", "random"), draws=2, steps=2, progress=False
    )
    lines = report.table().splitlines()
    assert lines[0].startswith("| method")
    assert [line.split("|")[1].strip() for line in lines[2:8]] == list(DEFAULT_METHODS)
    assert lines[-1].startswith("random median: 0.")
    read = json.loads(report.to_json())
    assert read["cells"]["attention_tau"]["weights"]["n"] == 2
    assert read["values"]["attention_tau"]["weights"] == pytest.approx(report.values["attention_tau"]["weights"], abs=1e-6)
    assert set(read["settings"]["versions"]) == {"torch", "transformers"}


def test_a_seed_fixes_everything():
    model = tiny_model(hf_tanhmax.TanhMaxBertForSequenceClassification)
    runs = [
        faithfulness(model, None, batches(6), ("random",), ("mask_tau", "permutation"), draws=3, seed=seed, progress=False)
        for seed in (0, 0, 1)
    ]
    assert runs[0].values == runs[1].values
    assert runs[0].values["permutation"] != runs[2].values["permutation"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"measures": ("tau",)}, "there is no measure 'tau'; choose from attention_tau"),
        ({"measures": ()}, "measures must be a tuple"),
        ({"methods": ("lime",)}, "there is no method 'lime'; choose from weights"),
        ({"methods": "weights"}, "methods must be a tuple"),
        ({"removal": "blur"}, 'removal must be "deletion" or "mask"'),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"texts": "one text"}, "texts must be a list"),
        ({"texts": []}, "texts must be a list"),
        ({"targets": [0, 1]}, "there are 2 targets for 1 texts"),
        ({"targets": [5]}, "text 0: target 5 is out of range"),
    ],
)
def test_wrong_options_are_refused(changes, message):
    model = tiny_model(hf_tanhmax.TanhMaxBertForSequenceClassification)
    with pytest.raises(ValueError, match=message):
        faithfulness(model, None, **{"texts": batches(4), "methods": ("weights",), "progress": False, **changes})


@pytest.mark.parametrize("padding", [None, 2])
def test_a_decoder_that_classifies_reads_the_last_token_whatever_padding_is(padding):
    """Without a padding token it would take no batch; with the token that masks, it would read another position."""
    model = tiny_model(hf_tanhmax.TanhMaxLlamaForSequenceClassification, pad_token_id=padding)
    (one,) = batches(6)
    report = faithfulness(model, None, [one], ("contributions",), ("mask_tau",), progress=False)
    assert model.config.pad_token_id == padding
    found = explain(model, one, methods=("contributions",))
    embeddings, effects = model.get_input_embeddings(), []
    model.config.pad_token_id = -1
    for place in range(6):
        tokens = one["input_ids"].clone()
        tokens[0, place] = 2
        effects.append(-probability(model, {"inputs_embeds": embeddings(tokens)}, found.target))
    want = stats.kendalltau(found.scores["contributions"].double(), effects).statistic
    assert report.values["mask_tau"]["contributions"][0] == pytest.approx(want)


@pytest.mark.parametrize("cls", [hf_tanhmax.TanhMaxBertForSequenceClassification, hf_tanhmax.TanhMaxLlamaForCausalLM])
def test_half_precision(cls):
    model = tiny_model(cls).to(torch.bfloat16)
    report = faithfulness(model, None, batches(6), (*CHEAP, "integrated_gradients"), draws=2, steps=4, progress=False)
    assert all(numpy.isfinite(cell.mean) for of in report.cells.values() for cell in of.values() if cell.n)


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")
def test_adapters():
    peft = pytest.importorskip("peft")
    model = tiny_model(hf_tanhmax.TanhMaxBertForSequenceClassification)
    whole = faithfulness(model, None, batches(6), ("contributions",), ("attention_tau",), progress=False)
    adapted = peft.get_peft_model(model, peft.LoraConfig(task_type="SEQ_CLS", target_modules=["query", "value"]))
    found = faithfulness(adapted, None, batches(6), ("contributions",), ("attention_tau",), progress=False)
    assert found.values["attention_tau"]["contributions"] == pytest.approx(whole.values["attention_tau"]["contributions"])
    assert found.signed == (True, True, True)


def test_the_bar_ends_where_the_texts_do(capsys):
    model = tiny_model(hf_tanhmax.TanhMaxBertForSequenceClassification)
    faithfulness(model, None, batches(4, 5, 6), ("weights", "random"), ("mask_tau", "comprehensiveness"))
    last = capsys.readouterr().err.split("\r")[-1]
    assert "100%" in last
    assert "3/3 texts" in last
