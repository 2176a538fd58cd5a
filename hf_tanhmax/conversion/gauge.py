r"""Align a softmax model, so that it still works as a TanhMax model: key and value biases that softmax does not see.

With :math:`P = softmax(a)` and :math:`N = softmax(-a)` of a row of scores, TanhMax is :math:`\sigma P - (1 - \sigma) N`, where
:math:`\sigma` depends on a constant of the row that softmax ignores, and that training for softmax left anywhere: heads may compute mostly
minus softmin. A model is balanced at r where :math:`w = (P - r N) / (1 + r)` in every row, and two biases come close to that:

* **Key bias.** :math:`q \cdot b_k` is a constant along a row. For each head, ridge regression finds u with
  :math:`q_i \cdot u / \sqrt d \approx t - (L^+_i - L^-_i) / 2`, where :math:`t = -\log(r) / 2`, and :math:`b_k` grows by u.
* **Value bias.** Rows of softmax sum to 1, those of TanhMax do not, so a constant in the values matters. With m the mean of
  :math:`(P V + N V) / 2` for each head, :math:`b_v` shrinks by m and :math:`b_o` grows by :math:`W_o m`.

At polarity 0 the model computes what it computed; at polarity 1 it is plain TanhMax. No parameter is new.
"""

import math
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from tqdm import tqdm

from ..integration.hooks import AttentionCall, AttentionFunction, without_dropout
from ..settings import LEARNED
from .calibration.plan import BALANCE, check_balance
from .projections import BALANCED, Projections, find_projections, modules_to_align
from .report import AlignmentReport
from .runner import Batch, Runner, check_batch, chosen_heads
from .statistics import RowSums, split_rows


@torch.no_grad()
def align(model: nn.Module, batches: Iterable[Batch], *, balance: float = BALANCE, ridge: float = 1e-3) -> AlignmentReport:
    """Change key, value and output biases of a trained softmax model, in place, so that it can work at polarity 1.

    Every batch is read once, and all layers are fitted in that one pass, at polarity 0. Unlabelled inputs do; a few hundred texts or
    pictures like those that the model is for are enough.

    Args:
        model: a TanhMax or softmax model with plain key, value and output projections that have biases, and keys that are neither rotated
            nor normalised, such as BERT, RoBERTa, ViT, CLIP and BART. Of a TanhMax model, the layers and heads that its settings choose are
            aligned, of a softmax model all.
        batches: mappings of the model's inputs, as a tokenizer or an image processor makes them.
        balance: r in (0, 1], the mass of the negative half over that of the positive half; the smaller, the closer to softmax.
        ridge: the penalty of the fit, over the mean square of the queries.

    Returns:
        What it was fitted to, and what the model computes at polarity 1.

    Raises:
        ValueError: settings out of range, a learned polarity, projections that were refitted, no batches or too few rows, inputs that the
            model refuses, activations that are not finite, or a model that would compute something else at polarity 0; its weights are then
            as before.
        TypeError: a batch that is no mapping.
        NotImplementedError: rotated or shared keys, or projections that are joined, have no biases or are no plain linear layers.
    """
    started = time.perf_counter()
    check_balance(balance)
    if not 0 < ridge < math.inf:
        raise ValueError(f"ridge must be a number above 0, but is {ridge!r}")
    modules = modules_to_align(model)
    if not modules:
        raise ValueError(
            f"{type(model).__name__} has no attention module that asks Transformers' attention interface, so it cannot be aligned"
        )
    if any(getattr(module.config, "tanhmax_polarity", None) == LEARNED for module in modules):
        raise ValueError("the polarity of this model is learned; align before: convert with polarity 0 or 1, and align that")
    if any(getattr(module.config, "tanhmax_refitted_polarity", None) is not None for module in modules):
        raise ValueError("the projections of this model were refitted, so polarity 0 is not what to align it to; align first, then refit")
    projections = find_projections(model, modules)
    with without_dropout(model):
        return _align(Runner(model, modules), projections, batches, balance, ridge, started)


