"""Every task from end to end, and what it makes of its rows."""

import json

import pytest
import torch
from datasets import Dataset
from PIL import Image
from transformers import AutoModelForCausalLM, AutoModelForImageClassification, AutoModelForMaskedLM, AutoTokenizer

from hf_tanhmax.errors import RecipeError
from hf_tanhmax.training.configuration.recipe import read_recipes, task_base
from hf_tanhmax.training.configuration.schema import CONFIGS
from hf_tanhmax.training.data.tokenizer import build_causal_tokenizer, build_tokenizer
from hf_tanhmax.training.tasks import MODULES, task_for
from hf_tanhmax.training.tasks.losses import IGNORED
from hf_tanhmax.training.tasks.sft import conversation_tokens

HEADS = {"bert/masked_lm": AutoModelForMaskedLM, "vit/image_classification": AutoModelForImageClassification}


def test_every_task_has_a_module():
    assert MODULES.keys() == CONFIGS.keys()


@pytest.mark.parametrize("task", [task for task in CONFIGS if task != "bert/text_classification"])
def test_a_task_runs_from_end_to_end(task, train, tmp_path):
    code, said, results = train("annealed", task=task)
    assert code == 0, said
    metrics = results["metrics"]
    assert metrics["reload_difference"] == 0
    assert metrics[f"test_{results['main_metric']}"] > 0
    rows, outcomes = results["data"]["rows"]["test"], len(results["outcomes"]["test"].split())
    assert outcomes > rows if task == "llama/causal_lm" else outcomes == rows  # documents longer than a packed row
    assert results["polarity_curve"][-1] == [9, 1.0]
    assert [point["step"] for point in results["health_curve"]] == list(range(10))
    assert results["health_curve"][0]["overall"]["negative_mass"] == 0
    assert results["health_curve"][0]["overall"]["output_norm"] == pytest.approx(1)
    assert results["health_curve"][-1]["overall"]["negative_mass"] > 0
    model = HEADS.get(task, AutoModelForCausalLM).from_pretrained(tmp_path / "run")
    assert type(model).__name__ == results["model"]["class"]
    assert model.config.tanhmax_polarity == 1.0
    assert getattr(model.config, "use_cache", True), "the Trainer's use_cache: false is no property of the model"
    assert {path.name for path in (tmp_path / "run" / "figures").iterdir()} == {"training.png", "health.png"}


def task_of(name, *flags):
    return task_for(read_recipes([str(task_base(name).with_name("tanhmax.yaml")), *flags])[0].config)


# Masked language modelling


def test_hidden_tokens_are_the_same_in_every_evaluation_and_others_in_every_batch_of_training():
    task = task_of("bert/masked_lm", "--max_length", "17")
    rows = Dataset.from_dict({"text": [" ".join(f"w{number}" for number in range(13))] * 5})
    tokenizer = build_tokenizer(rows["text"], vocabulary_size=99, max_length=17)
    first, again = (task.examples(rows, tokenizer, training=False) for _ in range(2))
    assert first["input_ids"] == again["input_ids"]
    assert first["labels"] == again["labels"]
    hidden = [label for labels in first["labels"] for label in labels if label != IGNORED]
    assert 0 < len(hidden) < 40
    examples = task.examples(rows, tokenizer, training=True)
    collate = task.collator(tokenizer, training=True)
    batches = [collate([examples[row] for row in range(5)]) for _ in range(2)]
    assert not torch.equal(batches[0]["labels"], batches[1]["labels"])


# Text files


def test_a_single_document_is_divided_at_a_line(tmp_path):
    text = "\n".join(f"line {number}" for number in range(100))
    (tmp_path / "book.txt").write_text(text)
    splits = task_of("llama/causal_lm", "--train_file", str(tmp_path / "book.txt")).splits()
    assert splits.train[0]["text"] + splits.validation[0]["text"] == text
    assert splits.validation[0]["text"].startswith("line ")
    assert len(splits.validation[0]["text"]) == pytest.approx(len(text) / 10, abs=8)


