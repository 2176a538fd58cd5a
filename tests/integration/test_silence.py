"""Never softmax in silence: whatever path is taken to a TanhMax model, it computes TanhMax or raises.

What is computed is told from an upstream model with the same weights, whose attention is written from sinh and cosh in `families.py`.
"""

import copy
import inspect

import numpy as np
import peft
import pytest
import torch
import transformers
from families import BACKBONES, LAYERS, TINY, assert_same, differ, inputs_for, naive_twin, run, softmax_twin, text, tiny_config, tiny_model
from PIL import Image
from thorough import thorough_only
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification, Trainer, TrainingArguments, pipeline

from hf_tanhmax import (
    TanhMaxBertForMaskedLM,
    TanhMaxBertForSequenceClassification,
    TanhMaxLlamaForCausalLM,
    TanhMaxSettings,
    TanhMaxViTForImageClassification,
    tanhmax_on,
    use_tanhmax,
)
from hf_tanhmax.integration.chosen_modules import modules_by_layer
from hf_tanhmax.integration.detection.attention_facts import attention_facts
from hf_tanhmax.integration.patching import ConfigView, attention_modules
from hf_tanhmax.integration.registration import SCORE_BIAS

with torch.device("meta"):  # looks up once which functions make tensors, and must see them as they are outside of a test
    torch.empty(0)

every_family = pytest.mark.parametrize("family", TINY)
asks_by_an_old_name = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # PEFT


def assert_tanhmax(model, inputs, **changes):
    """The model computes TanhMax, and a softmax model with its weights something else."""
    found = run(model, inputs)
    assert_same(found, run(naive_twin(model, **changes), inputs))
    assert differ(found, run(softmax_twin(model, **changes), inputs), by=1e-3)


# Attention labels


@every_family
@pytest.mark.parametrize("label", ["eager", "sdpa", "tanhmax", "tanhmax_eager", None])
def test_labels_of_tanhmax(family, label, tmp_path):
    model = tiny_model(BACKBONES[family])
    model.save_pretrained(tmp_path)
    assert_tanhmax(AutoModel.from_pretrained(tmp_path, attn_implementation=label), inputs_for(family))
    assert_tanhmax(AutoModel.from_config(tiny_config(family, attn_implementation=label)).eval(), inputs_for(family))
    if label is not None:
        model.set_attn_implementation(label)
        assert_tanhmax(model, inputs_for(family))
        model.config._attn_implementation = label
        assert_tanhmax(model, inputs_for(family))


@every_family
@pytest.mark.parametrize("label", ["flash_attention_2", "flash_attention_3", "flex_attention", "no_such_attention"])
def test_labels_of_softmax(family, label, tmp_path):
    model = tiny_model(BACKBONES[family])
    model.save_pretrained(tmp_path)
    with pytest.raises((ValueError, ImportError), match=r"(?i)support|flash|flex"):
        AutoModel.from_pretrained(tmp_path, attn_implementation=label)
    with pytest.raises((ValueError, ImportError), match=r"(?i)support|flash|flex"):
        model.set_attn_implementation(label)
    assert_tanhmax(model, inputs_for(family))


@every_family
@pytest.mark.parametrize("label", ["flash_attention_2", "paged|eager", "paged|sdpa"])
def test_labels_forced_on_the_config(family, label):
    model = tiny_model(BACKBONES[family])
    model.config._attn_implementation = label
    with pytest.raises(ValueError, match=r"computes softmax, but this layer is set to TanhMax|works in continuous batching only"):
        run(model, inputs_for(family))


def test_no_label_on_the_config():
    model = tiny_model(BACKBONES["bert"])
    model.config._attn_implementation = None
    with pytest.raises(ValueError, match="attn_implementation is None, for which Transformers makes no mask"):
        run(model, inputs_for("bert"))


def test_a_label_set_on_the_backbone_alone():
    model = tiny_model(TanhMaxLlamaForCausalLM)
    for label in ("eager", "sdpa", "tanhmax"):
        model.model.set_attn_implementation(label)
        assert_tanhmax(model, inputs_for("llama"))


# Saving, training, adapting


@every_family
def test_saved_and_reloaded(family, tmp_path):
    tiny_model(BACKBONES[family]).save_pretrained(tmp_path)
    assert_tanhmax(AutoModel.from_pretrained(tmp_path), inputs_for(family))


