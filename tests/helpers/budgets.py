"""Random small networks of spans whose costs are products, and their best answers by full enumeration."""

import itertools

import numpy as np

from ghostify.conversion.width_network import Choice, LayerCost

SHAPES = ("chain", "tree", "independent", "gates", "concatenations", "dense")

MOST = {2: 24, 3: 14, 4: 8, 5: 6, 6: 4}  # choices for each number of spans


def random_network(generator, shape, spans=None, most=None, ghosts=False):
    """Choices of a few spans and the layers around them.

    Args:
        generator: of numpy.
        shape: of the network, one of SHAPES.
        spans, most: how many, and how many choices each has.
        ghosts: whether some choices make fewer channels than they give, at a cost of their own, as Ghost modules do.
    """
    spans = int(generator.integers(2, 7)) if spans is None else spans
    most = MOST[spans] if most is None else most
    choices = [random_choices(generator, int(generator.integers(1, 5)) * most, most, ghosts) for _ in range(spans)]
    return choices, list(layers_of(generator, shape, spans))


def random_choices(generator, channels, most, ghosts):
    """Counts of channels with losses that fall in one of a few ways, noise included; all channels lose nothing."""
    counts = np.unique(np.arange(1, most + 1) * channels // most)
    share, scale = counts / channels, generator.lognormal(0, 1.5)
    losses = [
        scale * (1 / share - 1) ** generator.uniform(0.5, 2),
        scale * (1 - share) ** generator.uniform(0.5, 4),
        scale * np.sort(generator.random(len(counts)))[::-1],
    ][generator.integers(3)] * (1 + 0.1 * generator.normal(size=len(counts))).clip(0.1)
    losses[-1] = 0
    options = [Choice(0.0, float(loss), float(m), float(m)) for loss, m in zip(losses, counts, strict=True)]
    if ghosts:
        shares = generator.choice(np.arange(1, channels + 1), 2)
        options += [Choice(float(9 * m), scale * generator.random(), float(channels), float(m)) for m in shares]
    return options


def layers_of(generator, shape, spans):
    def layer(reads, makes, inputs=0.0, outputs=1.0):
        each = float(generator.integers(1, 10) * 4.0 ** generator.integers(0, 4))
        width = float(generator.integers(1, 3))
        return LayerCost(each, tuple((int(span), width) for span in reads), inputs, makes, outputs)

    if shape == "gates":
        for first in range(0, spans - 1, 2):
            yield layer((), first, 16)
            yield layer((first,), first + 1)
            yield layer((first + 1,), first)
            yield layer((first,), None, outputs=16)
        return
    yield layer((), 0, 3)
    for span in range(1, spans):
        if shape == "chain":
            yield layer((span - 1,), span)
        elif shape == "tree":
            yield layer((generator.integers(span),), span)
        elif shape == "independent":
            yield layer((), span, 16)
            yield layer((span,), None, outputs=16)
        elif shape == "concatenations":
            yield layer(generator.choice(span, generator.integers(1, min(3, span) + 1), replace=False), span)
        else:
            yield layer(range(span), span, 16)
    yield layer(range(spans) if shape == "dense" else (spans - 1,), None, 16 if shape == "dense" else 0, 10)


def cost_of(choices, layers, picked):
    """The cost of all layers and choices, by the definition of a layer's cost."""
    chosen = [options[index] for options, index in zip(choices, picked, strict=True)]
    total = sum(one.cost for one in chosen)
    for layer in layers:
        inputs = layer.inputs + sum(width * chosen[span].gives for span, width in layer.reads)
        total += layer.each * inputs * (layer.outputs if layer.makes is None else chosen[layer.makes].makes)
    return total


def loss_of(choices, picked):
    return sum(options[index].loss for options, index in zip(choices, picked, strict=True))


def all_answers(choices, layers):
    """(A,) costs and losses of all combinations."""
    picked = list(itertools.product(*(range(len(options)) for options in choices)))
    at = np.array(picked).T
    gives, makes, own, loss = (
        [np.array([getattr(one, name) for one in options])[index] for options, index in zip(choices, at, strict=True)]
        for name in ("gives", "makes", "cost", "loss")
    )
    cost = np.sum(own, 0)
    for layer in layers:
        inputs = layer.inputs + sum((width * gives[span] for span, width in layer.reads), np.zeros(len(picked)))
        cost = cost + layer.each * inputs * (layer.outputs if layer.makes is None else makes[layer.makes])
    return cost, np.sum(loss, 0)
