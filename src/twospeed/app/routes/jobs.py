"""Jobs: what is computed, with which model and weights."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from fastapi import APIRouter

from twospeed.app import plan
from twospeed.app.desk import Desk
from twospeed.app.jobs import Job
from twospeed.app.messages import NewJob
from twospeed.app.store import Project
from twospeed.errors import InputError
from twospeed.weights.catalog import find
from twospeed.weights.entries import Entry


def job_routes(routes: APIRouter, desk: Desk) -> None:
    """Add the routes of jobs."""

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
    kinds = {"classify": ["classify"], "detect": ["detect"], "segment": ["segment", "classes", "areas"], "find": []}
    for kind in kinds[message.kind]:
        project.clear_results(kind)
    job_id = project.add_job(message.kind, options, last_frame - first + 1)
    return Job(project, job_id, content)


def _tracking(
    project: Project, content: dict[str, Any], parts: list[plan.Part], keys: list[int], options: dict[str, Any]
) -> Job:
    masks = [mask for key in keys if (mask := project.mask(key)) is not None]
    content["gone"] = project.gone()
    content["parts"] = parts
    total = plan.count(parts, keys)
    job_id = project.add_job("track", {**options, "parts": parts}, total)
    return Job(project, job_id, content, masks)


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


def _weights(desk: Desk, entry: Entry, wanted: str | None) -> str:
    """Return the weights of a model: a file of the open folder, by its name there, or what is on this machine."""
    if wanted is not None:
        path = next((one for one in desk.library.weights() if one.name == wanted), None)
        if path is None:
            raise InputError(f"there is no file of weights {wanted!r} in the folder")
        return str(path)
    if entry.name == desk.settings["model"]:
        return str(desk.settings["weights"])
    if entry.weights is None or entry.weights.url or entry.weights.start:
        raise InputError(f"{entry.name} needs weights that are not part of the package; put their file into the folder")
    return "default"
