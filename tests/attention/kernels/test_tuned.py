"""A file of tiles is read where it fits, and else one line says why the default tiles are taken; nothing is timed."""

import json
import re

import pytest
import torch
from cases import error

from hf_tanhmax import tanhmax_attention

launch = pytest.importorskip("hf_tanhmax.attention.kernels.launch", reason="needs triton")
from hf_tanhmax.attention.kernels import tuned
from hf_tanhmax.attention.kernels.schedule import TABLE, Tile, tiles
from hf_tanhmax.attention.kernels.tuned import TUNED_SWITCH, Machine, TunedCall, choice_of, choices_in, machine_of, tuned_tiles

CPU = torch.device("cpu")
DEFAULT, OTHER = TABLE["forward", 64, 2]
PLAIN = TunedCall("forward", "bfloat16", 64, frozenset())


@pytest.fixture
def file(tmp_path, monkeypatch):
    path = tmp_path / "tiles.json"
    monkeypatch.setenv(TUNED_SWITCH, str(path))
    tuned_tiles.cache_clear()
    yield path
    tuned_tiles.cache_clear()


def choice(**changes):
    return choice_of(machine_of(CPU), PLAIN, OTHER) | changes


def write(path, *choices):
    path.write_text(json.dumps({"choices": choices}))


def tile_taken(head_size=64, dtype=torch.bfloat16, **arguments):
    """The tile of the forward kernel for a call."""
    taken, run = [], launch.FusedProblem.run

    def _run(problem, kernel, launcher):
        run(problem, kernel, lambda tile: (taken.append(tile), launcher(tile)))

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(launch.FusedProblem, "run", _run)
        query = torch.linspace(-1, 1, 24 * head_size, device="cuda" if torch.cuda.is_available() else "cpu").view(1, 1, 24, head_size)
        found = tanhmax_attention(*[query.to(dtype)] * 3, implementation="triton", **arguments)
    expected = tanhmax_attention(*[query.to(dtype).double()] * 3, implementation="reference", **arguments)
    assert error(found.cpu(), expected.cpu()) < 1e-2
    return taken[0]


@pytest.mark.skipif(torch.cuda.is_available(), reason="the choices are the interpreter's")
def test_a_choice_is_taken_for_the_calls_that_it_is_for(file, caplog):
    write(file, choice())
    assert tile_taken() == OTHER
    assert tile_taken(is_causal=True) == DEFAULT
    assert tile_taken(polarity=0.0) == DEFAULT
    assert tile_taken(keep=torch.ones(24, dtype=torch.bool)) == DEFAULT
    assert tile_taken(dtype=torch.float16) == DEFAULT
    assert not caplog.records


@pytest.mark.parametrize(
    ("arguments", "features"),
    [
        ({"is_causal": True, "window": 5}, {"causal", "window"}),
        ({"softcap": 5.0, "bias": torch.zeros(24)}, {"softcap", "bias"}),
        ({"additive_mask": torch.zeros(24)}, {"additive"}),
        ({"polarity": torch.ones(1), "keep": torch.ones(24, dtype=torch.bool)}, {"polarity", "keep"}),
        ({"polarity": 0.0}, {"softmax"}),
        ({"cu_seqlens": torch.tensor([0, 9, 24])}, {"packed"}),
    ],
    ids=lambda value: "-".join(sorted(value)) if isinstance(value, set) else "",
)
@pytest.mark.skipif(torch.cuda.is_available(), reason="the choices are the interpreter's")
def test_features_are_those_of_the_call(file, arguments, features):
    write(file, choice(features=sorted(features)))
    assert tile_taken(**arguments) == OTHER
    assert tile_taken() == DEFAULT


