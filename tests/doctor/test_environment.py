"""The environment: versions against what is declared, what runs on a device, and what is said if something does not."""

import re
from importlib import metadata

import pytest
import torch

from hf_tanhmax.doctor import check_environment, environment, errors_in
from hf_tanhmax.models import family

DECLARED = [
    "torch>=2.11",
    "transformers<5.25,>=5.17",
    "safetensors>=0.5",
    "huggingface-hub>=1.0",
    'accelerate>=1.10; extra == "recipes"',
    'peft>=0.18; extra == "recipes"',
    'triton<3.10,>=3.6; extra == "triton"',
]


@pytest.fixture
def versions(monkeypatch):
    """The findings about versions if these were installed and those declared."""

    def of(declared=DECLARED, **installed):
        def version(name):
            if name == "hf-tanhmax":
                return "0.1.0"
            found = installed.get(name.replace("-", "_"), real(name))
            if found is None:
                raise metadata.PackageNotFoundError(name)
            return found

        real = metadata.version
        with monkeypatch.context() as patch:
            patch.setattr(metadata, "requires", lambda name: declared)
            patch.setattr(metadata, "version", version)
            return {finding.subject: (finding.level, finding.sentence) for finding in environment._versions()}

    return of


def test_this_environment():
    found = check_environment()
    assert not errors_in(found)
    subjects = [finding.subject for finding in found]
    assert subjects[0] == "python"
    sentences = [finding.sentence for finding in found if finding.subject == "cpu"]
    assert "cpu computes float32, bfloat16, float16, float64" in sentences
    assert sentences[-2].startswith(("cpu runs with its C++ operator", "cpu runs without its C++ operator: "))
    assert sentences[-1] == "a tiny attention call agrees with the reference"
    assert ("ok", "knows default target modules for bert, vit, llama, and others that it knows without TanhMax") in [
        (finding.level, finding.sentence) for finding in found
    ]


def test_versions_are_as_declared(versions):
    found = versions(torch="2.13.0+cpu", transformers="5.24.0", triton="3.9.0", accelerate="1.15.0", peft="0.21.2")
    assert {level for level, _ in found.values()} == {"ok"}
    assert found["torch"][1] == "2.13.0+cpu, supported is >=2.11"
    assert set(found) == {"hf-tanhmax", *environment.REQUIRED, *environment.OPTIONAL}


@pytest.mark.parametrize(("package", "level"), [("transformers", "error"), ("triton", "warning")])
def test_a_version_outside_its_range(package, level, versions):
    found = versions(**{package: "99.0"})[package]
    assert found[0] == level
    assert found[1].startswith("99.0 is outside the supported <")
    assert found[1].endswith("; install a version inside it")


def test_a_package_that_is_missing(versions):
    assert versions(triton=None)["triton"] == ("warning", "is not installed; pip install hf-tanhmax[triton] brings <3.10,>=3.6")
    assert versions(safetensors=None)["safetensors"] == ("error", "is not installed; pip install hf-tanhmax brings >=0.5")


def test_metadata_that_are_old(versions):
    level, sentence = versions(declared=DECLARED[:-1])["triton"]
    assert level == "warning"
    assert sentence == "is unknown to the metadata of hf-tanhmax, which are older than its code; install it again"


@pytest.mark.parametrize(
    ("have", "level", "said"),
    [
        ("0.18.3", "ok", '0.18.3, with which attn_implementation="owner/name" loads attention from the Hub'),
        ("0.17.2", "warning", '0.17.2 is none that Transformers takes, .*: pip install "kernels<0.19,>=0.18.2"'),
        (None, "ok", 'is not installed; attn_implementation="owner/name" needs it: pip install "kernels<0.19,>=0.18.2"'),
    ],
)
def test_the_kernels_that_transformers_takes(have, level, said, monkeypatch):
    def version(name):
        assert name == "kernels"
        if have is None:
            raise metadata.PackageNotFoundError(name)
        return have

    monkeypatch.setattr(metadata, "requires", lambda name: ['kernels<0.19,>=0.18.2; extra == "kernels"', "torch>=2"])
    monkeypatch.setattr(metadata, "version", version)
    (found,) = environment._kernels()
    assert (found.level, found.subject) == (level, "kernels")
    assert re.fullmatch(said, found.sentence)


def test_not_installed(monkeypatch):
    def requires(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "requires", requires)
    (finding,) = environment._versions()
    assert finding.level == "warning"
    assert finding.sentence == "is imported without being installed, so what it needs is unknown; pip install -e ."


def test_what_does_not_run_has_its_reason(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    found = [finding.sentence for finding in environment._check_device(torch.device("cpu"))]
    assert any(sentence.startswith("implementation='triton' ") for sentence in found)


def test_attention_that_is_wrong(monkeypatch):
    right = environment.tanhmax_attention

    def wrong(*tensors, implementation="auto", **options):
        return right(*tensors, implementation=implementation, **options) + (implementation == "auto")

    monkeypatch.setattr(environment, "tanhmax_attention", wrong)
    finding = environment._compared(torch.device("cpu"))
    assert finding.level == "error"
    assert finding.sentence == "a tiny attention call differs from the reference by 1; please report it"


def test_attention_that_fails(monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("no kernel\nfor this device")

    monkeypatch.setattr(environment, "tanhmax_attention", broken)
    finding = environment._compared(torch.device("cpu"))
    assert (finding.level, finding.sentence) == ("error", "a tiny attention call fails: no kernel for this device")


def test_peft_that_knows_no_family(monkeypatch):
    import peft

    table = peft.utils.constants.TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
    for key in [key for key in table if key.startswith("tanhmax")]:
        monkeypatch.delitem(table, key)
    monkeypatch.setattr(family, "fill_tables", lambda: None)
    (finding,) = environment._check_peft()
    assert finding.level == "warning"
    assert finding.sentence.startswith("knows no default target modules for tanhmax_bert, tanhmax_vit, tanhmax_llama")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu():
    found = [finding for finding in check_environment() if finding.subject == "cuda:0"]
    assert not errors_in(found)
    assert "compute capability" in found[0].sentence
    assert found[-1].sentence == "a tiny attention call agrees with the reference"
