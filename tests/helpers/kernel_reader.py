"""A process without the plugin, whose stock models compute attention by a kernel repository; it compares with what the plugin computed.

    python tests/helpers/kernel_reader.py FOLDER hub|build

`hub` asks the Hub for the kernel that `plan.json` in FOLDER names, by the package `kernels` and, where that has the version that it wants,
by Transformers; `build` takes `FOLDER/repository` with nothing but Python's own import. `FOLDER/expected.pt` holds the plugin's results.
What is wrong is printed, and ends the process with 1.
"""

import importlib.util
import json
import re
import sys
import time
import traceback
import warnings
from pathlib import Path

sys.modules["hf_tanhmax"] = None  # it may well be installed

import torch
import transformers
from transformers.utils import is_kernels_available

FOLDER, ROLE = Path(sys.argv[1]), sys.argv[2]
EXPECTED = torch.load(FOLDER / "expected.pt")
PLAN = json.loads((FOLDER / "plan.json").read_text())
REPO, FORGOTTEN = PLAN["repo"], "which save_pretrained forgets"
BY_TRANSFORMERS = ROLE == "hub" and is_kernels_available()


def build():
    """The package of a repository's folder, as the `kernels` package imports it."""
    folder = FOLDER / "repository" / "build" / "torch-cpu"
    name = json.loads((folder / "metadata.json").read_text())["id"]
    spec = importlib.util.spec_from_file_location(name, folder / "__init__.py")
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def loaded(cls, name, repo=REPO, **options):
    """A stock model that calls the kernel."""
    place = FOLDER / name
    if BY_TRANSFORMERS:
        return getattr(transformers, cls).from_pretrained(place, attn_implementation=repo, allow_all_kernels=True, **options).eval()
    if repo not in transformers.AttentionInterface().valid_keys():
        register(repo, build() if ROLE == "build" else by_kernels(repo))
    model = getattr(transformers, cls).from_pretrained(place, **options).eval()
    model.config._attn_implementation = repo
    return model


def by_kernels(repo):
    import kernels

    name, _, revision = repo.partition("@")
    return kernels.get_kernel(name, trust_remote_code=True, **({"revision": revision} if revision else {"version": 1}))


def register(repo, module):
    """What Transformers does with a kernel that has both of these names."""
    assert module.supports_flash_attn
    transformers.AttentionInterface.register(repo, module.flash_attn_forward)
    transformers.AttentionMaskInterface.register(repo, transformers.masking_utils.sdpa_mask)


def assert_refused(words, function):
    said = "nothing"
    try:
        function()
    except (ImportError, OSError, RuntimeError, ValueError, NotImplementedError) as error:
        said = str(error)
    assert re.search(words, said), said


def computed(model, name):
    with torch.no_grad():
        return model(**EXPECTED[name]["inputs"])[0]


def check_the_first_that_loads_it():
    """It is looked for among the callers while the kernel is imported, which happens once; so this check stands first."""
    if BY_TRANSFORMERS:
        model = loaded("MPNetModel", "mpnet")
        assert_refused("MPNetModel ignores attn_implementation=", lambda: model(torch.ones(1, 5, dtype=torch.long)))


def check_every_family():
    start = time.perf_counter()
    for name, cls in PLAN["models"].items():
        assert torch.equal(computed(loaded(cls, name), name), EXPECTED[name]["output"]), name
    print(f"first loads and calls: {time.perf_counter() - start:.2f} s, by Transformers itself: {BY_TRANSFORMERS}")


def check_generation():
    found = loaded(PLAN["models"]["llama"], "llama").generate(**EXPECTED["llama"]["inputs"], max_new_tokens=7, do_sample=False)
    assert torch.equal(found, EXPECTED["llama"]["generated"])


def check_gradients():
    model = loaded(PLAN["models"]["bert"], "bert")
    model(**EXPECTED["bert"]["inputs"])[0].square().sum().backward()
    found = dict(model.named_parameters())
    for name, gradient in EXPECTED["bert"]["gradients"].items():
        assert torch.equal(found[name].grad, gradient), name


def check_compiled():
    model = loaded(PLAN["models"]["bert"], "bert")
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    torch.testing.assert_close(computed(compiled, "bert"), EXPECTED["bert"]["output"])
    part = loaded("SiglipVisionModel", "siglip")
    pixels = torch.zeros(1, 3, 16, 16)
    assert_refused("part of SiglipVisionModel would stay softmax", lambda: torch.compile(part, backend="eager")(pixels))


def check_settings():
    model = loaded(PLAN["models"]["bert"], "bert")
    for name, value in PLAN["settings"].items():
        setattr(model.config, name, value)
    assert torch.equal(computed(model, "bert"), EXPECTED["bert"]["with settings"])


