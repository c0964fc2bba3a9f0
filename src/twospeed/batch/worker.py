"""What a worker does with one video: fetch it, run the job on it, deliver its results, and say how that ended."""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import io
import json
import os
import shutil
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from twospeed.batch.storage import FolderStorage, Storage, fetch, open_storage
from twospeed.errors import CheckpointError, InputError, OutputError, TwospeedError, WeightsUnavailable
from twospeed.files import make_folder, read_text, write_json

Ending = Literal["done", "split", "input", "setup", "fault", "died"]
"""How an attempt ended: "split": the video is to be computed in `Outcome.parts` parts; "input": the video is not what
it should be, which no second attempt changes; "setup": what holds for all videos is wrong, such as missing weights;
"fault": anything else; "died": the process ended."""

VIDEOS, THUMBNAILS, PARTS = "videos", "thumbnails", "parts"
_THUMBNAIL = 160  # pixels


def prepare(threads: int) -> None:
    """Let this process hold what it builds, and share the machine's cores with others like it."""
    import torch

    from twospeed.weights.load import keep_networks

    torch.set_num_threads(threads)
    keep_networks()


@dataclass(frozen=True)
class Work:
    """What is done with every video.

    job: the command, such as "segment". run: a function of a module (workers import it) that runs a command line of
    that job, `[video, "-o", folder, ...]`, into a folder as the command itself does. arguments: options for all videos.
    out: address of the storage. batch_id: of the storage's batch. prepare: called once in each worker, with its number
    of threads. count_parts: a function of a module that returns in how many parts of part_s seconds a command line's
    video is computed; None computes all whole. `run` then takes `--part NUMBER,SECONDS,FILE` for one of them, and
    `--parts FOLDER` for the whole from all.
    """

    job: str
    run: Callable[[str, list[str]], None]
    arguments: Sequence[str]
    out: str
    batch_id: str
    prepare: Callable[[int], None] = prepare
    count_parts: Callable[[str, list[str], float], int] | None = None
    part_s: float = 0.0


@dataclass(frozen=True)
class Task:
    """One attempt at one video. resume: continue what an attempt that was stopped has left.

    parts: how many parts the video has, 1 where that is not known. part: which one to compute, from 1; 0 for the whole,
    which is made from its parts where it has several.
    """

    key: str
    source: str
    arguments: Sequence[str] = ()
    attempt: int = 1
    resume: bool = False
    part: int = 0
    parts: int = 1

    def died(self, how: str) -> Outcome:
        """Return the outcome of an attempt that ended with its worker. how: what became of it."""
        return Outcome(self.key, "died", how, part=self.part, parts=self.parts)


@dataclass(frozen=True)
class Outcome:
    """How an attempt ended. facts: of a done video, its line of results.parquet. memory: that the worker holds after
    it, in bytes, 0 where that is not known. part, parts: as of `Task`."""

    key: str
    ending: Ending
    error: str = ""
    seconds: float = 0.0
    facts: dict[str, Any] = field(default_factory=dict)
    memory: int = 0
    part: int = 0
    parts: int = 1


def part_names(parts: int) -> list[str]:
    """Return the names of the files of a video's parts."""
    from twospeed.pipelines.parts import part_name

    return [part_name(number, parts) for number in range(1, parts + 1)]


def execute(work: Work, task: Task, device: str | None = None) -> Outcome:
    """Run one attempt. Never raises: an error is an outcome. device: what to pass on as the job's `device`."""
    begun = time.monotonic()

    def ended(ending: Ending, error: str = "", facts: dict[str, Any] | None = None, parts: int = task.parts) -> Outcome:
        seconds = round(time.monotonic() - begun, 3)
        return Outcome(task.key, ending, error, seconds, facts or {}, part=task.part, parts=parts)

    storage = open_storage(work.out)
    place = work_folder(storage, work.batch_id, task)
    try:
        found = _run(work, task, device, storage, place)
        return ended("split", parts=found) if isinstance(found, int) else ended("done", facts=found)
    except (CheckpointError, WeightsUnavailable) as error:
        return ended("setup", str(error))
    except InputError as error:
        return ended("input", str(error))
    except OutputError as error:
        return ended("fault", str(error))
    except KeyboardInterrupt:
        return ended("died", "interrupted")
    except BaseException as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        return ended("fault", f"{type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})")
    finally:
        shutil.rmtree(place, ignore_errors=True)  # what a killed worker leaves there is removed by the next attempt


