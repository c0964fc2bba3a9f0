"""Exports: written by a process of their own, then downloaded."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import time
from asyncio.subprocess import PIPE
from typing import Any

from fastapi import APIRouter, Response
from fastapi.responses import FileResponse, JSONResponse

from twospeed.app.desk import Desk
from twospeed.app.exporting import FORMATS, file_of
from twospeed.app.messages import NewExport
from twospeed.app.store import Project
from twospeed.errors import InputError
from twospeed.files import remove_leftovers


def export_routes(routes: APIRouter, desk: Desk) -> None:
    """Add the routes of exports."""

    @routes.post("/p/{p}/exports", status_code=202)
    async def export(p: str, message: NewExport) -> dict[str, Any]:
        project = await desk.project(p)
        if message.kind not in FORMATS:
            raise InputError(f"there is no export {message.kind!r}; choose one of {', '.join(FORMATS)}")
        path = await asyncio.to_thread(desk.library.path_of, project)
        name = f"{project.id.rsplit('-', 1)[0]}_{file_of(message.kind, message.layers)}"
        asked = {
            "project": str(project.folder),
            "source": str(path),
            "as": message.kind,
            "file": name,
            "first": project.get("in", 0),
            "last": project.get("out", project.frames - 1),
            "objects": message.objects or [entry["id"] for entry in project.objects()],
            "options": {"as": message.kind, **message.model_dump(exclude={"kind", "objects"})},
        }
        key = f"{p}/{name}"
        if desk.exports.get(key, {}).get("state") == "running":
            raise InputError("this export is being written already")
        desk.exports[key] = {"t": "export", "as": message.kind, "file": name, "state": "running", "done": 0, "total": 0}
        task = asyncio.create_task(_export(desk, project, key, asked), name=key)
        desk.tasks.add(task)
        task.add_done_callback(desk.tasks.discard)
        return {"file": name}

    @routes.delete("/p/{p}/exports/{file}", status_code=204)
    async def cancel(p: str, file: str) -> None:
        """Stop writing an export; an older file of the same name stays."""
        await desk.project(p)
        for task in list(desk.tasks):
            if task.get_name() == f"{p}/{file}":
                task.cancel()

    @routes.get("/p/{p}/exports")
    async def exports(p: str) -> dict[str, dict[str, Any]]:
        """Return the exports since the start, by format."""
        await desk.project(p)
        return {state["as"]: state for key, state in desk.exports.items() if key.startswith(f"{p}/")}

    @routes.get("/p/{p}/exports/{file}")
    async def download(p: str, file: str) -> Response:
        project = await desk.project(p)
        folder = project.folder / "exports"
        path = folder / file
        if file.startswith(".") or not path.is_file() or path.is_symlink() or path.parent != folder:
            return JSONResponse({"error": "there is no such export"}, 404)
        return FileResponse(path, filename=file, content_disposition_type="attachment")


async def _export(desk: Desk, project: Project, key: str, asked: dict[str, Any]) -> None:
    state = desk.exports[key]
    try:
        await _write(desk, project, state, asked)
    except asyncio.CancelledError:
        state["state"] = "stopped"
        desk.hub.tell(project.id, dict(state))
        raise


async def _write(desk: Desk, project: Project, state: dict[str, Any], asked: dict[str, Any]) -> None:
    command, environment = [sys.executable, "-m", "twospeed.app.exporting"], {**os.environ, "OMP_NUM_THREADS": "1"}
    process = await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE, env=environment)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(json.dumps(asked).encode())
        process.stdin.close()
        told = 0.0
        while line := await process.stdout.readline():
            state.update(json.loads(line))
            if time.monotonic() - told > 0.25:
                told = time.monotonic()
                desk.hub.tell(project.id, dict(state))
        code = await process.wait()
        if code and "error" not in state:
            state["error"] = f"writing ended with code {code}"
        state["state"] = "failed" if "error" in state else "done"
        desk.hub.tell(project.id, dict(state))
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            remove_leftovers(project.folder / "exports" / asked["file"])
