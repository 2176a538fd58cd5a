"""How a model was trained, in words."""

import json

import pytest
from saved_models import result

from hf_tanhmax.cards.procedure import EMBEDDED, SCHEDULES, configuration, data_in_words, procedure, schedule
from hf_tanhmax.training.annealing import Schedule
from hf_tanhmax.training.configuration.schema import CONFIGS


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "The polarity went linearly from 0 to 1 during the first 50 % of the steps, and stayed 1 until the end."),
        (
            {"polarity_schedule": "geometric", "polarity_start": 0.01, "polarity": 0.8, "polarity_share": 1.0},
            "The polarity went geometrically from 0.01 to 0.8 during the first 100 % of the steps, and stayed 0.8 until the end.",
        ),
        ({"polarity_schedule": None}, "The polarity was 1 from the first step to the last."),
        ({"polarity": "learned"}, "Every head learned its own polarity exp(-2c), from c = 3 on."),
        (
            {"polarity_schedule": None, "polarity": 0.2, "shift": "balanced"},
            "The polarity was 0.2 from the first step to the last. The scores had a balanced shift.",
        ),
        (
            {"polarity": "learned", "shift": "balanced"},
            "Every head learned its own polarity exp(-2c), from c = 3 on. The scores had a balanced shift.",
        ),
        ({"shift": None, "polarity_schedule": None}, "The polarity was 1 from the first step to the last."),
        ({"attention": "softmax"}, None),
    ],
)
def test_schedule(changes, words):
    assert schedule({**result()["config"], **changes}) == words


def test_every_schedule_has_its_word():
    assert set(SCHEDULES) == set(Schedule.__args__)


def test_a_configuration_that_does_not_say():
    assert schedule({}) is None


def test_every_embedded_data_set_has_its_words():
    assert set(EMBEDDED) == {name for config in CONFIGS.values() for name in (config.synthetic, *config.packaged)}


def test_procedure():
    assert procedure(result(model={"parameters": 12345, "trained_parameters": 45})) == [
        ("Recipe", "`bert--text_classification`, variant `annealed`"),
        ("Data", r"files of the author: 6,920 train rows, 1,821 test rows (SHA-256: train\_file `abc123`)"),
        ("Parameters", "12,345, of which 45 were trained"),
        ("Optimiser steps", "216"),
        ("Epochs", "1"),
        ("Batch size", "32"),
        ("Learning rate", "5e-05"),
        ("Longest input", "64"),
        ("Hardware", "2 CPU cores, Linux"),
        ("Versions", "python 3.11.7, torch 2.13.0, hf-tanhmax 0.1.0"),
        ("Code", "commit `d2174d1f`, with changes"),
    ]


def test_what_was_not_recorded_is_left_out():
    bare = {"recipe": "a", "variant": "b", "seed": 0, "metrics": {}}
    assert procedure(bare) == [("Recipe", "`a`, variant `b`")]
    assert configuration(bare) == ""


def test_machines():
    gpus = result(hardware={"gpu": "NVIDIA H200", "num_processes": 8, "platform": "Linux"})
    assert ("Hardware", "NVIDIA H200, 8 processes, Linux") in procedure(gpus)
    whole = result(model={"parameters": 7, "trained_parameters": 7}, git={"commit": "abc", "changed": False})
    assert ("Parameters", "7, all trained") in procedure(whole)
    assert ("Code", "commit `abc`") in procedure(whole)


FILES_AND_HUB = [("stanfordnlp/sst2", "`stanfordnlp/sst2`"), ("files", "files of the author")]


@pytest.mark.parametrize(("source", "words"), [*EMBEDDED.items(), *FILES_AND_HUB])
def test_data(source, words):
    assert data_in_words({"source": source}) == words


def test_the_configuration_is_what_differs_from_the_defaults_without_the_seed():
    changed = {"polarity_schedule": "linear", "num_train_epochs": 1, "learning_rate": 5e-05}
    assert json.loads(configuration(result(3))) == changed
    everything = {key: value for key, value in result()["config"].items() if key != "seed"}
    assert json.loads(configuration(result(recipe="of--others"))) == everything
