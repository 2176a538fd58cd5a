"""Models that run on batches while their attention does something else: real rows, masses, and what is said of inputs and memory."""

import pytest
import torch
from families import BACKBONES, run, tiny_model
from made_conversions import batches, hidden, trained

from hf_tanhmax import set_polarity
from hf_tanhmax.conversion.runner import Runner, check_batch, chosen_heads, on_device, out_of_memory_in_words, run_model
from hf_tanhmax.integration.hooks import AttentionCall
from hf_tanhmax.integration.patching import attention_modules

FAMILIES = ["bert", "vit", "llama"]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("polarity", [0.0, 0.4, None])
def test_hidden_states_are_those_of_real_rows_at_that_polarity(family, polarity):
    model, batch = trained(family), batches(family)[0]
    set_polarity(model, 0.7 if polarity is None else polarity)
    wanted = hidden(model, batch)
    set_polarity(model, 0.7)
    modules = attention_modules(model)
    with torch.no_grad():
        found = Runner(model, modules).hidden(batch, [AttentionCall.compute] * len(modules), polarity=polarity)
    torch.testing.assert_close(found, wanted, atol=1e-10, rtol=0)


@pytest.mark.parametrize("heads", [None, [1]])
def test_masses_are_those_of_the_weights(heads):
    model, batch = trained("bert", tanhmax_heads=heads), batches("bert")[0]
    runner = Runner(model, attention_modules(model))
    with torch.no_grad():
        masses, cosine = runner.measure(batch, runner.softmax(batch))
        _, same = runner.measure(batch, runner.hidden(batch, [AttentionCall.compute] * len(runner.modules)))
    shown = run(model, {**batch, "output_attentions": True}, attn_implementation="eager").attentions
    real = batch["attention_mask"].bool()
    for mass, weights in zip(masses, shown, strict=True):
        rows = weights[:, chosen_heads(runner.modules[0])].transpose(1, 2)[real]
        assert mass == pytest.approx(float(-rows.clamp(max=0).sum() / rows.abs().sum()), abs=1e-9)
    assert max(masses) > 0.05
    assert cosine < 0.99
    assert same == pytest.approx(1.0)


def test_inputs_that_are_refused_leave_the_attention_as_it_was():
    model, batch = trained("bert"), batches("bert")[0]
    before = hidden(model, batch)
    runner = Runner(model, attention_modules(model))
    with pytest.raises(ValueError, match=r"^TanhMaxBertModel cannot run on a batch of pixel_values: "):
        runner.softmax(batches("vit")[0])
    assert torch.equal(hidden(model, batch), before)
    with pytest.raises(TypeError, match=r"batches must be a list of mappings .*, but holds list"):
        check_batch([1])


def test_inputs_go_where_the_model_is_and_only_numbers_change_their_dtype():
    model = tiny_model(BACKBONES["bert"]).to(torch.bfloat16)
    found = on_device(model, {"inputs_embeds": torch.ones(1, 2, 3), "input_ids": torch.ones(1, 2, dtype=torch.int64), "use_cache": False})
    assert [getattr(value, "dtype", value) for value in found.values()] == [torch.bfloat16, torch.int64, False]


def test_memory_that_is_too_small_is_told_from_other_errors():
    with pytest.raises(torch.OutOfMemoryError, match=r"^a batch of 4 x 11 does not fit into memory; give batches of fewer rows"):  # noqa: SIM117
        with out_of_memory_in_words((4, 11)):
            raise MemoryError
    with pytest.raises(RuntimeError, match=r"^another$"), out_of_memory_in_words((4, 11)):
        raise RuntimeError("another")


def test_a_model_without_hidden_states_is_refused():
    class Counts(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(1))

        def forward(self, input_ids):
            return (input_ids.sum() * self.weight,)

    assert float(run_model(Counts(), {"input_ids": torch.ones(2, 2)})[0].detach()) == 4
    with pytest.raises(ValueError, match="Counts returns no last hidden states to compare; align the part of it that does"):
        Runner(Counts(), []).hidden({"input_ids": torch.ones(2, 2)}, [])


STATES = torch.arange(24.0).reshape(2, 3, 4)


@pytest.mark.parametrize(
    ("output", "wanted"),
    [
        ((STATES, STATES + 1), STATES.flatten(0, 1)),
        ({"map": STATES.view(2, 3, 2, 2)}, STATES.mT.flatten(0, 1)),
        ((STATES[0],), STATES[0]),
        ({"scores": STATES[0, :2], "text": {"last": STATES[:, :, :3]}, "image": {"last": STATES}}, None),
    ],
    ids=["states first", "channels of a picture", "one vector per input", "parts"],
)
def test_the_states_of_other_outputs(output, wanted):
    class Returns(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(1))

        def forward(self, input_ids):
            return output

    found = Runner(Returns(), []).hidden({"input_ids": torch.ones(2, 2)}, [])
    if wanted is None:  # all parts, of which the narrower is filled up
        wanted = torch.cat([torch.nn.functional.pad(STATES[:, :, :3].flatten(0, 1), (0, 1)), STATES.flatten(0, 1)])
    assert torch.equal(found, wanted)
