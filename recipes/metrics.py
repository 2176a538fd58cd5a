"""Accuracy and F1 as `evaluate` metrics over scikit-learn, defined here because `evaluate.load` needs the network."""

from collections.abc import Callable
from typing import Any

import datasets
import evaluate
import numpy as np
from scipy.special import softmax
from sklearn.metrics import accuracy_score, f1_score, log_loss
from transformers import EvalPrediction

FEATURES = datasets.Features({"predictions": datasets.Value("int64"), "references": datasets.Value("int64")})


class Accuracy(evaluate.Metric):
    """The share of predictions that are right."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(description=str(self.__doc__), citation="", features=FEATURES)

    def _compute(self, predictions: Any, references: Any, **_: Any) -> dict[str, float]:
        return {"accuracy": float(accuracy_score(references, predictions))}


class F1(evaluate.Metric):
    """F1 of class 1 where there are two classes (`average="binary"`), or its mean over all classes (`average="macro"`)."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(description=str(self.__doc__), citation="", features=FEATURES)

    def _compute(self, predictions: Any, references: Any, average: str = "binary") -> dict[str, float]:
        return {"f1": float(f1_score(references, predictions, average=average, zero_division=0.0))}


def f1_average(classes: int) -> str:
    """Which F1 is reported for a number of classes."""
    return "binary" if classes == 2 else "macro"


def classification_metrics(classes: int) -> Callable[[EvalPrediction], dict[str, float]]:
    """What the Trainer calls with logits `[rows, classes]` and labels `[rows]`: `accuracy`, `f1` and `cross_entropy`.

    The last is the mean over rows, which the Trainer's own loss is not where several processes pad the last batch.
    """
    accuracy, f1 = Accuracy(keep_in_memory=True), F1(keep_in_memory=True)

    def compute(prediction: EvalPrediction) -> dict[str, float]:
        logits = prediction.predictions[0] if isinstance(prediction.predictions, tuple) else prediction.predictions
        columns = {"predictions": np.argmax(logits, axis=-1), "references": prediction.label_ids}
        loss = log_loss(prediction.label_ids, softmax(logits.astype(np.float64), axis=-1), labels=range(classes))
        return {**accuracy.compute(**columns), **f1.compute(**columns, average=f1_average(classes)), "cross_entropy": float(loss)}

    return compute
