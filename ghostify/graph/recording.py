"""Graphs of what a network really calls when it is run: no control flow, type check or container stops a recording."""

import dataclasses
import inspect
import operator
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from ..common.calls import Arguments
from .tracked_numbers import Tracked, plain, tracked

SingleNode = Callable[[nn.Module], bool]


class UnrecordableError(Exception):
    """What a network does can't be written as a graph."""


def record(
    root: nn.Module, arguments: Arguments, is_single: SingleNode, twins: Mapping[int, str]
) -> tuple[fx.Graph, nn.Module]:
    """The graph of one call of a module's forward method, and the module that holds the constants which the graph reads.

    Modules for which ``is_single`` is true become nodes. All others are gone into, and so are modules that do not belong to
    ``root``, as those that a forward method makes: what they call are nodes. Sizes, and what is computed from them, are nodes
    as well, so that the graph runs for other batch sizes.

    Args:
        root: in evaluation mode; it is run once.
        arguments: of its forward method.
        is_single: whether a module of ``root`` is a node of the graph.
        twins: the names, in ``root``, that stand for modules of another network, by their ``id``: a closure may hold these.

    Raises:
        UnrecordableError: what it does can't be written as a graph.
        Exception: of any kind, from the network's own code.
    """
    recorder = _Recorder(root, is_single, twins)
    with torch.no_grad(), _calls_through(recorder):
        args, kwargs = recorder.placeholders(arguments)
        with recorder:
            output = root.forward(*args, **kwargs)
    return recorder.finish(output), recorder.constants


def setitem_(values: Any, index: Any, value: Any) -> Any:
    """Change some values of a tensor in place, and give the tensor."""
    values[index] = value
    return values


def _shared(value: Any, change: Any) -> Any:
    """A value whose memory another node has changed. No finished graph has such nodes: values are held one by one there."""
    return value


_OPERATORS = {  # methods that operators call, as torch.fx writes them
    **{
        name: getattr(operator, name)
        for name in ["add", "sub", "mul", "neg", "matmul", "pow", "lt", "le", "gt", "ge", "eq", "ne"]
    },
    "div": operator.truediv,
    "true_divide": operator.truediv,
    "remainder": operator.mod,
    "__floordiv__": operator.floordiv,
    "__getitem__": operator.getitem,
}
_SWAPPED = {
    "__rsub__": operator.sub,
    "__rdiv__": operator.truediv,
    "__rpow__": operator.pow,
    "__rfloordiv__": operator.floordiv,
}
_SIZES = ("size", "numel")  # methods that give whole numbers, which other inputs change
_VALUES = (  # methods that give numbers of what a tensor holds: a graph that knows them is one of these inputs alone
    *("__bool__", "__int__", "__float__", "__index__", "__complex__", "__contains__", "__array__"),
    *("item", "tolist", "numpy", "equal", "allclose", "is_nonzero"),
)
_SETTABLE = ("requires_grad", "grad", "grad_fn", "names")  # attributes that have no effect on values


