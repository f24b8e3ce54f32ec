"""Work as tasks on a Ray cluster."""

import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ..errors import ArgumentError, GhostifyError

ANSWER = 5.0  # seconds that a cluster has to answer


RETRIES = 3  # of a task whose worker died


def run_on_ray(
    function: Callable[[Any, Any], Any],
    common: Any,
    items: Sequence[Any],
    at_once: int,
    resources: Mapping[str, float] | None,
    address: str | None,
) -> Iterator[Any]:
    """``function(common, item)`` for each item, as they end; ``at_once`` 1 leaves it to the cluster how many run.

    Raises:
        ArgumentError: Ray is not installed, or no cluster answers.
        GhostifyError: a task was lost again and again.
    """
    ray = connect(address)
    shared = ray.put(common)
    remote = ray.remote(function).options(max_retries=RETRIES, **(dict(resources) if resources else {"num_cpus": 1}))
    waiting = list(items)
    running: list[Any] = []
    limit = at_once if at_once > 1 else len(waiting)
    while waiting or running:
        while waiting and len(running) < limit:
            running.append(remote.remote(shared, waiting.pop(0)))
        done, running = ray.wait(running, num_returns=1)
        for reference in done:
            try:
                yield ray.get(reference)
            except ray.exceptions.RayError as error:
                reason = str(getattr(error, "cause", None) or error).strip().splitlines()[0]
                raise GhostifyError(f"Ray lost a task: {reason}; the same call goes on where this one ended") from error


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
