"""Follows the statements of a forward method and of the functions that it calls, without running them.

`dataflow` says what is known of a value, and what counts as attention.
"""

import ast
import functools
import inspect
import types

import torch
from torch import nn
from transformers import AttentionInterface

from .dataflow import (
    ANYTHING,
    ASKED,
    ASKING,
    ATTENDING,
    COMPARISONS,
    CONFIG,
    CONSTANTS,
    DEPTH,
    INPUTS,
    MULTIPLYING,
    SELF,
    SUMMING,
    UNTAGGED,
    WEIGHTS,
    Findings,
    Frame,
    Instance,
    Local,
    Method,
    Parent,
    Value,
    attribute_in,
    bind_arguments,
    defaults_of,
    entries,
    global_of,
    identity,
    is_property,
    names_of,
    of_torch,
    parent,
    tagged,
    tree_of,
    truth_of,
    unbound,
    union,
)

UNKNOWN = ast.Name("", ast.Load())  # a test that may be true or false
CALLED = (Local, Method, types.FunctionType, types.MethodType, types.BuiltinFunctionType, functools.partial)


class Reading:
    """One pass over the code that a module's forward runs.

    Args:
        instance: the module.
        labels: what its config may answer for `_attn_implementation`.

    Attributes:
        found: what was found.
    """

    def __init__(self, instance: Instance, labels: tuple[str, ...]) -> None:
        self.instance, self.labels, self.found = instance, labels, Findings()
        self._active: list[object] = []
        self._results: dict[object, tuple[Value, object]] = {}

    def follow(self, function: object) -> Value:
        """What a function or method gives for inputs as all of its arguments."""
        return self._apply(function, "forward", Value(), [], {"**": Value(INPUTS)})

    # Calls

    def _call(self, node: ast.Call, frame: Frame) -> Value:
        args: list[Value] = []
        rest: list[Value] = []
        for each in node.args:
            value = self._value(each, frame)
            if isinstance(each, ast.Starred):
                args += value.items
                rest.append(Value(value.tags))
            else:
                args.append(value)
        keywords = {each.arg or "**": self._value(each.value, frame) for each in node.keywords}
        if rest:
            keywords["**"] = tagged([*rest, *([keywords["**"]] if "**" in keywords else [])])
        owner, name = Value(), getattr(node.func, "id", "")
        if isinstance(node.func, ast.Attribute):
            owner, name = self._value(node.func.value, frame), node.func.attr
            callee = self._member(owner, name)
            if name in ("append", "extend", "insert") or (name.endswith("_") and not name.startswith("_")):  # changes its owner
                self._assign(node.func.value, union([owner, tagged(args)]), frame)
        else:
            callee = self._value(node.func, frame)
        return union(self._apply(option, name, owner, args, keywords, frame) for option in callee.options)

    def _apply(
        self, option: object, name: str, owner: Value, args: list[Value], keywords: dict[str, Value], frame: Frame | None = None
    ) -> Value:
        option = unbound(option)
        if isinstance(option, Method):
            if isinstance(option.owner, AttentionInterface):
                return self._ask(args[0]) if option.function in ASKING and args else Value()
            args, option = [Value(options=(self.instance if option.owner is SELF else option.owner,)), *args], option.function
        everything = [owner, *args, *keywords.values()]
        if option is ASKED:
            self.found.asks = True
            self.found.passes |= {key for key, value in keywords.items() if any(known is not None for known in value.options)}
            return Value(INPUTS)
        if isinstance(option, type) and issubclass(option, nn.Module):  # made where it is called
            return Value(options=(Instance(option),))
        if option is super and frame is not None:
            return Value(options=(parent(frame, args),))
        if option is getattr and len(args) > 1 and isinstance(args[1].options[0], str):
            return self._member(args[0], args[1].options[0], args[2:])
        if isinstance(option, Local):
            variables = {**option.frame.variables, **bind_arguments(option.arguments, args, keywords, {})}
            return self._run(option.body, option.body, Frame(option.frame.function, variables, []), everything)
        if isinstance(option, types.FunctionType) and not of_torch(option):
            self.found.attends |= name in ATTENDING or option.__name__ in ATTENDING
            tree = tree_of(option.__code__)
            if tree is None:
                return self._unread(option, everything)
            variables = bind_arguments(tree.args, args, keywords, defaults_of(option))
            return self._run(option, tree.body, Frame(option, variables, []), everything)
        result = self.found.result_of(option, name if option is ANYTHING else getattr(option, "__name__", name), everything)
        handed = [each for value in (*args, *keywords.values()) for each in value.options if each is ASKED or isinstance(each, CALLED)]
        given = [self._apply(each, "", Value(), [], {**keywords, "**": Value(INPUTS)}) for each in handed]
        return union([result, tagged(given)]) if given else result

    def _run(self, key: object, body: list[ast.stmt], frame: Frame, everything: list[Value]) -> Value:
        """Follow a function, unless it is being followed already."""
        if any(key is active for active in self._active) or len(self._active) >= DEPTH:
            return tagged(everything)
        given = dict(frame.variables)
        call = (id(key), *((name, value.tags, *map(identity, value.options)) for name, value in given.items()))
        if call not in self._results:
            self._active.append(key)
            self._block(body, frame)
            self._active.pop()
            result = union(frame.returned) if frame.returned else tagged(everything)
            self._results[call] = result, given  # kept alive, as the key names objects by their ids
        return self._results[call][0]

    def _ask(self, label: Value) -> Value:
        """What the interface gives: TanhMax for the name that a TanhMax config answers, and softmax for any other."""
        if all(isinstance(option, str) and option in self.labels for option in label.options):
            return Value(options=(ASKED,))
        self.found.attends = True
        return Value(INPUTS)

    def _unread(self, function: types.FunctionType, everything: list[Value]) -> Value:
        """A function without source is taken to do all that it names, but to call a default that it hands to the interface."""
        if any(function is active for active in self._active):
            return tagged(everything)
        self._active.append(function)
        names, others = names_of(function.__code__)
        known = {name: global_of(function, name) for name in names}
        asks = any(isinstance(each, AttentionInterface) for each in known.values())
        self.found.asks |= asks and "_attn_implementation" in names
        self.found.attends |= asks and "_attn_implementation" not in names
        above = parent(Frame(function, {"self": Value(options=(self.instance,))}, []), []) if "super" in names else ANYTHING
        softmaxes = {"Softmax": "softmax", "log_softmax": "softmax" if "exp" in names else "log_softmax"}
        for name, each in known.items():
            members = [option for owner in (self.instance, above) for option in self._member(Value(options=(owner,)), name).options]
            self.found.passes |= {name} if asks and name in others and None not in members else set()
            default = asks and isinstance(each, types.FunctionType) and next(iter(inspect.signature(each).parameters), "") == "module"
            applied = self._attribute(each, "apply", None).options if isinstance(each, type) else ()
            for option in [*([] if default else [each]), *members, *applied]:
                if isinstance(option, Method | types.FunctionType):
                    self._apply(option, name, Value(), [], {"**": Value(INPUTS)})
                elif self.found.result_of(
                    option, softmaxes.get(called := getattr(option, "__name__", name), called), [Value(INPUTS)]
                ).tags >= {WEIGHTS}:
                    self.found.pools |= not MULTIPLYING.union(SUMMING, "@").isdisjoint([*names, *others])
        self.found.passes |= {name for name in others if asks and name not in known and name.isidentifier()}
        self._active.pop()
        return tagged(everything)

    # Statements; each says whether what follows it is not reached

    def _block(self, statements: list[ast.stmt], frame: Frame) -> bool:
        return any(self._statement(statement, frame) for statement in statements)

    def _statement(self, node: ast.stmt, frame: Frame) -> bool:
        if isinstance(node, ast.Return | ast.Raise | ast.Break | ast.Continue):
            if isinstance(node, ast.Return):
                frame.returned.append(self._value(node.value, frame) if node.value else Value(options=(None,)))
            return True
        if isinstance(node, ast.If):
            truth = truth_of(self._value(node.test, frame))
            if truth is not None:
                return self._block(node.body if truth else node.orelse, frame)
            return self._branches([node.body, node.orelse], frame)
        if isinstance(node, ast.For | ast.While):
            if isinstance(node, ast.For):
                self._assign(node.target, Value(self._value(node.iter, frame).tags), frame)
            for _ in range(2):  # what one turn leaves is what the next begins with
                self._branches([node.body, []], frame)
            self._block(node.orelse, frame)
        elif isinstance(node, ast.With):
            for item in node.items:
                value = self._value(item.context_expr, frame)
                if item.optional_vars:
                    self._assign(item.optional_vars, value, frame)
            return self._block(node.body, frame)
        elif isinstance(node, ast.Try):
            tried = ast.If(UNKNOWN, node.body, [])  # a handler begins wherever the body failed, also before its return
            ends = self._branches([[*node.body, *node.orelse], *([tried, *each.body] for each in node.handlers)], frame)
            return self._block(node.finalbody, frame) or ends
        elif isinstance(node, ast.Match):
            self._branches([[], *(case.body for case in node.cases)], frame)
        elif isinstance(node, ast.FunctionDef):
            frame.variables[node.name] = Value(options=(Local(node.args, node.body, frame),))
        elif isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign):
            self._assignment(node, frame)
        elif isinstance(node, ast.Expr):
            self._value(node.value, frame)
        return False

    def _branches(self, blocks: list[list[ast.stmt]], frame: Frame) -> bool:
        """object of several blocks is run."""
        before, after = dict(frame.variables), []
        for block in blocks:
            frame.variables.clear()
            frame.variables.update(before)
            if not self._block(block, frame) or any(isinstance(each, ast.Break | ast.Continue) for each in ast.walk(ast.Module(block, []))):
                after.append(dict(frame.variables))
        frame.variables.clear()
        for name in {name: None for variables in after for name in variables}:
            frame.variables[name] = union(variables[name] for variables in after if name in variables)
        return not after

    def _assignment(self, node: ast.Assign | ast.AnnAssign | ast.AugAssign, frame: Frame) -> None:
        if isinstance(node, ast.AugAssign):
            value = self._operation(node.op, [self._value(node.target, frame), self._value(node.value, frame)])
        elif node.value is None:
            return
        else:
            value = self._value(node.value, frame)
        for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
            self._assign(target, value, frame)

    def _assign(self, target: ast.expr, value: Value, frame: Frame) -> None:
        if isinstance(target, ast.Tuple | ast.List):
            items = value.items if len(value.items) == len(target.elts) else [Value(value.tags)] * len(target.elts)
            for each, item in zip(target.elts, items, strict=True):
                self._assign(each, item, frame)
        elif isinstance(target, ast.Subscript):  # changes a part
            self._assign(target.value, union([self._value(target.value, frame), Value(value.tags)]), frame)
        elif isinstance(target, ast.Starred):
            self._assign(target.value, value, frame)
        elif isinstance(target, ast.Name | ast.Attribute):
            frame.variables[ast.unparse(target)] = value

    # Expressions

    def _value(self, node: ast.AST, frame: Frame) -> Value:
        if isinstance(node, ast.Constant):
            return Value(options=(node.value,))
        if isinstance(node, ast.Name):
            return frame.variables.get(node.id) or Value(options=(global_of(frame.function, node.id),))
        if isinstance(node, ast.Attribute):
            return frame.variables.get(ast.unparse(node)) or self._member(self._value(node.value, frame), node.attr)
        if isinstance(node, ast.Call):
            return self._call(node, frame)
        if isinstance(node, ast.BinOp):
            return self._operation(node.op, [self._value(node.left, frame), self._value(node.right, frame)])
        if isinstance(node, ast.Compare):
            return self._comparison(node, frame)
        if isinstance(node, ast.BoolOp):
            return self._logical(node, frame)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            truth = truth_of(self._value(node.operand, frame))
            return Value(options=(ANYTHING if truth is None else not truth,))
        if isinstance(node, ast.IfExp):
            truth = truth_of(self._value(node.test, frame))
            chosen = [node.body, node.orelse] if truth is None else [node.body if truth else node.orelse]
            return union(self._value(each, frame) for each in chosen)
        if isinstance(node, ast.Tuple | ast.List):
            items = tuple(self._value(each, frame) for each in node.elts)
            known = all(len(item.options) == 1 and isinstance(item.options[0], CONSTANTS) for item in items)
            starred = any(isinstance(each, ast.Starred) for each in node.elts)
            options = (tuple(item.options[0] for item in items),) if known else (ANYTHING,)
            return Value(tagged(items).tags, options, () if starred else items)
        if isinstance(node, ast.Subscript):
            return self._part(node, frame)
        if isinstance(node, ast.Starred):
            return self._value(node.value, frame)
        if isinstance(node, ast.NamedExpr):
            self._assign(node.target, value := self._value(node.value, frame), frame)
            return value
        if isinstance(node, ast.Lambda):
            return Value(options=(Local(node.args, [ast.Return(node.body)], frame),))
        if isinstance(node, ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp):
            for generator in node.generators:
                self._assign(generator.target, Value(self._value(generator.iter, frame).tags), frame)
        return tagged(self._value(each, frame) for each in ast.iter_child_nodes(node) if isinstance(each, ast.expr))

    def _member(self, owner: Value, name: str, default: list[Value] | None = None) -> Value:
        """An attribute of a value, or what `getattr` gives instead."""
        found = [self._attribute(option, name, default) for option in owner.options]
        return Value(frozenset() if name in UNTAGGED else owner.tags | union(found).tags, union(found).options)

    def _attribute(self, owner: object, name: str, default: list[Value] | None) -> Value:
        if owner is CONFIG:
            return Value(options=self.labels if name == "_attn_implementation" else (ANYTHING,))
        if isinstance(owner, AttentionInterface):
            return default[0] if default else Value(options=(Method(owner, name),))  # it has no attributes but methods
        if isinstance(owner, Instance):
            state = dict(owner.state)
            if name == "config":
                return Value(options=(CONFIG if owner is self.instance else ANYTHING,))
            found = state[name] if name in state else attribute_in(owner.cls.__mro__, owner, name)
            if isinstance(found, Method) and is_property(owner, name):
                return self._apply(found, name, Value(), [], {})
            return Value(options=(found,))
        if isinstance(owner, Parent):
            order = owner.instance.cls.__mro__
            return Value(options=(attribute_in(order[order.index(owner.cls) + 1 :] if owner.cls in order else (), owner.instance, name),))
        if isinstance(owner, type) and issubclass(owner, torch.autograd.Function) and name == "apply":
            return Value(options=(Method(ANYTHING, inspect.getattr_static(owner, "forward").__func__),))
        if isinstance(owner, types.ModuleType):
            return Value(options=(vars(owner).get(name, ANYTHING),))
        if isinstance(owner, type):
            found = inspect.getattr_static(owner, name, ANYTHING)
            return Value(options=(getattr(found, "__func__", found),))
        return Value()

    def _operation(self, operation: ast.operator, values: list[Value]) -> Value:
        if isinstance(operation, ast.MatMult):
            return self.found.product(values)
        return self.found.weighed(values) if isinstance(operation, ast.Mult) else tagged(values)

    def _comparison(self, node: ast.Compare, frame: Frame) -> Value:
        """True or False where both sides are known. A mask has no tag."""
        left, right = self._value(node.left, frame), self._value(node.comparators[0], frame)
        compare = COMPARISONS.get(type(node.ops[0])) if len(node.ops) == 1 else None
        if compare is None:
            return Value()
        results: set[object] = set()
        for one in left.options:
            for other in right.options:
                comparable = isinstance(one, CONSTANTS) and isinstance(other, CONSTANTS)
                if isinstance(node.ops[0], ast.In | ast.NotIn):
                    comparable = isinstance(other, tuple) or (isinstance(one, str) and isinstance(other, str))
                    comparable &= isinstance(one, CONSTANTS)
                elif other is None:
                    comparable = one is not ANYTHING
                results.add(compare(one, other) if comparable else ANYTHING)
        return Value(options=tuple(results))

    def _logical(self, node: ast.BoolOp, frame: Frame) -> Value:
        """`and` and `or`, as far as they are evaluated."""
        decisive = isinstance(node.op, ast.Or)
        values: list[Value] = []
        for each in node.values:
            value = self._value(each, frame)
            truth = truth_of(value)
            if truth is decisive:
                return value if not values or isinstance(node.op, ast.And) else union([*values, value])
            if truth is None or each is node.values[-1]:
                values.append(value)
        return union(values)

    def _part(self, node: ast.Subscript, frame: Frame) -> Value:
        owner, index = self._value(node.value, frame), self._value(node.slice, frame)
        if any(isinstance(option, AttentionInterface) for option in owner.options):
            return self._ask(index)
        position = index.options[0]
        if owner.items and isinstance(position, int) and -len(owner.items) <= position < len(owner.items):
            return owner.items[position]
        held = [each for option in owner.options if isinstance(option, dict) for each in entries(option, position)]
        held += [option for option in owner.options if isinstance(option, Instance)]  # of a list of modules
        return Value(owner.tags, tuple(held) or (ANYTHING,))
