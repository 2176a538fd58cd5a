"""All measurements of one trained model, on validation rows."""

from typing import Any

from transformers import PreTrainedModel

from hf_tanhmax.interpret.attribution.rank_collapse import rank_collapse

from ..data.batches import LABELS, Batch
from ..plan import CLASSIFIED, Plan, Task
from ..training import inputs_of
from .activations import kurtosis, quantised
from .attention import attention_signs
from .contributions import contributions_tau
from .signs import sign_effects

EXPLAINED = ("negation",)  # beside texts that are classified


def measure(model: PreTrainedModel, map_name: str, task: Task, plan: Plan, validation: list[Batch]) -> dict[str, Any]:
    """`attention`, `signs`, `kurtosis`, `quantised`, `collapse`, and `faithfulness` of texts that are classified.

    Args:
        model: trained; left in evaluation mode.
        map_name: that it computes.
        task: it was trained for.
        plan: says how many rows are enough for sums over weights and hidden states.
        validation: rows.
    """
    few = _first(validation, plan.measured_rows)
    found: dict[str, Any] = {
        "attention": attention_signs(model, map_name, few),
        "signs": sign_effects(model, map_name, task, validation),
        "kurtosis": kurtosis(model, few),
        "quantised": quantised(model, task, validation),
        "collapse": _collapse(model, few),
    }
    if task.kind == CLASSIFIED or task.name in EXPLAINED:
        found["faithfulness"] = contributions_tau(model, map_name, validation)
    return found


def _collapse(model: PreTrainedModel, batches: list[Batch]) -> dict[str, list[float]]:
    """Residual ratio after each layer, of the first batch: of the model as it is, and of its attention alone."""
    inputs = inputs_of(batches[0])
    whole, alone = (rank_collapse(model, inputs, skip=parts, mlp=parts) for parts in (True, False))
    return {"whole": whole.ratio.tolist(), "attention_alone": alone.ratio.tolist()}


def _first(batches: list[Batch], rows: int) -> list[Batch]:
    found, count = [], 0
    for batch in batches:
        if count >= rows:
            break
        found.append({name: value[: rows - count] for name, value in batch.items()})
        count += len(found[-1][LABELS])
    return found
