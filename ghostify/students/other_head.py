"""Weights of another head, told from those of another architecture."""

from collections.abc import Mapping


def other_head(given: Mapping[str, tuple[int, ...]], own: Mapping[str, tuple[int, ...]]) -> str | None:
    """What is told where the weights given are those of a network but for its head; None where more differs, or nothing.

    Args:
        given: shapes of the weights that are given, by their names.
        own: shapes of those that the network has, in their order.
    """
    names = dict.fromkeys([*own, *given])
    differing = [name for name in names if given.get(name) != own.get(name)]
    heads = list(dict.fromkeys(name.rpartition(".")[0] for name in differing))
    if not differing or 2 * len(differing) > len(names):
        return None
    outputs = {(given.get(name, ())[:1], own.get(name, ())[:1]) for name in differing}
    same_inputs = all(given.get(name, ())[1:] == own.get(name, ())[1:] for name in differing)
    if len(outputs) == 1 and same_inputs and all(name in given and name in own for name in differing):
        ((of_given,), (of_own,)) = outputs.pop()
        where = " and ".join(map(repr, heads[:2])) + (f" and {len(heads) - 2} more" if len(heads) > 2 else "")
        return (
            f"it has another head: {where} gives {of_given} outputs there and {of_own} in this network, and all else fits; "
            f"build the network with {of_given} outputs, such as by num_classes={of_given}"
        )
    for side, here, there in ((own, "this network", "it"), (given, "it", "this network")):
        if len(heads) == 1 and all(name in side for name in differing) and [*side][-1] in differing:
            return f"it has another head: {here} ends with {heads[0]!r}, which {there} lacks, and all else fits"
    return None
