"""A checkpoint converted with what `from_pretrained` offers: weights on disk, quantised, of other shapes, with a config of one's own."""

import pytest
import torch
import transformers
from families import LAYERS, TINY, assert_same, inputs_for, run, tiny_config, tiny_model
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification

import hf_tanhmax
from hf_tanhmax import TanhMaxSettings, convert, to_softmax, use_tanhmax
from hf_tanhmax.conversion.convert import _same_config
from hf_tanhmax.integration.patching import attention_modules
from hf_tanhmax.integration.registration import SCORE_BIAS
from hf_tanhmax.training.data.tokenizer import build_tokenizer
from hf_tanhmax.training.tasks.image_classification import build_image_processor

every_family = pytest.mark.parametrize("family", TINY)
UPSTREAM = {"bert": transformers.BertModel, "vit": transformers.ViTModel, "llama": transformers.LlamaModel}
IN_MEMORY = {
    "bert": ("embeddings", "encoder.layer.0", "encoder.layer.1", "pooler"),
    "vit": ("embeddings", "layers.0", "layers.1", "layernorm", "pooler"),
    "llama": ("embed_tokens", "layers.0", "layers.1", "norm", "rotary_emb"),
}
ON_DISK = {"bert": "encoder.layer.2", "vit": "layers.2", "llama": "layers.2"}


@pytest.fixture
def softmax(family, tmp_path):
    """The folder of a softmax backbone."""
    tiny_model(UPSTREAM[family]).save_pretrained(tmp_path / "softmax")
    return str(tmp_path / "softmax")


def offloading(family, folder):
    """Arguments that leave the last layer of a model on the disk."""
    return {"device_map": {**dict.fromkeys(IN_MEMORY[family], "cpu"), ON_DISK[family]: "disk"}, "offload_folder": str(folder / "offloaded")}


def score_biases(model):
    return [getattr(module, SCORE_BIAS) for module in attention_modules(model)]


# On the disk


