"""Small networks that do what torch.fx does not follow, and a check that their recorded graphs do it, too."""

import torch
from torch import Tensor, fx, nn

from ghostify.graph.find_sites import trace_layers
from ghostify.graph.probes import is_same
from ghostify.graph.running import GraphRun
from ghostify.graph.tracing import Part


class Small(nn.Module):
    """Layers for forward methods of all kinds: 3 to 8 to 8 maps, a norm, and a head of 4 outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 4)
        self.norm.running_mean.uniform_(-0.5, 0.5)

    def checked(self, x: Tensor) -> Tensor:
        """The input, of a size that is looked at: torch.fx goes no further."""
        if x.shape[-1] % 2:
            raise ValueError("sides must be even")
        return x


def forward_of(function) -> Small:
    """A network with these layers whose forward method is a function."""
    return type("Net", (Small,), {"forward": function})().eval()


def images(count: int = 4, side: int = 8, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(seed))


def outputs_of(model: nn.Module, part: Part, *args: object, **kwargs: object) -> object:
    """What a part's graph gives, computed as calibration does it."""
    run = GraphRun(model.get_submodule(part.name), part, [(args, kwargs)], 1 << 30)
    (output,) = next(run.run([run.nodes[-1]]))
    run.close()
    return output


def whole(model: nn.Module, *args: object, **kwargs: object) -> Part:
    """The graph of a whole network, which must be there."""
    part = trace_layers(model.eval(), (args, kwargs))[0]
    assert part.whole
    assert part.entry == ""
    return part


def check(model: nn.Module, *args: Tensor, sides: tuple[int, ...] = (8,), **kwargs: object) -> fx.Graph:
    """The whole graph of a network, which gives what the network gives, for other images and other numbers of them."""
    args = args or (images(),)
    part = whole(model, *args, **kwargs)
    for count, side in [(1, 8), (5, 8), *((2, side) for side in sides)]:
        others = [images(count, side, seed) for seed in range(1, 1 + len(args))]
        with torch.no_grad():
            assert is_same(outputs_of(model, part, *others, **kwargs), model(*[x.clone() for x in others], **kwargs))
    return part.graph


def called(graph: fx.Graph) -> list[str]:
    """The modules that a graph calls, in order."""
    return [str(node.target) for node in graph.nodes if node.op == "call_module"]
