"""Feature maps of a Ghost module as pictures."""

from typing import TYPE_CHECKING

from .common.checks import whole_number
from .common.figures import GHOST
from .errors import ArgumentError, ArgumentTypeError

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor, nn

    from .layers.ghost_module import GhostModule


def plot_maps(student: "nn.Module", site: str, image: "Tensor", columns: int = 8) -> "Figure":
    """Feature maps of one layer: intrinsic ones in the first row, below each the ghosts that are made from it; ghosts of a
    pointwise cheap operation, which come from all intrinsic maps, in rows of their own.

    Args:
        student: a converted network; it runs once, in evaluation mode.
        site: qualified name of a site that was converted.
        image: (1, C, H, W) or (C, H, W), preprocessed.
        columns: intrinsic maps to show, those first that ghosts are made from.

    Raises:
        ArgumentError, ArgumentTypeError: no Ghost module of that name, or an image that the network does not take.
    """
    import matplotlib.pyplot as plt
    import torch

    from .common.calls import collected_outputs, evaluation_mode, run_checked
    from .layers.ghost_module import GhostModule

    ghosts = {name: module for name, module in student.named_modules() if isinstance(module, GhostModule)}
    whole_number("columns", columns, 1)
    if not ghosts:
        raise ArgumentError(f"student {type(student).__name__} has no Ghost modules: convert it first")
    if site not in ghosts:
        raise ArgumentError(f"site {site!r} is no Ghost module of this network; it has {', '.join(list(ghosts)[:5])}, ...")
    if not isinstance(image, torch.Tensor) or image.dim() not in (3, 4):
        raise ArgumentTypeError("image must be a tensor (1, C, H, W) or (C, H, W)")
    module = ghosts[site]
    with collected_outputs(module) as outputs, evaluation_mode(student), torch.no_grad():
        run_checked(student, (image if image.dim() == 4 else image[None],), {})
    if not outputs or outputs[0].dim() != 4:
        raise ArgumentError(f"site {site!r} has no maps of two dimensions to show")
    maps, (intrinsic, ghost) = outputs[0][0].float().cpu(), module.original_channels()
    rows = _map_rows(module, intrinsic.tolist(), ghost.tolist(), columns)
    wide, high = max(map(len, rows)), len(rows)
    figure, axes = plt.subplots(high, wide, figsize=(wide * 1.1, high * 1.2), squeeze=False, layout="constrained")
    for line, cells in zip(axes, rows, strict=True):
        for ax, channel in zip(line, [*cells, *[None] * (wide - len(cells))], strict=True):
            ax.set_axis_off()
            if channel is not None:
                ax.imshow(maps[channel], cmap="gray")
                ax.set_title(f"{channel}", fontsize=7, pad=2, color=GHOST if cells is rows[0] else "#222222")
    figure.suptitle(f"{site}: intrinsic maps, and ghosts ({module.cheap}) below", fontsize=10, x=0.01, ha="left")
    return figure


def _map_rows(module: "GhostModule", intrinsic: list[int], ghosts: list[int], columns: int) -> list[list[int | None]]:
    """Channels of the whole layer, row by row: ``intrinsic`` and ``ghosts`` are its channels in the module's order."""
    if module.cheap == "pointwise":
        shown: list[int | None] = [*ghosts[: 2 * columns]]
        return [[*intrinsic[:columns]], *(shown[start : start + columns] for start in range(0, len(shown), columns))]
    children: dict[int, list[int]] = {position: [] for position in range(len(intrinsic))}
    for channel, source in zip(ghosts, module.source_positions().tolist(), strict=True):
        children[source].append(channel)
    first = sorted(children, key=lambda position: -len(children[position]))[:columns]
    deepest = max(len(children[position]) for position in first)
    rows: list[list[int | None]] = [[intrinsic[position] for position in first]]
    for depth in range(min(deepest, 4)):
        rows.append([children[p][depth] if depth < len(children[p]) else None for p in first])
    return rows
