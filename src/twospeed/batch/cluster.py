"""The engine of a Ray cluster: actors that hold networks, placed by Ray where their cores and GPUs are."""

from __future__ import annotations

import os
import time
from typing import Any

from twospeed.batch.local import thread_settings
from twospeed.batch.worker import Outcome, Task, Work, execute_one_of_many
from twospeed.errors import InputError


class Actor:
    """One worker; it keeps its networks from video to video."""

    def __init__(self, work: Work, threads: int, device: str | None) -> None:
        self._work, self._device = work, device
        work.prepare(threads)

    def execute(self, task: Task) -> Outcome:
        """Run one attempt."""
        return execute_one_of_many(self._work, task, self._device)


class RayEngine:
    """Actors on a cluster, one task each at a time. The cluster grows and shrinks as Ray's autoscaler decides.

    address: of an existing cluster ("auto" finds one on this machine); None takes the environment's RAY_ADDRESS, or
    starts one here, whatever other cluster runs on this machine. slots: actors; None as many as the cluster has cores
    and GPUs for. cpus, gpus: that Ray reserves for each.
    Raises InputError where Ray is not installed or the cluster does not answer.
    """

    actor: type[Any] = Actor

    def __init__(
        self,
        work: Work,
        *,
        address: str | None = None,
        slots: int | None = None,
        cpus: float = 1.0,
        gpus: float = 0.0,
    ) -> None:
        # Started by `uv run`, Ray would upload the current folder, videos and all, and set up uv's packages again
        os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
        try:
            import ray
        except ImportError as error:
            raise InputError("Ray is not installed; install twospeed[ray], or choose the engine local") from error
        self._ray = ray
        self._begun_here = not ray.is_initialized()
        if self._begun_here:
            address = address or os.environ.get("RAY_ADDRESS") or "local"
            try:
                ray.init(address=address, log_to_driver=False, include_dashboard=False if address == "local" else None)
            except (ConnectionError, ValueError) as error:
                raise InputError(f"no Ray cluster answers at {address} ({error})", option="address") from error
            except Exception as error:  # as Ray does where its own processes do not start in time
                raise InputError(f"Ray cannot start here ({' '.join(str(error).split())[:300]}); try again") from error
        room = ray.cluster_resources()
        most = int(room.get("CPU", 1) // cpus) if cpus else 1
        most = min(most, int(room.get("GPU", 0) // gpus)) if gpus else most
        self.slots = slots or max(1, most)
        threads = max(1, int(cpus))
        options: dict[str, Any] = {"num_cpus": cpus, "num_gpus": gpus, "max_restarts": 0, "max_concurrency": 1}
        options["runtime_env"] = {"env_vars": thread_settings(threads)}
        self._actor = ray.remote(**options)(self.actor)
        self._arguments = (work, threads, "cuda" if gpus else None)
        self._name = f"twospeed-{work.job}-{work.batch_id[:8]}"
        self._numbers = iter(range(1_000_000_000))
        self._idle: list[Any] = []
        self._running: dict[Any, tuple[Any, Task]] = {}  # by the answer to come

    @property
    def free(self) -> int:
        """How many tasks would begin at once, once the cluster has free cores and GPUs."""
        return self.slots - len(self._running)

    def submit(self, task: Task) -> None:
        """Begin an attempt in an actor that is idle, or a new one."""
        if self._idle:
            actor = self._idle.pop()
        else:
            actor = self._actor.options(name=f"{self._name}-{next(self._numbers)}").remote(*self._arguments)
        self._running[actor.execute.remote(task)] = (actor, task)

    def wait(self, timeout_s: float) -> list[Outcome]:
        """Return what has ended since; where an actor or its node has died, that."""
        if not self._running:
            time.sleep(timeout_s)
            return []
        answers = list(self._running)
        self._ray.wait(answers, timeout=timeout_s)  # for the first: actors that have ended do not wait for others
        ready, _ = self._ray.wait(answers, num_returns=len(answers), timeout=0)
        outcomes = []
        for answer in ready:
            actor, task = self._running.pop(answer)
            try:
                outcomes.append(self._ray.get(answer))
            except self._ray.exceptions.RayError as error:
                self._ray.kill(actor)
                reason = " ".join(str(error).split())[:300]
                outcomes.append(task.died(f"the worker that worked on it died: {reason}"))
            else:
                self._idle.append(actor)
        return outcomes

    def close(self) -> None:
        """End all actors, and the connection to the cluster if it was made here."""
        for actor in [*self._idle, *(actor for actor, _ in self._running.values())]:
            self._ray.kill(actor)
        self._idle, self._running = [], {}
        if self._begun_here:
            self._ray.shutdown()