def test_without_a_file_or_switched_off_nothing_is_said(tmp_path, monkeypatch, caplog):
    monkeypatch.delenv(TUNED_SWITCH, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    tuned_tiles.cache_clear()
    assert tuned_tiles(CPU) == {}
    (tmp_path / "hf_tanhmax").mkdir()
    write(tmp_path / "hf_tanhmax" / "tiles.json", choice())
    assert tuned_tiles(CPU) == {}  # it is read once
    tuned_tiles.cache_clear()
    assert tuned_tiles(CPU) == {PLAIN: OTHER}
    monkeypatch.setenv(TUNED_SWITCH, "0")
    tuned_tiles.cache_clear()
    assert tuned_tiles(CPU) == {}
    tuned_tiles.cache_clear()
    assert not caplog.records


WHOLE = {
    "no file": (lambda path: None, "No such file or directory"),
    "no JSON": (lambda path: path.write_text('{"choices": ['), "it is no JSON"),
    "no text": (lambda path: path.write_bytes(b"\xff\xfe\x00"), "it is no JSON"),
    "a list": (lambda path: path.write_text("[]"), 'it holds no list of "choices"'),
    "choices that are none": (lambda path: path.write_text('{"choices": [3]}'), 'it holds no list of "choices"'),
    "an unknown key": (lambda path: write(path, choice(warps=4)), "choice 1 has unknown keys: warps (there are gpu, capability, triton,"),
    "a missing key": (lambda path: write(path, {"gpu": "x"}), "choice 1 lacks capability, triton, kernel"),
    "another GPU": (
        lambda path: write(path, choice(gpu="NVIDIA H200", capability=[9, 0])),
        "it is for Machine(gpu='NVIDIA H200', capability=(9, 0)",
    ),
    "another Triton": (lambda path: write(path, choice(triton="2.1")), "triton='2.1'), and this is Machine("),
    "nothing": (lambda path: write(path), "it is for nothing, and this is Machine("),
}


@pytest.mark.parametrize("what", WHOLE)
def test_a_file_that_does_not_fit_is_one_line_and_the_defaults(what, file, caplog):
    spoil, reason = WHOLE[what]
    spoil(file)
    for _ in range(2):
        assert tuned_tiles(CPU) == {}
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert record.getMessage().startswith(f"the tiles in {file}: ")
    assert reason in record.getMessage()
    assert record.getMessage().endswith("kernels take their default tiles")
    assert "\n" not in record.getMessage()


SINGLE = {
    "kernel": ({"kernel": "sideways"}, "unknown kernel 'sideways'; there are forward, balanced, key_value"),
    "dtype": ({"dtype": "int8"}, "unknown dtype 'int8'; there are bfloat16, float16, float32"),
    "head size": ({"head_size": 80}, "unknown head_size 80; there are 16, 32, 64, 128, 256"),
    "features": ({"features": ["casual"]}, "unknown features ['casual']; there are additive, balanced, bias, causal"),
    "features that are no list": ({"features": "causal"}, "unknown features 'causal'"),
    "tile": ({"tile": 3}, "its tile is no object, but 3"),
    "a word in the tile": ({"tile": {"rows": 64, "cols": 64}}, "its tile has unknown keys: cols (there are rows, columns"),
    "half a tile": ({"tile": {"rows": 64}}, "its tile lacks columns, warps, stages"),
    "a tile that does not fit": (
        {"tile": {"rows": 256, "columns": 256, "warps": 8, "stages": 4}},
        "the forward kernel has no tile {'rows': 256, 'columns': 256, 'warps': 8, 'stages': 4} for head size 64 in bfloat16",
    ),
    "a tile of another GPU": (
        {"tile": {"rows": 128, "columns": 128, "warps": 8, "stages": 2, "described": True}},
        "the forward kernel has no tile",
    ),
    "a tile of strings": ({"tile": {"rows": "64", "columns": "64", "warps": "4", "stages": "3"}}, "the forward kernel has no tile"),
}


@pytest.mark.parametrize("what", SINGLE)
def test_a_choice_that_does_not_fit_is_one_line_and_the_others_stand(what, file, caplog):
    changes, reason = SINGLE[what]
    write(file, choice(features=["causal"]), choice(**changes))
    assert tuned_tiles(CPU) == {PLAIN._replace(features=frozenset({"causal"})): OTHER}
    (record,) = caplog.records
    assert f"the tiles in {file}: choice 2: {reason}" in record.getMessage()
    assert record.getMessage().endswith("; that kernel takes its default tile")


def test_a_tile_that_the_call_may_not_have_leaves_it_the_default(file, monkeypatch):
    """One with descriptors wants aligned tensors, and one with a static shift no bias."""
    static = Tile(128, 64, 8, 3, static=True)
    monkeypatch.setattr(tuned, "tuned_tiles", lambda device: {PLAIN: static, PLAIN._replace(features=frozenset({"softmax"})): static})
    if not torch.cuda.is_available():
        assert tile_taken() == static
    assert tile_taken(polarity=0.0) == DEFAULT


def test_the_backward_pass_in_one_kernel_is_not_chosen_by_a_file():
    machine = Machine("NVIDIA H200", (9, 0), "3.6")
    (reduced,) = [tile for tile in tiles("key_value", 64, 2, (9, 0)) if tile.reduced]
    with pytest.raises(ValueError, match="the key_value kernel has no tile"):
        tuned.tile_of(choice_of(machine, PLAIN._replace(kernel="key_value"), reduced))


@pytest.mark.parametrize("tile", tiles("forward", 64, 2, (9, 0)), ids=str)
def test_what_is_written_is_read(tile, tmp_path):
    path = tmp_path / "tiles.json"
    write(path, choice_of(Machine("NVIDIA H200", (9, 0), "3.6"), PLAIN, tile))
    (found,) = choices_in(path)
    assert (tuned.call_of(found), tuned.tile_of(found)) == (PLAIN, tile)
    assert re.fullmatch(r"[0-9.]+", found["triton"])
