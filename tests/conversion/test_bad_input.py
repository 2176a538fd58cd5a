"""What cannot be converted or loaded, each refused in one sentence: unknown names, code of others, newer releases, and edited configs."""

import json
import textwrap

import pytest
import torch
import transformers
from families import tiny_config, tiny_model
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM

import hf_tanhmax
from hf_tanhmax import convert
from hf_tanhmax.checkpoint import CheckpointError, read_checkpoint

VERSION = transformers.__version__
REMOTE = """
    import torch
    from torch import nn
    from transformers import PreTrainedConfig, PreTrainedModel
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    class OwnConfig(PreTrainedConfig):
        model_type = "own"
        def __init__(self, hidden_size=24, num_attention_heads=4, **kwargs):
            self.hidden_size, self.num_attention_heads = hidden_size, num_attention_heads
            super().__init__(**kwargs)

    class OwnAttention(nn.Module):
        is_causal = False
        def __init__(self, config):
            super().__init__()
            self.config, self.head_dim = config, config.hidden_size // config.num_attention_heads
            for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
                setattr(self, name, nn.Linear(config.hidden_size, config.hidden_size))
        def forward(self, hidden):
            shape = (*hidden.shape[:-1], -1, self.head_dim)
            query, key, value = (each(hidden).view(shape).transpose(1, 2) for each in (self.q_proj, self.k_proj, self.v_proj))
            attend = ALL_ATTENTION_FUNCTIONS[self.config._attn_implementation]
            output, _ = attend(self, query, key, value, None, scaling=self.head_dim**-0.5, dropout=0.0)
            return self.o_proj(output.reshape(*hidden.shape))

    class OwnModel(PreTrainedModel):
        config_class = OwnConfig
        _supports_sdpa = True
        def __init__(self, config):
            super().__init__(config)
            self.embed, self.attention = nn.Embedding(53, config.hidden_size), OwnAttention(config)
            self.post_init()
        def forward(self, input_ids=None, **kwargs):
            return (self.attention(self.embed(input_ids)),)
"""


def saved(model, folder, **changes):
    """A folder with a model, and its config edited; None takes a field out."""
    model.save_pretrained(folder)
    return edited(folder, **changes)


def edited(folder, **changes):
    path = folder / "config.json"
    values = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in values.items() if value is not None}))
    return str(folder)


def softmax(folder, **changes):
    return saved(tiny_model(transformers.BertForMaskedLM), folder, **changes)


def ours(folder, **changes):
    return saved(tiny_model(hf_tanhmax.TanhMaxBertForMaskedLM), folder, **changes)


def refused(match, make, error=ValueError):
    with pytest.raises(error, match=match) as raised:
        make()
    assert "\n" not in str(raised.value)


# Names


def test_a_type_that_is_none_names_the_nearest(tmp_path):
    name = softmax(tmp_path, model_type="qwen33", architectures=["Qwen33ForCausalLM"])
    refused(f"is of model type 'qwen33', which Transformers {VERSION} does not know; is it 'qwen3'", lambda: convert(name))
    edited(tmp_path, model_type="?")
    refused(r"is of model type '\?', which .* does not know; transformers\.CONFIG_MAPPING has those", lambda: convert(name))


def test_a_class_that_is_none_names_the_nearest():
    refused(
        f"no TanhMaxQwen33ForCausalLM, as Transformers {VERSION} has no Qwen33ForCausalLM; .* or is it TanhMaxQwen3ForCausalLM",
        lambda: hf_tanhmax.TanhMaxQwen33ForCausalLM,
        AttributeError,
    )


def test_a_tanhmax_type_that_is_none(tmp_path):
    """AutoConfig says Transformers' own sentence, which names the type."""
    refused_type = "tanhmax_zzz"
    with pytest.raises(ValueError, match=refused_type):
        AutoConfig.for_model(refused_type)
    name = ours(tmp_path, model_type=refused_type, auto_map=None)
    with pytest.raises(ValueError, match=refused_type):
        AutoConfig.from_pretrained(name)
    refused(f"is of model type 'tanhmax_zzz', which Transformers {VERSION} does not know", lambda: convert(name))
    refused(r"config\.json is of model type 'tanhmax_zzz', which .* does not know", lambda: read_checkpoint(name).config, CheckpointError)
    edited(tmp_path, transformers_version="99.1.0")
    refused(r"'tanhmax_zzz', which .*; Transformers 99\.1\.0 wrote it: upgrade", lambda: read_checkpoint(name).config, CheckpointError)


