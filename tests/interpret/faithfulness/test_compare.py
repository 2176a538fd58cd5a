"""Two models compared: the same values as one by one, intervals by hand, a run that goes on, and what cannot be compared."""

import dataclasses
import json
import math
import statistics

import numpy
import pytest
import torch
from bag_of_words import bag_of_words
from families import images, softmax_twin, text, tiny_model
from saved_models import processor_for
from transformers import GPT2Config, GPT2ForSequenceClassification

import hf_tanhmax
from hf_tanhmax.choices import CONTROL, METHODS
from hf_tanhmax.interpret import compare_faithfulness, faithfulness
from hf_tanhmax.interpret.faithfulness import one_model as module
from hf_tanhmax.interpret.faithfulness.compare import COMPARED, ComparisonOptions
from hf_tanhmax.interpret.faithfulness.comparison import read_comparison
from hf_tanhmax.interpret.faithfulness.partial import PartialValues
from hf_tanhmax.interpret.inputs.loading import Loaded

QUICK = ComparisonOptions(("attention_tau", "comprehensiveness", "pi_soft_sufficiency"), seeds=2, steps=2, samples=30, head_texts=0)
METHOD = ("contributions", CONTROL)


def batches(*lengths):
    return [{"input_ids": text(1, 23)[:, start : start + length]} for start, length in enumerate(lengths)]


def pair(cls=hf_tanhmax.TanhMaxBertForSequenceClassification, tokenizer=None):
    model = tiny_model(cls)
    return {"soft": Loaded(softmax_twin(model), tokenizer, None), "tanh": Loaded(model, tokenizer, None)}


def test_values_are_those_of_one_model_and_one_seed():
    """Also those of a method whose scores are drawn."""
    models, inputs, methods = pair(), batches(7, 5, 6), (*METHOD, "kernel_shap")
    found = compare_faithfulness(models, inputs, methods, options=QUICK, progress=False)
    assert [(model.name, model.kind, model.layers) for model in found.models] == [("soft", "softmax", 3), ("tanh", "TanhMax", 3)]
    for name, loaded in models.items():
        for seed in (0, 1):
            alone = faithfulness(loaded.model, None, inputs, methods, QUICK.measures, seed=seed, samples=30, progress=False)
            for measure in QUICK.measures:
                for method in methods:
                    seeds = found.values[name][measure][method]
                    assert set(seeds) == ({0} if method == "contributions" and measure != "pi_soft_sufficiency" else {0, 1})
                    if seed in seeds:
                        numpy.testing.assert_allclose(seeds[seed], alone.values[measure][method], atol=1e-5)
        assert found.values[name]["attention_tau"]["kernel_shap"][0] != found.values[name]["attention_tau"]["kernel_shap"][1]


def test_cells_and_differences_by_hand():
    found = compare_faithfulness(pair(), batches(7, 5, 6, 4), METHOD, options=QUICK, progress=False)
    one, other = (found.values[name]["comprehensiveness"][CONTROL] for name in ("soft", "tanh"))
    cell = found.cell("tanh", "comprehensiveness", CONTROL)
    assert cell.mean == pytest.approx(numpy.mean([other[0], other[1]]))
    assert cell.spread == pytest.approx(statistics.stdev([numpy.mean(other[0]), numpy.mean(other[1])]))
    assert (cell.n, cell.seeds) == (4, 2)
    difference = found.difference("tanh", "comprehensiveness", CONTROL)
    assert difference.mean == pytest.approx(numpy.mean([other[0], other[1]]) - numpy.mean([one[0], one[1]]))
    assert found.cell("tanh", "attention_tau", "contributions").spread is None
    assert difference.low <= difference.mean <= difference.high


def test_a_paired_difference_is_narrower_than_two_intervals():
    """Of equal models every text has the difference 0, however far texts are apart."""
    model = tiny_model(hf_tanhmax.TanhMaxBertForSequenceClassification)
    models = {name: Loaded(model, None, None) for name in ("one", "other")}
    found = compare_faithfulness(models, batches(7, 5, 6, 4), METHOD, options=QUICK, progress=False)
    for measure in QUICK.measures:
        for method in METHOD:
            difference, cell = found.difference("other", measure, method), found.cell("one", measure, method)
            assert (difference.mean, difference.low, difference.high) in ((0, 0, 0), (None, None, None))
            assert cell.n == 0 or cell.low < cell.high
    assert "explains the same class as A in 4 of 4 texts" in found.table()


