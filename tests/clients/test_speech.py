"""Speech by `pipeline` and `generate`: Transformers asks for the model type of Whisper and its like by name, and ours must answer to it."""

import json

import numpy as np
import pytest
import torch
import transformers
from tiny_checkpoints import by_definition, save_converted, save_softmax
from tokenizers.pre_tokenizers import ByteLevel
from transformers import pipeline

import hf_tanhmax
from hf_tanhmax.integration.model_names import converted_name

RATE = 16000  # samples per second
END, START, ENGLISH, TRANSLATE, TRANSCRIBE, BEFORE, NO_TIMES = range(256, 263)
SPECIAL = ("<|startoftranscript|>", "<|en|>", "<|translate|>", "<|transcribe|>", "<|startofprev|>", "<|notimestamps|>")


def sound(seconds=0.5):
    return {"raw": np.random.default_rng(0).standard_normal(int(RATE * seconds)).astype(np.float32), "sampling_rate": RATE}


def whisper(folder):
    """A softmax Whisper for one second of sound, with the tokens and the generation settings that its own code wants."""
    vocabulary = {letter: index for index, letter in enumerate(sorted(ByteLevel.alphabet()))} | {"<|endoftext|>": END}
    tokenizer = transformers.WhisperTokenizer(vocab=vocabulary, merges=[])
    tokenizer.add_tokens(list(SPECIAL), special_tokens=True)
    tokenizer.add_tokens([f"<|{step * 0.02:.2f}|>" for step in range(51)])
    tokens = {"decoder_start_token_id": START, "bos_token_id": END, "eos_token_id": END, "pad_token_id": END}
    sizes = {"max_source_positions": 50, "max_target_positions": 40}
    save_softmax(folder, "WhisperForConditionalGeneration", "Whisper", tokenizer, **sizes, **tokens)
    transformers.WhisperFeatureExtractor(feature_size=5, chunk_length=1).save_pretrained(folder)
    transformers.GenerationConfig(
        **tokens,
        max_length=24,
        is_multilingual=True,
        lang_to_id={"<|en|>": ENGLISH},
        task_to_id={"transcribe": TRANSCRIBE, "translate": TRANSLATE},
        no_timestamps_token_id=NO_TIMES,
        prev_sot_token_id=BEFORE,
        language="en",
        task="transcribe",
        max_initial_timestamp_index=5,
        suppress_tokens=[],
        begin_suppress_tokens=[END],
    ).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("times", [False, True], ids=["text", "timestamps"])
def test_whisper_is_transcribed_as_whisper(times, tmp_path):
    softmax = whisper(tmp_path / "softmax")
    made = pipeline("automatic-speech-recognition", model=save_converted(softmax, tmp_path / "tanhmax"))
    expected = pipeline("automatic-speech-recognition", model=softmax)
    assert made.type == expected.type == "seq2seq_whisper"
    expected.model = by_definition(made.model, softmax)
    options = {"return_timestamps": times, "generate_kwargs": {"max_new_tokens": 17}}
    answer = made(sound(), **options)
    assert answer["text"]
    assert ("chunks" in answer) == times
    assert answer == expected(sound(), **options)


def test_a_prompt_of_whisper_stands_before_the_start(tmp_path):
    """For any other model `generate` would put the start token before the prompt."""
    softmax = whisper(tmp_path / "softmax")
    model = transformers.AutoModelForSpeechSeq2Seq.from_pretrained(save_converted(softmax, tmp_path / "tanhmax"))
    first = []
    model.model.decoder.register_forward_pre_hook(lambda module, args, kwargs: first.append(kwargs["input_ids"].tolist()), with_kwargs=True)
    inputs = {"input_features": torch.randn(1, 5, 100), "prompt_ids": torch.tensor([BEFORE, 65, 66])}
    generated = model.generate(**inputs)
    assert first[0] == [[BEFORE, 65, 66, START, ENGLISH, TRANSCRIBE, NO_TIMES]]
    assert generated.tolist() == by_definition(model, softmax).generate(**inputs).tolist()


def test_a_softmax_whisper_in_a_tanhmax_class_is_named_as_in_memory_only(tmp_path):
    softmax = whisper(tmp_path)
    model = hf_tanhmax.TanhMaxWhisperForConditionalGeneration.from_pretrained(softmax)
    assert model.name_or_path == converted_name(softmax)


# Sound as it is, without spectra: the convolutions of a tiny model shorten half a second to a hundred vectors.
SOUND = {
    "hidden_size": 24,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "intermediate_size": 13,
    "vocab_size": 30,
    "initializer_range": 0.3,
}
SOUND |= {"conv_dim": [8, 8], "conv_stride": [10, 8], "conv_kernel": [10, 8], "num_feat_extract_layers": 2, "classifier_proj_size": 7}
SOUND |= {"num_conv_pos_embeddings": 5, "num_conv_pos_embedding_groups": 2, "pad_token_id": 0}
RAW = {
    "automatic-speech-recognition": ("Wav2Vec2ForCTC", {}),
    "audio-classification": ("HubertForSequenceClassification", {"num_labels": 3}),
}


@pytest.mark.parametrize("task", RAW)
def test_sound_without_spectra(task, tmp_path):
    head, changes = RAW[task]
    torch.manual_seed(0)
    cls = getattr(transformers, head)
    cls(cls.config_class(**SOUND, **changes)).save_pretrained(tmp_path / "softmax")
    (tmp_path / "vocab.json").write_text(
        json.dumps({letter: index for index, letter in enumerate(["<pad>", "|", "<unk>", *"abcdefghijklmnopqrstuvwxyz"])})
    )
    tokenizer = transformers.Wav2Vec2CTCTokenizer(
        str(tmp_path / "vocab.json"), bos_token=None, eos_token=None, pad_token="<pad>", unk_token="<unk>"
    )
    extractor = transformers.Wav2Vec2FeatureExtractor(sampling_rate=RATE)
    if "CTC" in head:
        transformers.Wav2Vec2Processor(extractor, tokenizer).save_pretrained(tmp_path / "softmax")
    extractor.save_pretrained(tmp_path / "softmax")
    softmax = str(tmp_path / "softmax")
    made, expected = pipeline(task, model=save_converted(softmax, tmp_path / "tanhmax")), pipeline(task, model=softmax)
    assert type(made.model).__name__ == f"TanhMax{head}"
    stock = expected(sound())
    expected.model = by_definition(made.model, softmax)
    answer, wanted = made(sound()), expected(sound())
    if "CTC" in head:
        assert made.type == "ctc"
        assert answer == wanted != stock
    else:
        assert [each["label"] for each in answer] == [each["label"] for each in wanted]
        assert [each["score"] for each in answer] == pytest.approx([each["score"] for each in wanted], abs=1e-4)
        assert [each["score"] for each in answer] != pytest.approx([each["score"] for each in stock], abs=1e-4)
