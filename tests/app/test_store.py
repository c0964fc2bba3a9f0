from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twospeed.app import wire
from twospeed.app.database import Conflict
from twospeed.app.plan import count, plan, plan_stale
from twospeed.app.store import Project
from twospeed.errors import InputError, TwospeedError

SIZE = (6, 8)


def project(folder, frames=20):
    made = Project(folder)
    made.describe(
        {"name": "clip", "path": "clip.mp4", "height": 6, "width": 8, "fingerprint": ""}, np.arange(frames) / 10
    )
    return made


def square(at):
    region = np.zeros(SIZE, bool)
    region[1:4, at : at + 3] = True
    return region


def everything(project):
    """All that somebody sees, without revision numbers."""
    state = project.state()
    for volatile in ("rev", "undo", "redo", "jobs"):
        state.pop(volatile)
    masks = {m.frame: (m.runs, m.source) for m in project.masks(0, 99)}
    return str(sorted(state.items())), masks


def tracked(project, frames, object_id=1, job=None):
    job = job or project.add_job("track", {}, len(frames))
    masks = [wire.mask_of(square(f % 5).astype(np.uint8) * object_id, f, {object_id: 0.5}) for f in frames]
    project.add_tracked(job, masks)
    project.set_job(job, state="done")
    return job


def test_everything_is_there_after_reopening(tmp_path):
    first = project(tmp_path)
    k = first.add_object("dog")
    first.set_marks(3, k, {"points": [[2, 2, 1]], "start": None}, square(2))
    tracked(first, [4, 5])
    before = everything(first)
    first.close()
    second = Project(tmp_path)
    assert everything(second) == before
    assert second.undo().frames == [4, 5]


EDITS = st.lists(
    st.one_of(
        st.tuples(st.just("paint"), st.integers(0, 9), st.integers(0, 5)),
        st.tuples(st.just("marks"), st.integers(0, 9), st.integers(0, 5)),
        st.tuples(st.just("track"), st.integers(0, 6), st.integers(1, 3)),
        st.tuples(st.just("rename"), st.integers(0, 9), st.integers(0, 9)),
        st.tuples(st.just("range"), st.integers(0, 9), st.integers(0, 9)),
        st.tuples(st.just("object"), st.just(0), st.just(0)),
        st.tuples(st.just("delete"), st.just(0), st.just(0)),
        st.tuples(st.just("gone"), st.integers(0, 9), st.just(0)),
        st.tuples(st.just("forget"), st.integers(0, 9), st.just(0)),
    ),
    max_size=10,
)


def edit(project, kind, a, b):
    ids = [entry["id"] for entry in project.objects()]
    k = ids[a % len(ids)] if ids else project.add_object()
    if kind == "paint":
        project.paint(a, k, square(b))
    elif kind == "marks":
        project.set_marks(a, k, {"points": [[b, b, 1]]}, square(b))
    elif kind == "track":
        tracked(project, list(range(a, a + b)), k)
    elif kind == "rename":
        project.change_object(k, {"name": f"name {b}"})
    elif kind == "range":
        project.set_range(min(a, b), max(a, b))
    elif kind == "object":
        project.add_object()
    elif kind == "delete":
        project.delete_object(k)
    elif kind == "gone":
        project.clear_mask(a, k)
    else:
        project.remove_keyframe(a)


@settings(max_examples=25, deadline=None)
@given(EDITS)
def test_undo_and_redo_are_exact(tmp_path_factory, edits):
    """Undoing all changes gives every state in between again, and redoing them, too."""
    made = project(tmp_path_factory.mktemp("p"))
    try:
        for step in edits:
            edit(made, *step)
        states = [everything(made)]
        while made.undo() is not None:
            states.append(everything(made))
        assert states[-1][1] == {}
        for before in states[-2::-1]:
            assert made.undo(redo=True) is not None
            assert everything(made) == before
        assert made.undo(redo=True) is None
    finally:
        made.close()


def test_a_new_change_ends_redo(tmp_path):
    made = project(tmp_path)
    made.add_object()
    made.undo()
    made.add_object("other")
    assert made.undo(redo=True) is None
    assert [entry["name"] for entry in made.objects()] == ["other"]


def test_keyframes_and_locked_objects_win_over_tracking(tmp_path):
    made = project(tmp_path)
    a, b = made.add_object(), made.add_object()
    made.paint(2, a, square(0))
    before = made.mask(2)
    tracked(made, [1, 2, 3], a)
    assert made.mask(2).runs == before.runs
    made.change_object(a, {"locked": True})
    old = made.labels(3)
    tracked(made, [3], b)
    assert (made.labels(3)[old == a] == a).all()
    with pytest.raises(InputError, match="locked"):
        made.paint(5, a, square(1))
    painted = made.paint(3, b, np.ones(SIZE, bool))
    assert ((painted.labels() == a) == (old == a)).all()


