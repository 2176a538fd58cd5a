"""What a forward method does with softmax and with the attention interface, read from its source without running it.

The code is followed with what is known before it runs: globals, methods, attributes that are None, and the names that a TanhMax config
gives for `_attn_implementation`. So a branch for `"eager"`, which no TanhMax module takes, is not followed, and a default that the
interface never falls back on is not called; what is not known is followed both ways. Of tensors it is known what they come from:

* `input`: an argument of forward, and what is computed from it. Parameters, buffers and masks have no tag;
* `scores`: a product of two inputs;
* `chosen`: some of an input's elements, the largest;
* `log`: a log-softmax, which is no value until it is raised to weights;
* `weights`: a softmax of scores or of an input, but not of what was chosen, which routes;
* `weighed`: weights times an input, before a sum.

**Attention** is a matrix product of weights and another input, or a sum of what is weighed. So a pooling whose learned softmax weighs its
tokens is attention; routers (`topk` takes weights away), output distributions, a softmax over parameters, and expected values of bins or of
a codebook are not. A softmax of scores is an attention map, whatever becomes of it.

Functions are followed where they are called by a name, kept by the module, taken from a table, or handed to another function, which may
call them with inputs. A softmax that is written out, as exponentials over their sum, is not seen.
"""

import __future__

import ast
import builtins
import dis
import functools
import inspect
import linecache
import operator
import re
import textwrap
import types
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import nn

INPUT, SCORES, CHOSEN, LOG, WEIGHTS, WEIGHED = "input", "scores", "chosen", "log", "weights", "weighed"
INPUTS = frozenset({INPUT})

# What is called, by its name in torch and in the libraries of attention kernels.
NORMALISING = frozenset({"softmax", "_softmax"})
ATTENDING = frozenset(
    {
        "scaled_dot_product_attention",
        "multi_head_attention_forward",
        "flex_attention",
        "compile_friendly_flex_attention",
        "flash_attn_func",
        "flash_attn_varlen_func",
        "flash_attn_qkvpacked_func",
        "flash_attn_with_kvcache",
        "_flash_attention_forward",
        "memory_efficient_attention",
    }
)
MULTIPLYING = frozenset({"matmul", "bmm", "mm", "mv", "baddbmm", "addbmm", "einsum", "tensordot"})
SUMMING = frozenset({"sum", "mean", "nansum"})
CHOOSING = frozenset({"topk", "sort", "max", "gumbel_softmax", "cumsum"})  # what they give weighs nothing any more
# What they give is no input: shapes, indices, masks.
UNTAGGED = frozenset({"shape", "size", "dtype", "device", "ndim", "dim", "numel", "len", "isinstance", "hasattr"}) | frozenset(
    {"argmax", "argmin", "argsort", "multinomial", "one_hot", "nonzero"}
)
ASKING = ("get_interface", "get", "__getitem__")
CONSTANTS = (type(None), bool, int, float, str, tuple)
COMPARISONS: dict[type, Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Is: operator.is_,
    ast.IsNot: operator.is_not,
    ast.In: lambda one, other: one in other,
    ast.NotIn: lambda one, other: one not in other,
}
DEPTH = 12  # of calls in calls that are followed
FUTURE = __future__.annotations.compiler_flag

ANYTHING, CONFIG, ASKED, SELF = object(), object(), object(), object()


class Value(NamedTuple):
    """Where a value comes from, what it may be, and its parts if it is a tuple."""

    tags: frozenset[str] = frozenset()
    options: tuple[object, ...] = (ANYTHING,)
    items: "tuple[Value, ...]" = ()


class Instance(NamedTuple):
    """A module: its class, and those of its attributes that are None, modules or functions."""

    cls: type
    state: tuple[tuple[str, object], ...] = ()


class Parent(NamedTuple):
    """What `super()` gives: the module, as a class that comes after `cls`."""

    instance: Instance
    cls: type


class Method(NamedTuple):
    """A function of a module's class, or the name of a method of the attention interface, with its owner; `SELF` is the module read."""

    owner: object
    function: object


class Frame(NamedTuple):
    """A function that is followed."""

    function: Any  # a types.FunctionType, which mypy would bind as a method
    variables: dict[str, Value]
    returned: list[Value]


class Local(NamedTuple):
    """A function that is defined in another."""

    arguments: ast.arguments
    body: list[ast.stmt]
    frame: Frame


def identity(option: object) -> object:
    """Equal for options that are the same object, or the same method of it."""
    return (id(option.owner), id(option.function)) if isinstance(option, Method) else id(option)


def union(values: Iterable[Value]) -> Value:
    """What is any of several values."""
    values = list(values)
    if len(values) == 1:
        return values[0]
    options = {identity(option): option for value in values for option in value.options}
    lengths = {len(value.items) for value in values}
    items = tuple(map(union, zip(*(value.items for value in values), strict=True))) if len(lengths) == 1 else ()
    return Value(tagged(values).tags, tuple(options.values()) or (ANYTHING,), items)


