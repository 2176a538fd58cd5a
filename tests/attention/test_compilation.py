"""One compiled graph serves many lengths: there are no more graphs than softmax attention needs, and for the fused kernels one more."""

import pytest
import torch
import transformers
from families import BACKBONES, images, right_padding, softmax_twin, text, tiny_model
from thorough import thorough_only

import hf_tanhmax
from hf_tanhmax import tanhmax_attention
from hf_tanhmax.attention.kernels.support import MOST_QUERIES, decodable, decode_unsupported

LENGTHS = (9, 12, 14, 17, 20, 31, 6)  # on both sides of the lengths that the decoding kernel takes
SIDES = (15, 20, 25)

pytestmark = pytest.mark.usefixtures("small_tiles")


def inputs_of(family, padded):
    if family == "vit":
        return [{"pixel_values": images(2, side), "interpolate_pos_encoding": True} for side in SIDES]
    masks = ({"attention_mask": right_padding(2, length)} if padded else {} for length in LENGTHS)
    return [{"input_ids": text(2, length), **mask} for length, mask in zip(LENGTHS, masks, strict=True)]


def graphs(function, calls, **options):
    """How many graphs a function is compiled to for some calls, without a break; every result is that of the function."""
    torch._dynamo.reset()
    count = torch._dynamo.utils.counters["stats"]
    count.clear()
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager" if torch.is_grad_enabled() else "eager", **options)
    for call in calls:
        found = compiled(**call)
        torch.testing.assert_close(found, function(**call), atol=1e-5, rtol=1e-4)
        if found.requires_grad:
            found.sum().backward()
    return count["unique_graphs"]


def last_state(model):
    options = {"use_cache": False} if model.config.model_type.endswith("llama") else {}
    return lambda **inputs: model(**inputs, **options).last_hidden_state


@pytest.mark.slow
@pytest.mark.parametrize("gradients", [False, True], ids=["inference", "training"])
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize(("family", "padded"), [("bert", False), ("bert", True), ("llama", False), ("llama", True), ("vit", False)])
def test_a_new_length_needs_no_new_graph(family, padded, implementation, gradients):
    if gradients is padded and family != "vit":
        thorough_only("one of training and inference is compiled without padding, the other with it")
    model = tiny_model(BACKBONES[family], attn_implementation=implementation, num_hidden_layers=1)
    twin = softmax_twin(model, attn_implementation=implementation, num_hidden_layers=1)
    with torch.set_grad_enabled(gradients):
        found, wanted = (graphs(last_state(each), inputs_of(family, padded)) for each in (model, twin))
    assert 1 <= found <= wanted


@pytest.mark.slow
def test_a_patched_model_needs_no_new_graph_either():
    model = tiny_model(transformers.BertModel, attn_implementation="sdpa", num_hidden_layers=1)
    hf_tanhmax.use_tanhmax(model)
    with torch.no_grad():
        assert graphs(last_state(model), inputs_of("bert", True)) <= 2


def calls_of_attention(gradients, lengths=LENGTHS):
    device = "cuda" if torch.cuda.is_available() else "cpu"
    shapes = [(2, 4, length, 8) for length in lengths]
    return [{name: torch.randn(shape, device=device, requires_grad=gradients) for name in ("query", "key", "value")} for shape in shapes]


ARGUMENTS = {
    "plain": {},
    "causal": {"is_causal": True},
    "lower_right": {"is_causal": "lower_right"},
    "window": {"is_causal": True, "window": 5},
    "softcap": {"softcap": 2.0},
    "polarity": {"polarity": 0.5},
    "balanced": {"shift": "balanced", "polarity": 0.3},
}


@pytest.mark.slow_in_interpreter
@pytest.mark.filterwarnings("ignore:<class 'torch.autograd.function.Function'>:DeprecationWarning")  # Dynamo's own
@pytest.mark.parametrize("arguments", ARGUMENTS)
@pytest.mark.parametrize("implementation", ["auto", "reference", "composed"])
@torch.no_grad()
def test_every_implementation_on_the_cpu(implementation, arguments):
    if implementation == "composed" and arguments == "softcap":
        implementation = "cpu"

    def call(query, key, value):
        return tanhmax_attention(query.cpu(), key.cpu(), value.cpu(), implementation=implementation, **ARGUMENTS[arguments])

    assert graphs(call, calls_of_attention(False), dynamic=True) == 1


@pytest.mark.slow
@pytest.mark.parametrize("gradients", [False, True], ids=["inference", "training"])
def test_the_decoding_kernel_costs_one_graph(gradients):
    """For 1 to 16 queries without gradients there is another kernel, so that lengths on both sides of it make two graphs."""

    def call(query, key, value):
        return tanhmax_attention(query, key, value, implementation="triton")

    with torch.set_grad_enabled(gradients):
        assert graphs(call, calls_of_attention(gradients), dynamic=True) == (1 if gradients else 2)


@pytest.mark.parametrize("queries", [0, 1, MOST_QUERIES, MOST_QUERIES + 1])
@pytest.mark.parametrize("wish", [{}, {"needs_gradient": True}, {"dropout_p": 0.1}, {"packed": True}], ids=str)
def test_the_sentence_and_the_question_agree(queries, wish):
    """What the decoding kernel takes is asked without a sentence, which would hold the number of queries, and refused with one."""
    query, wishes = torch.zeros(1, 1, queries, 8), {"needs_gradient": False, "dropout_p": 0.0, "packed": False, **wish}
    fine = decodable(query, **wishes)
    assert fine is (not wish and 1 <= queries <= MOST_QUERIES)
    if not fine:
        assert decode_unsupported(query, query, **wishes).startswith(("takes 1 to 16", "has no"))
