"""Independent pieces of work: in this process, in several on this machine, or as tasks on a Ray cluster."""

import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import TypeVar

from ..errors import ArgumentError, GhostifyError
from .checks import check_choice, whole_number
from .text import first_line

ENGINES = ("local", "ray")

ANSWER_SECONDS = 5.0  # that a cluster has to answer

RETRIES = 3  # of a task whose worker died

Common = TypeVar("Common")
Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Engine:
    """Where pieces of work run, checked when it is made.

    Args:
        name: ``"local"``, or ``"ray"`` for tasks on a Ray cluster.
        workers: processes; with Ray, tasks at a time, 1 for as many as the cluster has room for.
        resources: of one task with Ray, such as ``{"num_cpus": 2, "num_gpus": 1}``; None for one CPU.
        address: of the Ray cluster; None for the one this machine belongs to.

    Raises:
        ArgumentError, ArgumentTypeError: a setting that can't be, or one of Ray's without Ray.
    """

    name: str = "local"
    workers: int = 1
    resources: Mapping[str, float] | None = None
    address: str | None = None

    def __post_init__(self) -> None:
        check_choice("engine", self.name, ENGINES)
        object.__setattr__(self, "workers", whole_number("workers", self.workers, 1))
        if self.name == "local" and (self.resources is not None or self.address is not None):
            raise ArgumentError(f"{'resources' if self.resources is not None else 'address'} goes with engine='ray'")

    @property
    def is_this_process(self) -> bool:
        return self.name == "local" and self.workers == 1


def run_parallel(
    function: Callable[[Common, Item], Result], common: Common, items: Sequence[Item], engine: Engine
) -> Iterator[Result]:
    """``function(common, item)`` for each item; the results as they end, in the items' order with one local worker.

    Args:
        function: a function of a module, which other processes can import.
        common: what all items have in common; it is sent to a cluster once.
        items: one for each piece of work.
        engine: where they run.

    Raises:
        ArgumentError: Ray is not installed, or no cluster answers.
        GhostifyError: a task was lost again and again.
    """
    if engine.name == "ray":
        yield from _run_on_ray(function, common, items, engine)
    elif engine.workers == 1:
        yield from (function(common, item) for item in items)
    else:
        import joblib

        calls = (joblib.delayed(function)(common, item) for item in items)
        yield from joblib.Parallel(n_jobs=engine.workers, return_as="generator_unordered")(calls)


def _run_on_ray(
    function: Callable[[Common, Item], Result], common: Common, items: Sequence[Item], engine: Engine
) -> Iterator[Result]:
    ray = _connect(engine.address)
    shared = ray.put(common)
    remote = ray.remote(function).options(
        max_retries=RETRIES, **(dict(engine.resources) if engine.resources else {"num_cpus": 1})
    )
    waiting = list(items)
    running: list[object] = []
    limit = engine.workers if engine.workers > 1 else len(waiting)
    while waiting or running:
        while waiting and len(running) < limit:
            running.append(remote.remote(shared, waiting.pop(0)))
        done, running = ray.wait(running, num_returns=1)
        for reference in done:
            try:
                yield ray.get(reference)
            except ray.exceptions.RayError as error:
                reason = first_line(getattr(error, "cause", None) or error)
                raise GhostifyError(f"Ray lost a task: {reason}; the same call goes on where this one ended") from error


def _connect(address: str | None) -> ModuleType:
    """The module ray, connected to a cluster that answers.

    Raises:
        ArgumentError: Ray is not installed, or no cluster answers.
    """
    try:
        import ray
    except ImportError as error:
        raise ArgumentError("engine='ray' needs Ray: pip install 'ghostify[ray]'") from error
    if ray.is_initialized():
        return ray
    if address is not None:
        _check_address(address)
    try:
        ray.init(address=address, log_to_driver=False, configure_logging=False)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        raise ArgumentError(f"no Ray cluster answers at {address or 'this machine'}: {first_line(error)}") from error
    return ray


def _check_address(address: str) -> None:
    """Knock at the cluster's port, since Ray itself would try for minutes.

    Raises:
        ArgumentError: the address is of another form, or nothing answers there.
    """
    if address in ("auto", "local"):
        return
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdigit():
        raise ArgumentError(f"address {address!r} is not of the form host:port or ray://host:port")
    try:
        socket.create_connection((host, int(port)), timeout=ANSWER_SECONDS).close()
    except OSError as error:
        raise ArgumentError(f"no Ray cluster answers at {address} within {ANSWER_SECONDS:g} s: {error}") from error
