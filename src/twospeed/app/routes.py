"""What the page asks for: thin functions over `library`, `store` and `jobs`."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import shutil
import struct
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import APIRouter, Request, Response, WebSocket
from fastapi.responses import FileResponse, JSONResponse

from twospeed.app import clicks, plan, wire
from twospeed.app.exporting import FORMATS
from twospeed.app.jobs import Job, Jobs
from twospeed.app.library import Library
from twospeed.app.live import Hub
from twospeed.app.messages import (
    Login,
    Marks,
    NewExport,
    NewJob,
    NewObject,
    ObjectChanges,
    OpenVideo,
    Range,
)
from twospeed.app.security import Keys
from twospeed.app.store import Project
from twospeed.app.uploads import add_chunk
from twospeed.app.wire import WireMask
from twospeed.errors import InputError
from twospeed.weights.catalog import CATALOG, Entry, find

MOST_MASKS = 500


class Desk:
    """What all routes share. settings: model, weights, device, max_upload, open (a video's id to open at once)."""

    def __init__(self, library: Library, keys: Keys, settings: dict[str, Any]) -> None:
        self.library, self.keys, self.settings = library, keys, settings
        self.hub = Hub()
        self.jobs = Jobs(self._on_job)
        self.decoding = ThreadPoolExecutor(2, "frames")
        self.prompting = ThreadPoolExecutor(1, "prompts")
        self.prompter = clicks.Prompter()
        self.exports: dict[str, dict[str, Any]] = {}
        self.tasks: set[asyncio.Task[None]] = set()

    async def _on_job(self, project: Project, text: dict[str, Any], masks: list[WireMask]) -> None:
        self.hub.tell(project.id, text, masks)

    async def project(self, project_id: str) -> Project:
        """Return a project."""
        return await asyncio.to_thread(self.library.project, project_id)

    def changed(self, project: Project, frames: list[int]) -> None:
        """Tell all tabs that masks, or only other things, changed."""
        self.hub.tell(project.id, {"t": "changed", "frames": frames, "rev": project.rev})

    async def on_thread(self, pool: ThreadPoolExecutor, function: Any, *arguments: Any) -> Any:
        """Run a function on a thread of a pool."""
        return await asyncio.get_running_loop().run_in_executor(pool, function, *arguments)


def make_routes(desk: Desk) -> APIRouter:
    """Return all routes below /api."""
    routes = APIRouter(prefix="/api")

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
            "projects": await asyncio.to_thread(desk.library.projects),
            "free": shutil.disk_usage(desk.library.folder).free,
            "models": _models(),
            "weights": [path.name for path in await asyncio.to_thread(desk.library.weights)],
            "model": desk.settings["model"],
            "exports": [{"as": key, "text": text} for key, (_, text, _) in FORMATS.items()],
            "open": desk.settings.pop("open", None),
        }

    @routes.put("/uploads/{name}")
    async def upload(name: str, offset: int, size: int, request: Request) -> dict[str, Any]:
        data = await request.body()
        most = desk.settings["max_upload"]
        path = await asyncio.to_thread(add_chunk, desk.library.folder, name, offset, size, data, most)
        return {"done": path is not None, "name": None if path is None else path.name}

    @routes.post("/projects")
    async def open_project(message: OpenVideo) -> dict[str, Any]:
        project = await asyncio.to_thread(desk.library.open_video, message.video)
        return {"project": project.id}

    _project_routes(routes, desk)
    _edit_routes(routes, desk)
    _job_routes(routes, desk)
    _export_routes(routes, desk)
    return routes