class _Recorder(TorchFunctionMode):
    """Notes what is called on the tensors that follow from the arguments of a module.

    Args:
        root, is_single, twins: as of :func:`record`.
    """

    def __init__(self, root: nn.Module, is_single: SingleNode, twins: Mapping[int, str]):
        super().__init__()
        self.root, self.is_single = root, is_single
        self.graph, self.constants = fx.Graph(), nn.Module()
        self.modules = dict(root.named_modules())
        self.names = {**twins, **{id(module): name for name, module in self.modules.items()}}
        self.attributes = {id(tensor): name for name, tensor in _attributes(root)}
        self.tensors: dict[int, tuple[weakref.ref[Tensor], fx.Node]] = {}
        self.objects: dict[int, tuple[object, fx.Node]] = {}  # of other kinds; held, so that no other gets its id
        self.read: dict[int, tuple[Tensor, fx.Node]] = {}  # parameters, buffers and constants
        self.sizes: set[fx.Node] = set()  # nodes that read a size, and no values
        self.around: list[str] = []  # names of the modules whose code is running
        self.is_paused = False
        self.is_finished = False
        self.thread = threading.get_ident()

    # ---- what is called

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        args_now, kwargs_now = _mapped(args, plain), _mapped(kwargs, plain)
        if self.is_paused:
            return func(*args_now, **kwargs_now)
        versions = _versions((args, kwargs))
        result = func(*args_now, **kwargs_now)
        return self._function(func, args, kwargs, result, versions)

    def module(self, call: Callable[..., Any], module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A module is called: it becomes a node, or what it calls does."""
        name = self.names.get(id(module))
        if self.is_paused or self.is_finished or threading.get_ident() != self.thread or not name:
            return call(module, *args, **kwargs)
        module = self.modules[name]
        if not self.is_single(module):
            self.around.append(name)
            try:
                return call(module, *args, **kwargs)
            finally:
                self.around.pop()
        self.is_paused = True
        try:
            return self._single(call, module, name, *_positional(args, kwargs))
        finally:
            self.is_paused = False

    def _single(
        self, call: Callable[..., Any], module: nn.Module, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        versions = _versions((args, kwargs))
        result = call(module, *_mapped(args, plain), **_mapped(kwargs, plain))
        node = self._node("call_module", name, args, kwargs)
        self._note_changes(node, versions, result)
        return self._noted(result, node)

    def placeholders(self, arguments: Arguments) -> Arguments:
        """Note the arguments of the forward method: a placeholder for each that it may have."""
        args, kwargs = arguments
        bound = inspect.signature(self.root.forward).bind(*args, **kwargs)
        bound.apply_defaults()
        for name, value in bound.arguments.items():
            self._noted(value, self.graph.placeholder(name))
        return bound.args, bound.kwargs

    def finish(self, output: object) -> fx.Graph:
        """The graph, with the output and without nodes that nothing reads."""
        self.graph.output(self._argument(output))
        self.is_finished = True
        for node in reversed(self.graph.nodes):
            if not node.users and node.op not in ("placeholder", "output", "call_module"):
                self.graph.erase_node(node)
        if any(node.target is _shared for node in self.graph.nodes):
            raise UnrecordableError("reads values through memory that others changed in place")
        return self.graph

    # ---- functions

    def _function(self, func: Any, args: Any, kwargs: Any, result: Any, versions: dict[int, tuple[Tensor, int]]) -> Any:
        name = getattr(func, "__name__", "")
        if name in ("__set__", "__delete__"):
            if func.__self__.__name__ not in _SETTABLE:
                raise UnrecordableError(f"sets {func.__self__.__name__} of a tensor")
            return result
        if name in _VALUES and any(self._is_data(one) for one in args):
            raise UnrecordableError(f"{name} reads the values of its maps")
        is_size = isinstance(result, torch.Size) or (name in _SIZES and isinstance(result, int))
        if is_size and not self._follows(args[0]):
            return result
        if not (is_size or _changed(versions) or _has_tensors(result)):
            return result
        node = self._function_node(func, name, args, kwargs)
        if is_size:
            self.sizes.add(node)
        self._note_changes(node, versions, result)
        if name == "__iter__":
            return iter([self._noted(value, self._function_at(operator.getitem, node, i)) for i, value in enumerate(result)])
        return self._noted(result, node)

    def _function_node(self, func: Any, name: str, args: Any, kwargs: Any) -> fx.Node:
        """The node of a function, as torch.fx would write it."""
        if name == "__get__":
            return self._node("call_function", getattr, (args[0], func.__self__.__name__), {})
        if name == "__setitem__":
            return self._node("call_function", setitem_, args, kwargs)
        if not (isinstance(args[0] if args else None, Tensor) and _is_method(func, name)):
            return self._node("call_function", func, args, kwargs)
        if name in _OPERATORS and not kwargs and len(args) <= 2:
            return self._node("call_function", _OPERATORS[name], args, {})
        if name in _SWAPPED:
            return self._node("call_function", _SWAPPED[name], (args[1], args[0]), {})
        return self._node("call_method", name, args, kwargs)

    def _number(self, function: Callable[..., Any], args: tuple[Any, ...], result: Any) -> Any:
        """Arithmetic on tracked numbers."""
        if self.is_finished or self.is_paused:
            return result
        return tracked(result, self._node("call_function", function, args, {}), self._number)

    def _node(self, op: str, target: Any, args: Any, kwargs: Any) -> fx.Node:
        node = self.graph.create_node(op, target, self._argument(tuple(args)), self._argument(dict(kwargs)))
        node.meta["nn_module_stack"] = {name: (name, type(self.modules[name])) for name in self.around}
        return node

    def _function_at(self, function: Callable[..., Any], node: fx.Node, key: Any) -> fx.Node:
        return self.graph.call_function(function, (node, key))

    # ---- values

    def _noted(self, value: Any, node: fx.Node) -> Any:
        """Note that a node gives a value, and what lies in it; numbers become tracked ones where they are sizes."""
        if isinstance(value, Tensor):
            self.tensors[id(value)] = weakref.ref(value), node
        elif isinstance(value, torch.Size):
            return torch.Size(
                [tracked(n, self._function_at(operator.getitem, node, i), self._number) for i, n in enumerate(value)]
            )
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            return tracked(value, node, self._number) if node.op in ("call_method", "call_function") else value
        elif isinstance(value, (tuple, list)):
            for i, one in enumerate(value):
                if _has_tensors(one):
                    self._noted(one, self._function_at(operator.getitem, node, i))
        elif isinstance(value, Mapping):
            if type(value) is not dict:
                self.objects[id(value)] = value, node
            for key, one in value.items():
                if _has_tensors(one):
                    self._noted(one, self._function_at(operator.getitem, node, key))
        elif hasattr(value, "__dict__") and not isinstance(value, (type, nn.Module)):
            self.objects[id(value)] = value, node
            for key, one in vars(value).items():
                if _has_tensors(one):
                    self._noted(one, self._function_at(getattr, node, key))
        return value

    def _note_changes(self, node: fx.Node, versions: dict[int, tuple[Tensor, int]], result: object) -> None:
        """Whoever reads a tensor that a node has changed in place, or another of the same memory, reads it after that node."""
        for tensor in _changed(versions):
            before = self._known(tensor)
            if before is None:
                raise UnrecordableError("changes its parameters or buffers in place")
            storage = tensor.untyped_storage()._cdata
            for key, (reference, earlier) in list(self.tensors.items()):
                alias = reference()
                if alias is None:
                    del self.tensors[key]
                elif alias is not result and alias.untyped_storage()._cdata == storage:
                    is_changed_itself = alias is tensor and node.target is setitem_
                    after = node if is_changed_itself else self.graph.call_function(_shared, (earlier, node))
                    self.tensors[key] = reference, after

    def _known(self, tensor: Tensor) -> fx.Node | None:
        """The node of a tensor that follows from the arguments, or was made by a function."""
        reference, node = self.tensors.get(id(tensor), (None, None))
        return node if reference is not None and reference() is tensor else None

    def _follows(self, value: object) -> bool:
        return isinstance(value, Tensor) and self._known(value) is not None

    def _is_data(self, value: object) -> bool:
        """Whether the values of a tensor depend on the arguments, and not on their sizes alone."""
        node = self._known(value) if isinstance(value, Tensor) else None
        ahead, seen = [node] if node is not None else [], set[fx.Node]()
        while ahead:
            node = ahead.pop()
            if node.op == "placeholder":
                return True
            if node not in self.sizes and node not in seen:
                seen.add(node)
                ahead += node.all_input_nodes
        return False

    def _argument(self, value: Any) -> Any:
        """A value as an argument of a node."""
        if isinstance(value, Tensor):
            return self._known(value) or self._constant(value)
        if isinstance(value, Tracked):
            return value.node if value.node.graph is self.graph else plain(value)
        if id(value) in self.objects:
            return self.objects[id(value)][1]
        if dataclasses.is_dataclass(value) and not isinstance(value, type) and _has_tensors(value):
            fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value) if field.init}
            kwargs = {name: self._argument(one) for name, one in fields.items() if one is not None}
            return self.graph.call_function(type(value), (), kwargs)
        if isinstance(value, slice):
            return slice(*(self._argument(one) for one in (value.start, value.stop, value.step)))
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            return type(value)(*(self._argument(one) for one in value))
        if isinstance(value, (tuple, list)):
            items = [self._argument(one) for one in value]
            return items if isinstance(value, list) else tuple(items)
        if isinstance(value, Mapping):
            return {key: self._argument(one) for key, one in value.items()}
        if not isinstance(value, (type, nn.Module)) and _has_tensors(value):
            raise UnrecordableError(f"hands on a {type(value).__name__} that holds tensors")
        return value

    def _constant(self, tensor: Tensor) -> fx.Node:
        """The node that reads a parameter, a buffer, or a tensor that comes from anywhere else."""
        held, node = self.read.get(id(tensor), (None, None))
        if held is not tensor or node is None:
            name = self.attributes.get(id(tensor))
            if name is None:
                name = f"_tensor_constant{len(self.read)}"
                setattr(self.constants, name, tensor)
            node = self.graph.create_node("get_attr", name)
            self.read[id(tensor)] = tensor, node
        return node


def _attributes(root: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The parameters, buffers and other tensors of the modules of a network, by their names."""
    for name, module in root.named_modules():
        prefix = f"{name}." if name else ""
        plain_attributes = {key: value for key, value in vars(module).items() if isinstance(value, Tensor)}
        for key, value in (plain_attributes | {**module._buffers, **module._parameters}).items():
            if value is not None:
                yield prefix + key, value


@contextmanager
def _calls_through(recorder: _Recorder) -> Iterator[None]:
    """Modules are called through a recorder while the block runs."""
    before = nn.Module.__call__

    def call(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return recorder.module(before, self, args, kwargs)

    nn.Module.__call__ = call  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Module.__call__ = before  # type: ignore[method-assign]


def _is_method(func: Any, name: str) -> bool:
    owner = getattr(func, "__objclass__", None)
    return owner is torch._C.TensorBase or getattr(func, "__qualname__", "").startswith(
        ("Tensor.", "TensorBase.", "_TensorBase.")
    )


def _positional(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments:
    """The arguments of a call in which a layer's one input has no name."""
    return (tuple(kwargs.values()), {}) if not args and len(kwargs) == 1 else (args, kwargs)


def _mapped(value: Any, function: Callable[[Any], Any]) -> Any:
    """A value in which a function was applied to all that lies in lists, tuples, dicts and slices."""
    if isinstance(value, slice):
        return slice(*(function(one) for one in (value.start, value.stop, value.step)))
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_mapped(one, function) for one in value))
    if isinstance(value, torch.Size):
        return torch.Size([function(one) for one in value])
    if type(value) in (tuple, list):
        return type(value)(_mapped(one, function) for one in value)
    return {key: _mapped(one, function) for key, one in value.items()} if type(value) is dict else function(value)


def _has_tensors(value: object, depth: int = 4) -> bool:
    """Whether a value is a tensor, or holds one."""
    if isinstance(value, Tensor):
        return True
    if depth == 0 or isinstance(value, (str, bytes, int, float, type, nn.Module)) or value is None or callable(value):
        return False
    if isinstance(value, (tuple, list, set)):
        return any(_has_tensors(one, depth - 1) for one in value)
    inner = value.values() if isinstance(value, Mapping) else vars(value).values() if hasattr(value, "__dict__") else ()
    return any(_has_tensors(one, depth - 1) for one in list(inner))


def _versions(values: object) -> dict[int, tuple[Tensor, int]]:
    """The tensors among some arguments, with how often each was changed in place so far."""
    tensors = [t for t in tree_leaves(values) if isinstance(t, Tensor) and not t.is_inference()]
    return {id(t): (t, t._version) for t in tensors}


def _changed(versions: dict[int, tuple[Tensor, int]]) -> list[Tensor]:
    """The tensors that were changed since."""
    return [tensor for tensor, version in versions.values() if tensor._version != version]
