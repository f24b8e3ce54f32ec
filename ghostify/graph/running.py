"""Run the graph of a part of a network a few nodes at a time, over many batches, holding only the values still needed."""

import inspect
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, cast

import torch
from torch import fx, nn

from ..common.calls import Arguments
from ..common.spill import SpilledList
from .in_place import without_aliases
from .operations import changes_input
from .tracing import Part

Value = Any
"""The value of a node: a tensor, or whatever else a network hands on."""


class GraphRun:
    """The values of one network, batch by batch, somewhere between its input and its output.

    Args:
        root: the module that ``part`` traces, in evaluation mode.
        part: its graph.
        calls: the arguments of each batch's forward.
        memory: bytes of values that may stay in memory; what is above goes to a temporary file.
    """

    def __init__(self, root: nn.Module, part: Part, calls: Collection[Arguments], memory: int):
        self.root, self.constants = root, part.constants
        self.graph = without_aliases(part.graph, root)
        self.nodes = list(self.graph.nodes)
        self.position = {node: i for i, node in enumerate(self.nodes)}
        self.done: set[fx.Node] = set()
        self.batches: SpilledList[dict[str, Value]] = SpilledList(memory=memory)
        placeholders = [node for node in self.nodes if node.op == "placeholder"]
        self.kept: set[fx.Node] = set()
        self.mark: set[fx.Node] | None = None
        for arguments in calls:
            self.batches.append(dict(zip((n.name for n in placeholders), _bound(root, part, arguments), strict=False)))
        self.done.update(placeholders)

    def __len__(self) -> int:
        return len(self.batches)

    def ancestors(self, wanted: Collection[fx.Node], also_done: Collection[fx.Node] = ()) -> list[fx.Node]:
        """Nodes still to be run for ``wanted``, in order, if those in ``also_done`` had run, too."""
        known = self.done.union(also_done)
        needed: set[fx.Node] = set()
        ahead = [node for node in wanted if node not in known]
        while ahead:
            node = ahead.pop()
            if node not in needed:
                needed.add(node)
                ahead += [n for n in node.all_input_nodes if n not in known]
        return sorted(needed, key=self.position.__getitem__)

    def run(self, wanted: Sequence[fx.Node], keep: Collection[fx.Node] = ()) -> Iterator[list[Value]]:
        """For each batch in turn the values of ``wanted``, after running what they need.

        Args:
            wanted: the nodes whose values are yielded.
            keep: nodes whose values are wanted again later on; all others go once everything that reads them has run.
        """
        ahead = self.ancestors(wanted)
        after = self.done | set(ahead)
        self.kept |= set(keep)
        last_use = {source: node for node in ahead for source in node.all_input_nodes}
        dying: dict[fx.Node, list[str]] = defaultdict(list)  # by node, the values that nobody needs once it has run
        for source, node in last_use.items():
            if source not in self.kept and source not in wanted and all(user in after for user in source.users):
                dying[node].append(source.name)
        for index in range(len(self.batches)):
            values = dict(self.batches[index])
            before = set(values)
            with torch.no_grad():
                for node in ahead:
                    values[node.name] = self.evaluate(node, values)
                    for name in dying[node]:
                        del values[name]
            yield [values[node.name] for node in wanted]
            dead = [n for n in self.nodes if n.name in values and n not in self.kept and all(u in after for u in n.users)]
            for node in dead:
                del values[node.name]
            if ahead or before != set(values):
                self.batches[index] = values
        self.done = after

    def peek(self, index: int, wanted: fx.Node, given: fx.Node, value: Value) -> Value:
        """The value of one node for one batch, were the value of the node ``given`` this one; nothing is kept of it."""
        values = {**self.batches[index], given.name: value}
        ahead = self.ancestors([wanted], [given])
        last_use = {source: node for node in ahead for source in node.all_input_nodes}
        with torch.no_grad():
            for node in ahead:
                values[node.name] = self.evaluate(node, values)
                for source in node.all_input_nodes:
                    if last_use[source] is node:
                        del values[source.name]
        return values[wanted.name]

    def release(self) -> None:
        """Keep no value any longer than the graph needs it."""
        self.kept.clear()
        self.mark = None

    def hold(self) -> None:
        """Remember this place for :meth:`rewind`: its values are kept until :meth:`release`."""
        self.mark = set(self.done)
        self.kept |= {node for node in self.done if any(user not in self.done for user in node.users)}

    def rewind(self) -> None:
        """Go back to the place held; what has run since then will run again, with the modules as they are by then."""
        assert self.mark is not None
        later = {node.name for node in self.done - self.mark}
        self.done = set(self.mark)
        self.kept &= self.done
        for index in range(len(self.batches)):
            values = dict(self.batches[index])
            if later & values.keys():
                self.batches[index] = {name: value for name, value in values.items() if name not in later}

    def evaluate(self, node: fx.Node, values: dict[str, Value]) -> Value:
        """The value of one node, given those of its inputs by name."""
        args, kwargs = arguments_of(node, values)
        module = self.root.get_submodule(str(node.target)) if node.op == "call_module" else None
        if args and self._outlives(node) and changes_input(node, module):
            args = (args[0].clone(), *args[1:])
        if module is not None:
            return module(*args, **kwargs)
        if node.op == "call_function":
            function = cast(Callable[..., Value], node.target)
            return function(*args, **kwargs)
        if node.op == "call_method":
            return getattr(args[0], str(node.target))(*args[1:], **kwargs)
        if node.op == "get_attr":
            return attribute_of(self.root, self.constants, str(node.target))
        return args[0]

    def _outlives(self, node: fx.Node) -> bool:
        """Whether the value that a node reads first must survive it: the node may run again, or others run later."""
        source = node.args[0]
        held = source in self.done or source in self.kept
        return held or (isinstance(source, fx.Node) and len(source.users) > 1)

    def close(self) -> None:
        """Delete the temporary file, if there is one."""
        self.batches.close()


def _bound(root: nn.Module, part: Part, arguments: Arguments) -> list[Value]:
    """The argument for each placeholder of the graph, in the order of the forward's signature."""
    args, kwargs = arguments
    if part.entry != part.name or isinstance(root, fx.GraphModule):
        return [*args, *kwargs.values()]
    bound = inspect.signature(root.forward).bind(*args, **kwargs)
    bound.apply_defaults()
    return list(bound.arguments.values())


def arguments_of(node: fx.Node, values: dict[str, Value]) -> Arguments:
    """Positional and keyword arguments of a node, given the values of others by name."""

    def value_of(source: fx.Node) -> Value:
        return values[source.name]

    return fx.node.map_arg((node.args, node.kwargs), value_of)


def attribute_of(root: nn.Module, constants: nn.Module, target: str) -> Value:
    """What a graph reads by ``target``: an attribute of the module that it traces, or of the constants beside that."""
    for owner in (root, constants):
        value: Value = owner
        for name in target.split("."):
            value = getattr(value, name, None)
        if value is not None:
            return value
    raise AttributeError(target)