class Examples(torch.utils.data.Dataset):
    """Eight short texts of two classes."""

    def __len__(self):
        return 8

    def __getitem__(self, index):
        return {"input_ids": text(8, 11)[index], "attention_mask": torch.ones(11, dtype=torch.int64), "labels": index % 2}


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated:FutureWarning")  # 5.17 does not know the new name
@pytest.mark.parametrize("options", [{}, {"gradient_checkpointing": True}], ids=str)
def test_checkpoints_of_the_trainer(options, tmp_path):
    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=2,
        save_steps=2,
        per_device_train_batch_size=4,
        learning_rate=1e-2,
        dataloader_pin_memory=False,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        **options,
    )
    model = tiny_model(TanhMaxBertForSequenceClassification)
    before = copy.deepcopy(model.state_dict())
    Trainer(model, arguments, train_dataset=Examples()).train()
    assert any(not torch.equal(value, before[name]) for name, value in model.state_dict().items())
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "checkpoint-2")
    assert type(again) is TanhMaxBertForSequenceClassification
    assert_same(run(again, inputs_for("bert")), run(model, inputs_for("bert")), atol=1e-6, rtol=1e-5)
    assert_tanhmax(again, inputs_for("bert"))


@asks_by_an_old_name
@pytest.mark.parametrize("polarity", [1.0, "learned"])
def test_adapters_reloaded(polarity, tmp_path):
    inputs = inputs_for("llama")
    base = tiny_model(TanhMaxLlamaForCausalLM, tanhmax_polarity=polarity, tanhmax_score_bias=0.3)
    base.save_pretrained(tmp_path / "base")
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    adapted = peft.get_peft_model(
        base, peft.LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj", "v_proj"], r=2, init_lora_weights=False)
    )
    wanted = run(adapted, inputs).logits
    adapted.save_pretrained(tmp_path / "adapter")
    reloaded = peft.AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter")
    assert_same([run(reloaded, inputs).logits], [wanted], atol=1e-5, rtol=1e-4)
    merged = reloaded.merge_and_unload()
    assert_same([run(merged, inputs).logits], [wanted])
    if polarity == 1.0:
        assert_tanhmax(merged, inputs)
    by_name = AutoModelForCausalLM.from_pretrained(tmp_path / "adapter")
    assert_same([run(by_name, inputs).logits], [wanted], atol=1e-5, rtol=1e-4)


@every_family
def test_copied(family):
    model = tiny_model(BACKBONES[family])
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for value in model.parameters():
            value.zero_()
    assert_tanhmax(twin, inputs_for(family))


@pytest.mark.slow
@every_family
@pytest.mark.parametrize("polarity", [1.0, "learned"])
def test_compiled(family, polarity):
    if polarity == "learned" and family != "llama":
        thorough_only("a learned polarity is compiled in one family, and every family with a fixed one")
    torch._dynamo.reset()
    model = tiny_model(BACKBONES[family], tanhmax_polarity=polarity, tanhmax_score_bias=0.3)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    inputs = inputs_for(family)
    found, wanted = compiled(**inputs), model(**inputs)
    assert_same(found, wanted)
    if polarity == 1.0:
        assert_same(found, run(naive_twin(model), inputs))
    learned = [value for name, value in model.named_parameters() if any(part in name for part in ("q_proj", "query", SCORE_BIAS))]
    grads = [torch.autograd.grad(each.last_hidden_state.square().sum(), learned) for each in (found, wanted)]
    for have, want in zip(*grads, strict=True):
        torch.testing.assert_close(have, want, atol=1e-4, rtol=1e-3)


# Pipelines

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{index}" for index in range(48))]


@pytest.fixture
def tokenizer(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS))
    return transformers.BertTokenizer(str(tmp_path / "vocab.txt"))


def by_label(probabilities):
    return {f"LABEL_{index}": each.item() for index, each in enumerate(probabilities)}


def test_fill_mask(tokenizer):
    model = tiny_model(TanhMaxBertForMaskedLM)
    tokens = tokenizer("w1 w2 [MASK] w4", return_tensors="pt")
    found = pipeline("fill-mask", model=model, tokenizer=tokenizer, device="cpu", top_k=3)("w1 w2 [MASK] w4")
    wanted = run(naive_twin(model), tokens).logits[0, 3].softmax(-1).topk(3)
    assert [each["token"] for each in found] == wanted.indices.tolist()
    assert [each["score"] for each in found] == pytest.approx(wanted.values.tolist(), rel=1e-4)


def test_text_classification(tokenizer):
    model = tiny_model(TanhMaxBertForSequenceClassification)
    found = pipeline("text-classification", model=model, tokenizer=tokenizer, device="cpu", top_k=None)(["w1 w2 w3"])[0]
    wanted = run(naive_twin(model), tokenizer("w1 w2 w3", return_tensors="pt")).logits[0].softmax(-1)
    assert {each["label"]: each["score"] for each in found} == pytest.approx(by_label(wanted), rel=1e-4)