def _project_routes(routes: APIRouter, desk: Desk) -> None:
    @routes.get("/p/{p}")
    async def state(p: str) -> dict[str, Any]:
        project = await desk.project(p)
        found = await asyncio.to_thread(project.state)
        try:
            await asyncio.to_thread(desk.library.source, project)
        except InputError as error:
            found["problem"] = str(error)
        return found

    @routes.delete("/p/{p}", status_code=204)
    async def delete(p: str) -> None:
        await asyncio.to_thread(desk.library.delete, p)

    @routes.get("/p/{p}/frame/{index}")
    async def frame(p: str, index: int, h: int = 540) -> Response:
        project = await desk.project(p)
        begun = time.perf_counter()
        source = await asyncio.to_thread(desk.library.source, project)
        data = await desk.on_thread(desk.decoding, source.jpeg, index, max(16, min(h, 4320)))
        headers = {
            "cache-control": "private, max-age=31536000, immutable",
            "server-timing": f"frame;dur={1000 * (time.perf_counter() - begun):.1f}",
        }
        return Response(data, media_type="image/jpeg", headers=headers)

    @routes.get("/p/{p}/mask/{index}")
    async def mask(p: str, index: int) -> Response:
        project = await desk.project(p)
        found = await asyncio.to_thread(project.mask, index)
        return Response(status_code=204) if found is None else _binary(found.to_bytes())

    @routes.get("/p/{p}/masks")
    async def masks(p: str, first: int, last: int, step: int = 1) -> Response:
        project = await desk.project(p)
        if step < 1 or (last - first) / step > MOST_MASKS:
            raise InputError(f"{MOST_MASKS} masks is the most at once")
        found = await asyncio.to_thread(project.masks, first, last, step)
        return _binary(b"".join(struct.pack("<I", len(data)) + data for data in (one.to_bytes() for one in found)))

    @routes.get("/p/{p}/result/{kind}")
    async def results(p: str, kind: str) -> list[Any]:
        project = await desk.project(p)
        if kind == "segment":
            found = await asyncio.to_thread(project.results, kind)
            return [frame for frame, _ in found]
        found = await asyncio.to_thread(project.results, kind)
        return [json.loads(data) for _, data in found]

    @routes.get("/p/{p}/result/segment/{index}")
    async def segmented(p: str, index: int) -> Response:
        project = await desk.project(p)
        data = await asyncio.to_thread(project.result, "segment", index)
        return Response(status_code=204) if data is None else _binary(data)

    @routes.websocket("/p/{p}/live")
    async def live(socket: WebSocket, p: str, tab: str = "", rev: int = 0) -> None:
        project = await desk.project(p)
        hello = {"t": "hello", "rev": project.rev, "ranges": await asyncio.to_thread(project.changed_since, rev)}
        await desk.hub.serve(p, socket, tab[:40], hello)


def _edit_routes(routes: APIRouter, desk: Desk) -> None:
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
        _check_frame(project, message.frame)
        found = await desk.on_thread(desk.prompting, _apply_marks, desk, project, message, tab)
        if not message.preview:
            desk.changed(project, [message.frame])
        return _binary(found.to_bytes())

    @routes.put("/p/{p}/mask/{index}")
    async def paint(
        p: str, index: int, object: int, request: Request, base_rev: int | None = None, tab: str = ""
    ) -> Response:
        project = await desk.project(p)
        _check_frame(project, index)
        body = await request.body()
        sent = await asyncio.to_thread(wire.parse, body, project.size)
        region = sent.labels() == object
        found = await asyncio.to_thread(project.paint, index, object, region, tab, base_rev)
        desk.changed(project, [index])
        return _binary(found.to_bytes())

    @routes.put("/p/{p}/import/{index}")
    async def import_mask(p: str, index: int, request: Request, snap: bool = False, tab: str = "") -> dict[str, Any]:
        project = await desk.project(p)
        _check_frame(project, index)
        labels = await asyncio.to_thread(_read_mask, project, await request.body(), snap)
        await asyncio.to_thread(project.put_labels, {index: labels}, tab)
        desk.changed(project, [index])
        return {"objects": [int(i) for i in np.unique(labels) if i]}

    @routes.delete("/p/{p}/mask/{index}", status_code=204)
    async def remove(p: str, index: int, object: int | None = None, tab: str = "") -> None:
        project = await desk.project(p)
        _check_frame(project, index)
        if object is None:
            await asyncio.to_thread(project.remove_keyframe, index, tab)
        else:
            await asyncio.to_thread(project.clear_mask, index, object, tab)
        desk.changed(project, [index])

    @routes.post("/p/{p}/undo")
    async def undo(p: str) -> dict[str, Any]:
        return await _undo(p, redo=False)

    @routes.post("/p/{p}/redo")
    async def redo(p: str) -> dict[str, Any]:
        return await _undo(p, redo=True)

    async def _undo(p: str, redo: bool) -> dict[str, Any]:
        project = await desk.project(p)
        frames = await asyncio.to_thread(lambda: project.undo(redo=redo))
        if frames is not None:
            desk.changed(project, frames)
        return {"frames": frames}


