"""Feature maps of a converted layer as pictures: those that are computed, and below them ghosts."""

from typing import TYPE_CHECKING

from .common.checks import whole_number
from .common.figures import GHOST
from .errors import ArgumentError, ArgumentTypeError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.figure import Figure
    from torch import Tensor, nn

    from .layers.ghost_module import GhostModule
    from .students.conversion_recipe import SpanRecord

Rows = list[list[int | None]]  # channels of the original layer; None for a place that stays empty


def plot_maps(
    student: "nn.Module", site: str, image: "Tensor", columns: int = 8, original: "nn.Module | None" = None
) -> "Figure":
    """Feature maps of one layer: intrinsic ones in the first row, below each the ghosts that are made from it; ghosts of a
    pointwise cheap operation, which come from all intrinsic maps, in rows of their own.

    Of a layer with absorbed ghosts the maps that stayed, after the layer's norm and before its activation, by their numbers in
    the original; ghosts, which no layer computes, are shown as the original computes them, where it is given.

    Args:
        student: a converted network; it runs once, in evaluation mode.
        site: qualified name of a site that was converted.
        image: (1, C, H, W) or (C, H, W), preprocessed.
        columns: intrinsic maps to show, those first that ghosts are made from; with absorbed ghosts the maps in a row.
        original: the network before its conversion, for absorbed ghosts; it runs once, in evaluation mode.

    Raises:
        ArgumentError, ArgumentTypeError: no Ghost module and no absorbed maps of that name, or an image that the network does
            not take.
    """
    import torch

    from .layers.ghost_module import GhostModule

    whole_number("columns", columns, 1)
    ghosts = {name: module for name, module in student.named_modules() if isinstance(module, GhostModule)}
    spans = _narrowed_spans(student)
    _check_site(student, site, ghosts, spans)
    if not isinstance(image, torch.Tensor) or image.dim() not in (3, 4):
        raise ArgumentTypeError("image must be a tensor (1, C, H, W) or (C, H, W)")
    if site in ghosts:
        module = ghosts[site]
        intrinsic, ghost = (channels.tolist() for channels in module.original_channels())
        rows = _map_rows(module, intrinsic, ghost, columns)
        maps = dict(enumerate(_maps(student, site, site, image)))
        return _figure(rows, maps, {*intrinsic}, f"{site}: intrinsic maps, and ghosts ({module.cheap}) below")
    layer, span = _last_layer(student, site), spans[site]
    maps = dict(zip(span.kept, _maps(student, site, layer, image), strict=True))
    rows = _lines(span.kept, columns, 4)
    title = f"{site}: {len(span.kept)} of {span.channels} maps"
    if original is not None:
        gone = [channel for channel in range(span.channels) if channel not in maps]
        whole = _maps(original, site, layer, image)
        if len(whole) != span.channels:
            raise ArgumentError(
                f"original makes {len(whole)} maps at {site!r}, not {span.channels}: give the network converted"
            )
        maps |= {channel: whole[channel] for channel in gone}
        rows += _lines(gone, columns, 4)
        title += f", and the original's that {span.readers[0][0]} absorbs below"
    return _figure(rows, maps, {*span.kept}, title)


def _narrowed_spans(student: "nn.Module") -> "dict[str, SpanRecord]":
    """The spans of which some maps are absorbed, by each of the layers that make them."""
    from .students.conversion_recipe import recipe_of

    recipe = recipe_of(student)
    return {name: span for span in (recipe.narrowed if recipe is not None else ()) for name in span.makers}


def _check_site(
    student: "nn.Module", site: str, ghosts: "Mapping[str, GhostModule]", spans: "Mapping[str, SpanRecord]"
) -> None:
    known = [*ghosts, *spans]
    if not known:
        raise ArgumentError(f"student {type(student).__name__} has no Ghost modules and no absorbed maps: convert it first")
    if site not in known:
        what = "no Ghost module of this network" if ghosts else "no layer of this network whose maps are partly absorbed"
        raise ArgumentError(f"site {site!r} is {what}; it has {', '.join(known[:5])}, ...")


def _last_layer(student: "nn.Module", site: str) -> str:
    """The norm that belongs to a layer alone, or the layer."""
    from .students.conversion_recipe import recipe_of

    recipe = recipe_of(student)
    assert recipe is not None
    return next((record.norm for record in recipe.sites if record.name == site and record.norm), site)


def _maps(model: "nn.Module", site: str, layer: str, image: "Tensor") -> "Tensor":
    """(channels, H, W) maps that a layer gives for one image, on the CPU."""
    import torch
    from torch import nn

    from .common.calls import collected_outputs, evaluation_mode, run_checked

    try:
        module = model.get_submodule(layer)
    except AttributeError as error:
        raise ArgumentError(f"original {type(model).__name__} has no layer {layer!r}: give the network converted") from error
    with collected_outputs(module) as outputs, evaluation_mode(model), torch.no_grad():
        run_checked(model, (image if image.dim() == 4 else image[None],), {})
    if not outputs or outputs[0].dim() != 4:
        raise ArgumentError(f"site {site!r} has no maps of two dimensions to show")
    maps: Tensor = outputs[0][0].float().cpu()
    return maps.movedim(-1, 0) if isinstance(module, nn.Linear) else maps


def _figure(rows: "Rows", maps: "Mapping[int, Tensor]", computed: set[int], title: str) -> "Figure":
    """Maps in rows; the numbers of those that are not made from others are coloured."""
    import matplotlib.pyplot as plt

    wide, high = max(map(len, rows)), len(rows)
    figure, axes = plt.subplots(high, wide, figsize=(wide * 1.1, high * 1.2), squeeze=False, layout="constrained")
    for line, cells in zip(axes, rows, strict=True):
        for ax, channel in zip(line, [*cells, *[None] * (wide - len(cells))], strict=True):
            ax.set_axis_off()
            if channel is not None:
                ax.imshow(maps[channel], cmap="gray")
                ax.set_title(f"{channel}", fontsize=7, pad=2, color=GHOST if channel in computed else "#222222")
    figure.suptitle(title, fontsize=10, x=0.01, ha="left")
    return figure


def _lines(channels: "Sequence[int]", columns: int, most: int) -> "Rows":
    """Channels in rows, no more rows than there may be."""
    lines: Rows = [[*channels[start : start + columns]] for start in range(0, len(channels), columns)]
    return lines[:most]


def _map_rows(module: "GhostModule", intrinsic: list[int], ghosts: list[int], columns: int) -> "Rows":
    """Channels of the whole layer, row by row: ``intrinsic`` and ``ghosts`` are its channels in the module's order."""
    if module.cheap == "pointwise":
        return [[*intrinsic[:columns]], *_lines(ghosts, columns, 2)]
    children: dict[int, list[int]] = {position: [] for position in range(len(intrinsic))}
    for channel, source in zip(ghosts, module.source_positions().tolist(), strict=True):
        children[source].append(channel)
    first = sorted(children, key=lambda position: -len(children[position]))[:columns]
    deepest = max(len(children[position]) for position in first)
    rows: list[list[int | None]] = [[intrinsic[position] for position in first]]
    for depth in range(min(deepest, 4)):
        rows.append([children[p][depth] if depth < len(children[p]) else None for p in first])
    return rows
