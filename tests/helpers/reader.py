"""A process that loads what others published, with the plugin or in a world without it, and compares to the bit.

    python tests/helpers/reader.py FOLDER ROLE

ROLE is `plugin` or `plain`, without the plugin, for what `plan.json` in FOLDER lists on a Hub; or `folders`, without the plugin too, for
checkpoints in FOLDER as `<Auto class>/<family>-<polarity>`, each with `expected.pt`, what the package computed. What is wrong is written to
`ROLE.json` by the name of the check, nothing as null.
"""

import importlib.abc
import json
import re
import shutil
import sys
import traceback
from pathlib import Path

import torch
import transformers

UNKNOWN_TOKEN = "hf_unknownUnknownUnknownUnknownUnknown00"
FOLDER, ROLE = Path(sys.argv[1]), sys.argv[2]


class NoPlugin(importlib.abc.MetaPathFinder):
    """The plugin, which may well be installed, cannot be imported."""

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "hf_tanhmax":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def the_plugin():
    """The package, imported now, and from now on able to import more of itself."""
    sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, NoPlugin)]
    import hf_tanhmax

    return hf_tanhmax


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
    except (AttributeError, OSError, ValueError, NotImplementedError) as error:
        said = str(error)
    assert re.search(words, said), said


def code_of(model):
    return sys.modules[type(model).__module__]


# On a Hub


def published_everything_loads():
    """Also at a pinned revision, through a connection that breaks once, and by the code that stands on a card."""
    for item in json.loads((FOLDER / "plan.json").read_text()):
        place = FOLDER / "expected" / item["name"]
        model = by_its_card(item["repo"]) if item["by_card"] else by_its_name(**item)
        with torch.no_grad():
            logits = model.eval()(**expected(place)["inputs"]).logits
        assert torch.equal(logits, expected(place)["logits"]), item["name"]
        cls = type(model.get_base_model() if item["adapter"] else model)
        assert cls.__name__.startswith("TanhMax"), cls
        assert cls.__module__.startswith("hf_tanhmax." if ROLE == "plugin" else "transformers_modules."), cls


def by_its_name(*, auto, repo, revision, adapter, **_):
    import peft

    loader = getattr(peft, auto.replace("Auto", "AutoPeft")) if adapter else getattr(transformers, auto)
    wanted = {"trust_remote_code": True} if ROLE == "plain" else {}
    return loader.from_pretrained(repo, **wanted, **({"revision": revision} if revision else {}))


def by_its_card(repo):
    from huggingface_hub import ModelCard

    with_plugin, without, use = re.findall(r"```python\n(.*?)```", ModelCard.load(repo).text, re.DOTALL)
    names = {}
    exec(compile(f"{with_plugin if ROLE == 'plugin' else without}\n{use}", "card", "exec"), names)
    assert names["answer"] in ("LABEL_0", "LABEL_1")
    names["model"].set_attn_implementation("sdpa")  # the card asks for weights, which another implementation returns
    return names["model"]


def published_refusals_are_understood():
    """What is said to those who may not see a repository, and to those who did not say that they trust its code."""
    read = transformers.AutoConfig.from_pretrained
    assert_refused("token", read, "owner/bert-adapter-base", token=False)
    assert_refused("token|credentials", read, "owner/bert-adapter-base", token=UNKNOWN_TOKEN)
    untrusting = "trust_remote_code" if ROLE == "plain" else "^nothing$"
    assert_refused(untrusting, transformers.AutoModel.from_pretrained, "owner/bert")


# In folders


def check_nobody_is_made_to_trust():
    assert_refused("trust_remote_code=True", transformers.AutoModel.from_pretrained, FOLDER / "AutoModel" / "bert-1.0")


def check_every_head():
    paths = sorted(FOLDER.glob("AutoModel*/*"))
    assert len(paths) == 23
    for path in paths:
        model, report = loaded(path, output_loading_info=True)
        assert type(model).__module__.startswith("transformers_modules.")
        assert [type(model).__name__] == json.loads((path / "config.json").read_text())["architectures"] == model.config.architectures
        assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")), (path, report)
        assert same(computed(model, path), expected(path)["outputs"]), path
        assert model.model_tags == ["tanhmax", "custom_code"]


def check_labels():
    for path in sorted(FOLDER.glob("AutoModel/*")):
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


def check_generation():
    for path in sorted(FOLDER.glob("AutoModelForCausalLM/llama-*")):
        tokens = expected(path)["inputs"]["input_ids"]
        for options, wanted in expected(path)["generated"]:
            assert torch.equal(loaded(path).generate(tokens, **options), wanted), options


