"""Options that several commands share, as dataclasses: a command takes one parameter for a whole group of options.

Typer knows no groups of options: it reads a command's signature, a parameter for each option. :func:`with_option_groups` writes
that signature out, and puts the values that typer parsed back together.
"""

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Annotated, Any, get_args, get_origin

from .options import (
    Cheap,
    DwSize,
    Factory,
    Input,
    LinearRatio,
    Model,
    OnlyIfFaster,
    Pretrained,
    Ratio,
    Ratios,
    SensitivityFile,
    Target,
    Weights,
)


@dataclass(frozen=True)
class NetworkOptions:
    """Which network a command works on, and where its weights come from."""

    model: Model = None
    factory: Factory = None
    weights: Weights = None
    pretrained: Pretrained = False


@dataclass(frozen=True)
class ConversionOptions:
    """How a command converts the network; :func:`ghostify.convert` explains each setting. ``input`` is the shape as text."""

    ratio: Ratio = None
    target: Target = None
    sensitivity: SensitivityFile = None
    dw_size: DwSize = 3
    cheap: Cheap = "depthwise"
    ratios: Ratios = None
    linear_ratio: LinearRatio = None
    only_if_faster: OnlyIfFaster = None
    input: Input = None


OptionsClass = type[NetworkOptions] | type[ConversionOptions]


@dataclass(frozen=True)
class Group:
    """Marks a parameter, ``Annotated[ConversionOptions, Group(...)]``, that stands for the options of a dataclass.

    Args:
        without: fields that are no options of this command; they keep the dataclass's defaults.
        defaults: defaults of this command in place of the dataclass's.
    """

    without: tuple[str, ...] = ()
    defaults: Mapping[str, object] = field(default_factory=dict)

    def parameters(self, options: OptionsClass) -> list[inspect.Parameter]:
        """One parameter for each option of the dataclass ``options``, in the order of its fields."""
        return [
            inspect.Parameter(
                option.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=self.defaults.get(option.name, option.default),
                annotation=option.type,
            )
            for option in fields(options)
            if option.name not in self.without
        ]


def with_option_groups(command: Callable[..., None]) -> Callable[..., None]:
    """The command with the options of each :class:`Group` among its parameters as parameters of their own, for typer.

    Args:
        command: a function with keyword-only parameters.
    """
    signature = inspect.signature(command)
    parameters: list[inspect.Parameter] = []
    groups: dict[str, tuple[OptionsClass, list[str]]] = {}
    for parameter in signature.parameters.values():
        marked = _group_of(parameter.annotation)
        if marked is None:
            parameters.append(parameter)
            continue
        options, group = marked
        of_group = group.parameters(options)
        parameters += of_group
        groups[parameter.name] = options, [option.name for option in of_group]

    @functools.wraps(command)
    def run(**values: Any) -> None:
        for name, (options, names) in groups.items():
            values[name] = options(**{option: values.pop(option) for option in names})
        command(**values)

    run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def _group_of(annotation: object) -> tuple[OptionsClass, Group] | None:
    """The dataclass and the mark of a parameter that stands for a group; None for any other parameter."""
    if get_origin(annotation) is Annotated:
        options, *marks = get_args(annotation)
        for mark in marks:
            if isinstance(mark, Group):
                return options, mark
    return None
