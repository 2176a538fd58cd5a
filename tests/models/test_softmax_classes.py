"""Classes and configs of Transformers around TanhMax configs: none computes softmax in silence, and no setting is ignored."""

import copy
import json
import pickle
import subprocess
import sys

import pytest
import torch
import transformers
from families import run
from transformers import AttentionInterface

import hf_tanhmax
from hf_tanhmax.integration.registration import CLASSES_ONLY

SIZES = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 13}
PARTS = {"text_config": {**SIZES, "vocab_size": 50, "eos_token_id": 2}, "vision_config": {**SIZES, "image_size": 16, "patch_size": 8}}
TEXT = {"input_ids": torch.arange(5, 17)[None]}
PICTURE = {"pixel_values": torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))}
REFUSED = pytest.raises(ValueError, match=r"this \w*Attention is in a softmax model, but was made from the config of a TanhMax model: load")


def bert(**changes):
    torch.manual_seed(0)
    return hf_tanhmax.TanhMaxBertModel(hf_tanhmax.TanhMaxBertConfig(**SIZES, vocab_size=50, **changes)).eval()


def clip(**settings):
    torch.manual_seed(0)
    return hf_tanhmax.convert(transformers.CLIPModel(transformers.CLIPConfig(**PARTS, projection_dim=8)).eval(), **settings)


def test_a_softmax_class_of_a_tanhmax_config():
    for config in (hf_tanhmax.TanhMaxBertConfig(**SIZES, vocab_size=50), bert().config, copy.deepcopy(bert().config)):
        model = transformers.BertModel(config)
        with REFUSED:
            run(model, TEXT)
        model.set_attn_implementation("eager")
        with REFUSED:
            run(model, TEXT)


def test_a_softmax_class_of_a_tanhmax_config_of_parts():
    with REFUSED:
        run(transformers.CLIPModel(hf_tanhmax.TanhMaxCLIPConfig(**PARTS)), {**TEXT, **PICTURE})


@pytest.mark.parametrize("name", ["BertModel", "BertForMaskedLM"])
def test_a_softmax_class_of_a_folder(name, tmp_path):
    bert().save_pretrained(tmp_path)
    with REFUSED:
        run(getattr(transformers, name).from_pretrained(tmp_path), TEXT)
    with REFUSED:
        run(getattr(transformers, name).from_pretrained(tmp_path, config=transformers.AutoConfig.from_pretrained(tmp_path)), TEXT)
    with REFUSED:
        run(transformers.AutoModel.from_config(transformers.BertConfig.from_pretrained(tmp_path)), TEXT)


@pytest.mark.parametrize(("name", "inputs"), [("CLIPVisionModel", PICTURE), ("CLIPTextModel", TEXT), ("CLIPModel", {**TEXT, **PICTURE})])
def test_a_softmax_class_of_a_part_in_a_folder(name, inputs, tmp_path):
    clip().save_pretrained(tmp_path)
    with REFUSED:
        run(getattr(transformers, name).from_pretrained(tmp_path), inputs)


def test_a_softmax_class_where_the_package_is_not_imported(tmp_path):
    clip().save_pretrained(tmp_path)
    code = f"""import transformers
for name in ("CLIPModel", "CLIPVisionModel"):
    try:
        getattr(transformers, name).from_pretrained({str(tmp_path)!r})
    except ValueError as error:
        print(str(error).split(" is")[0])
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.splitlines() == [f'Specified `attn_implementation="{CLASSES_ONLY}"`'] * 2


def test_a_tanhmax_class_of_the_same_config_works(tmp_path):
    """A softmax class may hold one, as a class of a user's own does, whose config it shares."""

    class Scored(transformers.PreTrainedModel):
        config_class = hf_tanhmax.TanhMaxCLIPConfig
        _supports_sdpa = True

        def __init__(self, config):
            super().__init__(config)
            self.clip = hf_tanhmax.TanhMaxCLIPModel(config)
            self.post_init()

        def forward(self, **inputs):
            return self.clip(**inputs)

    model = clip()
    holder = Scored(copy.deepcopy(model.config)).eval()
    holder.clip.load_state_dict(model.state_dict())
    wanted = run(model, {**TEXT, **PICTURE})
    assert torch.equal(run(holder, {**TEXT, **PICTURE}).logits_per_text, wanted.logits_per_text)
    holder.clip.save_pretrained(tmp_path)
    again = transformers.AutoModel.from_pretrained(tmp_path)
    assert torch.allclose(run(again, {**TEXT, **PICTURE}).logits_per_text, wanted.logits_per_text)


