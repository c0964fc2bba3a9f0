"""A running `twospeed app`, and a client that speaks to it as the page does."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from tests.conftest import heed_ctrl_c
from twospeed.app import wire
from twospeed.video.writer import VideoWriter

SIZE = (96, 128)


def disc(index: int) -> np.ndarray:
    rows, columns = np.indices(SIZE)
    return (rows - 48) ** 2 + (columns - 30 - 2 * index) ** 2 < 18**2


def image(index: int) -> np.ndarray:
    """A textured background and a disc; the frame's number in 16 squares at the bottom, so that pictures prove it."""
    ground = np.random.default_rng(3).integers(20, 90, (SIZE[0] // 4, SIZE[1] // 4, 3)).repeat(4, 0).repeat(4, 1)
    picture = ground.astype(np.uint8)
    picture[disc(index)] = (210, 120, 60)
    for bit in range(16):
        picture[88:96, 8 * bit : 8 * bit + 8] = 255 if index >> bit & 1 else 0
    return picture


def number_in(picture: np.ndarray) -> int:
    """The frame's number in a decoded picture (H, W, 3)."""
    height, width = picture.shape[:2]
    row, step = int(height * 92 / 96), width / 16
    return sum(1 << bit for bit in range(16) if picture[row, int((bit + 0.5) * step)].mean() > 127)


def write_clip(path: Path, frames: int = 24, times: list[float] | None = None) -> Path:
    with VideoWriter(path, 12) as writer:
        for index in range(frames):
            writer.write(image(index), None if times is None else times[index])
    return path


class App:
    """The command as a user starts it. quick: tracks at a small size and on one thread, as tests of small clips do."""

    def __init__(self, folder: Path, *arguments: str, quick: bool = True) -> None:
        command = [sys.executable, "-m", "twospeed", "app", str(folder), "--no-browser", *arguments]
        environment = dict(os.environ)
        if quick:
            command += ["--size", "96"]
            environment["OMP_NUM_THREADS"] = "1"
        heed = heed_ctrl_c if os.name == "posix" else None
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, preexec_fn=heed)
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().strip()
        assert self.url
        self.port, self.token = re.fullmatch(r"http://127\.0\.0\.1:(\d+)/#token=(.+)", self.url).groups()
        self.port = int(self.port)

    def close(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        code = self.process.wait(30)
        self.process.stdout.close()
        return code

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(10)
        self.process.stdout.close()


class Client:
    """Requests with the headers that a browser sends."""

    def __init__(self, app: App) -> None:
        self.port, self.cookie = app.port, ""
        status, headers, _ = self.raw("POST", "/api/login", {"token": app.token})
        assert status == 204
        self.cookie = headers["set-cookie"].split(";")[0]

    def raw(
        self, method: str, path: str, body: Any = None, headers: dict[str, str | None] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        host = f"127.0.0.1:{self.port}"
        sent: dict[str, str | None] = {"Host": host, "Cookie": self.cookie or None}
        if method != "GET":
            sent["Origin"] = f"http://{host}"
        if not isinstance(body, bytes | None):
            body = json.dumps(body).encode()
            sent["Content-Type"] = "application/json"
        sent |= headers or {}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
            for name, value in sent.items():
                if value is not None:
                    connection.putheader(name, value)
            if body is not None and "Content-Length" not in sent:
                connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body)
            response = connection.getresponse()
            return response.status, {k.lower(): v for k, v in response.getheaders()}, response.read()
        finally:
            connection.close()

    def __call__(self, method: str, path: str, body: Any = None) -> Any:
        status, headers, content = self.raw(method, f"/api/{path}", body)
        assert status < 300, (status, content)
        is_json = headers.get("content-type", "").startswith("application/json")
        return json.loads(content) if content and is_json else content

    def refused(self, method: str, path: str, body: Any = None) -> tuple[int, str]:
        status, _, content = self.raw(method, f"/api/{path}", body)
        assert 400 <= status < 500, (status, content)
        return status, json.loads(content)["error"]

    def open(self, name: str) -> str:
        video = next(v for v in self("GET", "home")["videos"] if v["name"] == name)
        return self("POST", "projects", {"video": video["id"]})["project"]

    def mask(self, project: str, frame: int) -> np.ndarray | None:
        data = self("GET", f"p/{project}/mask/{frame}")
        return wire.parse(data).labels() if data else None

    def import_mask(self, project: str, frame: int, labels: np.ndarray) -> None:
        import io

        from PIL import Image

        data = io.BytesIO()
        Image.fromarray(labels.astype(np.uint8)).save(data, "PNG")
        self("PUT", f"p/{project}/import/{frame}", data.getvalue())

    def states(self, project: str) -> list[str]:
        """Of all jobs so far, the newest first; a click that the page has not passed on yet is none."""
        return [job["state"] for job in self("GET", f"p/{project}")["jobs"]]

    def job(self, project: str) -> dict[str, Any]:
        return self("GET", f"p/{project}")["jobs"][0]

    def finished(self, project: str, seconds: float = 250) -> dict[str, Any]:
        until = time.monotonic() + seconds
        while (job := self.job(project))["state"] in ("queued", "running"):
            assert time.monotonic() < until, job
            time.sleep(0.1)
        return job

    def track(self, project: str, frame: int = 0, direction: str = "forward", **options: Any) -> dict[str, Any]:
        self("POST", f"p/{project}/jobs", {"kind": "track", "direction": direction, "frame": frame, **options})
        return self.finished(project)

    def export(self, project: str, kind: str, **options: Any) -> bytes:
        name = self("POST", f"p/{project}/exports", {"as": kind, **options})["file"]
        for _ in range(600):
            status, _, content = self.raw("GET", f"/api/p/{project}/exports/{name}")
            if status == 200:
                return content
            time.sleep(0.1)
        raise AssertionError(f"{name} was not written")


def worker_of(app: App) -> int:
    """The process id of the server's worker that runs jobs."""
    for path in Path("/proc").iterdir():
        if path.name.isdecimal():
            try:
                command = (path / "cmdline").read_bytes()
                if b"twospeed.app.worker" in command and b"--prompts" not in command:
                    parent = (path / "stat").read_text().rsplit(")", 1)[1].split()[1]
                    if int(parent) == app.process.pid:
                        return int(path.name)
            except OSError:
                continue
    raise AssertionError("no worker runs")
