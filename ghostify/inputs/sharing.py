"""The batches of one process among several."""

from collections.abc import Iterable, Iterator

from torch.utils.data import DataLoader

from ..common.processes import process_state
from ..errors import ArgumentError
from .sources import Source


def shared_out(source: Source, seed: int, training: bool) -> Iterable[object]:
    """The batches of this process: in training its part of each batch, else its batches, none twice.

    Args:
        source: of the batches.
        seed: of the order.
        training: whether the processes train together.

    Raises:
        ArgumentError: a loader that can't be shared out.
    """
    from accelerate.data_loader import prepare_data_loader

    state = process_state()
    loader = source.batches
    if not isinstance(loader, DataLoader):
        return _EveryNth(loader, state.num_processes, state.process_index)
    if state.num_processes == 1 and loader.batch_size is None and not hasattr(loader.batch_sampler, "batch_size"):
        return loader  # with batches of its own making, which accelerate does not take
    try:
        return prepare_data_loader(
            loader,
            num_processes=state.num_processes,
            process_index=state.process_index,
            split_batches=training,
            even_batches=training,
            put_on_device=False,
            use_seedable_sampler=True,
            data_seed=seed,
        )
    except ValueError as error:
        reason = str(error).partition(". ")[0]
        raise ArgumentError(f"{source.name} can't be shared out among {state.num_processes} processes: {reason}") from error


class _EveryNth:
    """For iterables that nobody can look into: each process takes every n-th batch."""

    def __init__(self, batches: Iterable[object], processes: int, index: int):
        self.batches, self.processes, self.index = batches, processes, index

    def __iter__(self) -> Iterator[object]:
        for number, batch in enumerate(self.batches):
            if number % self.processes == self.index:
                yield batch
