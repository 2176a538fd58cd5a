"""A model is left as it was, and attention that cannot be recorded is named."""

import pytest
import torch
import transformers
from families import images, softmax_twin, text, tiny_model

import hf_tanhmax
from hf_tanhmax.interpret import explain, faithfulness
from hf_tanhmax.interpret.attribution.evaluation_mode import display_name, resolve_layers

FAST = ("weights", "contributions")
BERT = hf_tanhmax.TanhMaxBertForSequenceClassification


def state(model):
    return (
        [module.training for module in model.modules()],
        [type(module.config) for module in model.modules() if hasattr(module, "config")],
        [(parameter.requires_grad, None if parameter.grad is None else parameter.grad.clone()) for parameter in model.parameters()],
        model.config._attn_implementation,
        model.config.pad_token_id,
    )


def prepared():
    """A model in train mode but for one module, with some parameters frozen and one gradient."""
    model = tiny_model(BERT, hidden_dropout_prob=0.5, attention_probs_dropout_prob=0.5).train()
    model.bert.encoder.layer[1].eval()
    for parameter in model.bert.embeddings.parameters():
        parameter.requires_grad_(False)
    model.classifier.bias.grad = torch.ones_like(model.classifier.bias)
    return model


def test_train_mode_is_evaluated_without_dropout_and_everything_is_left_as_it_was():
    model, inputs = prepared(), {"input_ids": text(1, 7)}
    before = state(model)
    found = explain(model, inputs, 1, steps=2)
    faithfulness(model, None, [inputs], ("weights",), ("attention_tau", "permutation"), draws=1, progress=False)
    assert str(state(model)) == str(before)
    with torch.no_grad():
        assert found.logit == pytest.approx(float(model.eval()(**inputs).logits[0, 1]), abs=1e-5)


def test_everything_is_left_as_it_was_after_an_error():
    model = prepared()
    before = state(model)
    for wrong in ({"target": 9}, {"position": 3}):
        with pytest.raises(ValueError, match=r"out of range|one row of logits"):
            explain(model, {"input_ids": text(1, 7)}, **wrong)
        assert str(state(model)) == str(before)


def test_a_frozen_model_can_be_explained_inside_no_grad():
    model = tiny_model(BERT).requires_grad_(False)
    with torch.no_grad():
        found = explain(model, {"input_ids": text(1, 7)}, 1, steps=2)
    want = explain(tiny_model(BERT), {"input_ids": text(1, 7)}, 1, steps=2)
    torch.testing.assert_close(found.scores, want.scores)


def test_another_attention_implementation_comes_back():
    twin = softmax_twin(tiny_model(BERT), attn_implementation="flex_attention")
    with pytest.warns(UserWarning, match="computes softmax"):
        found = explain(twin, {"input_ids": text(1, 7)}, 1, methods=FAST)
    assert twin.config._attn_implementation == "flex_attention"
    with pytest.warns(UserWarning, match="computes softmax"):
        want = explain(softmax_twin(tiny_model(BERT)), {"input_ids": text(1, 7)}, 1, methods=FAST)
    torch.testing.assert_close(found.weights, want.weights)


def test_layers_of_both_kinds_are_told_apart():
    model = softmax_twin(tiny_model(BERT))
    with hf_tanhmax.tanhmax_on(model, layers=[1]), pytest.warns(UserWarning, match="softmax in layers 0, 2: no weight is below 0"):
        found = explain(model, {"input_ids": text(1, 7)}, methods=FAST)
    assert found.signed == (False, True, False)
    assert [bool((weights < 0).any()) for weights in found.weights] == [False, True, False]


def test_a_model_that_hides_its_attention_is_named():
    config = transformers.MPNetConfig(vocab_size=53, hidden_size=12, num_attention_heads=2, num_hidden_layers=2, intermediate_size=8)
    model = transformers.MPNetForSequenceClassification(config)
    with pytest.raises(
        ValueError, match=r"no attentions to be had from MPNetFor.*: mpnet.encoder.layer.0.attention.*, mpnet.encoder.layer.1"
    ):
        explain(model, {"input_ids": text(1, 7)})


def test_a_model_without_attention_is_refused():
    with pytest.raises(ValueError, match="it has no attention modules"):
        resolve_layers(torch.nn.Linear(2, 2))


