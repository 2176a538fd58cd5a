"""Images: folders and columns of them, what is refused, augmentation, and checkpoints of another size."""

import pytest
import torch
from datasets import Dataset, Features, Value, load_dataset
from datasets import Image as ImageFeature
from image_processors import load_images
from PIL import Image
from transformers import AutoModelForImageClassification

from hf_tanhmax.errors import RecipeError
from hf_tanhmax.training.tasks.image_classification import build_image_processor, load_image_processor

IMAGE = "vit/image_classification"
VIT = ("--image_size", "8", "--patch_size", "4", "--batch_size", "4")


@pytest.fixture
def folder(tmp_path):
    """An image folder of two classes, with images of several modes and shapes."""
    for name, colour in (("cat", 30), ("dog", 220)):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for number, mode in enumerate(["RGB", "L", "RGBA", "P", "RGB", "L", "RGB", "RGB"]):
            image = Image.new("L", (8 + number, 8), colour).convert(mode)
            image.save(tmp_path / "pets" / name / f"{number}.png")
    return tmp_path / "pets"


def test_a_folder_of_images_is_trained_on(folder, train):
    code, said, results = train("tanhmax", "--train_file", str(folder), "--test_file", str(folder), *VIT, task=IMAGE)
    assert code == 0, said
    assert results["data"]["rows"] == {"train": 14, "validation": 2, "test": 16}
    assert len(results["data"]["sha256"]["train_file"]) == 64


def test_a_parquet_file_with_an_image_column(folder, tmp_path, train):
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


def test_training_images_are_augmented_and_others_are_not(task_of):
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


@load_images
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


def test_a_row_without_an_image_is_refused_and_named(folder, task_of, tmp_path):
    images = [str(folder / "cat" / "0.png"), None]
    features = Features({"image": ImageFeature(), "label": Value("int64")})
    Dataset.from_dict({"image": images, "label": [0, 1]}, features=features).to_parquet(tmp_path / "pets.parquet")
    with pytest.raises(RecipeError, match=r"row 2 of the train data holds no image in 'image' \(image_column\)"):
        task_of(IMAGE, "--train_file", str(tmp_path / "pets.parquet")).splits()


def test_a_checkpoint_without_an_image_processor_is_refused(tmp_path):
    with pytest.raises(RecipeError, match=f"'{tmp_path}' has no image processor: "):
        load_image_processor(str(tmp_path), 12)


@load_images
def test_the_image_processor_of_a_checkpoint_takes_the_size_of_the_recipe(tmp_path):
    build_image_processor(8).save_pretrained(tmp_path)
    for side, wanted in ((None, 8), (12, 12)):
        pixels = load_image_processor(str(tmp_path), side)(images=Image.new("RGB", (5, 9)), return_tensors="pt")["pixel_values"]
        assert pixels.shape == (1, 3, wanted, wanted)
