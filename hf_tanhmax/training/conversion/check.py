"""Whether a converted language model still predicts: its loss beside that of the softmax checkpoint, before and after training.

All losses are of the same few validation rows, in nats per predicted token. Conversion at polarity 1 can leave a decoder as good as
guessing (SmolLM2: perplexity 36 becomes 268,000), which a short training does not repair and a loss curve alone does not show.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ...integration.patching import tanhmax_on
from ...models.family import TanhMaxFields
from ...results import Conversion
from ..configuration.schema import Config
from ..tasks import Task
from ..tasks.text import TokenPrediction

# The perplexity has doubled. What keeps a model costs less before any training (SmolLM2 with a balanced shift at polarity 0.2: 1.7 times),
# what destroys it far more (at polarity 1: 7,000 times).
FAR = math.log(2)
PREFIX = "conversion/"  # of what is logged
Batches = Sequence[dict[str, Tensor]]


def is_checked(task: Task) -> bool:
    """Whether there is something to compare: a language model that starts from a checkpoint."""
    return isinstance(task, TokenPrediction) and not task.config.from_scratch


def softmax_loss(model: PreTrainedModel, task: Task, batches: Batches) -> float:
    """The loss of the softmax checkpoint, from the model that was converted from it and neither calibrated nor trained."""
    with tanhmax_on(model, polarity=0.0) if isinstance(model.config, TanhMaxFields) else nullcontext():
        return token_loss(model, task, batches)


def token_loss(model: nn.Module, task: Task, batches: Batches) -> float:
    """Mean cross entropy over the labels of all batches; the model is left in evaluation mode."""
    model.eval()
    device = next(model.parameters()).device
    total = torch.zeros(3, dtype=torch.float64)
    with torch.no_grad():
        for batch in batches:
            inputs = {key: value.to(device) for key, value in batch.items()}
            labels = inputs.pop("labels")
            total += task.reduce(model(**inputs, **task.forward).logits, labels).double().sum(0).cpu()
    return float(total[0] / total[1])


def warnings_about(conversion: Conversion, config: Config) -> list[str]:
    """What is wrong with the losses, in sentences.

    Args:
        conversion: with the losses that are known: none of softmax for a TanhMax checkpoint, none of the trained model before training.
        config: the recipe.
    """
    found: list[str] = []
    softmax, converted, trained = conversion.get("softmax_loss"), conversion.get("converted_loss"), conversion.get("trained_loss")
    if converted is None:
        return found
    rows = f"{conversion['checked_rows']} validation rows"
    best, name = converted, "before training"
    if softmax is not None:
        best, name = min((softmax, "for the softmax checkpoint"), (converted, name))
        if not converted - softmax <= FAR:
            found.append(
                f"conversion destroyed this model: before training its loss on {rows} is {converted:.2f} nats per token, and that of the "
                f"softmax checkpoint {softmax:.2f}; {_advice(config)}"
            )
    if trained is not None and not trained - best <= FAR:
        cause = "training made this model worse" if config.attention == "softmax" else "training did not make up for the conversion"
        found.append(f"{cause}: the loss on {rows} ended at {trained:.2f} nats per token, and was {best:.2f} {name}; {_advice(config)}")
    return found


def start_and_end(conversion: Conversion) -> str:
    """One sentence with the losses before and after training, which must be known."""
    start, end = conversion["converted_loss"], conversion["trained_loss"]
    softmax = conversion.get("softmax_loss")
    way = "lower" if end < start else "higher" if end > start else "no lower"
    before = "" if softmax is None else f" ({softmax:.3f} for the softmax checkpoint)"
    return (
        f"validation loss {start:.3f} nats per token before training{before}, {end:.3f} after it, {way}, on "
        f"{conversion['checked_rows']} rows"
    )


class StartCallback(TrainerCallback):
    """Logs what was measured before training, once: the log goes into every checkpoint, so a resumed run still has it.

    Args:
        measured: names and numbers.
        log: of the Trainer.
    """

    def __init__(self, measured: Conversion, log: Callable[[dict[str, float]], None]) -> None:
        self.measured, self.log = measured, log

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
        """Log it before the first step."""
        if state.global_step == 0 and self.measured:
            self.log({f"{PREFIX}{name}": cast(float, value) for name, value in self.measured.items()})


def measured_at_start(history: Sequence[dict[str, float]]) -> Conversion:
    """What `StartCallback` logged."""
    found = {key.removeprefix(PREFIX): value for record in history for key, value in record.items() if key.startswith(PREFIX)}
    return cast(Conversion, found)


def _advice(config: Config) -> str:
    if config.attention == "softmax":
        return f"lower the learning rate (now {config.resolved_learning_rate:g}), or train on more rows"
    calibrated = [] if config.calibrate else [f"recipes/{config.task}/aligned.yaml"]
    if config.shift == "balanced":
        others = "".join(f", or calibrate as {name} does" for name in calibrated)
        return f"lower the polarity of the balanced shift (now {config.polarity}){others}"
    return f"start again with {' or '.join([f'recipes/{config.task}/balanced.yaml', *calibrated])}, which keeps more of what it knew"
