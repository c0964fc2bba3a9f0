"""The folder that is open: its videos, its projects, and the check that nothing outside of it is reached."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import re
import shutil
import stat
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twospeed.app.frames import FrameSource, JpegCache
from twospeed.app.probe import extract_sound, fingerprint, probe, thumbnail
from twospeed.app.proxy import proxy_of
from twospeed.app.runs import RECORD, FinishedRun, copy_results, frame_times, read_run
from twospeed.app.store import Project
from twospeed.errors import InputError, VideoError
from twospeed.files import atomic_file, atomic_folder, make_folder
from twospeed.output.folder import PROJECTS
from twospeed.video.folders import IMAGE_SUFFIXES

SUFFIXES = frozenset(
    {".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".mts", ".flv", ".ogv", ".gif", ".mxf"}
)
WEIGHTS = frozenset({".safetensors", ".pth", ".pt", ".pyth", ".pkl", ".tar"})
DEPTH = 3
MOST_ENTRIES = 5000
MOST_OPEN = 2  # videos with an open decoder, each of which takes 20 to 60 MB
MOST_COMPARED = 200  # videos whose content is compared with a run's
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
    """Everything under one folder. Safe to use from several threads.

    run: the folder of a run that somebody named: its video is read wherever it lies, where its content is the one that
    the run has recorded.
    """

    def __init__(self, folder: Path, run: Path | None = None) -> None:
        self.folder = folder.resolve()
        self._lock = threading.RLock()
        self._projects: dict[str, Project] = {}
        self._sources: dict[str, FrameSource] = {}
        self._cache = JpegCache()
        self._runs: dict[Path, tuple[int, FinishedRun | None]] = {}
        self._sounds = threading.Lock()
        self._granted: set[Path] = set()
        if run is not None and (found := read_run(run)) is not None:
            for path in (Path(found.video), run.parent / Path(found.video).name):
                if path.exists() and found.is_of(path):
                    self._granted.add(path.resolve())
        self._empty_trash()

    def videos(self) -> list[Video]:
        """List videos and folders of images, at most three folders deep, sorted by name; not what runs have written."""
        return self._listing()[0]

    def runs(self) -> list[tuple[str, FinishedRun]]:
        """List finished runs of the command line with their ids, sorted by folder."""
        found = []
        for folder in self._listing()[1]:
            changed = (folder / RECORD).stat().st_mtime_ns
            if self._runs.get(folder, (0, None))[0] != changed:
                self._runs[folder] = (changed, read_run(folder))
            if (run := self._runs[folder][1]) is not None:
                found.append((self._identity(folder), run))
        return found

    def _listing(self) -> tuple[list[Video], list[Path]]:
        videos: list[Video] = []
        runs: list[Path] = []
        waiting = [(self.folder, 0, False)]  # folder, how deep, whether within a run's
        seen = 0
        while waiting and seen <= MOST_ENTRIES:
            folder, depth, within = waiting.pop()
            images = 0
            try:
                entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
            except OSError:
                continue
            if any(entry.name == RECORD and entry.is_file(follow_symlinks=False) for entry in entries):
                runs.append(folder)
                within = True
            for entry in entries:
                seen += 1
                if entry.name.startswith(".") or entry.name == PROJECTS or seen > MOST_ENTRIES:
                    continue
                path = Path(entry.path)
                suffix = path.suffix.lower()
                if entry.is_dir(follow_symlinks=False):
                    if depth < DEPTH:
                        waiting.append((path, depth + 1, within))
                elif within:
                    continue
                elif suffix in SUFFIXES and (entry.is_file() or entry.is_symlink()):
                    videos.append(self._video(path))
                elif suffix in IMAGE_SUFFIXES:
                    images += 1
            if images >= 2:
                videos.append(self._video(folder))
        return sorted(videos, key=lambda video: video.name.lower()), sorted(runs)

    def _video(self, path: Path) -> Video:
        name = os.fsencode(path.relative_to(self.folder)).decode("utf-8", "replace")
        try:
            inside, size = self._is_inside(path), path.stat().st_size
        except OSError:
            inside, size = False, 0
        return Video(
            self._identity(path), name if name != "." else self.folder.name, path, size, path.is_dir(), not inside
        )

    def _identity(self, path: Path) -> str:
        return hashlib.sha256(os.fsencode(path.relative_to(self.folder))).hexdigest()[:16]

    def _is_inside(self, path: Path) -> bool:
        return path.resolve().is_relative_to(self.folder)

    def checked(self, path: Path) -> Path:
        """Return the path of a regular file or a folder inside the open folder. Raises VideoError for anything else."""
        real = path.resolve()
        if not real.is_relative_to(self.folder) and real not in self._granted:
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

    def video(self, video_id: str) -> Video:
        """Return an entry of the listing. Raises InputError where there is none."""
        for one in self.videos():
            if one.id == video_id:
                return one
        raise InputError("there is no such video in the folder any more")

    def thumbnail(self, video_id: str) -> bytes | None:
        """Return the first image of a video as a small JPEG; None where it cannot be decoded, or is not to be opened.

        It is made once, and anew where the file has changed.
        """
        video = self.video(video_id)
        if video.outside:
            return None
        path = self.checked(video.path)
        status = path.stat()
        folder = make_folder(self.folder / ".twospeed" / "thumbnails")
        file = folder / f"{video.id}-{status.st_size}-{status.st_mtime_ns}.jpg"
        if not file.exists():
            for old in folder.glob(f"{video.id}-*.jpg"):
                old.unlink(missing_ok=True)
            try:
                data = thumbnail(path)
            except VideoError:
                data = b""  # it is not tried again
            with atomic_file(file) as temporary:
                temporary.write_bytes(data)
        return file.read_bytes() or None

    def open_video(self, video_id: str) -> Project:
        """Open the project of a video, or make one. Raises VideoError for what cannot be read as a video."""
        video = self.video(video_id)
        project_id = f"{_stem(video.path.stem)}-{video.id[:6]}"
        for project in sorted(self._all_projects(), key=lambda one: one.id != project_id):
            if project.get("path") == self._relative(video.path) and not project.get("run"):
                return project
        if self._exists(project_id):  # its video was renamed, and this one has taken the name
            project_id = f"{_stem(video.path.stem)}-{fingerprint(self.checked(video.path))[:6]}"
        source, times = self._probed(video.path)
        return self._make(project_id, {"name": video.name, **source}, times)

    def open_run(self, run_id: str) -> Project:
        """Open the project that shows a finished run, or make one from its results. Raises InputError, VideoError."""
        run = next((run for identity, run in self.runs() if identity == run_id), None)
        if run is None:
            raise InputError("there is no such run in the folder any more")
        project_id = f"{_stem(run.folder.name)}-{run_id[:6]}"
        if self._exists(project_id):
            return self.project(project_id)
        path = self._video_of(run)
        if path is not None:
            name = path.name
            known, times = self._probed(path)
        else:
            times, (height, width) = frame_times(run)
            name = Path(run.video).name or run.folder.name
            known = {"path": name, "width": width, "height": height, "fingerprint": ""}
        source = {"run": run.command, "name": f"{name} ({run.folder.name})", **known}
        return self._make(project_id, source, times, lambda project: copy_results(run, project))

    def _probed(self, path: Path) -> tuple[dict[str, Any], NDArray[np.float64]]:
        """Return what a project keeps of its source, and the time in seconds of every frame. Raises VideoError."""
        real = self.checked(path)
        known = probe(real)
        times = np.frombuffer(base64.b64decode(known["times_s"]), "<f8")
        facts = {"width": known["width"], "height": known["height"], "fingerprint": fingerprint(real)}
        return {"path": self._relative(path), **facts}, times

    def _video_of(self, run: FinishedRun) -> Path | None:
        """Return where a run's video is, in the folder or as somebody has named it; None where it is not found."""
        name = Path(run.video).name
        videos = [video.path for video in self.videos() if not video.outside]
        likely = sorted(videos, key=lambda path: path.name != name)[:MOST_COMPARED]
        return next((path for path in [*self._granted, *likely] if run.is_of(path)), None)

    def _relative(self, path: Path) -> str:
        known = path.relative_to(self.folder) if path.is_relative_to(self.folder) else path
        return os.fsencode(known).decode("utf-8", "surrogateescape")

    def _make(
        self,
        project_id: str,
        source: dict[str, Any],
        times: NDArray[np.float64],
        fill: Callable[[Project], None] = lambda project: None,
    ) -> Project:
        """Make a project whole or not at all."""
        with self._lock:
            if self._exists(project_id):  # by another tab, meanwhile
                return self.project(project_id)
            make_folder(self.folder / PROJECTS)
            with atomic_folder(self.folder / PROJECTS / project_id) as folder:
                folder.chmod(0o700)
                made = Project(folder)
                try:
                    made.describe(source, times)
                    fill(made)
                finally:
                    made.close()
            return self.project(project_id)

    def locate(self, project: Project, video_id: str, *, anyway: bool = False) -> None:
        """Take another file as a project's source, because it moved.

        anyway: also where it is not the same file but has the same frames. Raises VideoError where it does not fit.
        """
        video = self.video(video_id)
        found = fingerprint(self.checked(video.path))
        if found != project.get("fingerprint"):
            known, times = self._probed(video.path)
            height, width = project.size
            fits = len(times) == project.frames or (not project.get("fingerprint") and len(times) > project.frames)
            if (known["height"], known["width"]) != (height, width) or not fits:
                raise VideoError(
                    f"{video.name}: has {len(times)} frames of {known['width']}x{known['height']}, the project "
                    f"{project.frames} of {width}x{height}; it is another video"
                )
            if not anyway:
                raise VideoError(
                    f"{video.name}: is not the same file, but has as many frames of the same size; take it only if it "
                    "is the same video, encoded anew",
                    option="anyway",
                )
        with self._lock:
            if (source := self._sources.pop(project.id, None)) is not None:
                source.close()
            project.relocate(self._relative(video.path), found, None if project.get("run") else video.name)

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
                try:
                    project.check_content()
                except InputError:
                    project.close()
                    raise
                self._projects[project_id] = project
            return self._projects[project_id]

    def projects(self) -> list[dict[str, Any]]:
        """List the projects: the share of frames that have masks, and the id of the video, None where it is gone."""
        found = []
        for project in self._all_projects():
            masks = sum(last - first + 1 for first, last in project.changed_since(-1))
            path = self.folder / project.get("path")
            here = path.is_relative_to(self.folder) and path.exists()
            entry = {"id": project.id, "name": project.get("name"), "frames": project.frames, "run": project.get("run")}
            entry |= {"share": masks / max(1, project.frames), "objects": len(project.objects())}
            found.append({**entry, "video": self._identity(path) if here else None})
        return found

    def _all_projects(self) -> list[Project]:
        found = []
        for file in sorted((self.folder / PROJECTS).glob("*/project.db")):
            with contextlib.suppress(InputError):  # no project, or a damaged one
                found.append(self.project(file.parent.name))
        return found

    def path_of(self, project: Project) -> Path:
        """Return a project's source. Raises VideoError where it is gone or another file than it was."""
        path = self.folder / project.get("path")
        if not path.exists():
            raise VideoError(f"{project.get('name')}: is not there any more; put it back, or locate it")
        return self.checked(path)

    def source(self, project: Project) -> FrameSource:
        """Return the frames of a project's video. Raises VideoError where it is gone or has changed."""
        with self._lock:
            path = self.path_of(project)
            if project.id not in self._sources:
                if fingerprint(path) != project.get("fingerprint"):
                    raise VideoError(f"{project.get('name')}: is another file than when the project was made")
                self._sources[project.id] = FrameSource(project.id, path, project.frames, self._cache)
            found = self._sources[project.id] = self._sources.pop(project.id)  # the last of them is the newest used
            for other in list(self._sources.values())[:-MOST_OPEN]:
                other.rest()
            if not found.has_proxy and (proxy := proxy_of(project)).is_file() and not proxy.is_symlink():
                with contextlib.suppress(VideoError):  # it does without
                    found.use_proxy(proxy)
            return found

    def sound(self, project: Project) -> Path | None:
        """Return the file of a project's sound; None where its video has none. Raises VideoError."""
        self.source(project)  # whether it is the project's video
        with self._sounds:
            return extract_sound(self.path_of(project), project.folder)

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


def _stem(name: str) -> str:
    """Return the part of a name that is safe in the names of folders and addresses."""
    return re.sub(r"[^\w.-]+", "_", name, flags=re.ASCII).strip("._")[:40] or "video"
