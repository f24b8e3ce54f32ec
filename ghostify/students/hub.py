"""Students on the Hugging Face hub."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from huggingface_hub import PyTorchModelHubMixin, hf_hub_download
from torch import nn

from ..common.pickling import named_by_package
from .storage import FOLDER_CONFIG, FOLDER_WEIGHTS, load, save


@named_by_package
class HubStudent(
    nn.Module,
    PyTorchModelHubMixin,
    library_name="ghostify",
    tags=["ghostify"],
):
    """A student with the hub's methods: ``push_to_hub``, ``from_pretrained`` and ``save_pretrained``.

    The folder that these write and read is that of :func:`ghostify.save`.

    Args:
        student: a network that :func:`ghostify.convert` or :func:`ghostify.load` gave; the attribute ``student``.

    Example:
        >>> ghostify.HubStudent(student).push_to_hub("me/resnet50-ghost")
        >>> student = ghostify.HubStudent.from_pretrained("me/resnet50-ghost").student
    """

    def __init__(self, student: nn.Module):
        super().__init__()
        self.student = student

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.student(*args, **kwargs)

    def _save_pretrained(self, save_directory: Path) -> None:
        save(self.student, save_directory)

    @classmethod
    def _from_pretrained(
        cls,
        *,
        model_id: str,
        map_location: str = "cpu",
        strict: bool = True,
        factory: Callable[[], nn.Module] | nn.Module | None = None,
        **options: Any,
    ) -> "HubStudent":
        """``factory`` is that of :func:`ghostify.load`; ``options`` are those of ``hf_hub_download``."""
        folder = Path(model_id)
        if not folder.is_dir():
            for name in (FOLDER_CONFIG, FOLDER_WEIGHTS):
                folder = Path(hf_hub_download(model_id, name, **options)).parent
        return cls(load(folder, factory).to(map_location))
