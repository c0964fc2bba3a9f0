"""What several routes need."""

from __future__ import annotations

from fastapi import Response

from twospeed.app.store import Project
from twospeed.errors import InputError


def check_frame(project: Project, index: int) -> None:
    """Raise InputError for a frame that the video does not have."""
    if not 0 <= index < project.frames:
        raise InputError(f"there is no frame {index}; the video has frames 0 to {project.frames - 1}")


def binary(data: bytes) -> Response:
    """Answer with bytes, which no cache keeps."""
    return Response(data, media_type="application/octet-stream", headers={"cache-control": "no-store"})
