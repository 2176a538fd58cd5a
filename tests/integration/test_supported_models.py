"""Every architecture of the README's table: global registration, patching and an independent computation agree, or it is refused."""

import pytest
from families import NAIVE, assert_same, differ, run
from supported_models import ARCHITECTURES

from hf_tanhmax import TanhMaxSettings, restore, use_tanhmax

SUPPORTED = [case for case in ARCHITECTURES if case.refused is None]
BYPASSING = [case for case in ARCHITECTURES if case.refused == "computes softmax itself"]


def named(cases):
    return pytest.mark.parametrize("case", cases, ids=[case.name for case in cases])


@named(SUPPORTED)
def test_supported(case):
    inputs = case.example()
    registered, patched = run(case.model("tanhmax"), inputs), case.model("eager")
    softmax = run(patched, inputs)
    if case.layers is not None:
        with pytest.raises(ValueError, match=r"part of .* would stay softmax: .* name the layers"):
            use_tanhmax(patched)
    patched_modules = use_tanhmax(patched, TanhMaxSettings(layers=case.layers))
    assert patched_modules >= 2
    assert_same(registered, run(patched, inputs))
    assert_same(registered, run(case.model(NAIVE), inputs), atol=1e-4, rtol=1e-3)
    assert differ(registered, softmax)
    assert restore(patched) == patched_modules
    assert_same(run(patched, inputs), softmax, atol=0, rtol=0)


def test_sinks_are_refused_when_they_are_met():
    case = next(case for case in ARCHITECTURES if case.refused == "attention sinks")
    model = case.model("tanhmax")
    with pytest.raises(NotImplementedError, match="has no attention sinks: GptOssAttention passed 's_aux'"):
        run(model, case.example())


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # DeBERTa in Transformers 5.17
@named(BYPASSING)
def test_bypassing_architectures_are_refused_by_use_tanhmax(case):
    with pytest.raises(ValueError, match=r"cannot compute TanhMax: its .*Attention.* compute softmax themselves"):
        use_tanhmax(case.model("eager"))
