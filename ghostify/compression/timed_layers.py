"""What each layer of the original takes on a runtime, and the whole of it; the input that it is timed with."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..common.calls import PositionalArguments
from ..common.copying import copy_without_hooks
from ..common.text import first_line
from ..conversion.layer_seconds import LayerSeconds
from ..conversion.runtime_timer import RuntimeTimer
from ..conversion.site_layers import inputs_of
from ..errors import ArgumentError
from ..graph.find_sites import find_sites
from ..inputs.examples import one_input


def timed_input(model: nn.Module, example: PositionalArguments, batch_size: int) -> Tensor:
    """Noise of the shape of one image, as many as one batch has, on the CPU.

    Raises:
        ArgumentError: the network takes more than one tensor.
    """
    image = one_input(model, example, "runtime")
    noise = torch.randn(batch_size, *image.shape[1:], generator=torch.Generator().manual_seed(0))
    return noise.to(image.dtype)


def time_layers(model: nn.Module, timer: RuntimeTimer, x: Tensor, note: Callable[[str], None]) -> LayerSeconds:
    """The seconds of a network and of its layers.

    Args:
        model: in evaluation mode; it is not changed.
        timer: of the runtime.
        x: the input.
        note: called with what is going on, in words.

    Raises:
        ArgumentError: the runtime can't take the network.
    """
    quiet = copy_without_hooks(model).eval().cpu()
    try:
        total = timer.whole(quiet, x)
    except Exception as error:  # whatever a runtime says of a network that it can't take
        raise ArgumentError(f"runtime {timer.runtime.name!r} can't take {type(model).__name__}: {first_line(error)}") from error
    sites = {site.name: site for site in find_sites(quiet)}
    seconds: dict[str, float] = {}
    for name, layer_input in inputs_of(quiet, list(sites), (x,)).items():
        note(f"timing {name}")
        try:
            seconds[name] = timer.layers(sites[name], layer_input)
        except Exception:  # of a layer that it can't take alone; its time counts as one that no width changes
            continue
    return LayerSeconds.within(total, seconds)
