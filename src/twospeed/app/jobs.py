"""Jobs, one at a time: the worker process, what it is sent, and where its results go."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from asyncio.subprocess import PIPE
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from twospeed.app import pipe, wire
from twospeed.app.store import Project
from twospeed.app.wire import WireMask
from twospeed.environment import use_threads_well

BATCH, BATCH_S = 16, 0.25  # masks are committed when so many, or so old, whichever comes first
AGAIN_S = 1.0  # until a full disk is tried again
STOP_S = 2.0  # after which the worker gets SIGTERM, and SIGKILL after 3 more


@dataclass
class Job:
    """One job in the queue. serial: its number for the worker; ids are counted in each project anew."""

    project: Project
    id: int
    content: dict[str, Any]
    masks: list[WireMask] = field(default_factory=list)
    stopped: bool = False
    serial: int = 0


class Jobs:
    """The queue. tell: called with a project's id, each change of a job of it, and the masks that it stored.

    Everything here runs on the event loop; what touches the disk runs on a thread.
    """

    def __init__(self, tell: Callable[..., None]) -> None:
        self._tell = tell
        self._queue: asyncio.Queue[Job] = asyncio.Queue()
        self._process: asyncio.subprocess.Process | None = None
        self._current: Job | None = None
        self._waiting: list[Job] = []
        self._count = 0
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start the worker, idle, so that its imports do not delay the first job."""
        await self._spawn()
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Stop the job, keep what it has done, and end the worker."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        if self._current is not None:
            await self._set(self._current, state="stopped")
        await self._kill()

    async def submit(self, job: Job) -> None:
        """Queue a job."""
        self._count += 1
        job.serial = self._count
        self._waiting.append(job)
        await self._queue.put(job)

    async def stop(self, project: Project, job_id: int) -> None:
        """Stop a job, running or queued."""
        for job in [*self._waiting, *([self._current] if self._current else [])]:
            if job.project is project and job.id == job_id:
                job.stopped = True
                if job is self._current and self._process is not None and self._process.stdin is not None:
                    with suppress(OSError):
                        self._process.stdin.write(pipe.json_message(t="stop", job=job.serial))
                    asyncio.get_running_loop().create_task(self._insist(job))

    @property
    def busy(self) -> bool:
        """Whether any job is running or waiting."""
        return self._current is not None or bool(self._waiting)

    def holds(self, project: Project) -> bool:
        """Whether a job of a project is running or waiting."""
        return any(job.project is project for job in [*self._waiting, *([self._current] if self._current else [])])

    async def _insist(self, job: Job) -> None:
        """End the worker where it does not stop by itself."""
        for wait, number in ((STOP_S, signal.SIGTERM), (3.0, signal.SIGKILL)):
            await asyncio.sleep(wait)
            if self._current is not job or self._process is None:
                return
            with suppress(ProcessLookupError):
                self._process.send_signal(number)

    async def _spawn(self) -> None:
        environment = {**os.environ}
        use_threads_well(environment)
        command = [sys.executable, "-m", "twospeed.app.worker"]
        self._process = await asyncio.create_subprocess_exec(
            *command, stdin=PIPE, stdout=PIPE, env=environment, limit=1 << 20, start_new_session=True
        )

    async def _run(self) -> None:
        while True:
            job = await self._queue.get()
            self._waiting.remove(job)
            if job.stopped:
                await self._set(job, state="stopped")
                continue
            self._current = job
            if self._process is None or self._process.returncode is not None:
                await self._spawn()
            try:
                await self._set(job, state="running")
                await self._work(job)
            except OSError as error:  # the project cannot be written, or the worker is gone
                await self._kill()
                await self._fail(job, str(error))
            finally:
                if sys.exc_info()[0] is not asyncio.CancelledError:
                    self._current = None

    async def _work(self, job: Job) -> None:
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        for mask in job.masks:
            process.stdin.write(pipe.message(pipe.MASK, mask.to_bytes()))
            await process.stdin.drain()
        job.masks.clear()
        process.stdin.write(pipe.json_message(t="job", id=job.serial, **job.content))
        await process.stdin.drain()
        begun, flushed = time.monotonic(), 0.0
        labelled = 0  # frames that segment has done
        batch: list[WireMask] = []
        reading: asyncio.Future[tuple[int, bytes] | None] | None = None
        while True:
            reading = reading or asyncio.ensure_future(_read(process.stdout))
            done, _ = await asyncio.wait([reading], timeout=BATCH_S if batch else None)
            received = reading.result() if done else (-1, b"")
            if done:
                reading = None
            if received is not None and received[0] == pipe.MASK:
                batch.append(wire.parse(received[1]))
            due = len(batch) >= BATCH or time.monotonic() - flushed > BATCH_S
            if batch and (due or received is None or received[0] != pipe.MASK):
                await self._store(job, batch, time.monotonic() - begun)
                batch, flushed = [], time.monotonic()
            if received is None:
                await process.wait()
                if job.stopped:
                    await self._set(job, state="stopped", seconds=time.monotonic() - begun)
                else:
                    reason = _ended(process.returncode)
                    await self._set(job, state="failed", error=reason, seconds=time.monotonic() - begun)
                return
            if received[0] == pipe.BYTES:
                mask = wire.parse(received[1])
                await asyncio.to_thread(job.project.put_results, "segment", {mask.frame: received[1]})
                self._tell(job.project.id, {"t": "result", "kind": "segment", "frame": mask.frame})
                labelled += 1
                if time.monotonic() - flushed > BATCH_S or labelled == job.content["last"] - job.content["first"] + 1:
                    flushed = time.monotonic()
                    await self._set(job, done=labelled, seconds=flushed - begun)
            if received[0] == pipe.JSON and await self._hear(job, json.loads(received[1]), begun):
                return

    async def _hear(self, job: Job, content: dict[str, Any], begun: float) -> bool:
        """React to what the worker says; returns whether the job is over."""
        if content["t"] == "ready" or content.get("job") != job.serial:
            return False
        if content["t"] == "progress":
            self._tell(job.project.id, {"t": "progress", **content})
            return False
        if content["t"] == "result":
            await asyncio.to_thread(job.project.put_results, content["kind"], {content["frame"]: content["data"]})
            self._tell(job.project.id, {"t": "result", "kind": content["kind"], "frame": content["frame"]})
            return False
        seconds = time.monotonic() - begun
        await self._set(job, state=content["t"], error=content.get("error"), seconds=seconds)
        return True

    async def _store(self, job: Job, batch: list[WireMask], seconds: float) -> None:
        if job.content["kind"] == "find":
            ids = {i for mask in batch for i in mask.confidence}
            await asyncio.to_thread(job.project.add_objects_found, ids)
        stored = await asyncio.to_thread(job.project.add_tracked, job.id, batch)
        self._tell(job.project.id, {"t": "job", **job.project.job(job.id), "seconds": seconds}, stored)

    async def _set(self, job: Job, **values: Any) -> None:
        await asyncio.to_thread(job.project.set_job, job.id, **values)
        self._tell(job.project.id, {"t": "job", **job.project.job(job.id)})

    async def _fail(self, job: Job, reason: str) -> None:
        """Write down that a job has failed; where the disk refuses that, too, as soon as it takes it."""
        while True:
            with suppress(OSError):
                await self._set(job, state="failed", error=reason)
                return
            failed = {"t": "job", **job.project.job(job.id), "state": "failed", "error": reason}
            self._tell(job.project.id, failed)
            await asyncio.sleep(AGAIN_S)

    async def _kill(self) -> None:
        if self._process is not None and self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()


async def _read(stream: asyncio.StreamReader) -> tuple[int, bytes] | None:
    try:
        length, kind = pipe.HEAD.unpack(await stream.readexactly(pipe.HEAD.size))
        return kind, await stream.readexactly(length)
    except (asyncio.IncompleteReadError, ConnectionError):
        return None


def _ended(code: int | None) -> str:
    if code == -signal.SIGKILL:
        return "the tracking process was killed, perhaps for want of memory; what it had finished is kept"
    return f"the tracking process ended with code {code}; what it had finished is kept"
