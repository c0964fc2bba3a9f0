"""What a result folder does with what earlier runs, dead runs and strangers left in it."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from twospeed.errors import OutputError
from twospeed.output.folder import JOURNAL, RECORD, ResultFolder
from twospeed.output.record import RunRecord

NAMES = ("masks/*.png", "overlay.mp4")


def run(path: Path, *, resume: bool = False) -> None:
    """Write one mask, as a run does."""
    record = RunRecord("track", "track_tiny", None, {}, {}, frames=1, finished=True)
    with ResultFolder(path, NAMES, resume=resume) as folder:
        if resume and folder.earlier is not None and folder.earlier["finished"]:
            return
        folder.begin(record)
        with folder.file("masks/00000.png") as temporary:
            temporary.write_bytes(b"mask")
        folder.finish(record)


@pytest.mark.parametrize("resume", [True, False])
def test_a_run_that_is_killed_once_it_is_finished_leaves_nothing_for_good(tmp_path, monkeypatch, resume):
    """Between the record that says so and the removal of the journal."""
    with monkeypatch.context() as patch:
        patch.setattr(ResultFolder, "_remove_states", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        patch.setattr(Path, "unlink", lambda self, missing_ok=False: None)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "out")
    (tmp_path / "out" / ".state-1.safetensors").touch()
    assert json.loads((tmp_path / "out" / RECORD).read_text())["finished"]
    assert (tmp_path / "out" / JOURNAL).exists()
    run(tmp_path / "out", resume=resume)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["masks", RECORD]


@pytest.mark.skipif(os.name != "posix", reason="links need rights on Windows")
def test_a_link_in_a_folder_that_was_handed_over_is_not_followed(tmp_path):
    """Its journal claims a file of the user's, which a new run would remove as an earlier result."""
    run(tmp_path / "out")
    shutil.rmtree(tmp_path / "out" / "masks")
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "id").write_text("precious")
    (tmp_path / "out" / "masks").symlink_to(tmp_path / "precious")
    (tmp_path / "out" / JOURNAL).write_text(json.dumps({"file": "masks/id"}) + "\n")
    record = json.loads((tmp_path / "out" / RECORD).read_text())
    (tmp_path / "out" / RECORD).write_text(json.dumps(record | {"finished": False, "files": {}}))
    for resume in (True, False):
        with pytest.raises(OutputError, match="behind a link that leads elsewhere"):
            run(tmp_path / "out", resume=resume)
    assert (tmp_path / "precious" / "id").read_text() == "precious"
