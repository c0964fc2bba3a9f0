"""Objects, marks, masks, undo."""

from __future__ import annotations

import asyncio
import base64
import io
from typing import Any

import numpy as np
from fastapi import APIRouter, Request, Response

from twospeed.app import clicks, wire
from twospeed.app.desk import Desk, binary, check_frame
from twospeed.app.messages import Marks, NewObject, ObjectChanges, Range
from twospeed.app.store import Project
from twospeed.app.wire import WireMask
from twospeed.video.indexed_png import read_label_map


def edit_routes(routes: APIRouter, desk: Desk) -> None:
    """Add the routes that change a project."""

    @routes.post("/p/{p}/objects")
    async def add_object(p: str, message: NewObject, tab: str = "") -> dict[str, Any]:
        project = await desk.project(p)
        object_id = await asyncio.to_thread(project.add_object, message.name, tab)
        desk.changed(project, [])
        return {"id": object_id}

    @routes.patch("/p/{p}/objects/{k}", status_code=204)
    async def change_object(p: str, k: int, message: ObjectChanges, tab: str = "") -> None:
        project = await desk.project(p)
        await asyncio.to_thread(project.change_object, k, message.model_dump(exclude_none=True), tab)
        desk.changed(project, [])

    @routes.delete("/p/{p}/objects/{k}", status_code=204)
    async def delete_object(p: str, k: int, tab: str = "") -> None:
        project = await desk.project(p)
        await asyncio.to_thread(project.delete_object, k, tab)
        desk.changed(project, [mask.frame for mask in await asyncio.to_thread(project.masks, 0, project.frames)])

    @routes.patch("/p/{p}/range", status_code=204)
    async def set_range(p: str, message: Range, tab: str = "") -> None:
        project = await desk.project(p)
        await asyncio.to_thread(project.set_range, message.first, message.last, tab)
        desk.changed(project, [])

    @routes.post("/p/{p}/marks")
    async def marks(p: str, message: Marks, tab: str = "") -> Response:
        project = await desk.project(p)
        check_frame(project, message.frame)
        found = await desk.on_thread(desk.prompting, _apply_marks, desk, project, message, tab)
        if not message.preview:
            desk.changed(project, [message.frame])
        return binary(found.to_bytes())

    @routes.put("/p/{p}/mask/{index}")
    async def paint(
        p: str, index: int, object: int, request: Request, base_rev: int | None = None, tab: str = ""
    ) -> Response:
        project = await desk.project(p)
        check_frame(project, index)
        body = await request.body()
        sent = await asyncio.to_thread(wire.parse, body, project.size)
        region = sent.labels() == object
        found = await asyncio.to_thread(project.paint, index, object, region, tab, base_rev)
        desk.changed(project, [index])
        return binary(found.to_bytes())

    @routes.put("/p/{p}/import/{index}")
    async def import_mask(
        p: str, index: int, request: Request, snap: bool = False, base_rev: int | None = None, tab: str = ""
    ) -> dict[str, Any]:
        project = await desk.project(p)
        check_frame(project, index)
        file = io.BytesIO(await request.body())
        labels = await asyncio.to_thread(read_label_map, file, name="the mask", expect_size=project.size, snap=snap)
        rev = await asyncio.to_thread(project.put_labels, {index: labels}, tab, base_rev)
        desk.changed(project, [index])
        return {"objects": [int(i) for i in np.unique(labels) if i], "rev": rev}

    @routes.delete("/p/{p}/mask/{index}")
    async def remove(
        p: str, index: int, object: int | None = None, base_rev: int | None = None, tab: str = ""
    ) -> Response:
        project = await desk.project(p)
        check_frame(project, index)
        if object is None:
            await asyncio.to_thread(project.remove_keyframe, index, tab, base_rev)
            response = Response(status_code=204)
        else:
            found = await asyncio.to_thread(project.clear_mask, index, object, tab, base_rev)
            response = binary(found.to_bytes())
        desk.changed(project, [index])
        return response

    @routes.post("/p/{p}/undo")
    async def undo(p: str, tab: str = "", anyway: bool = False) -> dict[str, Any]:
        return await _undo(p, tab, anyway, redo=False)

    @routes.post("/p/{p}/redo")
    async def redo(p: str, tab: str = "", anyway: bool = False) -> dict[str, Any]:
        return await _undo(p, tab, anyway, redo=True)

    async def _undo(p: str, tab: str, anyway: bool, redo: bool) -> dict[str, Any]:
        project = await desk.project(p)
        others = frozenset() if anyway else desk.hub.names(p) - {tab}
        undone = await asyncio.to_thread(project.undo, redo=redo, others=others)
        if undone is None:
            return {"frames": None, "rev": None}
        desk.changed(project, undone.frames)
        return undone._asdict()


def _apply_marks(desk: Desk, project: Project, message: Marks, tab: str) -> WireMask:
    now = project.mask(message.frame)
    before = project.marks(message.frame, message.object)
    start: np.ndarray[Any, Any] | None = None
    if before is not None and (now is None or now.source != wire.EDITED):
        start = wire.parse(base64.b64decode(before["start"])).labels() > 0 if before["start"] else None
    elif now is not None and (now.labels() == message.object).any():
        start = now.labels() == message.object
    empty = not (message.points or message.box or message.polygon)
    if empty:
        region = np.zeros(project.size, bool) if start is None else start
    elif message.polygon:
        region = clicks.fill_polygon(message.polygon, project.size)
    else:
        path = desk.library.path_of(project)
        region = desk.prompter.region(path, message.frame, message.points, message.box, start)
    if message.preview:
        labels = project.labels(message.frame).copy()
        labels[labels == message.object] = 0
        labels[region] = message.object
        return wire.mask_of(labels, message.frame).marked(source=wire.GIVEN, rev=project.rev)
    kept = None
    if not empty:
        coded = None if start is None else wire.mask_of(start.astype(np.uint8), message.frame).to_bytes()
        kept = {
            "points": message.points,
            "box": message.box,
            "polygon": message.polygon,
            "start": None if coded is None else base64.b64encode(coded).decode(),
        }
    return project.set_marks(message.frame, message.object, kept, region, tab, message.base_rev)