def test_feature_extraction(tokenizer):
    model = tiny_model(BACKBONES["bert"])
    found = pipeline("feature-extraction", model=model, tokenizer=tokenizer, device="cpu")("w1 w2 w3", return_tensors=True)
    assert_same([found], [run(naive_twin(model), tokenizer("w1 w2 w3", return_tensors="pt")).last_hidden_state])


def test_text_generation(tokenizer):
    model = tiny_model(TanhMaxLlamaForCausalLM, eos_token_id=None)
    options = {"max_new_tokens": 5, "do_sample": False}
    found = pipeline("text-generation", model=model, tokenizer=tokenizer, device="cpu")("w1 w2", return_tensors=True, **options)
    tokens = torch.tensor(found[0]["generated_token_ids"])[None]
    logits = run(naive_twin(model, eos_token_id=None), {"input_ids": tokens}).logits
    assert torch.equal(logits[0, -6:-1].argmax(-1), tokens[0, -5:])


def test_image_classification():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (21, 17, 3), dtype=np.uint8))
    model, processor = tiny_model(TanhMaxViTForImageClassification), transformers.ViTImageProcessorPil(size={"height": 15, "width": 15})
    found = pipeline("image-classification", model=model, image_processor=processor, device="cpu")(image)
    wanted = run(naive_twin(model), processor(image, return_tensors="pt")).logits[0].softmax(-1)
    assert {each["label"]: each["score"] for each in found} == pytest.approx(by_label(wanted), rel=1e-4)


# Weights


@every_family
@pytest.mark.parametrize("label", ["eager", "sdpa", "tanhmax", "tanhmax_eager"])
def test_attentions_by_call(family, label):
    model = tiny_model(BACKBONES[family], attn_implementation=label)
    found = run(model, inputs_for(family), output_attentions=True)
    wanted = run(naive_twin(model), inputs_for(family), output_attentions=True)
    assert len(found.attentions) == LAYERS
    for have, want in zip(found.attentions, wanted.attentions, strict=True):
        torch.testing.assert_close(have, want, atol=1e-5, rtol=1e-4)
        assert (have < 0).any()
        assert have.abs().sum(-1).max() <= 1 + 1e-5


@every_family
@pytest.mark.parametrize("label", ["eager", "tanhmax_eager"])
def test_attentions_by_config(family, label, tmp_path):
    model = tiny_model(BACKBONES[family], attn_implementation=label)
    model.config.output_attentions = True
    found = run(model, inputs_for(family))
    wanted = run(naive_twin(model), inputs_for(family), output_attentions=True)
    for have, want in zip(found.attentions, wanted.attentions, strict=True):
        torch.testing.assert_close(have, want, atol=1e-5, rtol=1e-4)
    model.save_pretrained(tmp_path)
    assert len(run(AutoModel.from_pretrained(tmp_path, attn_implementation="eager"), inputs_for(family)).attentions) == LAYERS


@every_family
def test_attentions_by_config_need_the_eager_name(family):
    """The rule of Transformers, and not an empty tuple."""
    with pytest.raises(ValueError, match="output_attentions"):
        tiny_model(BACKBONES[family], attn_implementation="sdpa").config.output_attentions = True


def test_hidden_weights_are_zero():
    model = tiny_model(BACKBONES["bert"], attn_implementation="eager")
    for weights in run(model, inputs_for("bert"), output_attentions=True).attentions:
        assert not weights[1, :, :, -4:].any()


# Attention that no patch reaches, in architectures of Transformers


def on_meta(name, **values):
    """A model without weights, of its default configuration but for some values; the test is skipped where it is not known."""
    cls = getattr(transformers, name, None)
    if cls is None:
        pytest.skip(f"Transformers {transformers.__version__} has no {name}")
    known = inspect.signature(cls.config_class.__init__).parameters
    with torch.device("meta"):
        return cls(cls.config_class(**{key: value for key, value in values.items() if key in known}, attn_implementation="eager"))


