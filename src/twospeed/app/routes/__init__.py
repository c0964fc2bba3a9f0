"""What the page asks for: thin functions over `library`, `store` and `jobs`."""

from __future__ import annotations

from fastapi import APIRouter

from twospeed.app.desk import Desk
from twospeed.app.routes.edits import edit_routes
from twospeed.app.routes.exports import export_routes
from twospeed.app.routes.folder import folder_routes
from twospeed.app.routes.jobs import job_routes
from twospeed.app.routes.project import project_routes


def make_routes(desk: Desk) -> APIRouter:
    """Return all routes below /api."""
    routes = APIRouter(prefix="/api")
    for add in (folder_routes, project_routes, edit_routes, job_routes, export_routes):
        add(routes, desk)
    return routes