def tagged(values: Iterable[Value]) -> Value:
    """What is computed from several values."""
    return Value(frozenset().union(*(value.tags for value in values)))


def truth_of(value: Value) -> bool | None:
    """Whether a value is true; None if it is not known."""
    known = {bool(option) if isinstance(option, CONSTANTS) else None if option is ANYTHING else True for option in value.options}
    return known.pop() if len(known) == 1 else None


@dataclass
class Findings:
    """What was found in the code of a module, and what functions of tensors make of their arguments.

    Attributes:
        asks: it calls what the attention interface gives for `self.config._attn_implementation`.
        attends: it computes softmax attention itself: weights that are a softmax of scores.
        pools: it weighs inputs by a softmax of anything that depends on them.
        maps: it computes a softmax of scores, whatever becomes of it.
        normalises: it computes a softmax of an input.
        passes: names of the arguments that it hands to the interface, and that may be other than None.
    """

    asks: bool = False
    attends: bool = False
    pools: bool = False
    maps: bool = False
    normalises: bool = False
    passes: set[str] = field(default_factory=set)

    def result_of(self, option: object, name: str, values: list[Value]) -> Value:
        """What a function gives that is known by its name, or a module that is known by its class."""
        result = tagged(values)
        if name in ATTENDING or "scaled_dot_product" in name:
            self.attends = True
        scripted = isinstance(option, torch.jit.ScriptFunction) and "softmax" in str(option.code)
        if name in NORMALISING or scripted or (isinstance(option, Instance) and issubclass(option.cls, nn.Softmax)):
            return self.softmax(result)
        if name == "log_softmax" and INPUT in result.tags:
            return Value(result.tags - {INPUT} | {LOG})
        if name == "exp" and LOG in result.tags:
            return self.softmax(Value(result.tags - {LOG} | {INPUT}))
        if name in MULTIPLYING:
            return self.product(values)
        if name in ("mul", "multiply", "mul_"):
            return self.weighed(values)
        if name in SUMMING and WEIGHED in result.tags:
            self.pools = True
            self.attends |= SCORES in result.tags
        if name in CHOOSING:
            return Value(result.tags - {WEIGHTS, WEIGHED} | {CHOSEN})
        return Value() if name in UNTAGGED else result

    def softmax(self, value: Value) -> Value:
        """A softmax of parameters alone gives no weights."""
        if INPUT not in value.tags:
            return Value(value.tags)
        self.normalises = True
        self.maps |= SCORES in value.tags
        return Value(value.tags | {WEIGHTS} if SCORES in value.tags or CHOSEN not in value.tags else value.tags)

    def product(self, values: list[Value]) -> Value:
        """A matrix product, also of the items of a list."""
        values = [each for value in values for each in value.items or (value,)]
        inputs = [value for value in values if INPUT in value.tags]
        tags = tagged(values).tags
        if len(inputs) < 2:
            return Value(tags - {WEIGHTS, WEIGHED})
        if WEIGHTS in tags and any(WEIGHTS not in value.tags for value in inputs):
            self.pools = True
            self.attends |= any({WEIGHTS, SCORES} <= value.tags for value in inputs)
        return Value(tags - {WEIGHTS, WEIGHED} | {SCORES})

    def weighed(self, values: list[Value]) -> Value:
        """An elementwise product."""
        tags = tagged(values).tags
        if WEIGHTS in tags and any(INPUT in value.tags and WEIGHTS not in value.tags for value in values):
            tags |= {WEIGHED}
        return Value(tags)


def tree_of(code: types.CodeType) -> ast.FunctionDef | None:
    """The syntax of a function, or None where its source is not to be had, or has changed since it was compiled."""
    return _tree_of(code, code.co_filename)  # which code objects do not compare


@functools.lru_cache(maxsize=4096)
def _tree_of(code: types.CodeType, filename: str) -> ast.FunctionDef | None:
    # `inspect.getsource` would look through every imported module for the one that holds the code.
    source = textwrap.dedent("".join(inspect.getblock(linecache.getlines(filename)[code.co_firstlineno - 1 :])))
    try:
        tree = ast.parse(source).body
        # Alone, a function has no variables of an outer one to rebind.
        compiled = compile(
            re.sub(r"(?m)^(\s*)nonlocal\b", r"\1global", source), filename, "exec", code.co_flags & FUTURE, dont_inherit=True
        )
    except SyntaxError:
        return None
    fits = any(_words(each) == _words(code) for each in compiled.co_consts if isinstance(each, types.CodeType))
    return tree[0] if fits and isinstance(tree[0], ast.FunctionDef) and tree[0].name == code.co_name else None


def _words(code: types.CodeType) -> set[str]:
    """Names and constants in a code object and in those inside of it, as they stand in its source."""
    names = [*code.co_names, *code.co_varnames, *code.co_freevars, *code.co_cellvars]
    found = {name.rpartition("__")[2] for name in names} - {""}  # without the class that Python puts before private names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            found |= _words(constant)
        elif "<locals>" not in str(constant):  # the name of an inner function, which says where it stood
            found.add("".join(str(constant).split()))
    return found


