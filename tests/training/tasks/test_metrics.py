"""Accuracy, F1 and cross entropy against counts by hand."""

import math

import numpy as np
import pytest
from transformers import EvalPrediction

from hf_tanhmax.training.tasks.metrics import F1, Accuracy, classification_metrics, f1_average


def test_accuracy_is_the_share_that_is_right():
    assert Accuracy(keep_in_memory=True).compute(predictions=[0, 1, 1, 0, 2], references=[0, 1, 0, 0, 1]) == {"accuracy": 0.6}


def test_f1_of_class_1_and_of_all_classes():
    predictions, references = [1, 1, 0, 0, 1], [1, 0, 1, 0, 1]
    assert F1(keep_in_memory=True).compute(predictions=predictions, references=references) == {"f1": pytest.approx(2 / 3)}
    macro = F1(keep_in_memory=True).compute(predictions=predictions, references=references, average="macro")
    assert macro == {"f1": pytest.approx((2 / 3 + 1 / 2) / 2)}
    assert (f1_average(2), f1_average(3)) == ("binary", "macro")


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_the_metrics_are_those_of_scikit_learn(classes):
    metrics = pytest.importorskip("sklearn.metrics", reason="needs scikit-learn")
    generator = np.random.default_rng(classes)
    logits = generator.normal(size=(41, classes)).astype(np.float32)
    labels = generator.integers(classes, size=41)
    found = classification_metrics(classes)(EvalPrediction(predictions=logits, label_ids=labels))
    probabilities = np.exp(logits.astype(np.float64)) / np.exp(logits.astype(np.float64)).sum(1, keepdims=True)
    assert found == {
        "accuracy": metrics.accuracy_score(labels, logits.argmax(1)),
        "f1": pytest.approx(metrics.f1_score(labels, logits.argmax(1), average=f1_average(classes)), rel=1e-12),
        "cross_entropy": pytest.approx(metrics.log_loss(labels, probabilities, labels=range(classes)), rel=1e-12),
    }
    nowhere = {"predictions": [0, 0], "references": [0, 0]}
    assert F1(keep_in_memory=True).compute(**nowhere) == {"f1": 0.0}


def test_the_trainer_gets_all_three_from_logits_however_wrapped():
    logits = np.array([[0.0, 1.0], [2.0, 0.0], [0.0, 3.0]], dtype=np.float32)
    labels = np.array([1, 0, 0])
    by_hand = sum(math.log(1 + math.exp(gap)) for gap in (-1.0, -2.0, 3.0)) / 3
    compute = classification_metrics(2)
    for predictions in (logits, (logits, None)):
        found = compute(EvalPrediction(predictions=predictions, label_ids=labels))
        assert found == {"accuracy": pytest.approx(2 / 3), "f1": pytest.approx(2 / 3), "cross_entropy": pytest.approx(by_hand, rel=1e-6)}


def test_a_class_that_is_never_seen_costs_no_warning():
    logits = np.eye(3)[[0, 0, 1]]
    assert classification_metrics(3)(EvalPrediction(predictions=logits, label_ids=np.array([0, 0, 1])))["f1"] == 1.0