@pytest.mark.filterwarnings("ignore:Attempting to save a model with offloaded modules:UserWarning")
@every_family
@pytest.mark.parametrize("polarity", [0.0, 1.0, "learned"])
def test_a_layer_on_the_disk(family, polarity, softmax, tmp_path):
    wanted = convert(softmax, polarity=polarity)
    model = convert(softmax, polarity=polarity, **offloading(family, tmp_path))
    assert next(iter(attention_modules(model)[-1].children())).weight.is_meta
    assert_same(run(model, inputs_for(family)), run(wanted, inputs_for(family)), atol=0, rtol=0)
    model.save_pretrained(tmp_path / "tanhmax")
    again, report = AutoModel.from_pretrained(tmp_path / "tanhmax", output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert_same(run(again, inputs_for(family)), run(wanted, inputs_for(family)), atol=0, rtol=0)


@every_family
def test_a_learned_polarity_put_into_a_live_model_with_a_layer_on_the_disk(family, softmax, tmp_path):
    wanted = convert(softmax, polarity="learned")
    model = AutoModel.from_pretrained(softmax, **offloading(family, tmp_path))
    assert use_tanhmax(model, TanhMaxSettings("learned")) == LAYERS
    assert {bias.device.type for bias in score_biases(model)} == {"cpu"}
    assert_same(run(model, inputs_for(family)), run(wanted, inputs_for(family)), atol=0, rtol=0)


@every_family
def test_a_learned_polarity_of_a_model_without_memory_has_none_either(family):
    model = tiny_model(UPSTREAM[family]).to("meta")
    use_tanhmax(model, TanhMaxSettings("learned"))
    assert {bias.device.type for bias in score_biases(model)} == {"meta"}


@every_family
def test_a_live_model_with_weights_elsewhere_is_refused(family, softmax, tmp_path):
    offloaded = AutoModel.from_pretrained(softmax, **offloading(family, tmp_path))
    for model in (offloaded, tiny_model(UPSTREAM[family]).to("meta")):
        with pytest.raises(
            ValueError, match=r"some weights of this .* are not in memory, but offloaded or not there yet; pass its name instead"
        ):
            convert(model)


# With the tokenizer or image processor that lies beside the weights


@pytest.fixture
def encoding(monkeypatch):
    """What `convert` calibrates with, instead of which the batches are collected."""
    seen = []

    def _calibrate(model, batches, **_):
        seen.extend(batches)
        raise InterruptedError

    monkeypatch.setattr("hf_tanhmax.conversion.convert.calibrate_model", _calibrate)
    return seen


def repository(folder, texts_by_revision):
    """A cache of the Hub that holds a BERT `you/bert`, whose revisions have tokenizers of other texts; returns these tokenizers."""
    tokenizers = {}
    (folder / "models--you--bert" / "refs").mkdir(parents=True)
    for number, (revision, texts) in enumerate(texts_by_revision.items()):
        commit = f"{number}" * 40
        (folder / "models--you--bert" / "refs" / revision).write_text(commit)
        tokenizers[revision] = build_tokenizer(texts, vocabulary_size=40, max_length=9)
        for made in (tokenizers[revision], tiny_model(transformers.BertModel)):
            made.save_pretrained(folder / "models--you--bert" / "snapshots" / commit)
    return tokenizers


def test_the_tokenizer_is_that_of_the_revision(tmp_path, encoding):
    texts = ["a film", "a gripping film"]
    tokenizers = repository(tmp_path, {"main": ["nothing of that"], "v2": texts})
    with pytest.raises(InterruptedError):
        convert("you/bert", calibrate=texts, revision="v2", cache_dir=str(tmp_path), local_files_only=True)
    (batch,) = encoding
    assert torch.equal(batch["input_ids"], tokenizers["v2"](texts, padding=True, return_tensors="pt").input_ids)


@pytest.mark.parametrize("family", ["bert", "vit"])
def test_the_tokenizer_is_that_of_the_subfolder(family, tmp_path, encoding):
    for name in ("whole", "whole/part"):
        tiny_model(UPSTREAM[family]).save_pretrained(tmp_path / name)
        made = (
            build_image_processor(11 if name == "whole" else 15)
            if family == "vit"
            else build_tokenizer([name], vocabulary_size=40, max_length=9)
        )
        made.save_pretrained(tmp_path / name)
    if family == "vit":
        try:
            transformers.AutoImageProcessor.from_pretrained(tmp_path / "whole", subfolder="part")
        except ImportError:
            pytest.skip("this release of Transformers reads an image processor from a subfolder by torchvision alone")
    inputs = ["whole/part"] if family == "bert" else [Image.effect_noise((15, 15), 40).convert("RGB")]
    with pytest.raises(InterruptedError):
        convert(str(tmp_path / "whole"), subfolder="part", calibrate=inputs)
    (batch,) = encoding
    assert all(torch.equal(value, made(inputs, return_tensors="pt")[name]) for name, value in batch.items())


@pytest.mark.parametrize("family", ["bert"])
def test_every_argument_that_says_where_a_repository_is_goes_to_the_tokenizer(softmax, encoding, monkeypatch):
    place = {"token": "hf_x", "force_download": False, "proxies": None, "cache_dir": "elsewhere", "local_files_only": True}
    tokenizer, seen = build_tokenizer(["a film"], vocabulary_size=40, max_length=9), {}
    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", lambda name, **options: seen.update(options) or tokenizer)
    with pytest.raises(InterruptedError):
        convert(softmax, calibrate=["a film"], **place)
    assert seen == place


# Quantised


@pytest.fixture
def quantised():
    """Arguments that quantise a model while it is loaded, on the CPU."""
    pytest.importorskip("optimum.quanto", reason="optimum-quanto is not installed")
    return {"quantization_config": transformers.QuantoConfig(weights="int8")}


@pytest.mark.parametrize("polarity", [0.0, 1.0, "learned"])
def test_a_quantised_model(polarity, quantised, tmp_path):
    tiny_model(transformers.LlamaForCausalLM).save_pretrained(tmp_path)
    model = convert(str(tmp_path), polarity=polarity, **quantised)
    assert type(model.model.layers[0].self_attn.q_proj).__name__ == "QLinear"
    twin = AutoModelForCausalLM.from_pretrained(tmp_path, **quantised)
    if polarity != 0.0:
        use_tanhmax(twin, TanhMaxSettings(polarity))
    assert_same(run(model, inputs_for("llama")), run(twin, inputs_for("llama")))


def test_a_live_quantised_model_is_refused(quantised, tmp_path):
    tiny_model(transformers.LlamaForCausalLM).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="this LlamaForCausalLM is quantised, and its weights cannot be shared; pass its name instead"):
        convert(AutoModelForCausalLM.from_pretrained(tmp_path, **quantised))
    with pytest.raises(ValueError, match="this TanhMaxLlamaForCausalLM is quantised, and its weights cannot be shared"):
        to_softmax(convert(str(tmp_path), **quantised))


# Of other shapes


def test_a_head_of_other_shapes_is_new_if_that_is_asked_for(tmp_path, caplog):
    tiny_model(transformers.BertForSequenceClassification, num_labels=3).save_pretrained(tmp_path)
    with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
        convert(str(tmp_path), num_labels=5)
    with caplog.at_level("WARNING", logger="hf_tanhmax"):
        model = convert(str(tmp_path), num_labels=5, ignore_mismatched_sizes=True)
    assert model.classifier.weight.shape == (5, 21)
    assert "has no weights for classifier.bias, classifier.weight: they are new, so train before use" in caplog.text


def test_a_norm_of_another_shape_is_a_broken_checkpoint(tmp_path):
    tiny_model(transformers.LlamaForCausalLM).save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors") | {"model.norm.weight": torch.ones(5)}
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"weights of other shapes than its config says: model\.norm\.weight"):
        convert(str(tmp_path), ignore_mismatched_sizes=True)