def execute_one_of_many(work: Work, task: Task, device: str | None = None) -> Outcome:
    """Run one attempt as `execute`, in a process that gets more tasks; free what it has left, and measure the rest.

    Jobs leave reference cycles, and some of them hold a network. Python searches for cycles by how many objects there
    are, however large, so that several networks would pile up before it does.
    """
    outcome = execute(work, task, device)
    gc.collect()
    _freeze_what_stays()
    return replace(outcome, memory=memory_used())


@functools.cache
def _freeze_what_stays() -> None:
    """Take what is there after the first video, most of it modules, out of later searches: they take milliseconds."""
    gc.freeze()
    atexit.register(gc.unfreeze)  # libraries that count what is left when the process ends would print it


def _run(work: Work, task: Task, device: str | None, storage: Storage, place: Path) -> dict[str, Any] | int:
    """Return the facts of a video that is done, none of a part, or in how many parts a video is to be computed."""
    if not task.resume:
        shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True, exist_ok=True)
    folder = place / task.key  # named as it is delivered, since plots have their folder's name as title
    remote = "://" in task.source
    local = fetch(task.source, place / ".input") if remote else Path(task.source)
    arguments = [str(local), "-o", str(folder), "--quiet", *work.arguments, *task.arguments]
    if device is not None and "--device" not in arguments:
        arguments += ["--device", device]
    if task.part:
        name = part_names(task.parts)[task.part - 1]
        with contextlib.redirect_stdout(io.StringIO()):
            work.run(work.job, [*arguments, "--part", f"{task.part},{work.part_s},{place / name}"])
        storage.write(f"{PARTS}/{task.key}/{name}", (place / name).read_bytes())
        return {}
    if task.parts > 1:
        for name in part_names(task.parts):
            content = storage.read(f"{PARTS}/{task.key}/{name}")
            make_folder(place / ".parts")
            (place / ".parts" / name).write_bytes(content or b"")
        arguments += ["--parts", str(place / ".parts")]
    elif work.count_parts is not None and (parts := work.count_parts(work.job, arguments, work.part_s)) > 1:
        return parts
    if (folder / "run.json").is_file():
        arguments.append("--resume")
    with contextlib.redirect_stdout(io.StringIO()):
        work.run(work.job, arguments)
    record = json.loads(read_text(folder / "run.json"))
    if remote:
        record["inputs"]["video"]["path"] = task.source
        write_json(folder / "run.json", record)
    from twospeed.batch.tables import video_tables, write_table

    for name, table in video_tables(work.job, task.key, folder, record).items():
        storage.write(f"{name}/{task.key}.parquet", write_table(table))
    with contextlib.suppress(TwospeedError):  # a report without one image is still a report
        storage.write(f"{THUMBNAILS}/{task.key}.jpg", _thumbnail(folder / "overlay.mp4", local))
    storage.deliver(folder, f"{VIDEOS}/{task.key}")
    return facts_of(record)


def facts_of(record: dict[str, Any]) -> dict[str, Any]:
    """Return what results.parquet holds of a finished run, from its record."""
    names = ("model", "weights_sha256", "frames", "seconds", "frames_per_second")
    return {**{name: record[name] for name in names}, "summary": record["summary"]}


def work_folder(storage: Storage, batch_id: str, task: Task) -> Path:
    """Return where an attempt at a video works: beside the results where these are on a disk, so that a rename moves
    them; else among this machine's temporary files."""
    name = f"{task.key}/.part{task.part}" if task.part else task.key
    if isinstance(storage, FolderStorage):
        return storage.root / ".work" / name
    return Path(tempfile.gettempdir()) / f"twospeed-batch-{batch_id}" / name


def memory_used() -> int:
    """Return the memory that this process holds, in bytes; 0 where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0


def _thumbnail(overlay: Path, source: Path) -> bytes:
    """Return the first frame of the overlay, or of the video where there is none, as a small JPEG."""
    from PIL import Image

    from twospeed.video.reader import open_video

    with open_video(overlay if overlay.is_file() else source) as frames:
        image = Image.fromarray(next(iter(frames)).image)
    image.thumbnail((_THUMBNAIL, _THUMBNAIL))
    content = io.BytesIO()
    image.save(content, "JPEG", quality=80)
    return content.getvalue()