def test_the_layers_of_an_encoder_beside_its_decoder():
    sizes = {"d_model": 12, "encoder_layers": 2, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
    model = transformers.BartForSequenceClassification(transformers.BartConfig(vocab_size=53, **sizes))
    assert resolve_layers(model) == [0, 1]
    assert resolve_layers(model, [1]) == [1]
    with pytest.raises(ValueError, match=r"layer 3 of Bart.* has the positions of its output, .*; the layers of its encoder are 0, 1"):
        resolve_layers(model, [0, -1])


@pytest.mark.parametrize(("layers", "message"), [([3], "there is no layer 3"), (-4, "there is no layer -4"), ([], "layers is empty")])
def test_layers_that_do_not_exist_are_refused(layers, message):
    with pytest.raises(ValueError, match=message):
        resolve_layers(tiny_model(BERT), layers)


def test_layers_count_from_either_end():
    assert resolve_layers(tiny_model(BERT), [-1, 0, 2]) == [0, 2]
    assert resolve_layers(tiny_model(BERT), 1) == [1]


@pytest.mark.parametrize("cls", [BERT, hf_tanhmax.TanhMaxViTForImageClassification])
def test_nan_weights_are_named(cls):
    model = tiny_model(cls)
    name, broken = next(
        (name, parameter) for name, parameter in model.named_parameters() if name.endswith(("query.weight", "q_proj.weight"))
    )
    broken.data[0, 0] = float("nan")
    inputs = {"pixel_values": images(1)} if "ViT" in cls.__name__ else {"input_ids": text(1, 7)}
    with pytest.raises(ValueError, match=rf"the attention weights of layer 0 hold NaN or infinity.*: {name} of the model"):
        explain(model, inputs, methods=FAST)


def test_nan_logits_are_named():
    model = tiny_model(BERT)
    model.classifier.bias.data[0] = float("inf")
    with pytest.raises(ValueError, match=r"the logits hold NaN or infinity.*classifier.bias"):
        explain(model, {"input_ids": text(1, 7)}, methods=FAST)


def test_a_layer_that_is_not_called_is_named():
    model = tiny_model(BERT)
    model.bert.encoder.layer[1].forward = lambda states, *_, **__: states
    with pytest.raises(ValueError, match=r"no attentions to be had from layers 1 \(bert.encoder.layer.1.attention.self\)"):
        explain(model, {"input_ids": text(1, 7)}, methods=FAST, layers=[0, 1])
    found = explain(model, {"input_ids": text(1, 7)}, methods=FAST)
    assert found.layers == (0, 2)
    assert "not called for this input, and so not shown: layers 1" in found.notes


def test_attention_that_is_not_seen_beside_some_that_is_is_named():
    model = tiny_model(BERT)
    model.pooling = torch.nn.MultiheadAttention(21, 3)
    with pytest.warns(UserWarning, match="pooling compute attention by themselves, so their weights are not shown"):
        found = explain(model, {"input_ids": text(1, 7)}, methods=FAST)
    assert "pooling" in found.notes[0]


def test_a_model_in_data_parallel_is_taken_out():
    model = tiny_model(BERT)
    found = explain(torch.nn.DataParallel(model), {"input_ids": text(1, 7)}, methods=FAST)
    torch.testing.assert_close(found.weights, explain(model, {"input_ids": text(1, 7)}, methods=FAST).weights)


@pytest.mark.parametrize("model", ["my-bert", torch.nn.Linear(2, 2)])
def test_what_is_no_loaded_model_is_refused(model):
    with pytest.raises(TypeError, match=r"a loaded Transformers model is explained, but got (str|Linear); load one by from_pretrained"):
        explain(model, "a film")
    with pytest.raises(TypeError, match="a loaded Transformers model"):
        faithfulness(model, None, ["a film"])


def test_a_folder_is_called_by_its_last_part(tmp_path):
    model = tiny_model(BERT)
    assert display_name(model) == "TanhMaxBertForSequenceClassification"
    model.config._name_or_path = "you/tanhmax-bert"
    assert display_name(model) == "you/tanhmax-bert"
    model.config._name_or_path = str(tmp_path)
    assert display_name(model) == tmp_path.name
    (tmp_path / "base").mkdir()
    model.config._name_or_path = str(tmp_path / "base")
    assert display_name(model) == "base"
    (tmp_path / "adapter_config.json").write_text("{}")
    assert display_name(model) == tmp_path.name
