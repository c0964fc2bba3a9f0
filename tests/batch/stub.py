"""Jobs that do what their "video", a text file, says: quick stand-ins for networks, in real worker processes."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import signal
import sys
import time
from pathlib import Path

from twospeed.batch.driver import Batch, Policy
from twospeed.batch.inputs import Video
from twospeed.batch.local import LocalEngine
from twospeed.batch.storage import open_storage
from twospeed.batch.worker import Work
from twospeed.errors import CheckpointError, InputError
from twospeed.files import make_folder, write_json, write_text

KEYS = ("model", "weights_sha256", "options", "inputs", "versions", "summary", "files")


def prepare(threads: int) -> None:
    os.environ["TWOSPEED_STUB_THREADS"] = str(threads)


def run(job: str, arguments: list[str]) -> None:
    """Do what the file says, and leave a folder of results as `segment` does; note that it was begun and ended."""
    source, folder = Path(arguments[0]), Path(arguments[arguments.index("-o") + 1])
    log = Path(os.environ.get("TWOSPEED_STUB_LOG", source.with_suffix(".log")))
    what, *rest = source.read_text().split()
    if "--part" in arguments:
        compute_part(source, log, rest[1], arguments[arguments.index("--part") + 1])
        return
    if what == "parts":
        assert len(list(Path(arguments[arguments.index("--parts") + 1]).iterdir())) == int(rest[0])
        what = "ok"
    note(log, f"begin {source.stem}")
    begun = log.read_text().split("\n").count(f"begin {source.stem}")
    if what == "bad":
        raise InputError(f"{source}: not a video")
    if what == "setup":
        raise CheckpointError("no checkpoint at nowhere.pt")
    if what == "die" or (what == "die-once" and begun == 1):
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "hang" and begun == 1:
        os.kill(os.getpid(), signal.SIGSTOP)
    if what == "fault" and begun <= int(rest[0]):
        raise RuntimeError("the moon is in the way")
    if what == "big":
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 10_000_000))
    if what == "cycle":
        held: dict[str, object] = {"network": b"x" * int(rest[0])}
        held["self"] = held
    if what == "slow":
        time.sleep(float(rest[0]))
    make_folder(folder / "labels")
    try:
        write_text(folder / "labels" / "00000.png", hashlib.sha256(source.read_bytes()).hexdigest() * 100)
    finally:
        if what == "big":
            resource.setrlimit(resource.RLIMIT_FSIZE, (10_000_000, 10_000_000))
    write_text(
        folder / "frames.csv", "output_index,source_index,file_name,time_s,pts,keyframe,confidence\n0,0,,0,0,1,\n"
    )
    write_json(folder / "areas.json", {"keyframes": 1, "time_s": [0.0], "areas": {"road": [0.25], "sky": [0.75]}})
    record = {**dict.fromkeys(KEYS), "command": job, "frames": 1, "seconds": 0.1, "frames_per_second": 10.0}
    record |= {"inputs": {"video": {"path": str(source)}}, "summary": {"keyframes": 1}, "finished": True}
    write_json(folder / "run.json", record)
    note(log, f"end {source.stem}")


def count_parts(job: str, arguments: list[str], seconds: float) -> int:
    """A text "parts N ..." has N parts."""
    what, *rest = Path(arguments[0]).read_text().split()
    return int(rest[0]) if what == "parts" else 1


def compute_part(source: Path, log: Path, what: str, part: str) -> None:
    """Do what the text says, at its second part."""
    number, _, path = part.split(",", 2)
    note(log, f"part {number} {source.stem}")
    begun = log.read_text().split("\n").count(f"part {number} {source.stem}")
    if number == "2" and what == "bad":
        raise InputError(f"{source}: not a video")
    if number == "2" and (what == "die" or (what == "die-once" and begun == 1)):
        os.kill(os.getpid(), signal.SIGKILL)
    Path(path).write_bytes(b"answers")


def note(log: Path, line: str) -> None:
    with log.open("a") as file:
        file.write(line + "\n")


def write_videos(folder: Path, **contents: str) -> list[Video]:
    folder.mkdir(exist_ok=True)
    for name, text in contents.items():
        (folder / f"{name}.mp4").write_text(text)
    return [Video(str(folder / f"{name}.mp4")) for name in contents]


def run_batch(out: str, videos: list[Video], workers: int = 2, **policy: float) -> tuple[dict[str, int], Batch]:
    """Run stub jobs to the end, with pauses as short as tests need them."""
    settings = Policy(**{"backoff_s": 0.01, "lease_s": 60.0, **policy})
    with Batch(open_storage(out), "segment", [], settings) as batch:
        batch.add(videos)
        work = Work("segment", run, [], out, batch.batch_id, prepare)
        counts = batch.run(LocalEngine(work, [None] * workers, lease_s=settings.lease_s))
        return counts, batch


def run_on_cluster(out: str, videos: list[Video], address: str) -> dict[str, int]:
    """Run stub jobs to the end with two actors of a Ray cluster."""
    from twospeed.batch.cluster import RayEngine

    with Batch(open_storage(out), "segment", [], Policy(backoff_s=0.01)) as batch:
        batch.add(videos)
        work = Work("segment", run, [], out, batch.batch_id, prepare)
        return batch.run(RayEngine(work, slots=2, address=address))


def ended(folder: Path) -> dict[str, int]:
    """How often each video of a folder was worked on to the end."""
    return {log.stem: log.read_text().split("\n").count(f"end {log.stem}") for log in sorted(folder.glob("*.log"))}


if __name__ == "__main__":  # a driver of its own, for tests that kill it
    place, out, workers = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    if len(sys.argv) > 4:
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[4]), int(sys.argv[4])))
    found = [Video(str(path)) for path in sorted(place.glob("*.mp4"))]
    there = run_on_cluster(out, found, workers) if ":" in workers else run_batch(out, found, int(workers))[0]
    print(json.dumps(there))
