"""What published checkpoints give to somebody who has no plugin, checked in a process of its own, which `test_remote` starts.

    python tests/helpers/without_plugin.py FOLDER

FOLDER has checkpoints as `<Auto class>/<family>-<polarity>`, each with `expected.pt`, what the package computed. What is wrong is written
to `report.json` by the name of the check, nothing as null.
"""

import importlib.abc
import json
import shutil
import sys
import traceback
from pathlib import Path

import torch
import transformers


class NoPlugin(importlib.abc.MetaPathFinder):
    """The plugin, which may well be installed, cannot be imported."""

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "hf_tanhmax":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def loaded(path, **options):
    return getattr(transformers, path.parent.name).from_pretrained(path, trust_remote_code=True, **options)


def expected(path):
    return torch.load(path / "expected.pt")


def tensors_of(output):
    for value in output.to_tuple() if hasattr(output, "to_tuple") else output:
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            yield value
        elif isinstance(value, tuple | list) or hasattr(value, "to_tuple"):
            yield from tensors_of(value)


@torch.no_grad()
def computed(model, path, **options):
    return list(tensors_of(model.eval()(**expected(path)["inputs"], **options)))


def same(found, wanted):
    """Equal to the bit."""
    return all(torch.equal(have, want) for have, want in zip(found, wanted, strict=True))


def assert_refused(words, function, *arguments, **options):
    said = "nothing"
    try:
        function(*arguments, **options)
    except (ValueError, NotImplementedError) as error:
        said = str(error)
    assert words in said, said


def code_of(model):
    return sys.modules[type(model).__module__]


def check_nobody_is_made_to_trust(folder):
    assert_refused("trust_remote_code=True", transformers.AutoModel.from_pretrained, folder / "AutoModel" / "bert-1.0")


def check_every_head(folder):
    paths = sorted(folder.glob("AutoModel*/*"))
    assert len(paths) == 23
    for path in paths:
        model, report = loaded(path, output_loading_info=True)
        assert type(model).__module__.startswith("transformers_modules.")
        assert [type(model).__name__] == json.loads((path / "config.json").read_text())["architectures"] == model.config.architectures
        assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")), (path, report)
        assert same(computed(model, path), expected(path)["outputs"]), path
        assert model.model_tags == ["tanhmax", "custom_code"]


def check_labels(folder):
    for path in sorted(folder.glob("AutoModel/*")):
        eager = loaded(path, attn_implementation="eager")
        found = eager.eval()(**expected(path)["inputs"], output_attentions=True).attentions
        assert same(found, expected(path)["attentions"]), path
        assert min(weights.min() for weights in found) < 0
        model = loaded(path)
        assert model.config._attn_implementation == "sdpa"
        for label, outputs in (("eager", "eager_outputs"), ("sdpa", "outputs"), ("eager", "eager_outputs")):
            model.set_attn_implementation(label)
            assert same(computed(model, path), expected(path)[outputs]), (path, label)
        assert_refused("support", model.set_attn_implementation, "flash_attention_2")
        assert same(computed(loaded(path, attn_implementation="tanhmax_eager"), path), expected(path)["eager_outputs"])


def check_generation(folder):
    for path in sorted(folder.glob("AutoModelForCausalLM/llama-*")):
        tokens = expected(path)["inputs"]["input_ids"]
        for options, wanted in expected(path)["generated"]:
            assert torch.equal(loaded(path).generate(tokens, **options), wanted), options


def check_saved_again(folder):
    for path in sorted(folder.glob("AutoModel/*")):
        again = folder / "again" / path.parent.name / path.name
        loaded(path).save_pretrained(again)
        for name in ("modeling_tanhmax.py", "config.json"):
            assert (again / name).read_bytes() == (path / name).read_bytes(), name
        assert same(computed(loaded(again), path), expected(path)["outputs"])
        transformers.AutoConfig.from_pretrained(path, trust_remote_code=True).save_pretrained(again / "config")
        assert (again / "config" / "modeling_tanhmax.py").read_bytes() == (path / "modeling_tanhmax.py").read_bytes()


