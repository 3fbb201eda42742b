"""A batch run as one process, alone or of many: what `jaxllc run` does."""

import logging
import os
import platform
from typing import Any, NamedTuple

import jax

from jaxllc import stopping
from jaxllc.config import RunConfig
from jaxllc.reading import overview
from jaxllc.trajectory import trajectory

HEARTBEAT_TIMEOUT, SHUTDOWN_TIMEOUT = 30, 10
"""Seconds after which JAX takes a process for dead, and for which one that ends waits for others."""

_logger = logging.getLogger("jaxllc")


class Cluster(NamedTuple):
    """The processes of `jax.distributed`; None leaves it to JAX to find out from SLURM, a TPU pod, Open MPI or Kubernetes."""

    coordinator: str | None = None
    num_processes: int | None = None
    process_id: int | None = None


def join(cluster: Cluster) -> None:
    """Become one of the processes of a cluster, before JAX starts its devices, so that no process depends on another one from here on.

    Processes need their number and their own devices, and no collective between them. So all but the first leave JAX's coordination service once they know
    these: else the death of the first would abort them, and the end of each would wait for the slowest. The first survives theirs, as tasks are recoverable.
    Several GPUs of one process find each other through the service, so such a process stays, and ends with the first; host devices need not, without Gloo.
    SIGTERM reaches the process, as the preemption service is off.
    """
    jax.config.update("jax_enable_preemption_service", False)
    jax.config.update("jax_enable_recoverability", True)
    jax.config.update("jax_cpu_collectives_implementation", None)
    jax.distributed.initialize(*cluster, heartbeat_timeout_seconds=HEARTBEAT_TIMEOUT, shutdown_timeout_seconds=SHUTDOWN_TIMEOUT)
    needs_service = jax.default_backend() == "gpu" and jax.local_device_count() > 1
    if jax.process_index() > 0 and not needs_service:
        jax.distributed.shutdown()


def run(config: RunConfig, *, part: tuple[int, int] | None = None, cluster: Cluster | None = None, progress: bool = True, ends_process: bool = False) -> None:
    """Follow the checkpoints of a configuration, or a share of them.

    Args:
        config: what to run.
        part: which share, `(index, count)`, where other processes that know nothing of each other do the others.
        cluster: the processes that share the work, where `jax.distributed` connects them.
        progress: show a bar, or say each minute in the log how far a group is.
        ends_process: nothing follows in this process, so that signals that come when all is done are ignored.

    Raises:
        Stopped: SIGTERM or SIGINT came; what was done is written.
    """
    with stopping.on_signals(ends_process=ends_process):
        if cluster is not None:
            join(cluster)
        store = config.at(config.store)
        which = f"part {part[0] + 1} of {part[1]}" if part else f"process {jax.process_index()} of {jax.process_count()}"
        _logger.info("%s, on %s (pid %d) with %d devices, writes %s", which, platform.node(), os.getpid(), jax.local_device_count(), store)
        share: dict[str, Any] = {"part": part} if part else {}
        trajectory(**config.arguments(), progress=progress, **share)
    _, places, done, failed, *_ = overview(store)
    _logger.info("%d of %d places of %s are done", len(done), len(places), store)
    for place, reason in failed.items():
        _logger.warning("%s failed: %s", place, reason)
