"""What whoever has the plugin is told of a model that a kernel of the Hub served: by doctor, push and convert."""

import importlib.util
import json
import sys

import pytest
import torch
import transformers
from families import tiny_config, tiny_model

import hf_tanhmax
from hf_tanhmax.doctor import check_checkpoint, errors_in
from hf_tanhmax.hub import HubError, push
from hf_tanhmax.hub.kernel import write_kernel
from hf_tanhmax.integration.hub_kernel import _say_forgotten
from hf_tanhmax.integration.kernel_note import _say_other_settings, kernel_of

NAME = "me/tanhmax"
INPUTS = {"input_ids": torch.arange(3, 25).view(2, 11)}


@pytest.fixture(scope="module")
def kernel(tmp_path_factory):
    """The kernel as the `kernels` package imports it, and Transformers registers it."""
    folder = tmp_path_factory.mktemp("kernel")
    write_kernel(folder, repo_id=NAME)
    build = folder / "build" / "torch-cpu"
    name = json.loads((build / "metadata.json").read_text())["id"]
    spec = importlib.util.spec_from_file_location(name, build / "__init__.py")
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    transformers.AttentionInterface.register(NAME, module.flash_attn_forward)
    transformers.AttentionMaskInterface.register(NAME, transformers.masking_utils.sdpa_mask)
    yield module
    for each in (transformers.AttentionInterface, transformers.AttentionMaskInterface):
        each._global_mapping.pop(NAME)


@pytest.fixture
def served(kernel):
    """A stock model after a call; `polarity` and `shift` are on its config."""
    model = transformers.BertForSequenceClassification(tiny_config("bert", upstream=True)).eval()
    model.config._attn_implementation = NAME
    return model


def called(model):
    with torch.no_grad():
        return model(**INPUTS).logits


@pytest.mark.filterwarnings("ignore:the attention of this model is TanhMax because of")
def test_doctor_and_push_tell_what_was_forgotten(served, tmp_path, hub_here):
    called(served)
    served.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["tanhmax_kernel"] == NAME
    said = 'was saved from a model that computed TanhMax by the kernel me/tanhmax .*loads as softmax: give attn_implementation="me/tanhmax"'
    (finding,) = errors_in(check_checkpoint(tmp_path))
    assert finding.sentence.startswith("is of model type 'bert' and was saved from a model")
    with pytest.raises(HubError, match=said):
        push(tmp_path, "owner/thing")
    assert hub_here.store.repositories == {}


@pytest.mark.filterwarnings("ignore:the attention of this model is TanhMax because of")
def test_what_is_converted_remembers(served, tmp_path, caplog):
    expected = called(served)
    model = hf_tanhmax.convert(served)
    assert model.config._attn_implementation == "sdpa"
    assert torch.equal(called(model), expected)
    model.save_pretrained(tmp_path / "live")
    served.save_pretrained(tmp_path / "forgotten")
    again = hf_tanhmax.convert(tmp_path / "forgotten", transformers.AutoModelForSequenceClassification)
    assert torch.equal(called(again), expected)
    again.save_pretrained(tmp_path / "again")
    for name in ("live", "again"):
        assert "tanhmax_kernel" not in (tmp_path / name / "config.json").read_text()
    assert "kernel" not in caplog.text


@pytest.mark.filterwarnings("ignore:the attention of this model is TanhMax because of")
def test_other_settings_than_the_kernels_are_told(served, caplog):
    served.config.tanhmax_polarity, served.config.tanhmax_shift = 0.3, "balanced"
    expected = called(served)
    _say_other_settings.cache_clear()
    assert torch.equal(called(hf_tanhmax.convert(served, polarity=0.3, shift="balanced")), expected)
    assert "the kernel" not in caplog.text
    hf_tanhmax.convert(served, polarity=0.0)
    assert "the kernel me/tanhmax computed TanhMax attention with a balanced shift (polarity 0.3) in all layers" in caplog.text
    assert "is converted to TanhMax attention at polarity 0" in caplog.text


def test_it_is_said_once(kernel, served):
    where = sys.modules[kernel.flash_attn_forward.__module__]
    where._say_forgotten.cache_clear()
    with pytest.warns(UserWarning, match='because of attn_implementation="me/tanhmax", which save_pretrained forgets') as said:
        called(served)
    assert len(said) == 1
    called(served)  # a warning would be an error
    assert where._say_forgotten is not _say_forgotten


def test_a_part_may_have_the_note():
    assert kernel_of({"text_config": {"tanhmax_kernel": NAME}}) == NAME
    assert kernel_of({"text_config": {}, "tanhmax_kernel": None}) is None


def test_a_tanhmax_model_brings_its_own(kernel):
    model = tiny_model(hf_tanhmax.TanhMaxBertModel)
    model.config._attn_implementation = NAME
    with pytest.raises(
        ValueError, match='attn_implementation="me/tanhmax" is a kernel of the Hub, but this layer is set to TanhMax by itself'
    ):
        model(**INPUTS)
