"""A batch's folder may come from anyone: what is damaged or forged in it is refused, and leads nowhere outside."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest

from tests.batch.stub import write_videos
from twospeed.batch.driver import Batch
from twospeed.batch.inputs import Video
from twospeed.batch.manifest import FILE
from twospeed.batch.storage import FolderStorage
from twospeed.cli.batch import run_job
from twospeed.errors import InputError, TwospeedError


@pytest.fixture
def out(tmp_path):
    """A batch of one video that is pending."""
    videos = write_videos(tmp_path / "in", good="ok")
    with Batch(FolderStorage(tmp_path / "out"), "segment", []) as batch:
        batch.add(videos)
    return tmp_path / "out"


def opened(out: Path) -> list[str]:
    with Batch(FolderStorage(out), "segment", []) as batch:
        return list(batch.manifest.rows)


def forge(out: Path, text: str) -> None:
    with sqlite3.connect(out / FILE) as base:
        base.execute("UPDATE video SET row = ?", (text,))


def row(**changes: object) -> str:
    return json.dumps({"key": "good", "source": "/in/good.mp4", "arguments": [], "facts": {}} | changes)


def test_a_batch_is_opened_again(out):
    assert opened(out) == ["good"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "[" * 100_000,
        "9" * 5000,
        "{}",
        row(key="../../in"),
        row(key="/etc"),
        row(key=".work"),
        row(key="a/b"),
        row(key=""),
        row(key=5),
        row(source=None),
        row(arguments=[1]),
        row(arguments="x", attempts=1.5),
        row(state="gone"),
        row(attempts="1"),
        row(seconds="x"),
        row(seconds=float("nan")),
        row(facts=[]),
    ],
)
def test_forged_rows_are_refused(out, text):
    """A key names folders that are removed: one that leads out of the batch would remove a stranger's."""
    forge(out, text)
    with pytest.raises(TwospeedError, match=r"manifest\.sqlite holds what is no video of a batch"):
        opened(out)
    assert (out.parent / "in" / "good.mp4").exists()


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[]",
        b"\xff",
        b'{"id": "1", "job": "segment"}',
        b'{"id": 1, "job": "segment", "arguments": []}',
        b'{"id": "1", "job": "segment", "arguments": 5}',
        b"[" * 100_000,
    ],
)
def test_damaged_settings_are_refused(out, text):
    (out / "batch.json").write_bytes(text)
    with pytest.raises(TwospeedError, match=r"batch\.json is no description of a batch"):
        opened(out)


@pytest.mark.parametrize("text", [b"{", b"[]", b"\xff", b'{"host": "x"}', b'{"host": "x", "process": "\\u001b[2J"}'])
def test_a_damaged_owner_is_no_owner(out, text):
    (out / ".owner.json").write_bytes(text)
    assert opened(out) == ["good"]


@pytest.mark.parametrize("text", [b"{", b"[]", b"{}", b"\xff", b"null"])
def test_damaged_results_of_a_video_are_named(out, text):
    forge(out, row(state="running", owner="x"))
    (out / "videos" / "good").mkdir(parents=True)
    (out / "videos" / "good" / "run.json").write_bytes(text)
    with pytest.raises(TwospeedError, match=r"good/run\.json cannot be read as the record of a run"):
        opened(out)


def test_keys_that_are_given_are_accepted(tmp_path):
    names = ["a", "Übung 1", "-x-", "...", "日本語", "a" * 300, "a.b.c"]
    with Batch(FolderStorage(tmp_path), "segment", []) as batch:
        batch.add([Video(f"/in/{number}/{name}.mp4") for number, name in enumerate(names + names)])
        keys = list(batch.manifest.rows)
    assert opened(tmp_path) == keys
    assert len(keys) == 2 * len(names)


@pytest.mark.parametrize(
    "options",
    [
        ["-o", "elsewhere"],
        ["--overwrite"],
        ["--part", "1,10.0,{outside}/part"],
        ["--part", "no part"],
        ["--parts", "{outside}/parts"],
    ],
)
def test_options_that_lead_elsewhere_are_refused(tmp_path, monkeypatch, options):
    """Options of a batch come from its folder: none may write or read beside the worker's own place."""
    monkeypatch.chdir(tmp_path)
    outside = tmp_path / "outside"
    outside.mkdir()
    options = [option.format(outside=outside) for option in options]
    with pytest.raises(InputError, match="name another video, or another place for results"):
        run_job("segment", ["a.mp4", "-o", str(tmp_path / "place" / "a"), *options])
    assert [path.name for path in tmp_path.rglob("*")] == ["outside"]
