"""What modelling code hands to attention functions, and what is known of it."""

import pytest
from trees import MODEL, release

from hf_tanhmax.compatibility.interface import HANDLED, IGNORED, meaning, read_interface
from hf_tanhmax.integration.registration import CARRIED, REFUSED


def test_a_release_is_read(tmp_path):
    found = read_interface(release(tmp_path))
    assert found.architectures == {"tiny"}
    assert found.keywords == {"dropout": 1, "scaling": 1, "is_causal": 1, "position_ids": 0}
    assert found.parameters == {"hidden_states": 1, "cache": 1}
    assert found.labels == {"eager": {"tiny"}, "sdpa": {"tiny"}}
    assert found.masks == {"sdpa_mask"}
    assert found.unknown() == []


@pytest.mark.parametrize("call", ["attention_fn", "ALL_ATTENTION_FUNCTIONS[name]", "ALL_ATTENTION_FUNCTIONS.get_interface(name, eager)"])
def test_every_way_to_call(call, tmp_path):
    found = read_interface(release(tmp_path, models={"tiny": MODEL.replace("return attention_interface", f"return {call}")}))
    assert found.keywords["scaling"] == 1


def test_unknown_keywords(tmp_path):
    changed = MODEL.replace("is_causal=None", "is_causal=None, relative_scores=scores")
    passed_on = "class TransformersKwargs(TypedDict):\n    gate: Tensor\n"
    assert read_interface(release(tmp_path, models={"tiny": changed}, passed_on=passed_on)).unknown() == ["gate", "relative_scores"]


def test_meanings():
    assert [meaning(name) for name in ("softcap", "s_aux", "position_ids", "sliding_window", "gate")] == [
        "honoured",
        "refused",
        "carried",
        "ignored",
        "unknown",
    ]


def test_a_name_has_one_meaning():
    groups = (HANDLED, IGNORED, CARRIED, set(REFUSED))
    assert len(frozenset().union(*groups)) == sum(map(len, groups))
