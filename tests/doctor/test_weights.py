"""Weights: whole files, every shard, every tensor in its shape; only headers are read."""

import json
import shutil
import subprocess
import sys

import pytest
import torch
from families import TINY
from safetensors.torch import load_file, save_file
from saved_models import save_model

from hf_tanhmax.checkpoint import INDEX, WEIGHTS
from hf_tanhmax.doctor.weights import check_weights, read_header


@pytest.fixture(scope="module", params=TINY)
def saved(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    return folder, save_model(folder, request.param, processor=False, tanhmax_polarity="learned")


@pytest.fixture(scope="module")
def sharded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sharded")
    model = save_model(folder, "llama", processor=False)
    (folder / WEIGHTS).unlink()
    model.save_pretrained(folder, max_shard_size="8KB")
    return folder, model


@pytest.fixture
def copy(tmp_path):
    """A copy of a checkpoint to spoil, and what is found in it."""

    def of(saved):
        folder = tmp_path / "copy"
        shutil.copytree(saved[0], folder, dirs_exist_ok=True)
        return folder, lambda: [*check_weights(folder, type(saved[1]), saved[1].config)]

    return of


def only(findings):
    (finding,) = findings
    return finding.level, finding.subject, finding.sentence


def test_whole(saved, copy):
    level, subject, sentence = only(copy(saved)[1]())
    assert (level, subject) == ("ok", WEIGHTS)
    assert sentence == f"is whole: all of the {len(load_file(saved[0] / WEIGHTS))} tensors that {type(saved[1]).__name__} needs"


def test_a_class_that_is_not_known(saved):
    assert only(check_weights(saved[0], None, saved[1].config))[0] == "ok"


def test_none(saved, copy):
    folder, findings = copy(saved)
    (folder / WEIGHTS).unlink()
    level, subject, sentence = only(findings())
    assert (level, subject) == ("error", WEIGHTS)
    assert sentence == "is not there, and neither is model.safetensors.index.json; save the model again"


@pytest.mark.parametrize("size", [-10, 50, 5, 0])
def test_truncated(size, saved, copy):
    folder, findings = copy(saved)
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:size])
    level, subject, sentence = only(findings())
    assert (level, subject) == ("error", WEIGHTS)
    assert sentence.startswith("is not a whole safetensors file (")


def test_missing_tensors(saved, copy):
    folder, findings = copy(saved)
    weights = load_file(folder / WEIGHTS)
    lost = [name for name in weights if "norm" in name.lower()][:2]
    save_file({name: value for name, value in weights.items() if name not in lost}, folder / WEIGHTS, metadata={"format": "pt"})
    level, subject, sentence = only(findings())
    assert (level, subject) == ("error", WEIGHTS)
    assert sentence.startswith("lacks 2 tensors, which would be random numbers after loading: ")


def test_tensors_without_a_place(saved, copy):
    folder, findings = copy(saved)
    save_file({**load_file(folder / WEIGHTS), "stowaway": torch.zeros(3)}, folder / WEIGHTS, metadata={"format": "pt"})
    assert only(findings()) == ("warning", WEIGHTS, f"has 1 tensors that {type(saved[1]).__name__} has no place for: stowaway")


def test_tensors_of_other_shapes(saved, copy):
    folder, findings = copy(saved)
    weights = load_file(folder / WEIGHTS)
    name = next(name for name in weights if "norm" in name.lower())
    size = weights[name].shape[0]
    save_file({**weights, name: torch.zeros(size + 1)}, folder / WEIGHTS, metadata={"format": "pt"})
    level, _, sentence = only(findings())
    assert level == "error"
    assert sentence.startswith("has tensors of other shapes than config.json says: ")
    assert sentence.endswith(f"is [{size + 1}] and not [{size}]")


def test_shards(sharded, copy):
    level, subject, _ = only(copy(sharded)[1]())
    assert (level, subject) == ("ok", INDEX)


def test_a_missing_shard(sharded, copy):
    folder, findings = copy(sharded)
    lost = sorted(folder.glob("model-*.safetensors"))[1]
    lost.unlink()
    assert only(findings()) == ("error", lost.name, "is missing; copy or save the checkpoint again")


