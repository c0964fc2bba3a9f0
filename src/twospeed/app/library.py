"""The folder that is open: its videos, its projects, and the check that nothing outside of it is reached."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import shutil
import stat
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from twospeed.app.frames import FrameSource, JpegCache
from twospeed.app.probe import fingerprint, probe
from twospeed.app.store import Project
from twospeed.errors import InputError, VideoError
from twospeed.files import make_folder
from twospeed.video.folders import IMAGE_SUFFIXES

SUFFIXES = frozenset(
    {".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".mts", ".flv", ".ogv", ".gif", ".mxf"}
)
WEIGHTS = frozenset({".safetensors", ".pth", ".pt", ".pyth", ".pkl", ".tar"})
DEPTH = 3
MOST_ENTRIES = 5000
PROJECTS = "twospeed_projects"
_TRASH_S = 7 * 86400


@dataclass(frozen=True)
class Video:
    """One entry of the listing. outside: a link that leads out of the folder, shown but not opened."""

    id: str
    name: str
    path: Path
    bytes: int
    is_folder: bool
    outside: bool


class Library:
    """Everything under one folder. Safe to use from several threads."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self._lock = threading.RLock()
        self._projects: dict[str, Project] = {}
        self._sources: dict[str, FrameSource] = {}
        self._cache = JpegCache()
        self._empty_trash()

    def videos(self) -> list[Video]:
        """List videos and folders of images, at most three folders deep, sorted by name."""
        found: list[Video] = []
        waiting = [(self.folder, 0)]
        seen = 0
        while waiting:
            folder, depth = waiting.pop()
            images = 0
            try:
                entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
            except OSError:
                continue
            for entry in entries:
                seen += 1
                if seen > MOST_ENTRIES:
                    return sorted(found, key=lambda video: video.name.lower())
                if entry.name.startswith(".") or entry.name == PROJECTS:
                    continue
                path = Path(entry.path)
                suffix = path.suffix.lower()
                if entry.is_dir(follow_symlinks=False):
                    if depth < DEPTH:
                        waiting.append((path, depth + 1))
                elif suffix in SUFFIXES and (entry.is_file() or entry.is_symlink()):
                    found.append(self._video(path))
                elif suffix in IMAGE_SUFFIXES:
                    images += 1
            if images >= 2:
                found.append(self._video(folder))
        return sorted(found, key=lambda video: video.name.lower())

    def _video(self, path: Path) -> Video:
        name = os.fsencode(path.relative_to(self.folder)).decode("utf-8", "replace")
        identity = hashlib.sha256(os.fsencode(path.relative_to(self.folder))).hexdigest()[:16]
        try:
            inside, size = self._is_inside(path), path.stat().st_size
        except OSError:
            inside, size = False, 0
        return Video(identity, name if name != "." else self.folder.name, path, size, path.is_dir(), not inside)

    def _is_inside(self, path: Path) -> bool:
        return path.resolve().is_relative_to(self.folder)

    def checked(self, path: Path) -> Path:
        """Return the path of a regular file or a folder inside the open folder. Raises VideoError for anything else."""
        real = path.resolve()
        if not real.is_relative_to(self.folder):
            raise VideoError(f"{path.name}: leads out of the folder that is open, and is not read")
        try:
            status = real.lstat()
        except OSError as error:
            raise VideoError(f"{path.name}: cannot be read ({error.strerror})") from None
        if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
            raise VideoError(f"{path.name}: is no regular file")
        return real

    def weights(self) -> list[Path]:
        """List the files of weights that lie in the folder itself."""
        found = [path for path in self.folder.iterdir() if path.suffix.lower() in WEIGHTS and path.is_file()]
        return sorted(path for path in found if self._is_inside(path))

    def open_video(self, video_id: str) -> Project:
        """Open the project of a video, or make one. Raises VideoError for what cannot be read as a video."""
        video = next((one for one in self.videos() if one.id == video_id), None)
        if video is None:
            raise InputError("there is no such video in the folder any more")
        path = self.checked(video.path)
        stem = re.sub(r"[^\w.-]+", "_", video.path.stem, flags=re.ASCII).strip("._")[:40] or "video"
        project_id = f"{stem}-{video.id[:6]}"
        if self._exists(project_id):
            return self.project(project_id)
        known = probe(path)
        times = np.frombuffer(base64.b64decode(known["times_s"]), "<f8")
        with self._lock:
            if self._exists(project_id):  # by another tab, meanwhile
                return self.project(project_id)
            folder = make_folder(self.folder / PROJECTS / project_id)
            folder.chmod(0o700)
            project = Project(folder)
            relative = os.fsencode(video.path.relative_to(self.folder)).decode("utf-8", "surrogateescape")
            source = {"name": video.name, "path": relative, "width": known["width"], "height": known["height"]}
            project.describe({**source, "fingerprint": fingerprint(path)}, times)
            self._projects[project_id] = project
            return project

    def _exists(self, project_id: str) -> bool:
        return project_id in self._projects or (self.folder / PROJECTS / project_id / "project.db").exists()

    def project(self, project_id: str) -> Project:
        """Return an existing project. Raises InputError where there is none."""
        if not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", project_id) or project_id.startswith("."):
            raise InputError("there is no such project")
        with self._lock:
            if project_id not in self._projects:
                folder = self.folder / PROJECTS / project_id
                if not (folder / "project.db").is_file() or not self._is_inside(folder):
                    raise InputError(f"there is no project {project_id}")
                project = Project(folder)
                if project.get("frames") is None:  # the program ended while it was being made
                    project.close()
                    shutil.rmtree(folder)
                    raise InputError(f"project {project_id} was never finished; open the video again")
                self._projects[project_id] = project
            return self._projects[project_id]

    def projects(self) -> list[dict[str, Any]]:
        """List the projects with the share of frames that have masks."""
        found = []
        for folder in sorted((self.folder / PROJECTS).glob("*/project.db")):
            try:
                project = self.project(folder.parent.name)
            except InputError:
                continue
            masks = sum(last - first + 1 for first, last in project.changed_since(-1))
            entry = {"id": project.id, "name": project.get("name"), "frames": project.frames}
            found.append({**entry, "share": masks / max(1, project.frames), "objects": len(project.objects())})
        return found

    def path_of(self, project: Project) -> Path:
        """Return a project's source. Raises VideoError where it is gone or another file than it was."""
        path = self.folder / project.get("path")
        if not path.exists():
            raise VideoError(f"{project.get('name')}: is not there any more; put it back to go on")
        return self.checked(path)

    def source(self, project: Project) -> FrameSource:
        """Return the frames of a project's video. Raises VideoError where it is gone or has changed."""
        with self._lock:
            path = self.path_of(project)
            if project.id not in self._sources:
                if fingerprint(path) != project.get("fingerprint"):
                    raise VideoError(f"{project.get('name')}: is another file than when the project was made")
                self._sources[project.id] = FrameSource(project.id, path, project.frames, self._cache)
            return self._sources[project.id]

    def delete(self, project_id: str) -> None:
        """Move a project into the trash, where it stays for 7 days."""
        with self._lock:
            project = self.project(project_id)
            project.close()
            del self._projects[project_id]
            if (source := self._sources.pop(project_id, None)) is not None:
                source.close()
            trash = make_folder(self.folder / PROJECTS / ".trash")
            project.folder.rename(trash / f"{project_id}.{int(time.time())}")

    def _empty_trash(self) -> None:
        for folder in (self.folder / PROJECTS / ".trash").glob("*.*"):
            when = folder.suffix[1:]
            if when.isdecimal() and time.time() - int(when) > _TRASH_S:
                shutil.rmtree(folder, ignore_errors=True)

    def close(self) -> None:
        """Close all files."""
        for source in self._sources.values():
            source.close()
        for project in self._projects.values():
            project.close()
