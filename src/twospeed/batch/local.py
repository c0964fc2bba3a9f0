"""The engine of one machine: processes that each hold their networks, a device or some cores to each."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Protocol

from twospeed.batch.worker import Outcome, Task, Work, execute_one_of_many
from twospeed.environment import WAITING, use_threads_well

_SECONDS_BETWEEN_SIGNS = 2.0


class Engine(Protocol):
    """What runs attempts. free: how many can be given at once. slots: how many run side by side."""

    slots: int

    @property
    def free(self) -> int:
        """How many tasks would begin at once."""

    def submit(self, task: Task) -> None:
        """Begin an attempt. Call only while `free` is above 0."""

    def wait(self, timeout_s: float) -> list[Outcome]:
        """Return what has ended since, waiting for at most so long; a worker that died is an outcome, too."""

    def close(self) -> None:
        """End all workers at once; attempts that run are lost."""


@dataclass
class _Worker:
    """One process and what it does. signs: seconds of a clock that never jumps at its last sign of life."""

    place: int
    process: BaseProcess
    pipe: Connection
    task: Task | None = None
    seen: float = 0.0


class LocalEngine:
    """Processes on this machine.

    devices: one for each process, as jobs take them; None leaves the choice to the job. threads: of each process.
    lease_s: a process that shows no life for so long while it works is ended. Its signs of life come from a thread of
    their own, so that slow work is no reason. most_memory: bytes after which a process is replaced between two videos.
    """

    def __init__(
        self,
        work: Work,
        devices: Sequence[str | None],
        *,
        threads: int = 1,
        lease_s: float = 60.0,
        most_memory: int | None = None,
    ) -> None:
        self.slots = len(devices)
        self._work, self._devices, self._threads = work, list(devices), threads
        self._lease_s, self._most_memory = lease_s, most_memory
        self._workers: dict[int, _Worker] = {}

    @property
    def free(self) -> int:
        """How many tasks would begin at once."""
        return self.slots - sum(worker.task is not None for worker in self._workers.values())

    def submit(self, task: Task) -> None:
        """Begin an attempt in a process that is idle, or a new one."""
        idle = [worker for worker in self._workers.values() if worker.task is None]
        worker = idle[0] if idle else self._start(min(set(range(self.slots)) - self._workers.keys()))
        worker.task, worker.seen = task, time.monotonic()
        # A process that has just died is seen by `wait`
        with contextlib.suppress(OSError):
            worker.pipe.send(task)

    def wait(self, timeout_s: float) -> list[Outcome]:
        """Return what has ended since."""
        by_pipe = {worker.pipe: worker for worker in self._workers.values()}
        ready = wait(list(by_pipe), timeout_s) if by_pipe else []
        if not by_pipe:
            time.sleep(timeout_s)
        outcomes = []
        for pipe in ready:
            worker = by_pipe[pipe]  # type: ignore[index]
            try:
                message = worker.pipe.recv()
            except (EOFError, OSError):
                outcomes += self._dead(worker, "")
                continue
            worker.seen = time.monotonic()
            if isinstance(message, Outcome):
                worker.task = None
                outcomes.append(message)
                if self._most_memory is not None and message.memory > self._most_memory:
                    self._end(worker)
        now = time.monotonic()
        for worker in list(self._workers.values()):
            if worker.task is not None and now - worker.seen > self._lease_s:
                outcomes += self._dead(worker, f"showed no life for {self._lease_s:g} s and was ended")
        return outcomes

    def close(self) -> None:
        """End all processes."""
        for worker in list(self._workers.values()):
            self._end(worker)

    def _start(self, place: int) -> _Worker:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        arguments = (theirs, self._work, self._devices[place], self._threads)
        process = context.Process(target=serve, args=arguments, daemon=True, name=f"twospeed-{place}")
        with _environment(self._threads):
            process.start()
        theirs.close()
        self._workers[place] = _Worker(place, process, ours)
        return self._workers[place]

    def _end(self, worker: _Worker) -> None:
        self._workers.pop(worker.place, None)
        worker.process.kill()
        worker.process.join()
        worker.pipe.close()

    def _dead(self, worker: _Worker, why: str) -> list[Outcome]:
        self._end(worker)
        code = worker.process.exitcode or 0
        if not why:
            why = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
        return [] if worker.task is None else [worker.task.died(f"the process that worked on it {why}")]


def serve(pipe: Connection, work: Work, device: str | None, threads: int) -> None:
    """Work on what comes through a pipe, until that closes or the parent process ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the parent says what it means
    threading.Thread(target=_follow_parent, daemon=True).start()
    lock, working = threading.Lock(), threading.Event()

    def show_life() -> None:
        while working.wait():
            with contextlib.suppress(OSError), lock:
                pipe.send("alive")
            time.sleep(_SECONDS_BETWEEN_SIGNS)

    threading.Thread(target=show_life, daemon=True).start()
    working.set()  # also while torch is loaded
    work.prepare(threads)
    while True:
        try:
            task = pipe.recv()
        except (EOFError, OSError):
            return
        working.set()
        outcome = execute_one_of_many(work, task, device)
        working.clear()
        with lock:
            pipe.send(outcome)


def thread_settings(threads: int) -> dict[str, str]:
    """Return environment variables for processes that divide the cores, with `threads` each."""
    numbers = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))
    environment = {**os.environ, **numbers}
    use_threads_well(environment)
    return {name: environment[name] for name in (*numbers, *WAITING) if name in environment}


@contextlib.contextmanager
def _environment(threads: int) -> Iterator[None]:
    kept = {name: os.environ.get(name) for name in thread_settings(threads)}
    os.environ.update(thread_settings(threads))
    try:
        yield
    finally:
        for name, value in kept.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _follow_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