TINY_DECODER = {"vocab_size": 53, "hidden_size": 24, "num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 2}
TINY_DECODER |= {"intermediate_size": 13, "head_dim": 6, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
PARTS = {
    "ChameleonModel": "ChameleonVQVAEEncoderAttnBlock",
    "JanusModel": "JanusVQVAEAttnBlock",
    "EvollaModel": "EvollaSequenceAlignerCrossAttention",
    "Kosmos2_5Model": "Kosmos2_5VisionAttention",
    "EsmFold2Model": "EsmFold2MSAPairWeightedAveraging",
    "MgpstrForSceneTextRecognition": "MgpstrA3Module",
    "SiglipModel": "MultiheadAttention",
}


@pytest.mark.parametrize("name", PARTS)
def test_parts_that_would_stay_softmax_are_named(name):
    with pytest.raises(
        ValueError, match=rf"(would stay softmax|cannot compute TanhMax): .*{PARTS[name]}.* Transformers' attention interface"
    ):
        use_tanhmax(on_meta(name, **TINY_DECODER, vocabulary_map={"<image>": 3, "IMGIMGBSZ": 4}))


def test_folding_attention_is_named():
    config = transformers.EsmConfig(vocab_size=33, hidden_size=24, num_hidden_layers=1, num_attention_heads=4, is_folding_model=True)
    with torch.device("meta"), pytest.raises(ValueError, match=r"would stay softmax: .*EsmFoldAttention"):
        use_tanhmax(transformers.EsmForProteinFolding(config))


@pytest.mark.parametrize(
    "name", ["GPT2Model", "MixtralModel", "Sam2VisionModel", "Wav2Vec2ForPreTraining", "Mask2FormerForUniversalSegmentation"]
)
def test_other_softmaxes_are_no_attention(name):
    """Routers, codebooks, matchers, and what is computed for a name that TanhMax never answers."""
    model = on_meta(name)
    bypassing = {type(module).__name__ for module in model.modules() if attention_facts(module).bypasses}
    assert all("Attention" in each for each in bypassing), bypassing
    if name != "Mask2FormerForUniversalSegmentation":
        assert use_tanhmax(model) > 0


# Attention sinks and sparse keys

REFUSED_ARGUMENTS = {
    "GptOssModel": "attention sinks: GptOssAttention passed 's_aux'",
    "GraniteSWAModel": "attention sinks: GraniteSWAAttention passed 's_aux'",
    "GraniteMoeSWAModel": "attention sinks: GraniteMoeSWAAttention passed 's_aux'",
    "FlintModel": "attention sinks: FlintAttention passed 's_aux'",
    "OpenAIPrivacyFilterModel": "attention sinks: OpenAIPrivacyFilterAttention passed 's_aux'",
    "HYV4Model": "sparse key selection: HYV4Attention passed 'indices'",
    "MiMoV2FlashModel": "attention sinks: MiMoV2FlashAttention passed 's_aux'",
    "GlmMoeDsaModel": "sparse key selection: GlmMoeDsaAttention passed 'indices'",
    "DeepseekV32Model": "sparse key selection: DeepseekV32Attention passed 'indices'",
    "AXK2Model": "sparse key selection: AXK2Attention passed 'indices'",
    "MistralLarge4TextModel": "sparse key selection: MistralLarge4TextAttention passed 'indices'",
    "MiniMaxM3VLTextModel": "sparse key selection: MiniMaxM3VLAttention passed 'block_indices'",
    "DeepseekV4Model": "attention sinks: DeepseekV4Attention passed 's_aux'",
    "Inkling2TextModel": "attention sinks: Inkling2SlidingAttention passed 'sinks'",
}


@pytest.mark.parametrize("name", REFUSED_ARGUMENTS)
def test_sinks_and_sparse_keys_are_refused_before_a_forward_pass(name):
    sparse = {"layer_types": ["minimax_m3_sparse"] * 2} if name == "MiniMaxM3VLTextModel" else {}
    model = on_meta(name, **TINY_DECODER, **sparse)
    every_layer = range(len(modules_by_layer(model)))
    with pytest.raises(NotImplementedError, match=f"TanhMax attention has no {REFUSED_ARGUMENTS[name]}"):
        use_tanhmax(model, TanhMaxSettings(layers=every_layer))
    with pytest.raises(NotImplementedError, match=f"TanhMax attention has no {REFUSED_ARGUMENTS[name]}"):
        use_tanhmax(model)  # and not of parts that would stay softmax, which could be accepted
    with pytest.raises(NotImplementedError, match="TanhMax attention has no "), tanhmax_on(model, layers=every_layer):
        pass
    assert not any(isinstance(module.config, ConfigView) for module in attention_modules(model))


@pytest.mark.parametrize("name", ["MiMoV2FlashModel", "MiniMaxM3VLTextModel"])
def test_layers_without_sinks_or_sparse_keys_are_patched(name):
    """Their attention has the argument, but no sinks and no indexer."""
    assert use_tanhmax(on_meta(name, **TINY_DECODER, layer_types=["full_attention"] * 2)) == 2
