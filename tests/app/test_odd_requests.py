"""Requests that no page sends: each is refused with one line, and the server goes on."""

from __future__ import annotations

import json
import struct
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tests.app.client import SIZE

HUGE = 10**30
MARKS = {"frame": 0, "object": 1}

ODD = [
    ("GET", "frame/-1", None),
    ("GET", f"frame/{HUGE}", None),
    ("GET", "frame/0?h=x", None),
    ("GET", f"mask/{HUGE}", None),
    ("GET", f"masks?first=0&last={HUGE}", None),
    ("GET", "masks?first=0&last=1&step=0", None),
    ("GET", f"masks?first={HUGE}&last=0", None),
    ("GET", f"masks?first=0&last=1&step={HUGE}", None),
    ("GET", f"masks?first=0&last={'9' * 400}", None),
    ("GET", f"result/segment/{HUGE}", None),
    ("GET", "exports/project.db", None),
    ("GET", "exports/%00", None),
    ("GET", "exports/..", None),
    ("DELETE", f"jobs/{HUGE}", None),
    ("DELETE", f"mask/{HUGE}", None),
    ("DELETE", f"objects/{HUGE}", None),
    ("DELETE", f"mask/0?object={HUGE}", None),
    ("DELETE", "objects/-1", None),
    ("PATCH", f"objects/{HUGE}", {"name": "x"}),
    ("PATCH", "objects/1", {"colour": "red;}"}),
    ("PATCH", "objects/1", {"position": -1}),
    ("PATCH", "objects/1", []),
    ("PATCH", "range", {"first": 5, "last": 1}),
    ("PATCH", "range", {"first": 0, "last": 10**8}),
    ("PATCH", "range", {"first": 0.5, "last": 3}),
    ("POST", "objects", {"name": "x" * 81}),
    ("POST", "objects", {"nonsense": 1}),
    ("POST", "marks", {**MARKS, "points": [[float("nan"), 1, 1]]}),
    ("POST", "marks", {**MARKS, "points": [[1e300, 1, 1]]}),
    ("POST", "marks", {**MARKS, "points": [[1, 1, 7]]}),
    ("POST", "marks", {**MARKS, "points": [[1, 1, 1]] * 201}),
    ("POST", "marks", {**MARKS, "box": [1, 2, 3]}),
    ("POST", "marks", {**MARKS, "polygon": [[1, 1]] * 5001}),
    ("POST", "marks", {**MARKS, "base_rev": -1}),
    ("POST", "marks", {**MARKS, "object": 255}),
    ("POST", "marks", {**MARKS, "object": 77, "points": [[5, 5, 1]]}),
    ("POST", "marks", {**MARKS, "frame": 99_999}),
    ("POST", "marks", {"frame": True, "object": "1e999"}),
    ("POST", "jobs", {"kind": "track", "model": "../../x"}),
    ("POST", "jobs", {"kind": "track", "weights": "/etc/passwd"}),
    ("POST", "jobs", {"kind": "classify"}),
    ("POST", "jobs", {"kind": "resume"}),
    ("POST", "jobs", {"kind": "rm -rf"}),
    ("POST", "jobs", {"kind": "track", "size": 10**9}),
    ("POST", "jobs", {"kind": "track", "finetune": -1}),
    ("POST", "exports", {"as": "../x"}),
    ("POST", "exports", {"as": "png", "objects": [0]}),
    ("POST", "exports", {"as": "png", "objects": [1] * 255}),
    ("PUT", f"mask/0?object={HUGE}", struct.pack("<BBHIIHHII", 1, 0, 0, 0, 0, *SIZE, 1, 0) + b"\1" + b"\x80\x60"),
    ("PUT", "mask/0?object=1", struct.pack("<BBHIIHHII", 1, 0, 9, 0, 0, *SIZE, 1, 0) + b"\1" + b"\x80\x60"),
    ("PUT", "mask/0", b""),
    ("PUT", "import/0", b""),
    ("PUT", "import/0", b"\x89PNG\r\n\x1a\n" + b"\0" * 50),
    ("PUT", "import/0", b"GIF89a"),
    ("PUT", f"import/{HUGE}", b""),
    ("PUT", "import/0?snap=maybe", b""),
]

BODIES = [
    b"",
    b"{",
    b"null",
    b"[" * 50_000,
    b"\xff\xfe",
    b"9" * 5000,
    b'"\\ud800"',
    b'{"frame": 1e999}',
    b'{"frame": ' + b"9" * 5000 + b"}",
]


@pytest.fixture(scope="module")
def project(client, app_folder):
    opened = client.open("clip.mp4")
    client("POST", f"p/{opened}/objects", {})
    return opened


@pytest.mark.parametrize(("method", "path", "body"), ODD)
def test_odd_requests_are_refused(client, project, method, path, body):
    status, _, content = client.raw(method, f"/api/p/{project}/{path}", body)
    assert 400 <= status < 500, (status, content)
    line = json.loads(content).get("error") or json.loads(content)["detail"]
    assert isinstance(line, str)
    assert "\n" not in line
    assert len(line) < 1000
    assert client("GET", f"p/{project}")["keyframes"] == []


@pytest.mark.parametrize("path", ["objects", "marks", "jobs", "exports", "projects", "login"])
@pytest.mark.parametrize("body", BODIES, ids=range(len(BODIES)))
def test_odd_bodies_are_refused(client, project, path, body):
    where = path if path in ("projects", "login") else f"p/{project}/{path}"
    status, _, content = client.raw("POST", f"/api/{where}", body, {"Content-Type": "application/json"})
    assert 400 <= status < 500, (status, content)


@pytest.mark.parametrize(
    "query",
    [
        f"offset={HUGE}&size=5",
        f"offset=0&size={HUGE}",
        "offset=-1&size=5",
        "offset=0&size=0",
        "offset=0&size=-1",
        "size=5",
    ],
)
def test_odd_uploads_are_refused(client, query):
    status, _, content = client.raw("PUT", f"/api/uploads/a.mp4?{query}", b"x")
    assert 400 <= status < 500, (status, content)


def test_masks_that_are_imported_at_once_are_not_mixed(client, clip):
    """Each frame gets the mask that was sent for it."""
    opened = client.open(clip)

    def labels(frame: int) -> np.ndarray:
        found = np.zeros(SIZE, np.uint8)
        found[frame : frame + 30, 10:50] = 1
        return found

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda frame: client.import_mask(opened, frame, labels(frame)), range(16)))
    for frame in range(16):
        np.testing.assert_array_equal(client.mask(opened, frame), labels(frame))
