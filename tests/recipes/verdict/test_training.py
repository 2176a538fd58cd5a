"""A step of training has the loss and the gradients of the model as it stands, also where the model is not asked for all its logits."""

import pytest
import torch
from verdict_models import inputs_for, made

from recipes.verdict.data.batches import IGNORED, LABELS
from recipes.verdict.maps.registry import MAPS
from recipes.verdict.plan import MASKED
from recipes.verdict.training import inputs_of, row_losses, trained_losses


@pytest.mark.parametrize("name", MAPS)
def test_only_masked_words_get_logits(name):
    model, task = made(name, MASKED)
    inputs = inputs_for(task)
    labels = torch.full_like(inputs["input_ids"], IGNORED)
    labels[:, 1], labels[0, 2:4] = 3, 5
    batch = {**inputs, LABELS: labels}
    parameters = list(model.parameters())
    wanted = row_losses(model(**inputs_of(batch)).logits, labels, task)
    gradients = torch.autograd.grad(wanted.mean(), parameters, allow_unused=True)
    seen = []
    model.cls.register_forward_hook(lambda _, given, __: seen.append(given[0].shape[0]))
    found = trained_losses(model, batch, task)
    torch.testing.assert_close(found, wanted)
    assert seen == [len(labels) + 2]
    for one, other in zip(torch.autograd.grad(found.mean(), parameters, allow_unused=True), gradients, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-4)