# Parts that compute softmax themselves


def test_a_model_that_bypasses_the_interface(tmp_path):
    bloom = transformers.BloomModel(transformers.BloomConfig(vocab_size=53, hidden_size=24, n_head=4, n_layer=2))
    name = saved(bloom, tmp_path)
    for source in (bloom, name):
        refused(
            "'(tanhmax_)?bloom' cannot compute TanhMax: its BloomAttention compute softmax themselves", lambda each=source: convert(each)
        )


def test_a_model_of_which_a_part_bypasses_it(tmp_path):
    small = {"hidden_size": 24, "intermediate_size": 13, "num_attention_heads": 4, "num_hidden_layers": 2}
    config = transformers.SiglipConfig(
        text_config={**small, "vocab_size": 53, "projection_size": 24}, vision_config={**small, "image_size": 15, "patch_size": 5}
    )
    name = saved(transformers.SiglipModel(config), tmp_path)
    refused(
        r"part of '(tanhmax_)?siglip' would stay softmax: MultiheadAttention \(vision_model\.head\.attention\) do not ask Transformers' "
        r"attention interface; to accept that, pass softmax_parts=\('MultiheadAttention',\), or name the layers .*, or pass the part",
        lambda: convert(name),
    )
    refused(
        "softmax_parts names 'nope', but there is no such part that computes softmax itself", lambda: convert(name, softmax_parts=["nope"])
    )
    model = convert(name, softmax_parts=["MultiheadAttention"], layers=["vision_model"], polarity=0.5)
    model.save_pretrained(tmp_path / "ours")
    found = read_checkpoint(tmp_path / "ours")
    assert found.settings.layers == ("vision_model",)
    assert found.settings.describe() == (
        "attention of polarity 0.5, between softmax (0) and TanhMax (1), in the layers of vision_model (the others are softmax) and "
        "all heads, but for MultiheadAttention, which computes softmax by itself"
    )


# Code that comes with a checkpoint


def remote(folder, monkeypatch):
    monkeypatch.setenv("HF_MODULES_CACHE", str(folder / "modules"))
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(folder / "modules"))
    place = folder / "own"
    place.mkdir()
    (place / "modeling_own.py").write_text(textwrap.dedent(REMOTE))
    names = {"AutoConfig": "modeling_own.OwnConfig", "AutoModel": "modeling_own.OwnModel"}
    (place / "config.json").write_text(json.dumps({"model_type": "own", "architectures": ["OwnModel"], "auto_map": names}))
    return str(place)


def test_an_architecture_of_other_code(tmp_path, monkeypatch):
    """It is no question whether to run it, and never softmax in silence: the live model can be patched."""
    name, sentence = (
        remote(tmp_path, monkeypatch),
        "is of model type 'own', whose code is not Transformers' own, .*; hf_tanhmax.use_tanhmax",
    )
    refused(sentence, lambda: convert(name))
    refused(sentence, lambda: convert(name, AutoModel, trust_remote_code=True))
    live = AutoModel.from_config(AutoConfig.from_pretrained(name, trust_remote_code=True), trust_remote_code=True).eval()
    refused("the OwnModel is of model type 'own', whose code is not Transformers' own", lambda: convert(live))
    for value in live.parameters():
        value.data.normal_(0, 0.5, generator=torch.Generator().manual_seed(0))
    ids = torch.arange(3, 9)[None]
    before = live(ids)[0]
    assert hf_tanhmax.use_tanhmax(live) == 1
    assert (live(ids)[0] - before).abs().max() > 1e-3


def test_a_known_type_whose_code_is_another(tmp_path):
    name = softmax(tmp_path, auto_map={"AutoModelForMaskedLM": "modeling_own.OwnBert"})
    assert type(convert(name)) is hf_tanhmax.TanhMaxBertForMaskedLM  # Transformers' own code, as without trust
    refused("is of model type 'bert', whose code is not Transformers' own", lambda: convert(name, trust_remote_code=True))

    class OwnBert(transformers.BertModel):
        pass

    refused(
        "the OwnBert is of model type 'bert', whose code is not Transformers' own",
        lambda: convert(OwnBert(tiny_config("bert", upstream=True))),
    )


# Newer releases, and values that a config refuses


