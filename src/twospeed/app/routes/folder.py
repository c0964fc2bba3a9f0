"""Log in, list the folder, upload, open."""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from twospeed.app.desk import Desk
from twospeed.app.exporting import FORMATS
from twospeed.app.messages import Login, OpenVideo
from twospeed.app.uploads import add_chunk
from twospeed.weights.catalog import CATALOG


def folder_routes(routes: APIRouter, desk: Desk) -> None:
    """Add the routes of the home page."""

    @routes.post("/login", status_code=204)
    async def login(message: Login) -> Response:
        if desk.keys.blocked:
            return JSONResponse({"error": "too many wrong tokens; wait a minute"}, 429)
        cookie = desk.keys.login(message.token)
        if cookie is None:
            return JSONResponse({"error": "the token is not right; open the address that was printed last"}, 403)
        return Response(status_code=204, headers={"set-cookie": cookie})

    @routes.get("/home")
    async def home() -> dict[str, Any]:
        videos = await asyncio.to_thread(desk.library.videos)
        return {
            "folder": desk.library.folder.name or "/",
            "videos": [
                {"id": v.id, "name": v.name, "bytes": v.bytes, "is_folder": v.is_folder, "outside": v.outside}
                for v in videos
            ],
            "runs": [
                {
                    "id": identity,
                    "name": os.fsencode(run.folder.relative_to(desk.library.folder)).decode("utf-8", "replace"),
                    "command": run.command,
                    "model": run.model,
                    "frames": run.frames,
                    "finished": run.finished,
                    "video": Path(run.video).name,
                }
                for identity, run in await asyncio.to_thread(desk.library.runs)
            ],
            "projects": await asyncio.to_thread(desk.library.projects),
            "free": shutil.disk_usage(desk.library.folder).free,
            "models": _models(),
            "weights": [path.name for path in await asyncio.to_thread(desk.library.weights)],
            "model": desk.settings["model"],
            "size": desk.settings["size"],
            "exports": [
                {"as": key, "text": one.text, "group": one.group, "needs": one.needs} for key, one in FORMATS.items()
            ],
            "open": desk.settings.pop("open", None),
            "open_run": desk.settings.pop("open_run", None),
        }

    @routes.get("/videos/{v}/thumbnail")
    async def thumbnail(v: str) -> Response:
        data = await desk.on_thread(desk.thumbnails, desk.library.thumbnail, v)
        headers = {"cache-control": "no-store"}
        return Response(status_code=204) if data is None else Response(data, media_type="image/jpeg", headers=headers)

    @routes.put("/uploads/{name}")
    async def upload(name: str, offset: int, size: int, request: Request) -> dict[str, Any]:
        data = await request.body()
        most = desk.settings["max_upload"]
        path = await asyncio.to_thread(add_chunk, desk.library.folder, name, offset, size, data, most)
        return {"done": path is not None, "name": None if path is None else path.name}

    @routes.post("/projects")
    async def open_project(message: OpenVideo) -> dict[str, Any]:
        if message.run is not None:
            project = await asyncio.to_thread(desk.library.open_run, message.run)
        else:
            project = await asyncio.to_thread(desk.library.open_video, message.video or "")
        return {"project": project.id}


def _models() -> list[dict[str, Any]]:
    found = []
    for name, entry in CATALOG.items():
        weights = entry.weights
        facts = {"name": name, "task": entry.task, "summary": entry.summary, "needs_masks": entry.needs_masks}
        facts["here"] = weights is not None and not weights.url and not weights.start
        found.append(facts | {key: getattr(weights, key, None) for key in ("licence", "url", "file")})
    return found