def check_compiled_while_others_are_loaded(folder):
    path = folder / "AutoModel" / "bert-1.0"
    model = loaded(path).eval()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    for other in (path, folder / "other" / "AutoModel" / "bert-1.0", shutil.copytree(path, folder / "moved" / "AutoModel" / "elsewhere")):
        loaded(other)
        for have, want in zip(computed(compiled, path), expected(path)["outputs"], strict=True):
            torch.testing.assert_close(have, want)


def check_own_kernels(folder):
    case = torch.load(folder / "kernels.pt")
    attention = code_of(loaded(folder / "AutoModel" / "bert-1.0")).tanhmax_attention
    inputs = [tensor.to(case["device"]).requires_grad_() for tensor in case["inputs"]]
    output = attention(*inputs, implementation="triton", **case["options"])
    output.square().sum().backward()
    assert same([output.cpu(), *(tensor.grad.cpu() for tensor in inputs)], case["found"])


def check_files_of_two_versions(folder):
    """The other one doubles what attention computes, which a model of the one must never do."""
    path, other_path = folder / "AutoModel" / "bert-1.0", folder / "other" / "AutoModel" / "bert-1.0"
    model, other = loaded(path), loaded(other_path)
    assert code_of(model).NAMESPACE != code_of(other).NAMESPACE
    for _ in range(2):
        doubled = computed(other, path)
        assert not same(doubled, expected(path)["outputs"])
        assert same(computed(model, path), expected(path)["outputs"])
        model = loaded(path)
    other.save_pretrained(folder / "other_again" / "AutoModel" / "bert-1.0")
    again = loaded(folder / "other_again" / "AutoModel" / "bert-1.0")
    assert code_of(again).VERSION == code_of(other).VERSION == "0.0.1"
    assert same(computed(again, path), doubled)


def check_nothing_else_was_started(folder):
    assert "hf_tanhmax" not in sys.modules
    assert not torch.cuda.is_initialized() or torch.load(folder / "kernels.pt")["device"] == "cuda"


def check_without_triton(folder):
    for name in [name for name in sys.modules if name.split(".")[0] == "triton"]:
        del sys.modules[name]
    sys.modules["triton"] = None  # as if it were not installed
    path = shutil.copytree(folder / "AutoModel" / "bert-1.0", folder / "bare" / "AutoModel" / "bare")
    model = loaded(path)
    assert not hasattr(code_of(model), "forward_kernel")
    assert same(computed(model, path), expected(path)["outputs"])
    query = torch.ones(1, 1, 1, 16)
    assert "which is not installed" in code_of(model).why_not(query, query, query)
    assert_refused("which is not installed", code_of(model).tanhmax_attention, query, query, query, implementation="triton")


def check_the_plugin_imported_later(folder):
    """It takes over what is loaded from then on, and leaves alone what was."""
    path = folder / "AutoModel" / "llama-learned"
    before = loaded(path)
    finders = sys.meta_path.copy()
    sys.meta_path[:] = [finder for finder in finders if not isinstance(finder, NoPlugin)]
    import hf_tanhmax

    sys.meta_path[:] = finders
    after = loaded(path)
    assert type(before).__module__.startswith("transformers_modules.")
    assert type(after) is hf_tanhmax.TanhMaxLlamaModel
    for model in (before, after):
        assert same(computed(model, path), expected(path)["outputs"])
        model.save_pretrained(folder / "later")
        assert (folder / "later" / "modeling_tanhmax.py").read_bytes() == (path / "modeling_tanhmax.py").read_bytes()


# In their order: with the plugin imported no published code is run, and without Triton little of it.
CHECKS = {name: check for name, check in list(globals().items()) if name.startswith("check_")}

if __name__ == "__main__":
    sys.meta_path.insert(0, NoPlugin())
    transformers.logging.set_verbosity_error()
    report = {}
    for name, check in CHECKS.items():
        try:
            report[name] = check(Path(sys.argv[1]))
        except Exception:
            report[name] = traceback.format_exc()
    (Path(sys.argv[1]) / "report.json").write_text(json.dumps(report))