@pytest.mark.parametrize("make", [bert, clip])
def test_what_a_folder_says_of_attention(make, tmp_path):
    model = make()
    model.save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    parts = [written, *(written[name] for name in model.config.sub_configs)]
    assert [part["attn_implementation"] for part in parts] == [CLASSES_ONLY] * len(parts)
    for label in ("eager", "sdpa"):
        again = transformers.AutoModel.from_pretrained(tmp_path, attn_implementation=label)
        assert {each.config._attn_implementation for each in again.modules() if isinstance(each, transformers.PreTrainedModel)} == {label}
    assert "attn_implementation" not in hf_tanhmax.to_softmax(again).config.to_json_string()
    assert CLASSES_ONLY in AttentionInterface()


@pytest.mark.parametrize("copied", [lambda model: model, copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_layers_changed_on_the_config_of_a_model(copied):
    model = copied(bert(tanhmax_layers=[0]))
    model.config.tanhmax_layers = (0,)
    before = run(model, TEXT)[0]
    model.config.tanhmax_layers = [1]
    with pytest.raises(ValueError, match=r"tanhmax_layers of the config was changed from \[0\] to \[1\], but which layers .* is settled"):
        run(model, TEXT)
    changed = hf_tanhmax.TanhMaxBertModel(copy.deepcopy(model.config)).eval()
    changed.load_state_dict(model.state_dict())
    assert not torch.equal(run(changed, TEXT)[0], before)
    model.config.tanhmax_layers = [0]
    assert torch.equal(run(model, TEXT)[0], before)


def test_heads_changed_on_the_config_of_a_model(tmp_path):
    """They are read at every call."""
    model = bert()
    before = run(model, TEXT)[0]
    model.config.tanhmax_heads = [1]
    found = run(model, TEXT)[0]
    assert not torch.equal(found, before)
    model.save_pretrained(tmp_path)
    assert torch.equal(run(transformers.AutoModel.from_pretrained(tmp_path), TEXT)[0], found)
    model.config.tanhmax_heads = [3]
    with pytest.raises(ValueError, match=r"tanhmax_heads is \[3\], but BertSelfAttention has 3 heads, counted from 0"):
        run(model, TEXT)


def test_a_polarity_that_becomes_learned_on_the_config_of_a_model():
    model = bert()
    model.config.tanhmax_polarity = "learned"
    with pytest.raises(ValueError, match="BertSelfAttention has no score bias"):
        run(model, TEXT)


@pytest.mark.parametrize("copied", [lambda model: model, copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_learned_polarity_that_becomes_a_number_on_the_config_of_a_model(copied):
    model = copied(bert(tanhmax_polarity="learned", tanhmax_score_bias=0.5))
    before = run(model, TEXT)[0]
    with hf_tanhmax.tanhmax_on(model, polarity=0.2):  # which says so for a while
        assert not torch.equal(run(model, TEXT)[0], before)
    model.config.tanhmax_polarity = 0.2
    with pytest.raises(ValueError, match=r'tanhmax_polarity of the config was changed from "learned" to 0\.2, which would ignore'):
        run(model, TEXT)
    model.config.tanhmax_polarity = "learned"
    assert torch.equal(run(model, TEXT)[0], before)


def test_a_learned_polarity_that_becomes_a_number_on_a_patched_model():
    model = transformers.BertModel(transformers.BertConfig(**SIZES, vocab_size=50)).eval()
    hf_tanhmax.use_tanhmax(model, hf_tanhmax.TanhMaxSettings(polarity="learned"))
    model.encoder.layer[0].attention.self.config.tanhmax_polarity = 0.2
    with pytest.raises(ValueError, match=r'changed from "learned" to 0\.2'):
        run(model, TEXT)


def test_settings_of_a_part(tmp_path):
    model = clip()
    model.config.vision_config.tanhmax_polarity = 0.5
    wanted = "vision_config has tanhmax_polarity, but settings count for the whole model, and stand beside vision_config: write it there"
    with pytest.raises(ValueError, match=wanted):
        model.save_pretrained(tmp_path)
    del model.config.vision_config.tanhmax_polarity
    model.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    values = json.loads(path.read_text())
    values["vision_config"]["tanhmax_polarity"] = 0.5
    path.write_text(json.dumps(values))
    with pytest.raises(ValueError, match=wanted):
        transformers.AutoModel.from_pretrained(tmp_path)
