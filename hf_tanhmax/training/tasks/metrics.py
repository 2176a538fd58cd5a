"""Accuracy and F1 as `evaluate` metrics, defined here because `evaluate.load` needs the network and scikit-learn; and perplexity.

F1 of a class is 2 t / (2 t + f), where t counts its rows that were found and f the mistakes in which it is the prediction or the answer;
0 where it is neither.
"""

from collections.abc import Callable

import datasets
import evaluate
import numpy as np
import torch
from torch import Tensor, nn
from transformers import EvalPrediction
from transformers.trainer_utils import PredictionOutput

from .losses import IGNORED, token_losses

FEATURES = datasets.Features({"predictions": datasets.Value("int64"), "references": datasets.Value("int64")})


class Accuracy(evaluate.Metric):
    """The share of correct predictions."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(description=str(self.__doc__), citation="", features=FEATURES)

    def _compute(self, predictions: np.ndarray, references: np.ndarray) -> dict[str, float]:
        return {"accuracy": float(np.mean(np.equal(references, predictions)))}


class F1(evaluate.Metric):
    """F1 of class 1 where there are two classes (`average="binary"`), or its mean over the classes that occur (`average="macro"`)."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(description=str(self.__doc__), citation="", features=FEATURES)

    def _compute(self, predictions: np.ndarray, references: np.ndarray, average: str = "binary") -> dict[str, float]:
        predicted, wanted = np.asarray(predictions), np.asarray(references)
        scored = [1] if average == "binary" else sorted({*predicted.tolist(), *wanted.tolist()})
        return {"f1": float(np.mean([_f1(predicted == each, wanted == each) for each in scored]))}


def _f1(predicted: np.ndarray, wanted: np.ndarray) -> float:
    both = 2 * int((predicted & wanted).sum())
    either = int(predicted.sum()) + int(wanted.sum())
    return both / either if either else 0.0


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
        loss = nn.functional.cross_entropy(torch.from_numpy(logits.astype(np.float64)), torch.as_tensor(prediction.label_ids).long())
        return {**accuracy.compute(**columns), **f1.compute(**columns, average=f1_average(classes)), "cross_entropy": float(loss)}

    return compute


def right_answers(prediction: PredictionOutput) -> list[float]:
    """1 for every row whose largest logit is at its label, else 0."""
    return [float(right) for right in np.argmax(prediction.predictions, axis=-1) == prediction.label_ids]


def reduced_tokens(logits: Tensor, labels: Tensor) -> Tensor:
    """Of each row the sum of the cross entropy of its labels, how many there are, and how many are predicted correctly: `[rows, 3]`.

    Args:
        logits: `[rows, length, vocabulary]`.
        labels: `[rows, length]` at the same places, -100 where there are none.
    """
    counted = labels != IGNORED
    right = (logits.argmax(-1) == labels) & counted
    return torch.stack([token_losses(logits, labels).sum(1), counted.sum(1), right.sum(1)], dim=1)


def token_metrics(prediction: EvalPrediction) -> dict[str, float]:
    """`cross_entropy` per token, its exponential `perplexity`, and the `token_accuracy`, from `reduced_tokens` of all rows."""
    loss, count, right = np.asarray(prediction.predictions, dtype=np.float64).sum(0)
    return {"perplexity": float(np.exp(loss / count)), "cross_entropy": float(loss / count), "token_accuracy": float(right / count)}


def row_losses(prediction: PredictionOutput) -> list[float]:
    """The cross entropy per token of every row that has a label; a row without one counts as 0."""
    return [float(loss / max(count, 1)) for loss, count, _ in prediction.predictions]