@pytest.mark.parametrize(
    ("contents", "message"),
    [("short", "is one short document, which cannot be divided"), (" \n \n", "the train data has no text")],
)
def test_a_file_without_enough_text_is_refused(contents, message, tmp_path):
    (tmp_path / "book.txt").write_text(contents)
    with pytest.raises(RecipeError, match=message):
        task_of("llama/causal_lm", "--train_file", str(tmp_path / "book.txt")).splits()


def test_lines_and_paragraphs_can_be_rows(tmp_path):
    (tmp_path / "lines.txt").write_text("a\nb\n\nc\nd\n")
    flags = ["--train_file", str(tmp_path / "lines.txt"), "--validation_file", str(tmp_path / "lines.txt")]
    assert len(task_of("bert/masked_lm", *flags, "--sample_by", "line").splits().train) == 4
    assert len(task_of("bert/masked_lm", *flags).splits().train) == 2


# Conversations

TALK = [
    {"role": "user", "content": "1 plus 1?"},
    {"role": "assistant", "content": "2."},
    {"role": "user", "content": "and 2?"},
    {"role": "assistant", "content": "4."},
]


@pytest.fixture
def tokenizer():
    """Of a decoder, over the words of a conversation."""
    return build_causal_tokenizer([message["content"] for message in TALK], vocabulary_size=300, max_length=99)


def test_what_the_assistant_says_is_learned_and_nothing_else(tokenizer):
    ids, labels = conversation_tokens(tokenizer, TALK)
    assert tokenizer.decode(ids) == tokenizer.apply_chat_template(TALK, tokenize=False)
    assert tokenizer.decode([label for label in labels if label != IGNORED]) == "2.<|im_end|>\n4.<|im_end|>\n"
    assert all(label in (token, IGNORED) for token, label in zip(ids, labels, strict=True))


def test_a_template_that_rewrites_earlier_turns_is_refused(tokenizer):
    tokenizer.chat_template = "{{ messages | length }}{% for message in messages %}{{ message['content'] }}{% endfor %}"
    with pytest.raises(RecipeError, match="the chat template changes earlier turns when a later one is added"):
        conversation_tokens(tokenizer, TALK)


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ("hello", "row 1 of the train data must hold a list of {role, content}, but holds 'hello'"),
        ([{"role": "user"}], "must hold a list of {role, content}"),
        (TALK[:1], "row 1 of the train data has no turn of the assistant to learn from"),
        (TALK[1:], "begins with the assistant"),
    ],
)
def test_rows_that_are_no_conversations_are_refused(messages, message, tmp_path):
    (tmp_path / "talk.jsonl").write_text("\n".join([json.dumps({"messages": messages})] * 2))
    with pytest.raises(RecipeError, match=message):
        task_of("llama/sft", "--train_file", str(tmp_path / "talk.jsonl")).splits()


def test_conversations_that_are_cut_before_the_answer_are_refused(tokenizer):
    rows = Dataset.from_dict({"messages": [TALK]})
    with pytest.raises(RecipeError, match="max_length is 3, which cuts every conversation before the assistant speaks"):
        task_of("llama/sft", "--max_length", "3").examples(rows, tokenizer, training=True)


def test_a_chat_template_is_a_file(tmp_path, train):
    code, said, _ = train("tanhmax", "--chat_template", str(tmp_path / "none.jinja"), task="llama/sft")
    assert code == 2
    assert "chat_template does not exist" in said


# Images


@pytest.fixture
def folder(tmp_path):
    """An image folder of two classes, with images of several modes and shapes."""
    for name, colour in (("cat", 30), ("dog", 220)):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for number, mode in enumerate(["RGB", "L", "RGBA", "P", "RGB", "L", "RGB", "RGB"]):
            image = Image.new("L", (8 + number, 8), colour).convert(mode)
            image.save(tmp_path / "pets" / name / f"{number}.png")
    return tmp_path / "pets"


IMAGE = "vit/image_classification"
VIT = ("--image_size", "8", "--patch_size", "4", "--batch_size", "4")