def check_refusals():
    bert = PLAN["models"]["bert"]
    for name, value, words in (
        ("tanhmax_polarity", 2.0, r"polarity must be in \[0, 1\]"),
        ("tanhmax_polarity", "learned", "has no parameters for it: give a number"),
        ("tanhmax_shift", "other", "shift"),
        ("tanhmax_layers", [0], "has tanhmax_layers, which a kernel cannot honour"),
        ("tanhmax_score_bias", 3.0, "has tanhmax_score_bias, which a kernel cannot honour"),
    ):
        model = loaded(bert, "bert")
        setattr(model.config, name, value)
        assert_refused(words, lambda model=model: computed(model, "bert"))
    pixels = torch.zeros(1, 3, 16, 16)
    part = loaded("SiglipVisionModel", "siglip")
    assert_refused("part of SiglipVisionModel would stay softmax: MultiheadAttention .head.attention.", lambda: part(pixels))
    part.config.tanhmax_softmax_parts = ["MultiheadAttention"]
    part(pixels)
    tokens = torch.ones(1, 5, dtype=torch.long)
    sinks = loaded("GptOssForCausalLM", "gpt_oss")
    assert_refused("no attention sinks: GptOssAttention passed 's_aux'", lambda: sinks(tokens))


def check_parts():
    """The attention modules of a model of several parts have the configs of the parts."""
    clip = loaded("CLIPModel", "clip")
    if not BY_TRANSFORMERS:
        for part in (clip.config.text_config, clip.config.vision_config):
            part._attn_implementation = REPO
    inputs = {"input_ids": torch.tensor([[1, 5, 2]]), "pixel_values": torch.ones(1, 3, 16, 16)}
    clip.config.tanhmax_polarity = 0.5
    words = (
        "tanhmax_polarity was set on the config of the whole CLIPModel, where CLIPAttention does not look: set it on config.(text|vision)"
    )
    assert_refused(words, lambda: clip(**inputs))
    clip.config.text_config.tanhmax_polarity = clip.config.vision_config.tanhmax_polarity = 0.5
    clip(**inputs)


def check_that_saving_forgets():
    """The note is there, and what is saved computes softmax: why there is a note."""
    model = loaded(PLAN["models"]["bert"], "bert")
    computed(model, "bert")
    model.save_pretrained(FOLDER / "saved")
    values = json.loads((FOLDER / "saved" / "config.json").read_text())
    assert values["tanhmax_kernel"] == REPO
    assert values["model_type"] == "bert"
    again = transformers.AutoModel.from_pretrained(FOLDER / "saved").eval()
    assert not torch.allclose(computed(again, "bert"), EXPECTED["bert"]["output"], atol=0.1)


def check_own_kernels():
    case = torch.load(FOLDER / "triton.pt") if (FOLDER / "triton.pt").is_file() else None
    if case is None:
        return
    attention = (build() if ROLE == "build" else by_kernels(REPO)).tanhmax_attention
    inputs = [tensor.requires_grad_() for tensor in case["inputs"]]
    output = attention(*inputs, implementation="triton", is_causal=True)
    output.square().sum().backward()
    for have, want in zip([output, *(tensor.grad for tensor in inputs)], case["found"], strict=True):
        assert torch.equal(have, want)


def check_revisions():
    if ROLE == "build":
        return
    bert = PLAN["models"]["bert"]
    model = loaded(bert, "bert", repo=f"{REPO}@{PLAN['commit']}")
    assert torch.equal(computed(model, "bert"), EXPECTED["bert"]["output"])
    for revision, words in PLAN["refused"].items():
        assert_refused(words, lambda revision=revision: loaded(bert, "bert", repo=f"{REPO}@{revision}"))
    if BY_TRANSFORMERS:
        untrusted = {"attn_implementation": f"{REPO}@main"}
        assert_refused("not from a trusted publisher", lambda: transformers.BertModel.from_pretrained(FOLDER / "bert", **untrusted))


def main():
    assert importlib.util.find_spec("torch")
    wrong = []
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for name, check in list(globals().items()):
            if name.startswith("check_"):
                try:
                    check()
                except Exception:
                    wrong.append(f"{name}\n{traceback.format_exc()}")
    forgotten = [str(each.message) for each in said if FORGOTTEN in str(each.message)]
    expected = {REPO, *([f"{REPO}@{PLAN['commit']}"] if ROLE == "hub" else [])}
    if sorted(re.search('attn_implementation="(.+?)"', sentence)[1] for sentence in forgotten) != sorted(expected):
        wrong.append(f"of each kernel one warning, but {forgotten}")
    sys.exit("\n".join(wrong) or 0)


if __name__ == "__main__":
    main()
