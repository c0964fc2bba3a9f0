"""What a project holds: state, frames, masks, results, and changes as they happen."""

from __future__ import annotations

import asyncio
import json
import struct
import time
from typing import Any

from fastapi import APIRouter, Response, WebSocket
from fastapi.responses import FileResponse

from twospeed.app.desk import Desk, binary
from twospeed.app.messages import Locate
from twospeed.app.store import Project
from twospeed.errors import InputError

MOST_MASKS = 500
MOST_ACTIONS = 5


def project_routes(routes: APIRouter, desk: Desk) -> None:
    """Add the routes that read."""

    @routes.get("/p/{p}")
    async def state(p: str) -> dict[str, Any]:
        project = await desk.project(p)
        found = await asyncio.to_thread(project.state)
        try:
            found["quick"] = (await asyncio.to_thread(desk.library.source, project)).has_proxy
        except InputError as error:
            found["problem"] = str(error)
        return found

    @routes.post("/p/{p}/locate", status_code=204)
    async def locate(p: str, message: Locate) -> None:
        project = await desk.project(p)
        await asyncio.to_thread(desk.library.locate, project, message.video, anyway=message.anyway)
        desk.changed(project, [])

    @routes.delete("/p/{p}", status_code=204)
    async def delete(p: str, tab: str = "") -> None:
        project = await desk.project(p)
        if desk.jobs.holds(project):
            raise InputError(f"{project.get('name')}: a job of this project is running or waiting; stop it first")
        if desk.hub.names(p) - {tab}:
            raise InputError(f"{project.get('name')}: is open in another tab; close that first")
        await asyncio.to_thread(desk.library.delete, p)

    @routes.get("/p/{p}/frame/{index}")
    async def frame(p: str, index: int, h: int = 540, near: bool = False) -> Response:
        """Return a frame; near: the one at or near it that is there soonest. The header x-frame says which it is."""
        project = await desk.project(p)
        begun = time.perf_counter()
        source = await asyncio.to_thread(desk.library.source, project)
        height, shown = max(16, min(h, 4320)), index
        if near:
            shown, data = await desk.on_thread(desk.nearby, source.near, index, height)
        else:
            data = await desk.on_thread(desk.decoding, source.jpeg, index, height)
        headers = {
            "cache-control": "no-store" if near else "private, max-age=31536000, immutable",
            "x-frame": str(shown),
            "server-timing": f"frame;dur={1000 * (time.perf_counter() - begun):.1f}",
        }
        return Response(data, media_type="image/jpeg", headers=headers)

    @routes.get("/p/{p}/sound")
    async def sound(p: str) -> dict[str, bool]:
        """Whether there is sound; it is made ready for `audio`."""
        project = await desk.project(p)
        return {"sound": await asyncio.to_thread(desk.library.sound, project) is not None}

    @routes.get("/p/{p}/audio")
    async def audio(p: str) -> Response:
        project = await desk.project(p)
        path = await asyncio.to_thread(desk.library.sound, project)
        if path is None:
            raise InputError("there is no sound in this video")
        return FileResponse(path, media_type="audio/mp4", headers={"cache-control": "private, no-cache"})

    @routes.get("/p/{p}/mask/{index}")
    async def mask(p: str, index: int) -> Response:
        project = await desk.project(p)
        found = await asyncio.to_thread(project.mask, index)
        return Response(status_code=204) if found is None else binary(found.to_bytes())

    @routes.get("/p/{p}/masks")
    async def masks(p: str, first: int, last: int, step: int = 1) -> Response:
        project = await desk.project(p)
        if step < 1 or (last - first) // step > MOST_MASKS:
            raise InputError(f"{MOST_MASKS} masks is the most at once")
        found = await asyncio.to_thread(project.masks, first, last, step)
        return binary(b"".join(struct.pack("<I", len(data)) + data for data in (one.to_bytes() for one in found)))

    @routes.get("/p/{p}/result/{kind}")
    async def results(p: str, kind: str) -> list[Any]:
        """Return [frame, content] of a kind, of people with their likeliest actions; of `segment` the frames alone."""
        project = await desk.project(p)
        if kind == "segment":
            return await asyncio.to_thread(project.result_frames, kind)
        return await asyncio.to_thread(_results, project, kind)

    @routes.get("/p/{p}/result/segment/{index}")
    async def segmented(p: str, index: int) -> Response:
        project = await desk.project(p)
        data = await asyncio.to_thread(project.result, "segment", index)
        return Response(status_code=204) if data is None else binary(data)

    @routes.websocket("/p/{p}/live")
    async def live(socket: WebSocket, p: str, tab: str = "", rev: int = 0) -> None:
        project = await desk.project(p)
        hello = {"t": "hello", "rev": project.rev, "ranges": await asyncio.to_thread(project.changed_since, rev)}
        desk.make_proxy(project)
        await desk.hub.serve(p, socket, tab[:40], hello)


def _results(project: Project, kind: str) -> list[Any]:
    found = [[frame, json.loads(data)] for frame, data in project.results(kind)]
    if kind == "detect":
        for _, one in found:
            for person in one["people"]:
                person["actions"] = person["actions"][:MOST_ACTIONS]
    return found