def _align(
    runner: Runner, projections: list[Projections], batches: Iterable[Batch], balance: float, ridge: float, started: float
) -> AlignmentReport:
    sums: dict[int, RowSums] = {}
    count, first, last = 0, None, None
    for batch in tqdm(batches, desc="align", unit="batch", disable=None):
        check_batch(batch)
        last = (batch, _collect(runner, batch, sums))
        first, count = first or last, count + 1
    if first is None or last is None:
        raise ValueError("there are no batches to align with; give a list of a few, such as 256 texts in all")
    _check_sums(projections, sums)
    if not bool(last[1].isfinite().all()):
        raise ValueError(f"the last hidden states of {type(runner.model).__name__} are NaN or infinite for these batches; try float32")
    mass_before, cosine_before = runner.measure(*last, polarity=1.0)
    with _undone_on_error(projections):
        residual = [_change_biases(each, sums[layer], -math.log(balance) / 2, ridge) for layer, each in enumerate(projections)]
        _check_unchanged(runner, *first)
        mass_after, cosine_after = runner.measure(*last, polarity=1.0)
    return AlignmentReport(
        balance=balance,
        ridge=ridge,
        rows=sums[0].rows,
        batches=count,
        seconds=time.perf_counter() - started,
        residual=tuple(residual),
        negative_mass_before=mass_before,
        negative_mass_after=mass_after,
        cosine_before=cosine_before,
        cosine_after=cosine_after,
    )


def _collect(runner: Runner, batch: Batch, sums: dict[int, RowSums]) -> Tensor:
    """The last hidden states at polarity 0, while the rows of every layer are added to `sums`."""

    def collecting(layer: int) -> AttentionFunction:
        def _function(call: AttentionCall) -> tuple[Tensor, Tensor | None]:
            found = RowSums.of(split_rows(call))
            sums[layer] = sums[layer] + found if layer in sums else found
            return call.compute()

        return _function

    return runner.hidden(batch, [collecting(layer) for layer in range(len(runner.modules))], polarity=0.0)


def _check_sums(projections: list[Projections], sums: dict[int, RowSums]) -> None:
    for layer, each in enumerate(projections):
        if layer not in sums:
            raise ValueError(
                f"{each.name} was not called for these batches, so it cannot be aligned; choose other layers or inputs, or {BALANCED}"
            )
        rows, needed = sums[layer].rows, sums[layer].queries.shape[-1]
        if rows < needed:
            raise ValueError(
                f"the batches have {rows} rows (tokens or patches, without padding), but {needed} are needed at least to fit the {needed} "
                "numbers of a head's key bias; give more inputs, such as 256 texts"
            )
        if not sums[layer].finite:
            raise ValueError(f"{each.name} has scores or values that are NaN or infinite for these batches; try float32")


def _change_biases(projections: Projections, sums: RowSums, target: float, ridge: float) -> float:
    """Change the biases of the chosen heads; returns the standard deviation of what the key biases leave, over these heads."""
    key, residual = sums.fit_keys(target, ridge)
    value = sums.outputs / sums.rows
    heads = chosen_heads(projections.module)
    chosen = torch.zeros(len(key), 1, dtype=torch.bool, device=key.device)
    chosen[heads] = True
    projections.shift((key * chosen).flatten(), (value * chosen).flatten())
    return float(residual[heads].square().mean().sqrt())


def _check_unchanged(runner: Runner, batch: Batch, before: Tensor) -> None:
    after = runner.softmax(batch)
    error = float((after - before).double().norm() / before.double().norm())
    if not error <= math.sqrt(torch.finfo(before.dtype).eps):
        raise ValueError(
            f"aligned, {type(runner.model).__name__} would compute something else at polarity 0 (by {error:.1%}): it uses keys or values "
            f"that are not what its projections return, such as rotated or normalised ones; nothing was changed; {BALANCED}"
        )


@contextmanager
def _undone_on_error(projections: list[Projections]) -> Iterator[None]:
    before = [(bias, bias.clone()) for each in projections for bias in each.biases]
    done = False
    try:
        yield
        done = True
    finally:
        for bias, values in [] if done else before:
            bias.copy_(values)
