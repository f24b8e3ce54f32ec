"""Trials as tasks on a Ray cluster."""

import socket
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .errors import ArgumentError, GhostifyError
from .trial import Result, Task, Trial, run_trial

ANSWER = 5.0  # seconds that a cluster has to answer
RETRIES = 3  # of a task whose worker died


def run_on_ray(
    task: Task, trials: Sequence[Trial], at_once: int, resources: Mapping[str, float] | None, address: str | None
) -> Iterator[Trial]:
    """Trials as they end; ``out`` has to be a folder that all machines of the cluster see.

    Raises:
        ArgumentError: Ray is not installed, or no cluster answers.
        GhostifyError: a task was lost again and again.
    """
    ray = connect(address)
    shared = ray.put(task)
    remote = ray.remote(run_trial).options(max_retries=RETRIES, **(dict(resources) if resources else {"num_cpus": 1}))
    waiting = list(trials)
    running: dict[Any, Trial] = {}
    limit = at_once if at_once > 1 else len(waiting)
    while waiting or running:
        while waiting and len(running) < limit:
            trial = waiting.pop(0)
            running[remote.remote(shared, trial)] = trial
        done, _ = ray.wait(list(running), num_returns=1)
        for reference in done:
            trial = running.pop(reference)
            try:
                result: Result = ray.get(reference)
            except ray.exceptions.RayError as error:
                reason = str(getattr(error, "cause", None) or error).strip().splitlines()[0]
                raise GhostifyError(f"Ray lost trial {trial.name}: {reason}; sweep again to go on") from error
            assert result.settings == trial.settings
            yield trial


def connect(address: str | None) -> Any:
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
        _check_answer(address)
    try:
        ray.init(address=address, log_to_driver=False, configure_logging=False)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ArgumentError(f"no Ray cluster answers at {address or 'this machine'}: {reason}") from error
    return ray


def _check_answer(address: str) -> None:
    """Ray itself would try for minutes."""
    if address in ("auto", "local"):
        return
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdigit():
        raise ArgumentError(f"address {address!r} is not of the form host:port or ray://host:port")
    try:
        socket.create_connection((host, int(port)), timeout=ANSWER).close()
    except OSError as error:
        raise ArgumentError(f"no Ray cluster answers at {address} within {ANSWER:g} s: {error}") from error
