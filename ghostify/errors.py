"""The errors that ghostify raises on purpose. Each message is one sentence that names the argument or the site."""


class GhostifyError(Exception):
    """Base of all errors that ghostify raises on purpose."""


class ArgumentError(GhostifyError, ValueError):
    """An argument has a value that can't be used."""


class ArgumentTypeError(GhostifyError, TypeError):
    """An argument has a type that can't be used."""


class UnsupportedModelError(GhostifyError, ValueError):
    """The model can't be converted as it was given: wrapped, scripted, uninitialised, or nothing to convert."""


class DivergedError(GhostifyError, RuntimeError):
    """A loss was not finite.

    Attributes:
        step: the optimizer step at which that was.
    """

    def __init__(self, message: str, step: int):
        super().__init__(message)
        self.step = step