def names_of(code: types.CodeType) -> tuple[list[str], list[str]]:
    """Names in a code object and in those inside of it; then names of keywords of its calls, and "@" where it multiplies matrices."""
    names, others = list(code.co_names), []
    for instruction in dis.get_instructions(code):
        if instruction.opname == "BINARY_MATRIX_MULTIPLY" or (instruction.opname == "BINARY_OP" and "@" in instruction.argrepr):
            others.append("@")
    for constant in code.co_consts:
        if isinstance(constant, tuple):
            others += [each for each in constant if isinstance(each, str)]
        if isinstance(constant, types.CodeType):
            inner = names_of(constant)
            names, others = names + inner[0], others + inner[1]
    return list(dict.fromkeys(names)), others


def bind_arguments(
    arguments: ast.arguments, args: list[Value], keywords: dict[str, Value], defaults: dict[str, object]
) -> dict[str, Value]:
    """The variables that a call begins with. Where a call has `*` or `**`, any argument may come from there."""
    positional = [each.arg for each in [*arguments.posonlyargs, *arguments.args]]
    names = [*positional, *(each.arg for each in arguments.kwonlyargs)]
    rest = keywords.get("**")
    variables = {name: Value(options=(defaults[name],)) if name in defaults else Value() for name in names}
    if rest is not None:
        variables = {name: Value() if "mask" in name else Value(rest.tags) for name in names}
    variables |= dict(zip(positional, args, strict=False)) | {name: value for name, value in keywords.items() if name in names}
    spare = [Value() if "mask" in name else value for name, value in keywords.items() if name not in names]
    if arguments.vararg:
        extra = tuple(args[len(positional) :])
        variables[arguments.vararg.arg] = Value(tagged([*extra, *([rest] if rest else [])]).tags, items=extra)
    if arguments.kwarg:
        variables[arguments.kwarg.arg] = tagged(spare)
    return variables


def defaults_of(function: types.FunctionType) -> dict[str, object]:
    """The default of each parameter that has one."""
    parameters = inspect.signature(function, follow_wrapped=False).parameters.values()
    return {each.name: each.default for each in parameters if each.default is not each.empty}


def of_torch(function: object) -> bool:
    """Whether a function or class is PyTorch's own."""
    return (getattr(function, "__module__", None) or "").partition(".")[0] == "torch"


def unbound(function: object) -> object:
    """A bound method, a partial or an object as the function that it calls and what comes before its arguments, without holding them."""
    while isinstance(function, types.MethodType | functools.partial):
        if isinstance(function, functools.partial):
            first, function = function.args[:1], function.func
        else:
            first, function = (function.__self__,), function.__func__
        if first and isinstance(function, types.FunctionType):
            return Method(SELF if isinstance(first[0], nn.Module) else ANYTHING, function)
    call = type(function).__call__
    if isinstance(call, types.FunctionType) and not of_torch(call) and not isinstance(function, nn.Module | type):
        return Method(ANYTHING, call)
    return function


def attribute_in(classes: Iterable[type], owner: Instance, name: str) -> object:
    """An attribute of a module that the first of several classes has."""
    for cls in classes:
        if name in vars(cls):
            found = vars(cls)[name]
            function = getattr(found, "fget", None) or getattr(found, "__func__", found)
            if not callable(function) or isinstance(function, type):
                return found if found is None or isinstance(found, bool | str) else ANYTHING
            if of_torch(function):
                return ANYTHING
            return function if isinstance(found, staticmethod) else Method(owner, function)
    return ANYTHING


def entries(table: dict[object, object], key: object) -> tuple[object, ...]:
    """What a table may hold for a key."""
    known = isinstance(key, CONSTANTS) and dict.__contains__(table, key)
    return (dict.__getitem__(table, key),) if known else tuple(filter(callable, dict.values(table))) or (ANYTHING,)


def is_property(owner: object, name: str) -> bool:
    """Whether an attribute of a module is computed when it is read."""
    return isinstance(owner, Instance) and isinstance(inspect.getattr_static(owner.cls, name, None), property)


def parent(frame: Frame, args: list[Value]) -> object:
    """What `super` gives inside of a function."""
    function = frame.function
    if len(args) == 2:
        cls, instance = args[0].options[0], args[1].options[0]
    else:
        cells = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
        cls = cells["__class__"].cell_contents if "__class__" in cells else None
        instance = next(iter(frame.variables.values()), Value()).options[0]
    if not isinstance(instance, Instance):
        return ANYTHING
    return Parent(instance, cls if isinstance(cls, type) else instance.cls)


def global_of(function: types.FunctionType, name: str) -> object:
    """What a name means in a function, other than its variables."""
    cells = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
    if name in cells:
        try:
            return cells[name].cell_contents
        except ValueError:  # not filled yet
            return ANYTHING
    return function.__globals__.get(name, getattr(builtins, name, ANYTHING))