def test_images_of_another_size(tmp_path, caplog):
    tiny_model(transformers.ViTForImageClassification).save_pretrained(tmp_path)
    with caplog.at_level("WARNING", logger="hf_tanhmax"):
        model = convert(str(tmp_path), image_size=20, ignore_mismatched_sizes=True)
    assert model.vit.embeddings.position_embeddings.shape == (1, 17, 21)
    assert "has no weights for vit.embeddings.position_embeddings: they are new" in caplog.text


# By which class, with which config


def test_a_class_instead_of_an_auto_class(tmp_path):
    """The softmax class would load a TanhMax config without a word."""
    tiny_model(transformers.BertForMaskedLM).save_pretrained(tmp_path)
    assert type(convert(str(tmp_path), transformers.BertModel)) is hf_tanhmax.TanhMaxBertModel
    with pytest.raises(ValueError, match="TanhMaxBertModel is a TanhMax class already"):
        convert(str(tmp_path), hf_tanhmax.TanhMaxBertModel)

    class Loader:
        @staticmethod
        def from_pretrained(name, **kwargs):
            return transformers.BertModel.from_pretrained(name, **kwargs)

    with pytest.raises(ValueError, match="Loader made a BertModel, which is no TanhMax class; pass an Auto class of Transformers"):
        convert(str(tmp_path), Loader)


@every_family
def test_a_checkpoint_is_of_its_own_type_while_it_loads(family, softmax):
    """GGUF files and quantisers are read by tables of model types."""
    auto = {"bert": AutoModelForSequenceClassification, "vit": AutoModel, "llama": transformers.AutoModelForSequenceClassification}[family]
    seen, load = [], auto.from_pretrained

    class Loader:
        @staticmethod
        def from_pretrained(name, *, config, **kwargs):
            seen.append(config.model_type)
            return load(name, config=config, **kwargs)

    model = convert(softmax, Loader)
    assert seen == [family]
    assert model.config.model_type == model.base_model.config.model_type == f"tanhmax_{family}"


def test_a_config_of_ones_own(tmp_path):
    tiny_model(transformers.BertModel).save_pretrained(tmp_path / "softmax")
    tiny_config("bert", upstream=True, num_hidden_layers=2, num_labels=5).save_pretrained(tmp_path / "config")
    own = transformers.BertConfig.from_pretrained(tmp_path / "softmax", num_labels=4)
    model = convert(str(tmp_path / "softmax"), AutoModelForSequenceClassification, config=own, polarity=0.5)
    assert (model.config.num_labels, model.config.tanhmax_polarity) == (4, 0.5)
    assert type(own) is transformers.BertConfig
    with pytest.raises(ValueError, match="weights that its config has no place for"):
        convert(str(tmp_path / "softmax"), AutoModelForSequenceClassification, config=str(tmp_path / "config"))


def test_a_config_written_by_hand_leaves_the_class_to_the_checkpoint(tmp_path):
    tiny_model(transformers.LlamaForCausalLM).save_pretrained(tmp_path)
    own = tiny_config("llama", upstream=True)
    assert type(convert(str(tmp_path), config=own)) is hf_tanhmax.TanhMaxLlamaForCausalLM
    assert not own.architectures
    with pytest.raises(ValueError, match="is of model type 'llama', but BertModel is of another; pass an Auto class"):
        convert(str(tmp_path), transformers.BertModel)


def test_parts_of_a_config_keep_their_own_implementation():
    """Pushed onto an audio codec that supports none, the root's would be refused."""
    parts = {
        "text_encoder": transformers.T5Config(d_model=8, d_ff=8, num_layers=1, num_heads=2, d_kv=4, vocab_size=11),
        "audio_encoder": transformers.EncodecConfig(hidden_size=8, num_filters=2, codebook_size=4, codebook_dim=8),
        "decoder": transformers.MusicgenDecoderConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, ffn_dim=8, vocab_size=11),
    }
    cls = transformers.MusicgenForConditionalGeneration
    config = cls(transformers.MusicgenConfig(**{name: part.to_dict() for name, part in parts.items()})).config
    assert (config._attn_implementation, config.audio_encoder._attn_implementation) == ("sdpa", "eager")
    same = cls(_same_config(config, transformers.MusicgenConfig)).config
    assert (same._attn_implementation, same.audio_encoder._attn_implementation) == ("sdpa", "eager")


def test_a_checkpoint_that_names_a_class_of_another_family(tmp_path):
    tiny_model(transformers.BertModel).save_pretrained(tmp_path)
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace('"BertModel"', '"LlamaModel"'))
    with pytest.raises(ValueError, match="is of model type 'bert', but LlamaModel is of another; pass an Auto class"):
        convert(tmp_path)
