"""Losses: parts of a step add up to the whole, and next-token loss looks one place ahead."""

import pytest
import torch

from hf_tanhmax.training.tasks.losses import IGNORED, class_loss, next_token_loss, token_loss


def test_classes_are_counted_over_the_whole_step():
    logits, labels = torch.randn(5, 3), torch.tensor([0, 1, 2, 1, 0])
    whole = torch.nn.functional.cross_entropy(logits, labels)
    torch.testing.assert_close(class_loss({"logits": logits}, labels), whole)
    parts = [class_loss({"logits": logits[part]}, labels[part], torch.tensor(5)) for part in (slice(0, 2), slice(2, 5))]
    torch.testing.assert_close(sum(parts), whole)


@pytest.mark.parametrize("loss", [token_loss, next_token_loss])
def test_tokens_are_counted_over_the_whole_step(loss):
    logits, labels = torch.randn(3, 7, 5), torch.randint(5, (3, 7))
    labels[:, 0], labels[1, 2:] = IGNORED, IGNORED
    count = (labels != IGNORED).sum()
    whole = loss({"logits": logits}, labels)
    parts = [loss({"logits": logits[row : row + 1]}, labels[row : row + 1], count) for row in range(3)]
    torch.testing.assert_close(sum(parts), whole)
    places = [(row, place) for row, place in (labels != IGNORED).nonzero().tolist()]
    ahead = 1 if loss is next_token_loss else 0
    by_hand = [-logits[row, place - ahead].log_softmax(-1)[labels[row, place]] for row, place in places]
    torch.testing.assert_close(whole, torch.stack(by_hand).mean())


def test_a_batch_without_labels_has_loss_0():
    assert token_loss({"logits": torch.randn(1, 3, 5)}, torch.full((1, 3), IGNORED)) == 0
