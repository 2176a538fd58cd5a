"""Which modules ask the attention interface, and which compute softmax attention themselves: read from code, with source and without."""

import copy
import functools
import gc
import types
import weakref

import pytest
import torch
import torch.utils.checkpoint
import transformers
from families import LAYERS, tiny_model
from torch import nn
from torch.nn import functional as F
from transformers import AttentionInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama.modeling_llama import LlamaAttention

from hf_tanhmax import TanhMaxSettings, restore, use_tanhmax
from hf_tanhmax.integration.detection.attention_facts import attention_facts
from hf_tanhmax.integration.patching import attention_modules

OWN = AttentionInterface()


def eager_attention_forward(module, query, key, value, attention_mask, scaling=1.0, **kwargs):
    weights = torch.softmax(query @ key.mT * scaling, -1)
    return (weights @ value).transpose(1, 2), weights


def attend(query, key, value):
    return nn.functional.softmax(torch.einsum("bqd,bkd->bqk", query, key), dim=-1) @ value


class Block(nn.Module):
    """Projections that every case below uses."""

    def __init__(self):
        super().__init__()
        self.config = transformers.LlamaConfig()
        self.q, self.k, self.v, self.gate = (nn.Linear(6, 6) for _ in range(4))
        self.softmax, self.experts = nn.Softmax(-1), nn.Parameter(torch.randn(5, 6))
        self.sequential = nn.Sequential(nn.Linear(6, 1), nn.Softmax(-2))
        self.sinks, self.indexer = None, None


# What asks


class Subclass(LlamaAttention):
    def forward(self, *args, **kwargs):
        return super().forward(*args, **kwargs)


class Asking(Block):
    def forward(self, x):
        interface = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        return interface(self, self.q(x), self.k(x), self.v(x), None, s_aux=self.sinks)[0]


class AskingByIndex(Block):
    def forward(self, x):
        interface = eager_attention_forward
        if self.config._attn_implementation != "eager":
            interface = ALL_ATTENTION_FUNCTIONS[self.config._attn_implementation]
        return interface(self, self.q(x), self.k(x), self.v(x), None)[0]


class AskingInAMethod(Block):
    def attention(self, x):
        label = self.config._attn_implementation
        return OWN.get_interface(label, eager_attention_forward)(self, self.q(x), self.k(x), self.v(x), None)[0]

    def forward(self, x):
        return self.attention(x)


class AskingUnlessEager(Asking):
    """As GPT-2 does: the branch is taken for the name "eager" alone, which no TanhMax module answers."""

    def forward(self, x):
        if self.config._attn_implementation == "eager" and self.training:
            return attend(self.q(x), self.k(x), self.v(x))
        return super().forward(x)


def logged(function):
    @functools.wraps(function)
    def call(*args, **kwargs):
        return function(*args, **kwargs)

    return call


class AskingDecorated(Asking):
    forward = logged(logged(Asking.forward))


ASKING = [Asking, AskingByIndex, AskingInAMethod, AskingUnlessEager, AskingDecorated]


# What bypasses


class Mixed(Asking):
    def forward(self, x, long=False):
        return attend(self.q(x), self.k(x), self.v(x)) if long else super().forward(x)


class AskingForAnother(Block):
    """What the patch sets is not what it reads."""

    def forward(self, x):
        return ALL_ATTENTION_FUNCTIONS.get_interface("sdpa", eager_attention_forward)(self, self.q(x), self.k(x), self.v(x), None)[0]


class AskingASubconfig(Block):
    def forward(self, x):
        label = self.config.text_config._attn_implementation
        return ALL_ATTENTION_FUNCTIONS.get_interface(label, eager_attention_forward)(self, self.q(x), self.k(x), self.v(x), None)[0]


class AskingByGetattr(Block):
    """As Kosmos-2.5 does: names of functions are no attributes of the interface, so this is its default."""

    def forward(self, x):
        interface = getattr(ALL_ATTENTION_FUNCTIONS, self.config._attn_implementation, eager_attention_forward)
        return interface(self, self.q(x), self.k(x), self.v(x), None)[0]


class ChildSoftmax(Block):
    def forward(self, x):
        return self.softmax(torch.bmm(self.q(x), self.k(x).mT)) @ self.v(x)