def _job_routes(routes: APIRouter, desk: Desk) -> None:
    @routes.post("/p/{p}/jobs", status_code=202)
    async def add_job(p: str, message: NewJob) -> dict[str, Any]:
        project = await desk.project(p)
        path = await asyncio.to_thread(desk.library.path_of, project)
        job = await asyncio.to_thread(_make_job, desk, project, path, message)
        await desk.jobs.submit(job)
        return {"job": job.id}

    @routes.delete("/p/{p}/jobs/{j}", status_code=204)
    async def stop_job(p: str, j: int) -> None:
        project = await desk.project(p)
        project.job(j)
        await desk.jobs.stop(project, j)


def _export_routes(routes: APIRouter, desk: Desk) -> None:
    @routes.post("/p/{p}/exports", status_code=202)
    async def export(p: str, message: NewExport) -> dict[str, Any]:
        project = await desk.project(p)
        if message.kind not in FORMATS:
            raise InputError(f"there is no export {message.kind!r}; choose one of {', '.join(FORMATS)}")
        path = await asyncio.to_thread(desk.library.path_of, project)
        stem, suffix = FORMATS[message.kind][0].rsplit(".", 1)
        name = f"{project.id.rsplit('-', 1)[0]}_{stem}.{suffix}"
        asked = {
            "project": str(project.folder),
            "source": str(path),
            "as": message.kind,
            "file": name,
            "first": project.get("in", 0),
            "last": project.get("out", project.frames - 1),
            "objects": message.objects or [entry["id"] for entry in project.objects()],
            "options": {"as": message.kind, "soft": message.soft},
        }
        key = f"{p}/{name}"
        if desk.exports.get(key, {}).get("state") == "running":
            raise InputError("this export is being written already")
        desk.exports[key] = {"t": "export", "file": name, "state": "running", "done": 0, "total": 0}
        task = asyncio.create_task(_export(desk, project, key, asked))
        desk.tasks.add(task)
        task.add_done_callback(desk.tasks.discard)
        return {"file": name}

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
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "twospeed.app.exporting",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
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
        with contextlib.suppress(ProcessLookupError):
            process.kill()


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
    found = project.set_marks(message.frame, message.object, kept, region, tab, message.base_rev)
    assert found is not None
    return found


