"""Processes that would train different things: refused by every one of them, in one sentence."""

import copy
import sys
from pathlib import Path

import pytest
import torch.distributed as dist
from processes import Checks, launch, main, passed, raises

checks = Checks()
SHARED = Path(sys.argv[1]) if __name__ == "__main__" else Path()


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return launch(__file__, tmp_path_factory.mktemp("shared"))


@checks
def recipes_with_other_settings():
    from accelerate import PartialState

    from hf_tanhmax.errors import RecipeError
    from hf_tanhmax.training.launch import check_agreement

    PartialState(cpu=True)
    same = {"seed": 1, "polarity": 0.5}
    check_agreement(same)
    with raises(
        RecipeError, "process 1 has other settings than the first: polarity (1.0, on the first 0.5); launch all with the same recipe"
    ):
        check_agreement(same | {"polarity": 0.5 + 0.5 * dist.get_rank()})


@checks
def a_whole_run_of_them():
    """The run looks at it before it reads any data."""
    from tiny_runs import tiny

    from hf_tanhmax.errors import RecipeError
    from hf_tanhmax.training import run
    from hf_tanhmax.training.configuration.recipe import read_recipes

    path = Path(__file__).parents[2] / "recipes" / "bert" / "text_classification" / "tanhmax.yaml"
    flags = tiny("--polarity", str(0.5 + 0.25 * dist.get_rank()), "--output_dir", str(SHARED / "run"))
    with raises(RecipeError, "process 1 has other settings than the first: polarity (0.75, on the first 0.5)"):
        run.run(read_recipes([str(path), *flags]))
    assert not (SHARED / "run").exists()


@checks
def score_biases_for_a_model_that_is_wrapped_already():
    import transformers
    from families import TINY, tiny_model
    from torch.distributed.fsdp import fully_shard
    from torch.nn.parallel import DistributedDataParallel

    import hf_tanhmax
    from hf_tanhmax import TanhMaxSettings

    assert "llama" in TINY
    model = tiny_model(transformers.LlamaForCausalLM)
    wrapped, sharded = DistributedDataParallel(copy.deepcopy(model)), copy.deepcopy(model)
    fully_shard(sharded, mesh=dist.device_mesh.init_device_mesh("cpu", (2,)))
    for each, kind in ((wrapped, "DistributedDataParallel"), (sharded, "FSDPModule")):
        with raises(ValueError, f"the model is inside {kind} already, which shares no parameters that come later"):
            hf_tanhmax.use_tanhmax(each, TanhMaxSettings(polarity="learned"))
        assert hf_tanhmax.use_tanhmax(each, TanhMaxSettings(polarity=0.5)) == TINY["llama"]["num_hidden_layers"]


@pytest.mark.slow
@pytest.mark.parametrize("name", checks)
def test_disagreement(name, found):
    passed(name, found)


if __name__ == "__main__":
    main(checks, SHARED)
