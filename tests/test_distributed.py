"""Two processes compute and train what one does: tensor and pipeline parallelism, FSDP 2, data parallelism; and the plans they follow."""

from pathlib import Path

import pytest
import transformers
from families import CONFIGS, UPSTREAM_CONFIGS, heads, tiny_config
from processes import launch, passed
from two_processes import BUILT_FOR, CHECKS, is_left_out

import hf_tanhmax
from hf_tanhmax.integration.registration import SCORE_BIAS

WORKER = Path(__file__).parent / "helpers" / "two_processes.py"
PLANS = ("tp_plan", "pp_plan", "fsdp_plan")


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What became of every check, in each process; all run in one launch."""
    return launch(WORKER, tmp_path_factory.mktemp("shared"))


@pytest.mark.slow
@pytest.mark.parametrize("name", CHECKS)
def test_two_processes(name, found):
    if is_left_out(name):
        pytest.skip(f"DistributedConfig would use {BUILT_FOR.type}, as this torch is built for it")
    passed(name, found)


@pytest.mark.parametrize(("family", "auto", "upstream"), heads(), ids=lambda value: value)
def test_plans_are_upstreams(family, auto, upstream):
    native, ours = getattr(transformers, upstream), getattr(hf_tanhmax, f"TanhMax{upstream}")
    model, twin = ours(tiny_config(family)), native(tiny_config(family, upstream=True))
    learned = ours(tiny_config(family, tanhmax_polarity="learned", tanhmax_layers=[1]))
    assert twin._no_split_modules
    assert model._no_split_modules == learned._no_split_modules == twin._no_split_modules
    for plan in PLANS:
        assert getattr(ours, f"_{plan}") == getattr(native, f"_{plan}")
        assert getattr(CONFIGS[family], f"base_model_{plan}") == getattr(UPSTREAM_CONFIGS[family], f"base_model_{plan}")
        wanted = getattr(twin, plan)
        assert getattr(model, plan) == wanted
        more = {rule: style for rule, style in getattr(learned, plan).items() if rule not in wanted}
        rules = [rule.replace("q_proj", SCORE_BIAS) for rule in wanted if rule.endswith("q_proj")]
        assert more == dict.fromkeys(rules, "colwise")
        assert getattr(learned, plan) == wanted | more