class SoftmaxMadeOnTheSpot(Block):
    def forward(self, x):
        return nn.Softmax(dim=-1)(self.q(x) @ self.k(x).mT) @ self.v(x)


class HelperFunction(Block):
    def forward(self, x):
        return attend(self.q(x), self.k(x), self.v(x))


class OtherMethod(Block):
    def weights(self, query, key):
        scores = torch.baddbmm(torch.zeros(1), query, key.mT)
        scores -= scores.amax(-1, keepdim=True)
        return F.dropout(scores.softmax(-1), 0.1)

    def forward(self, x):
        query, key, value = (project(x) for project in (self.q, self.k, self.v))
        weights = self.weights(query, key)
        return torch.matmul(weights, value)


class Sdpa(Block):
    def forward(self, x):
        return F.scaled_dot_product_attention(self.q(x), self.k(x), self.v(x))


class NestedFunction(Block):
    def forward(self, x):
        def block(chunk):
            return torch.softmax(self.q(chunk) @ self.k(x).mT, -1) @ self.v(x)

        return torch.cat([block(chunk) for chunk in x.chunk(2)])


class InALoop(Block):
    def forward(self, x):
        weights = []
        for query in self.q(x).unbind(1):
            weights.append((query[:, None] * self.k(x)).sum(-1).softmax(-1))
        return torch.stack(weights, 1) @ self.v(x)


class Autograd(torch.autograd.Function):
    @staticmethod
    def forward(ctx, query, key, value):
        return attend(query, key, value)


class ByAutograd(Block):
    def forward(self, x):
        return Autograd.apply(self.q(x), self.k(x), self.v(x))


class Pooling(Block):
    """A learned softmax over tokens that weighs them."""

    def forward(self, x):
        return (self.gate(x).softmax(1) * x).sum(1)


class PoolingBySequential(Block):
    def forward(self, x):
        return torch.sum(torch.mul(self.sequential(x), self.v(x)), dim=1)


class AttentionMap(Block):
    """A softmax of scores, which another module may multiply with values."""

    def forward(self, x):
        return (self.q(x) @ self.k(x).mT).softmax(-1)


class FunctionKept(Block):
    def __init__(self):
        super().__init__()
        self.attend = F.scaled_dot_product_attention

    def forward(self, x):
        return self.attend(self.q(x), self.k(x), self.v(x))


class SoftmaxKept(Block):
    def __init__(self):
        super().__init__()
        self.normalise = torch.softmax

    def forward(self, x):
        return self.normalise(self.q(x) @ self.k(x).mT, -1) @ self.v(x)


class OwnSoftmax(nn.Module):
    def forward(self, scores, mask=None):
        return F.softmax(scores if mask is None else scores + mask, -1)


class OwnSoftmaxKept(Block):
    def __init__(self):
        super().__init__()
        self.normalise = OwnSoftmax()

    def forward(self, x):
        return self.normalise(self.gate(x)) @ self.v(x)


class SoftmaxInAList(Block):
    def __init__(self):
        super().__init__()
        self.normalise = nn.ModuleList([nn.Softmax(-1)])

    def forward(self, x):
        return self.normalise[0](self.gate(x)) @ self.v(x)


class Attend:
    def __call__(self, query, key, value):
        return attend(query, key, value)


class ObjectKept(Block):
    def __init__(self):
        super().__init__()
        self.attend = Attend()

    def forward(self, x):
        return self.attend(self.q(x), self.k(x), self.v(x))


class GlobalObject(Block):
    def forward(self, x):
        return ATTEND(self.q(x), self.k(x), self.v(x))


class Table(Block):
    def forward(self, x):
        return TABLE["attend"](self.q(x), self.k(x), self.v(x))


class TableByConfig(Block):
    def forward(self, x):
        return TABLE[self.config.hidden_act](self.q(x), self.k(x), self.v(x))


ATTEND = Attend()
TABLE = {"attend": attend, "sdpa": F.scaled_dot_product_attention}


class Checkpointed(Block):
    def inner(self, x):
        return attend(self.q(x), self.k(x), self.v(x))

    def forward(self, x):
        return torch.utils.checkpoint.checkpoint(self.inner, x, use_reentrant=False)


class Vmapped(Block):
    def forward(self, x):
        return torch.vmap(attend)(self.q(x), self.k(x), self.v(x))


class VmappedSdpa(Block):
    def forward(self, x):
        return torch.vmap(F.scaled_dot_product_attention)(self.q(x), self.k(x), self.v(x))