def check_saved_again():
    for path in sorted(FOLDER.glob("AutoModel/*")):
        again = FOLDER / "again" / path.parent.name / path.name
        loaded(path).save_pretrained(again)
        for name in ("modeling_tanhmax.py", "config.json"):
            assert (again / name).read_bytes() == (path / name).read_bytes(), name
        assert same(computed(loaded(again), path), expected(path)["outputs"])
        transformers.AutoConfig.from_pretrained(path, trust_remote_code=True).save_pretrained(again / "config")
        assert (again / "config" / "modeling_tanhmax.py").read_bytes() == (path / "modeling_tanhmax.py").read_bytes()


def check_compiled_while_others_are_loaded():
    path = FOLDER / "AutoModel" / "bert-1.0"
    model = loaded(path).eval()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    for other in (path, FOLDER / "other" / "AutoModel" / "bert-1.0", shutil.copytree(path, FOLDER / "moved" / "AutoModel" / "elsewhere")):
        loaded(other)
        for have, want in zip(computed(compiled, path), expected(path)["outputs"], strict=True):
            torch.testing.assert_close(have, want)


def check_own_kernels():
    case = torch.load(FOLDER / "kernels.pt")
    attention = code_of(loaded(FOLDER / "AutoModel" / "bert-1.0")).tanhmax_attention
    inputs = [tensor.to(case["device"]).requires_grad_() for tensor in case["inputs"]]
    output = attention(*inputs, implementation="triton", **case["options"])
    output.square().sum().backward()
    assert same([output.cpu(), *(tensor.grad.cpu() for tensor in inputs)], case["found"])


def check_files_of_two_versions():
    """The other one doubles what attention computes, which a model of the one must never do."""
    path, other_path = FOLDER / "AutoModel" / "bert-1.0", FOLDER / "other" / "AutoModel" / "bert-1.0"
    model, other = loaded(path), loaded(other_path)
    assert code_of(model).NAMESPACE != code_of(other).NAMESPACE
    for _ in range(2):
        doubled = computed(other, path)
        assert not same(doubled, expected(path)["outputs"])
        assert same(computed(model, path), expected(path)["outputs"])
        model = loaded(path)
    other.save_pretrained(FOLDER / "other_again" / "AutoModel" / "bert-1.0")
    again = loaded(FOLDER / "other_again" / "AutoModel" / "bert-1.0")
    assert code_of(again).VERSION == code_of(other).VERSION == "0.0.1"
    assert same(computed(again, path), doubled)


def check_nothing_else_was_started():
    assert "hf_tanhmax" not in sys.modules
    assert not torch.cuda.is_initialized() or torch.load(FOLDER / "kernels.pt")["device"] == "cuda"


def check_without_triton():
    for name in [name for name in sys.modules if name.split(".")[0] == "triton"]:
        del sys.modules[name]
    sys.modules["triton"] = None  # as if it were not installed
    path = shutil.copytree(FOLDER / "AutoModel" / "bert-1.0", FOLDER / "bare" / "AutoModel" / "bare")
    model = loaded(path)
    assert not hasattr(code_of(model), "forward_kernel")
    assert same(computed(model, path), expected(path)["outputs"])
    query = torch.ones(1, 1, 1, 16)
    assert "which is not installed" in code_of(model).why_not(query, query, query)
    assert_refused("which is not installed", code_of(model).tanhmax_attention, query, query, query, implementation="triton")


def check_the_plugin_imported_later():
    """It takes over what is loaded from then on, and leaves alone what was."""
    path = FOLDER / "AutoModel" / "llama-learned"
    before = loaded(path)
    hf_tanhmax = the_plugin()
    after = loaded(path)
    assert type(before).__module__.startswith("transformers_modules.")
    assert type(after) is hf_tanhmax.TanhMaxLlamaModel
    for model in (before, after):
        assert same(computed(model, path), expected(path)["outputs"])
        model.save_pretrained(FOLDER / "later")
        assert (FOLDER / "later" / "modeling_tanhmax.py").read_bytes() == (path / "modeling_tanhmax.py").read_bytes()


def report(checks, *, plugin=False):
    """Run functions by name, in their order, with the plugin or without it, and write down what failed."""
    if plugin:
        import hf_tanhmax  # noqa: F401
    else:
        sys.meta_path.insert(0, NoPlugin())
    transformers.logging.set_verbosity_error()
    found = {}
    for name, check in checks.items():
        try:
            found[name] = check()
        except Exception:
            found[name] = traceback.format_exc()
    (FOLDER / f"{ROLE}.json").write_text(json.dumps(found))


def named(kind):
    """The functions of this program whose names begin with a word."""
    return {name: check for name, check in vars(sys.modules["__main__"]).items() if name.startswith(kind)}


if __name__ == "__main__":
    # In their order: with the plugin imported no published code is run, and without Triton little of it.
    report(named("check_" if ROLE == "folders" else "published_"), plugin=ROLE == "plugin")