def test_true_scores_of_a_bag_of_words_beat_chance():
    """Contributions are what erasure takes; scores of chance are uncorrelated with it."""
    worth = torch.linspace(-2, 3, 53)
    models = {name: Loaded(bag_of_words(worth, shares), None, None) for name, shares in (("one", (0.5, 0.5)), ("other", (2.0, 1.0)))}
    generator = torch.Generator().manual_seed(3)
    inputs = [{"input_ids": 1 + torch.randperm(52, generator=generator)[None, :9]} for _ in range(12)]  # no word twice
    measures = ("attention_tau", "deletion_tau", "sufficiency", "comprehensiveness", "deletion_auc")
    options = ComparisonOptions(measures, seeds=3, head_texts=0)
    found = compare_faithfulness(models, inputs, METHOD, targets=[1] * 12, options=options, progress=False)
    for name in models:
        assert found.cell(name, "attention_tau", "contributions").mean == pytest.approx(1)
        assert found.cell(name, "deletion_tau", "contributions").mean == pytest.approx(1)
        values = worth[inputs[0]["input_ids"][0]].sort(descending=True).values * (1 if name == "one" else 3)
        erased = float(worth[0]) * (1 if name == "one" else 3)  # what the token that masks is worth
        curve = [torch.sigmoid((values[top:].sum() + top * erased) / 9) for top in range(10)]
        area = numpy.trapezoid([float(point) for point in curve], dx=1 / 9)
        assert found.values[name]["deletion_auc"]["contributions"][0][0] == pytest.approx(area, rel=1e-4)
        chance = found.cell(name, "attention_tau", CONTROL)
        assert abs(chance.mean) < 3 * 0.27 / math.sqrt(36)  # the standard deviation of tau over 9 random ranks is 0.27
        assert found.cell(name, "comprehensiveness", "contributions").mean > found.cell(name, "comprehensiveness", CONTROL).mean
        assert found.cell(name, "sufficiency", "contributions").mean < found.cell(name, "sufficiency", CONTROL).mean
    assert found.difference("other", "attention_tau", "contributions").mean == pytest.approx(0)
    assert found.difference("other", "comprehensiveness", "contributions").mean > 0.05


@pytest.mark.parametrize("name", ["LlamaForCausalLM", "ViTForImageClassification"])
def test_every_method_and_the_other_families(name):
    cls = getattr(hf_tanhmax, f"TanhMax{name}")
    inputs = [{"pixel_values": picture[None]} for picture in images(2)] if "ViT" in name else batches(6, 5)
    options = ComparisonOptions(seeds=1, steps=2, head_texts=1)
    found = compare_faithfulness(pair(cls), inputs, options=options, progress=False)
    assert found.methods == (*METHODS, CONTROL)
    assert ("deletion_tau" in found.measures) == ("ViT" not in name)
    for model in found.models:
        served = set(found.methods) - set(model.unavailable)
        assert served >= {"weights", "contributions", "integrated_gradients", CONTROL}
        assert set(found.values[model.name]["comprehensiveness"]) == served
        assert len(model.heads.logits) == 1


def broken(monkeypatch, *, of_kind, method="rollout"):
    """Let one method be refused for models of one kind, as one that needs an architecture is."""
    original = module.attribute

    def _attribute(model, text, target, options):
        if method in options.methods and type(model).__name__.startswith("TanhMax") == of_kind:
            raise ValueError("it needs softmax")
        return original(model, text, target, options)

    monkeypatch.setattr(module, "attribute", _attribute)


def test_a_method_that_one_model_cannot_serve_is_named(monkeypatch):
    broken(monkeypatch, of_kind=True)
    found = compare_faithfulness(pair(), batches(6, 5), ("weights", "rollout"), options=QUICK, progress=False)
    assert [model.unavailable for model in found.models] == [{}, {"rollout": "it needs softmax"}]
    assert found.difference("tanh", "attention_tau", "rollout") is None
    assert found.cell("soft", "attention_tau", "rollout").n == 2
    assert "Not measured of B: rollout: it needs softmax" in found.table()


def test_another_architecture_lacks_methods_that_take_layers_apart():
    sizes = {"n_layer": 2, "n_head": 2, "n_embd": 8, "n_positions": 32, "vocab_size": 53}
    models = {name: Loaded(GPT2ForSequenceClassification(GPT2Config(**sizes)).eval(), None, None) for name in ("one", "other")}
    found = compare_faithfulness(models, batches(5), ("weights", "alti_logit", CONTROL), options=QUICK, progress=False)
    reason = "its layers are not built as those of BERT, ViT or LLaMA"
    assert [model.unavailable for model in found.models] == [{"alti_logit": reason}] * 2
    assert f"Not measured of A and B: alti_logit: {reason}" in found.table()