def test_a_change_makes_the_frames_up_to_the_next_keyframes_stale(tmp_path):
    made = project(tmp_path)
    k = made.add_object()
    for key in (0, 10):
        made.paint(key, k, square(0))
    tracked(made, [*range(1, 10), *range(11, 20)], k)
    assert made.stale_frames() == []
    made.paint(5, k, square(1))
    assert made.stale_frames() == [1, 2, 3, 4, 6, 7, 8, 9]
    assert plan_stale(made.stale_frames(), made.keyframes()) == [{"first": 1, "last": 4}, {"first": 6, "last": 9}]
    tracked(made, [6, 7], k)
    assert made.stale_frames() == [1, 2, 3, 4, 8, 9]


def test_two_edits_of_one_frame_meet(tmp_path):
    made = project(tmp_path)
    k = made.add_object()
    base = made.paint(0, k, square(0)).rev
    made.paint(0, k, square(1), base_rev=base)
    with pytest.raises(Conflict, match="frame 0 was changed meanwhile"):
        made.paint(0, k, square(2), base_rev=base)
    assert (made.labels(0) > 0).tolist() == square(1).tolist()


def test_undo_of_a_running_job_is_refused(tmp_path):
    made = project(tmp_path)
    k = made.add_object()
    job = made.add_job("track", {}, 3)
    made.set_job(job, state="running")
    made.add_tracked(job, [wire.mask_of(square(0).astype(np.uint8), 4, {k: 0.5})])
    with pytest.raises(InputError, match="stop it first"):
        made.undo()


def test_another_version_is_refused(tmp_path):
    made = project(tmp_path)
    made._db.execute("PRAGMA user_version=7")
    made.close()
    with pytest.raises(InputError, match="version 7"):
        Project(tmp_path)


@pytest.mark.parametrize(
    ("forgery", "says"),
    [
        ("CREATE TRIGGER t AFTER INSERT ON mask BEGIN DELETE FROM mask; END", "its tables are others"),
        (
            "CREATE VIEW v AS WITH RECURSIVE r(x) AS (SELECT 1 UNION ALL SELECT x FROM r) SELECT x FROM r",
            "its tables are others",
        ),
        ("DROP TABLE mask", "its tables are others"),
        ("ALTER TABLE mask ADD COLUMN more", "its tables are others"),
        ("UPDATE meta SET value='{' WHERE key='frames'", "not JSON"),
        ("UPDATE meta SET value=NULL WHERE key='frames'", "where a text belongs"),
        ("UPDATE meta SET value='\"x\"' WHERE key='width'", "does not describe its video"),
        ("UPDATE meta SET value='0' WHERE key='frames'", "does not describe its video"),
        ("UPDATE meta SET value='[]' WHERE key='path'", "does not describe its video"),
        ("INSERT INTO meta VALUES ('in', '20')", "does not describe its video"),
        ("UPDATE meta SET value='1e9' WHERE key='rev'", "its revision is"),
        ("UPDATE meta SET value='[]' WHERE key='rev'", "its revision is"),
        ("UPDATE mask SET frame=20 WHERE frame=4", "1 rows of the project's table mask"),
        ("UPDATE mask SET runs=NULL", "2 rows of the project's table mask"),
        ("UPDATE mask SET source=7", "2 rows of the project's table mask"),
        ("UPDATE mask SET rev=4294967296", "2 rows of the project's table mask"),
        ("INSERT INTO mark VALUES ('x', 1, '{}')", "1 rows of the project's table mark"),
        ("UPDATE object SET name=NULL", "1 rows of the project's table object"),
        ("UPDATE job SET options=5.5", None),
    ],
)
def test_forged_projects_are_refused(tmp_path, forgery, says):
    made = project(tmp_path)
    made.add_object()
    tracked(made, [4, 5])
    made._db.execute(forgery)
    made.close()

    def opened():
        again = Project(tmp_path)
        again.check_content()

    if says is None:
        opened()
    else:
        with pytest.raises(InputError, match=says):
            opened()


def test_a_damaged_project_is_refused(tmp_path):
    made = project(tmp_path)
    made.add_object()
    made.close()
    good = (tmp_path / "project.db").read_bytes()
    for at in range(0, len(good), 401):
        for byte in (0, 255):
            (tmp_path / "project.db").write_bytes(good[:at] + bytes([byte]) * 8 + good[at + 8 :])
            try:
                again = Project(tmp_path)
                again.check_content()
                again.state()
                again.close()
            except TwospeedError:
                pass


def test_plans():
    assert plan("forward", 0, [0], 0, 9) == [{"first": 0, "last": 9}]
    assert plan("forward", 0, [0, 6], 0, 9) == [{"first": 0, "last": 5}]
    assert plan("forward", 0, [0, 6], 0, 9, through=True) == [{"first": 0, "last": 9}]
    assert plan("backward", 6, [6], 2, 9) == [{"first": 6, "last": 2}]
    assert plan("both", 5, [5], 0, 9) == [{"first": 5, "last": 9}, {"first": 5, "last": 0}]
    assert plan("both", 5, [3], 0, 9) == [{"first": 5, "last": 9}, {"first": 4, "last": 4}]
    assert count(plan("both", 5, [5], 0, 9), [5]) == 9
    for direction, frame, keys in (("forward", 9, [9]), ("backward", 0, [0]), ("forward", 3, [])):
        with pytest.raises(InputError):
            plan(direction, frame, keys, 0, 9)