class MappedLambda(Block):
    def forward(self, x):
        return torch.cat(list(map(lambda head: torch.softmax(head @ head.mT, -1) @ head, self.q(x).chunk(2, -1))))  # noqa: C417


class LogSoftmax(Block):
    def forward(self, x):
        return F.log_softmax(self.gate(x), 1).exp().mT @ self.v(x)


class ByCall(Block):
    def __call__(self, x):
        return attend(self.q(x), self.k(x), self.v(x))


WITH_SOURCE = [OwnSoftmaxKept, SoftmaxInAList, ObjectKept, GlobalObject, Table, TableByConfig, ByCall]
BYPASSING = [
    *(FunctionKept, SoftmaxKept, Checkpointed, Vmapped, VmappedSdpa, MappedLambda, LogSoftmax),
    *WITH_SOURCE,
    *(
        AskingForAnother,
        AskingASubconfig,
        AskingByGetattr,
        ChildSoftmax,
        SoftmaxMadeOnTheSpot,
        HelperFunction,
        OtherMethod,
        Sdpa,
        NestedFunction,
        InALoop,
    ),
    *(ByAutograd, Pooling, PoolingBySequential, AttentionMap),
]


# What is no attention


class Router(Block):
    def forward(self, x):
        weights, chosen = torch.topk(F.softmax(F.linear(x, self.experts), -1), 2)
        weights = weights / weights.sum(-1, keepdim=True)
        return (weights[..., None] * self.v(x)[..., None, :]).sum(-2), chosen


class RouterOfChosen(Block):
    def forward(self, x):
        scores, chosen = (x @ self.experts.mT).topk(2)
        return (F.softmax(scores, -1)[..., None] * self.v(x)[..., None, :]).sum(-2), chosen


class OutputDistribution(Block):
    def forward(self, x, attention_mask=None):
        probabilities = self.q(x).softmax(-1) * attention_mask
        return -(probabilities * probabilities.log()).sum(-1), torch.multinomial(probabilities, 1)


class ExpectedBin(Block):
    def forward(self, x):
        return torch.einsum("btk,kd->btd", F.linear(x, self.experts).softmax(-1), self.experts)


class MixedLayers(Block):
    def forward(self, *states):
        return (torch.stack(states, -1) * self.experts[0].softmax(-1)).sum(-1)


class Codebook(Block):
    def forward(self, x):
        return F.gumbel_softmax(x @ self.experts.mT, hard=True) @ self.experts


class Entropy(Block):
    def forward(self, logits):
        return -(logits.softmax(-1) * logits.log_softmax(-1)).sum(-1).mean()


class Divergence(Block):
    def forward(self, x, y):
        probabilities = x.softmax(-1)
        return (probabilities * (probabilities.log() - F.log_softmax(y, -1))).sum(-1)


class Linear(Block):
    def forward(self, x):
        return self.q(x) @ (self.k(x).mT @ self.v(x))


NEITHER = [Router, RouterOfChosen, OutputDistribution, ExpectedBin, MixedLayers, Codebook, Entropy, Divergence, Linear]
CASES = [(ASKING, (True, False)), ([Mixed], (True, True)), (BYPASSING, (False, True)), (NEITHER, (False, False))]


def seen(module):
    facts = attention_facts(module)
    return facts.asks, facts.bypasses


@pytest.mark.parametrize(("cls", "wanted"), [(cls, wanted) for classes, wanted in CASES for cls in classes])
def test_what_a_forward_does(cls, wanted):
    assert seen(cls()) == wanted
    assert seen(type("Subclass", (cls,), {"forward": lambda self, *args: super(type(self), self).forward(*args)})()) == wanted


def without_source(function):
    return types.FunctionType(
        function.__code__.replace(co_filename="<nowhere>"), function.__globals__, function.__name__, None, function.__closure__
    )


def unread(cls):
    """A subclass whose methods have no source, as in a notebook that was not kept."""
    return type("Unread", (cls,), {name: without_source(each) for name, each in vars(cls).items() if isinstance(each, types.FunctionType)})


@pytest.mark.parametrize("cls", [Asking, AskingInAMethod, AskingByIndex])
def test_asking_is_seen_without_source(cls):
    assert seen(unread(cls)()) == (True, False)


