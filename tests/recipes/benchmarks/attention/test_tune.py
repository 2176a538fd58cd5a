"""The file of tiles is written from what was timed; here a clock that counts calls stands for a GPU's."""

import json

import pytest
import torch

pytest.importorskip("triton", reason="needs triton")
from hf_tanhmax.attention.kernels import launch, schedule
from hf_tanhmax.attention.kernels.schedule import TABLE
from hf_tanhmax.attention.kernels.tuned import TunedCall, choice_of, choices_in, machine_of, tuned_tiles
from recipes.benchmarks.attention import tune

CPU = torch.device("cpu")


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="rehearses on the CPU")
def test_a_rehearsal_writes_a_file_that_is_read(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tune, "CALLS", {"causal": {"is_causal": True}})
    monkeypatch.setattr(schedule, "_fastest", {})
    clock, path = launch.do_bench, tmp_path / "below" / "tiles.json"
    found = dict(tune.tune("cpu", dtypes=("bfloat16",), head_sizes=(64,)))
    assert launch.do_bench is clock
    causal = frozenset({"causal"})
    assert found == {TunedCall(name, "bfloat16", 64, causal): TABLE[name, 64, 2][-1] for name in ("forward", "query", "key_value")}
    tune.write_choices(path, found, "cpu")
    monkeypatch.setenv("HF_TANHMAX_TUNED", str(path))
    tuned_tiles.cache_clear()
    assert tuned_tiles(CPU) == found
    tuned_tiles.cache_clear()
    assert "timed: bfloat16, head size 64, causal" in capsys.readouterr().err


def test_choices_for_something_else_stay_in_the_file(tmp_path):
    call, (first, second) = TunedCall("forward", "bfloat16", 64, frozenset()), TABLE["forward", 64, 2]
    elsewhere = choice_of(machine_of(CPU)._replace(gpu="another"), call, first)
    path = tmp_path / "tiles.json"
    path.write_text(json.dumps({"choices": [elsewhere, choice_of(machine_of(CPU), call, first)]}))
    tune.write_choices(path, {call: second}, "cpu")
    assert choices_in(path) == [elsewhere, choice_of(machine_of(CPU), call, second)]
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_of_something_else_is_left_alone(tmp_path):
    path = tmp_path / "tiles.json"
    path.write_text("{}")
    with pytest.raises(SystemExit, match=r"tiles[.]json is no file of tiles: it holds no list"):
        tune.write_choices(path, {}, "cpu")
    assert path.read_text() == "{}"


def test_where_no_file_is_read_none_is_written(monkeypatch):
    monkeypatch.setenv("HF_TANHMAX_TUNED", "0")
    with pytest.raises(SystemExit, match="HF_TANHMAX_TUNED=0 says that no file of tiles is read; name one with --output"):
        tune.usual_file()