def _make_job(desk: Desk, project: Project, path: Path, message: NewJob) -> Job:
    options = message.model_dump()
    last_job = 0
    if message.kind == "resume":
        last = next((job for job in project.jobs() if job["state"] in ("interrupted", "stopped", "failed")), None)
        if last is None or "parts" not in last["options"]:
            raise InputError("there is nothing to resume")
        options, last_job = last["options"], last["id"]
    name = options.get("model") or desk.settings["model"]
    first, last_frame = project.get("in", 0), project.get("out", project.frames - 1)
    content: dict[str, Any] = {"source": str(path), "first": first, "last": last_frame}
    weights = _weights(desk, find(name), options.get("weights"))
    content["options"] = {"model": name, "device": desk.settings["device"], "weights": weights}
    if message.kind in ("track", "stale", "resume"):
        content["kind"] = "track"
        content["options"] |= {
            "size": options.get("size") or desk.settings["size"],
            "finetune": options.get("finetune"),
        }
        keys = project.keyframes()
        if message.kind == "track":
            parts = plan.plan(message.direction, message.frame, keys, first, last_frame, through=message.through)
        elif message.kind == "stale":
            parts = plan.plan_stale(project.stale_frames(), keys)
        else:
            parts = _remaining(project, last_job, options["parts"], keys)
        return _tracking(project, content, parts, keys, options)
    entry = find(name) if message.model else None
    if entry is None or entry.task != {"find": "track"}.get(message.kind, message.kind):
        raise InputError(f"choose a model for this job: one that `twospeed models --task {message.kind}` lists")
    content["kind"] = message.kind
    kinds = {"classify": ["classify"], "detect": ["detect"], "segment": ["segment", "classes"], "find": []}
    for kind in kinds[message.kind]:
        project.clear_results(kind)
    job_id = project.add_job(message.kind, options, last_frame - first + 1)
    return Job(project, job_id, content)


def _tracking(
    project: Project, content: dict[str, Any], parts: list[plan.Part], keys: list[int], options: dict[str, Any]
) -> Job:
    masks: dict[int, WireMask] = {}
    for key in keys:
        mask = project.mask(key)
        if mask is not None:
            masks[key] = mask
    content["gone"] = project.gone()
    content["parts"] = parts
    total = plan.count(parts, keys)
    job_id = project.add_job("track", {**options, "parts": parts}, total)
    return Job(project, job_id, content, list(masks.values()))


def _remaining(project: Project, job_id: int, parts: list[plan.Part], keys: list[int]) -> list[plan.Part]:
    """What a job has not computed yet."""
    done = set(project.frames_of_job(job_id)) | set(keys)
    left = []
    for part in parts:
        frames = [i for i in plan.as_range(part) if i not in done]
        if frames:
            left.append({"first": frames[0], "last": part["last"]})
    if not left:
        raise InputError("the job had finished all its frames")
    return left


def _read_mask(project: Project, data: bytes, snap: bool) -> np.ndarray[Any, Any]:
    from twospeed.video.indexed_png import read_label_map

    path = project.folder / ".import.png"
    path.write_bytes(data)
    try:
        return read_label_map(path, expect_size=project.size, snap=snap)
    except InputError as error:
        raise InputError(str(error).replace(str(path), "the mask"), option=error.option) from None
    finally:
        path.unlink(missing_ok=True)


def _check_frame(project: Project, index: int) -> None:
    if not 0 <= index < project.frames:
        raise InputError(f"there is no frame {index}; the video has frames 0 to {project.frames - 1}")


def _weights(desk: Desk, entry: Entry, wanted: str | None) -> str:
    """Return the weights of a model: a file of the open folder, by its name there, or what is on this machine."""
    if wanted is not None:
        path = next((one for one in desk.library.weights() if one.name == wanted), None)
        if path is None:
            raise InputError(f"there is no file of weights {wanted!r} in the folder")
        return str(path)
    if entry.name == desk.settings["model"]:
        return str(desk.settings["weights"])
    if entry.weights is None or entry.weights.url:
        raise InputError(f"the weights of {entry.name} are not part of the package; put their file into the folder")
    return "default"


def _models() -> list[dict[str, Any]]:
    found = []
    for name, entry in CATALOG.items():
        weights = entry.weights
        here = weights is not None and not weights.url
        found.append(
            {
                "name": name,
                "task": entry.task,
                "summary": entry.summary,
                "needs_masks": entry.needs_masks,
                "here": here,
                "licence": None if weights is None else weights.licence,
                "url": None if weights is None else weights.url,
                "file": None if weights is None else weights.file,
            }
        )
    return found


def _binary(data: bytes) -> Response:
    return Response(data, media_type="application/octet-stream", headers={"cache-control": "no-store"})