def test_a_type_of_a_newer_release(tmp_path):
    name = softmax(tmp_path, model_type="bertt", transformers_version="99.1.0")
    refused(
        r"is of model type 'bertt', which .* does not know; Transformers 99\.1\.0 wrote it: upgrade Transformers", lambda: convert(name)
    )


@pytest.mark.parametrize(("field", "value", "said"), [("hidden_size", "wide", "'hidden_size'"), ("hidden_act", "swiglu9", "'swiglu9'")])
def test_values_that_the_installed_release_refuses(field, value, said, tmp_path):
    name = softmax(tmp_path, **{field: value, "transformers_version": "99.1.0"})
    refused(
        rf"has a config that cannot be: .*{said}.*; Transformers 99\.1\.0 wrote it, and {VERSION} is installed: upgrade",
        lambda: convert(name),
    )
    edited(tmp_path, transformers_version=VERSION)
    refused(rf"has a config that cannot be: .*{said}.*; mend it", lambda: convert(name))


def test_a_newer_release_that_changed_nothing(tmp_path):
    assert type(convert(softmax(tmp_path, transformers_version="99.1.0", a_new_field=3))) is hf_tanhmax.TanhMaxBertForMaskedLM


# Configs of ours that were edited by hand


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"tanhmax_layers": ["nothing"]}, "no attention module of '(tanhmax_)?bert' is in 'nothing': they are in bert.encoder.layer"),
        ({"tanhmax_layers": [9]}, "there is no layer 9: '(tanhmax_)?bert' has 3 layers, counted from 0"),
        ({"tanhmax_softmax_parts": ["nothing"]}, "softmax_parts names 'nothing', but there is no such part"),
        ({"tanhmax_polarty": 0.3}, r"the config has tanhmax_polarty, which is no setting of TanhMax; is it tanhmax_polarity\?"),
        ({"tanhmax_zzzzzz": 0.3}, "the config has tanhmax_zzzzzz, which is no setting of TanhMax; take it out"),
        (
            {"architectures": ["TanhMaxRobertaForMaskedLM"]},
            "names TanhMaxRobertaForMaskedLM as the model's class, but is of model type 'tanhmax_bert'",
        ),
        ({"model_type": "tanhmax_roberta"}, "names TanhMaxBertForMaskedLM as the model's class, but is of model type 'tanhmax_roberta'"),
    ],
)
def test_settings_that_were_edited(changes, said, tmp_path):
    name = ours(tmp_path, **changes)
    refused(said, lambda: AutoModelForMaskedLM.from_pretrained(name))


@pytest.mark.parametrize(
    ("value", "said"), [("lots", "must be a number in .* or \"learned\", but is 'lots'"), (2, r"must be in \[0, 1\] .*, but is 2")]
)
def test_a_polarity_that_was_edited(value, said, tmp_path):
    name = ours(tmp_path, tanhmax_polarity=value)
    with pytest.raises(Exception, match=said):
        AutoModelForMaskedLM.from_pretrained(name)
    refused(said, lambda: read_checkpoint(name).config, CheckpointError)


def test_weights_of_another_architecture(tmp_path):
    """Transformers makes what a checkpoint lacks at random: all of attention is no head that is new."""
    name = ours(tmp_path, model_type="tanhmax_roberta", architectures=["TanhMaxRobertaForMaskedLM"], auto_map=None)
    sentence = (
        r"has no weight of the attention of a TanhMaxRobertaForMaskedLM, such as roberta\..*: it is of another architecture than its config"
    )
    refused(sentence, lambda: AutoModelForMaskedLM.from_pretrained(name))
    refused(sentence, lambda: hf_tanhmax.TanhMaxRobertaForMaskedLM.from_pretrained(name, output_loading_info=True))


def test_a_softmax_checkpoint_of_another_family_than_its_class(tmp_path):
    for changes in ({"model_type": "electra"}, {"architectures": ["ElectraForMaskedLM"]}):
        name = softmax(tmp_path, **changes)
        refused(
            "is of model type '(bert|electra)', but (Bert|Electra)ForMaskedLM is of another; pass an Auto class",
            lambda each=name: convert(each),
        )
    name = softmax(tmp_path, model_type="electra")
    refused("lacks .* weights of its backbone|no weight of the attention", lambda: convert(name, AutoModelForMaskedLM))
    name = softmax(tmp_path, architectures=["BertForMaskedLMX"])
    refused("is of class BertForMaskedLMX, which Transformers .* does not export; pass auto_class", lambda: convert(name))