def test_a_method_that_no_model_can_serve_is_an_error(monkeypatch):
    broken(monkeypatch, of_kind=True)
    both = {name: Loaded(tiny_model(hf_tanhmax.TanhMaxBertForSequenceClassification), None, None) for name in ("one", "other")}
    with pytest.raises(ValueError, match="none of the models can serve rollout: it needs softmax"):
        compare_faithfulness(both, batches(6), ("rollout",), options=QUICK, progress=False)


def test_a_run_that_was_stopped_goes_on(monkeypatch, tmp_path):
    file, inputs, options = tmp_path / "part.jsonl", batches(7, 5, 6), ComparisonOptions(QUICK.measures, seeds=2, head_texts=1)
    whole = compare_faithfulness(pair(), inputs, METHOD, options=options, progress=False)
    measured = []
    original = module.Measuring.measure

    def _measure(self, texts, jobs, progress):
        measured.append((type(self.model).__name__, tuple(job.method for job in jobs), tuple(job.seed for job in jobs)))
        if len(measured) == 2:
            raise KeyboardInterrupt
        return original(self, texts, jobs, progress)

    monkeypatch.setattr(module.Measuring, "measure", _measure)
    with pytest.raises(KeyboardInterrupt):
        compare_faithfulness(pair(), inputs, METHOD, options=options, partial=file, progress=False)
    with file.open("a") as cut:
        cut.write('{"values": [["tanh", "contr')
    found = compare_faithfulness(pair(), inputs, METHOD, options=options, partial=file, progress=False)
    assert [name for name, _, _ in measured] == ["BertForSequenceClassification", *["TanhMaxBertForSequenceClassification"] * 2]
    assert not file.exists()
    assert {**found.to_dict(), "settings": {}} == {**whole.to_dict(), "settings": {}}


def test_more_seeds_and_methods_measure_only_what_is_missing(monkeypatch, tmp_path):
    file, inputs = tmp_path / "part.jsonl", batches(7, 5)
    monkeypatch.setattr(PartialValues, "remove", lambda _: None)
    compare_faithfulness(pair(), inputs, ("contributions",), options=QUICK, partial=file, progress=False)
    jobs = []
    original = module.Measuring.measure
    monkeypatch.setattr(module.Measuring, "measure", lambda self, texts, each, bar: jobs.append(each) or original(self, texts, each, bar))
    more = dataclasses.replace(QUICK, seeds=3)
    compare_faithfulness(pair(), inputs, METHOD, options=more, partial=file, progress=False)
    missing = {("contributions", 2), *((CONTROL, seed) for seed in range(3))}
    assert [{(job.method, job.seed) for job in each} for each in jobs] == [missing] * 2
    with pytest.raises(ValueError, match=r"part.jsonl holds a part of another comparison \(other texts, models or settings\); remove it"):
        compare_faithfulness(pair(), batches(7, 6), METHOD, options=QUICK, partial=file, progress=False)


def test_more_seeds_and_methods_later_give_the_values_of_one_run(monkeypatch, tmp_path):
    """To the last digit: which copies are run together does not depend on what is known already, so nor does their rounding."""
    inputs, measures = batches(9, 8, 8, 7, 5), (*COMPARED, "permutation")
    whole_options = ComparisonOptions(measures, seeds=3, steps=2, samples=30, head_texts=0)
    methods = ("gradient", "contributions", "kernel_shap", CONTROL)
    whole = compare_faithfulness(pair(), inputs, methods, options=whole_options, progress=False)
    with monkeypatch.context() as patched:
        patched.setattr(PartialValues, "remove", lambda _: None)
        for part, seeds in ((methods[1:2], 1), (methods[1:], 1), (methods[1:], 2)):
            options = dataclasses.replace(whole_options, seeds=seeds)
            compare_faithfulness(pair(), inputs, part, options=options, partial=tmp_path / "part", progress=False)
    found = compare_faithfulness(pair(), inputs, methods, options=whole_options, partial=tmp_path / "part", progress=False)
    assert repr(found.values) == repr(whole.values)
    assert found.table() == whole.table()


def test_a_text_of_more_positions_than_samples_has_two_for_each():
    options = ComparisonOptions(("mask_tau",), seeds=1, samples=4, head_texts=0)
    found = compare_faithfulness(pair(), batches(9), ("kernel_shap",), options=options, progress=False)
    assert found.cell("tanh", "mask_tau", "kernel_shap").n == 1
    assert not any(model.unavailable for model in found.models)