@pytest.mark.parametrize(
    "cls", [cls for cls in BYPASSING if cls not in (AskingASubconfig, AskingByGetattr, AskingForAnother, *WITH_SOURCE)]
)
def test_attention_is_seen_without_source(cls):
    assert attention_facts(unread(cls)()).bypasses


def test_a_forward_bound_to_an_instance():
    module, plain = Router(), Router()
    module.forward = types.MethodType(ChildSoftmax.forward, module)
    assert (seen(module), seen(plain)) == ((False, True), (False, False))
    module = Linear()
    module.forward = functools.update_wrapper(functools.partial(lambda self, *args: self._old(*args), module), module.forward)
    module._old = Sdpa().forward
    assert seen(module) == (False, True)
    module = Block()
    module.attend, module.forward = attend, types.MethodType(lambda self, x: self.attend(x, x, x), module)
    assert seen(module) == (False, True)


class Timed:
    def __init__(self, function):
        self.function = function

    def __call__(self, *args, **kwargs):
        return self.function(*args, **kwargs)


def by_default(module):
    def forward(*args, old=module.forward, **kwargs):
        return old(*args, **kwargs)

    return forward


def by_closure(module):
    old = module.forward

    def forward(*args, **kwargs):
        return old(*args, **kwargs)

    return forward


def by_list(module):
    kept = [module.forward]
    return lambda *args, **kwargs: kept[0](*args, **kwargs)


def by_attribute(module):
    module._old = module.forward

    def forward(*args, **kwargs):
        return module._old(*args, **kwargs)

    return forward


def by_lambda(module):
    return lambda *args, old=module.forward, **kwargs: old(*args, **kwargs)


def by_wraps(module):
    return logged(module.forward)


def by_object(module):
    return Timed(module.forward)


WRAPPERS = [by_default, by_closure, by_list, by_attribute, by_lambda, by_wraps, by_object]


@pytest.mark.parametrize("wrapped", WRAPPERS)
def test_a_wrapped_forward_never_hides_the_class(wrapped):
    model = tiny_model(transformers.LlamaModel)
    for layer in model.layers:
        layer.self_attn.forward = wrapped(layer.self_attn)
    assert use_tanhmax(model) == LAYERS
    model = tiny_model(transformers.LlamaModel)
    model.layers[1].mlp = ChildSoftmax()
    model.layers[1].mlp.forward = wrapped(model.layers[1].mlp)
    with pytest.raises(ValueError, match=r"ChildSoftmax .*do not ask"):
        use_tanhmax(model)


def by_helper(module):
    module.helper = lambda x: module.q_proj(x)
    return module.forward


@pytest.mark.parametrize("wrapped", [*WRAPPERS, by_helper])
def test_a_model_that_was_read_can_be_freed(wrapped):
    model = tiny_model(transformers.LlamaModel)
    layer = model.layers[0].self_attn
    layer.forward = wrapped(layer)
    kept = weakref.ref(layer.q_proj.weight)
    use_tanhmax(model)
    restore(model)
    del model, layer
    gc.collect()
    assert kept() is None


def test_it_is_read_once_per_class(monkeypatch):
    first = attention_facts(Pooling())
    monkeypatch.setattr("hf_tanhmax.integration.detection.attention_facts.Reading", None)
    assert attention_facts(Pooling()) is first
    assert attention_facts(copy.deepcopy(Pooling())) is first


# In a model


def test_a_subclass_that_calls_its_parent_is_patched():
    model = tiny_model(transformers.LlamaModel)
    model.layers[1].self_attn.__class__ = Subclass
    assert use_tanhmax(model) == LAYERS
    assert attention_modules(model)[1] is model.layers[1].self_attn


def test_part_that_would_stay_softmax_is_named():
    model = tiny_model(transformers.LlamaModel)
    model.layers[1].mlp = ChildSoftmax()
    with pytest.raises(ValueError, match=r"part of 'llama' would stay softmax: ChildSoftmax .*do not ask.* or pass the part"):
        use_tanhmax(model)
    assert use_tanhmax(model, TanhMaxSettings(layers=[0])) == 1


def test_refused_arguments_are_read():
    module = Asking()
    assert attention_facts(module).refused == ()
    module.sinks = nn.Parameter(torch.zeros(2))
    assert attention_facts(module).refused == ("s_aux",)
    assert attention_facts(module).passes == {"s_aux"}
