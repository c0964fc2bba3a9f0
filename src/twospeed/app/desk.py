"""What all routes of the server share."""

from __future__ import annotations

import asyncio
import contextlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from fastapi import Response

from twospeed.app import clicks, proxy
from twospeed.app.jobs import Jobs
from twospeed.app.library import Library
from twospeed.app.live import Hub
from twospeed.app.security import Keys
from twospeed.app.store import Project
from twospeed.errors import InputError, VideoError


class Desk:
    """What all routes share. settings: model, weights, device, max_upload, open (a video's id to open at once)."""

    def __init__(self, library: Library, keys: Keys, settings: dict[str, Any]) -> None:
        self.library, self.keys, self.settings = library, keys, settings
        self.hub = Hub()
        self.jobs = Jobs(self.hub.tell)
        self.decoding = ThreadPoolExecutor(2, "frames")
        self.nearby = ThreadPoolExecutor(1, "nearby frames")  # they are shown until those that are decoded come
        self.thumbnails = ThreadPoolExecutor(1, "thumbnails")
        self.prompting = ThreadPoolExecutor(1, "prompts")
        self.prompter = clicks.Prompter()
        self.exports: dict[str, dict[str, Any]] = {}
        self.tasks: set[asyncio.Task[None]] = set()
        self._proxies = asyncio.Lock()

    async def project(self, project_id: str) -> Project:
        """Return a project."""
        return await asyncio.to_thread(self.library.project, project_id)

    def changed(self, project: Project, frames: list[int]) -> None:
        """Tell all tabs that masks, or only other things, changed."""
        self.hub.tell(project.id, {"t": "changed", "frames": frames, "rev": project.rev})

    def make_proxy(self, project: Project) -> None:
        """Make a copy of a project's video that is quick to jump in, one after the other, where that helps."""
        name = f"proxy {project.id}"
        if any(task.get_name() == name for task in self.tasks):
            return
        task = asyncio.create_task(self._make_proxy(project), name=name)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _make_proxy(self, project: Project) -> None:
        with contextlib.suppress(VideoError):  # it shows where the video is looked at
            async with self._proxies:
                await asyncio.to_thread(self.library.source, project)  # whether it is the project's video
                if await proxy.make_proxy(project, self.library.path_of(project), lambda: self.jobs.busy):
                    self.changed(project, [])

    async def on_thread(self, pool: ThreadPoolExecutor, function: Any, *arguments: Any) -> Any:
        """Run a function on a thread of a pool."""
        return await asyncio.get_running_loop().run_in_executor(pool, function, *arguments)


def check_frame(project: Project, index: int) -> None:
    """Raise InputError for a frame that the video does not have."""
    if not 0 <= index < project.frames:
        raise InputError(f"there is no frame {index}; the video has frames 0 to {project.frames - 1}")


def binary(data: bytes) -> Response:
    """Answer with bytes, which no cache keeps."""
    return Response(data, media_type="application/octet-stream", headers={"cache-control": "no-store"})