def test_a_truncated_shard(sharded, copy):
    folder, findings = copy(sharded)
    cut = sorted(folder.glob("model-*.safetensors"))[1]
    cut.write_bytes(cut.read_bytes()[:-1])
    level, subject, _ = only(findings())
    assert (level, subject) == ("error", cut.name)


def test_a_shard_that_lacks_what_the_index_names(sharded, copy):
    folder, findings = copy(sharded)
    shard = sorted(folder.glob("model-*.safetensors"))[1]
    weights = load_file(shard)
    weights.pop(lost := min(weights))
    save_file(weights, shard, metadata={"format": "pt"})
    assert only(findings()) == ("error", INDEX, f"names tensors that are in none of its files: {lost}; copy or save the checkpoint again")


def test_a_shard_that_nothing_names(sharded, copy):
    folder, findings = copy(sharded)
    save_file({"a": torch.zeros(1)}, folder / "model-00099-of-00099.safetensors")
    stale, whole = findings()
    assert (stale.level, stale.subject) == ("warning", "model-00099-of-00099.safetensors")
    assert stale.sentence == f"is not read, because {INDEX} does not name it; delete it and its like"
    assert whole.level == "ok"


def test_shards_beside_a_single_file(sharded, copy):
    folder, findings = copy(sharded)
    sharded[1].save_pretrained(folder / "single")
    shutil.copy(folder / "single" / WEIGHTS, folder)
    stale, whole = findings()
    assert (stale.level, stale.sentence) == ("warning", f"is not read, because {WEIGHTS} is beside it; delete it and its like")
    assert (whole.level, whole.subject) == ("ok", WEIGHTS)


def test_shards_without_an_index(sharded, copy):
    folder, findings = copy(sharded)
    (folder / INDEX).unlink()
    level, _, sentence = only(findings())
    assert level == "error"
    assert "though there are shards (model-00001-of-" in sentence


@pytest.mark.parametrize(
    "index", ["{", "[]", "{}", '{"weight_map": {}}', '{"weight_map": 3}', '{"weight_map": {"a": "../elsewhere.safetensors"}}']
)
def test_an_index_of_nothing(index, sharded, copy):
    folder, findings = copy(sharded)
    (folder / INDEX).write_text(index)
    assert only(findings()) == ("error", INDEX, "holds no `weight_map` of tensors and files beside it; save the model again")


def test_only_headers_are_read(tmp_path):
    """A model far larger than memory, whose file holds no numbers at all: a header, and a hole."""
    size = 2**36
    header = json.dumps({"large": {"dtype": "F32", "shape": [size // 4], "data_offsets": [0, size]}}).encode()
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + size)
    assert read_header(tmp_path / "model.safetensors") == {"large": (size // 4,)}


@pytest.mark.slow
def test_a_large_model_takes_no_memory():
    """The stand-ins have its shapes and no storage. In a process of its own, as tests here poison the memory of a model on no device."""
    code = """
import json, resource
import torch
from hf_tanhmax import TanhMaxLlamaForCausalLM
from hf_tanhmax.doctor.weights import _loading_report
config = TanhMaxLlamaForCausalLM.config_class(hidden_size=4096, intermediate_size=11008, num_hidden_layers=32)
with torch.device("meta"):
    shapes = {name: tuple(value.shape) for name, value in TanhMaxLlamaForCausalLM(config).state_dict().items()}
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
missing = len(_loading_report(shapes, TanhMaxLlamaForCausalLM, config)["missing_keys"])
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps({"numbers": sum(torch.Size(shape).numel() for shape in shapes.values()), "missing": missing, "kilobytes": after - before}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found["numbers"] > 6e9
    assert found["missing"] == 0
    assert found["kilobytes"] < 500_000


def test_logging_is_as_it_was(saved):
    import transformers

    for level in (10, 30):
        transformers.logging.set_verbosity(level)
        [*check_weights(saved[0], type(saved[1]), saved[1].config)]
        assert transformers.logging.get_verbosity() == level