def test_json_is_read_again():
    found = compare_faithfulness(pair(), batches(7, 5), METHOD, options=QUICK, progress=False)
    again = read_comparison(found.to_json())
    assert again.table() == found.table()
    assert json.loads(found.to_json())["differences"]["tanh"]["attention_tau"][CONTROL]["n"] == 2
    assert found.to_dict(texts=False)["values"] == {}
    for wrong in ("{}", "[1]", "no", json.dumps(found.to_dict(texts=False))):
        with pytest.raises(ValueError, match=r"this is no comparison of faithfulness|no values of single texts"):
            read_comparison(wrong)


def test_the_table_fits_into_a_terminal_and_says_what_it_leaves_out():
    options = ComparisonOptions(seeds=1, head_texts=0)
    found = compare_faithfulness(pair(), batches(7, 5), METHOD, options=options, progress=False)
    text_table = found.table()
    assert max(map(len, text_table.splitlines()[:8])) <= 100
    for title in ("attention tau", "deletion tau", "comprehensiveness", "sufficiency"):
        assert title in text_table.splitlines()[0]
    assert "Not shown, as 100 columns hold no more: pi-soft NC, pi-soft NS; JSON and Markdown have them." in text_table
    assert "pi-soft NS" in found.table(markdown=True).splitlines()[0]


def test_the_bar_counts_the_texts_of_all_models(capsys):
    compare_faithfulness(pair(), batches(4, 5, 6), METHOD, options=QUICK)
    last = capsys.readouterr().err.split("\r")[-1]
    assert "100%" in last
    assert "6/6 texts" in last


def other_task():
    return Loaded(tiny_model(hf_tanhmax.TanhMaxLlamaForCausalLM), None, None)


def three_classes():
    return Loaded(tiny_model(hf_tanhmax.TanhMaxBertForSequenceClassification, num_labels=3), None, None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"texts": []}, "texts must be a list of at least one text"),
        ({"texts": "one"}, "texts must be a list of at least one text"),
        ({"targets": [0, 1]}, "there are 2 targets for 1 texts"),
        ({"methods": ("contribution",)}, r"there is no method 'contribution' \(did you mean 'contributions'\?\); choose from weights"),
        ({"methods": ()}, "methods is empty"),
        ({"models": {}}, "a comparison needs two or more models, but there is none"),
        ({"models": 1}, r"a comparison needs two or more models, but there is soft; faithfulness\(\) measures one"),
        ({"other": other_task}, "soft and other have different tasks, text ForSequenceClassification and text ForCausalLM"),
        ({"other": three_classes}, r"soft and other have different classes, \['LABEL_0', 'LABEL_1'\] and \['LABEL_0', .*'LABEL_2'\]"),
        ({"texts": ["not funny"]}, "soft: text 0: a text needs tokenizer="),
        ({"texts": [{"input_ids": torch.ones(1, 99, dtype=torch.long)}]}, "soft: text 0: the text has 99 tokens"),
    ],
)
def test_what_cannot_be_compared(changes, message):
    models = pair()
    if "other" in changes:
        models = {"soft": models["soft"], "other": changes.pop("other")()}
    if "models" in changes:
        models = dict(list(models.items())[: changes.pop("models") or 0])
    given = {"texts": batches(4), "methods": METHOD, **changes}
    with pytest.raises((ValueError, TypeError), match=message):
        compare_faithfulness(models, options=QUICK, progress=False, **given)


def test_models_of_different_tokenizers_are_refused():
    one = processor_for("bert")
    models = pair(tokenizer=one)
    other = processor_for("bert")
    other.add_tokens(["pagoda"])
    models["tanh"] = Loaded(models["tanh"].model, other, None)
    with pytest.raises(ValueError, match="soft and tanh have different tokenizers: text 1 is not the same input for both"):
        compare_faithfulness(models, ["film", "a pagoda"], METHOD, options=QUICK, progress=False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": 0}, "seeds must be at least 1, but is 0"),
        ({"head_texts": -1}, "head_texts must be 0 or more, but is -1"),
        ({"measures": ("comprehensivness",)}, r"there is no measure 'comprehensivness' \(did you mean 'comprehensiveness'\?\)"),
        ({"removal": "blur"}, 'removal must be "deletion" or "mask"'),
        ({"batch_size": 0}, "batch_size must be at least 1"),
    ],
)
def test_wrong_options(changes, message):
    with pytest.raises(ValueError, match=message):
        ComparisonOptions(**changes)