def test_a_folder_of_images_is_trained_on(folder, train):
    code, said, results = train("tanhmax", "--train_file", str(folder), "--test_file", str(folder), *VIT, task=IMAGE)
    assert code == 0, said
    assert results["data"]["rows"] == {"train": 14, "validation": 2, "test": 16}
    assert len(results["data"]["sha256"]["train_file"]) == 64


def test_a_parquet_file_with_an_image_column(folder, tmp_path, train):
    from datasets import load_dataset

    made = load_dataset("imagefolder", data_dir=str(folder), split="train").rename_columns({"image": "picture", "label": "kind"})
    made.to_parquet(tmp_path / "pets.parquet")
    flags = ("--train_file", str(tmp_path / "pets.parquet"), "--image_column", "picture", "--label_column", "kind")
    code, said, _ = train("tanhmax", *flags, *VIT, task=IMAGE)
    assert code == 0, said
    code, said, _ = train("tanhmax", *flags[:2], "--image_column", "kind", *flags[4:], *VIT, task=IMAGE, folder="other")
    assert code == 2
    assert "column 'kind' (image_column) of the train data holds no images but 0; name the column of images" in said


def test_a_file_that_is_no_image_is_refused_and_named(folder, train):
    (folder / "cat" / "9.png").write_bytes(b"not a picture")
    code, said, _ = train("tanhmax", "--train_file", str(folder), *VIT, task=IMAGE)
    assert code == 2
    assert "holds an image that cannot be read" in said
    assert "Traceback" not in said


def test_training_images_are_augmented_and_others_are_not():
    task = task_of(IMAGE, "--flip", "true")
    splits = task.splits()
    processor = task.processor(splits)
    examples = [task.examples(splits.train, processor, training=True)[0]]
    moved = [task.collator(processor, training=True)(examples)["pixel_values"] for _ in range(8)]
    still = [task.collator(processor, training=False)(examples)["pixel_values"] for _ in range(2)]
    assert len({tensor.numpy().tobytes() for tensor in moved}) > 4
    assert torch.equal(*still)
    assert still[0].shape == (1, 3, 8, 8)
    assert still[0].min() >= -1
    assert still[0].max() <= 1


def test_patches_that_do_not_fill_the_image_are_refused(train):
    code, said, _ = train("tanhmax", "--patch_size", "3", task=IMAGE)
    assert code == 2
    assert "patch_size must divide the 8 pixels of an image's side, but is 3" in said


@pytest.mark.slow
def test_a_checkpoint_takes_images_of_another_size(train, tmp_path):
    code, said, _ = train("tanhmax", task=IMAGE)
    assert code == 0, said
    flags = ("--model_name_or_path", str(tmp_path / "run"), "--max_train_rows", "140")
    code, said, results = train("tanhmax", *flags, "--image_size", "12", task=IMAGE, folder="larger")
    assert code == 0, said
    assert results["metrics"]["reload_difference"] == 0
    model = AutoModelForImageClassification.from_pretrained(tmp_path / "larger")
    assert (model.config.image_size, model.vit.embeddings.position_embeddings.shape[1]) == (12, 37)
    code, said, _ = train("tanhmax", *flags, "--image_size", "13", task=IMAGE, folder="odd")
    assert code == 2
    assert "image_size is 13, which the patches of" in said


def test_a_recipe_of_another_family_is_refused(train, tmp_path):
    train("tanhmax", task=IMAGE)
    code, said, _ = train("tanhmax", "--model_name_or_path", str(tmp_path / "run"), folder="other")
    assert code == 2
    assert "is a checkpoint of model type 'vit', but bert/text_classification is a recipe for 'bert'; recipes/vit/ has those for it" in said


# Tokenizers of decoders


def test_bytes_come_back_and_the_tokenizer_survives_a_save(tokenizer, tmp_path):
    text = "Ünïcode,  two spaces\n\tand a tab"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert again(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert again.apply_chat_template(TALK, tokenize=False) == tokenizer.apply_chat_template(TALK, tokenize=False)
