"""Ray's actors do what local processes do, and die as they do. Needs the extra `ray`."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from tests.batch.stub import ended, prepare, run, run_on_cluster, write_videos
from twospeed.batch.driver import Batch, Policy
from twospeed.batch.storage import open_storage
from twospeed.batch.worker import Work

ray = pytest.importorskip("ray")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


def test_a_cluster_that_loses_workers_and_a_node(tmp_path, monkeypatch):
    """Two nodes, one of which is removed while it works: every video done, as a single run has it, or failed."""
    from ray.cluster_utils import Cluster

    from twospeed.batch.cluster import RayEngine

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        second = cluster.add_node(num_cpus=1)
        ray.init(address=cluster.address, log_to_driver=False)
        out = str(tmp_path / "out")
        contents = {"dies": "die", "unlucky": "die-once", "bad": "bad", **{f"v{n}": "slow 0.2" for n in range(6)}}
        with Batch(open_storage(out), "segment", [], Policy(backoff_s=0.05)) as batch:
            batch.add(write_videos(tmp_path / "in", **contents))
            work = Work("segment", run, [], out, batch.batch_id, prepare)
            removed = []

            def on_event(event):
                if event["event"] == "done" and not removed:
                    removed.append(cluster.remove_node(second))

            counts = batch.run(RayEngine(work, slots=2), on_event=on_event)
            states = {row.key: row.state for row in batch.manifest.rows.values()}
        assert removed
        assert counts == {"pending": 0, "running": 0, "done": 7, "failed": 2}
        assert {key for key, state in states.items() if state == "failed"} == {"dies", "bad"}
        done = {path.name: path for path in (tmp_path / "out" / "videos").iterdir()}
        assert done.keys() == {"unlucky", *(f"v{n}" for n in range(6))}
        for name, folder in done.items():
            single = tmp_path / "single" / name
            run("segment", [str(tmp_path / "in" / f"{name}.mp4"), "-o", str(single)])
            for file in ("labels/00000.png", "frames.csv", "areas.json"):
                assert (folder / file).read_bytes() == (single / file).read_bytes()
    finally:
        ray.shutdown()
        cluster.shutdown()


def test_a_cluster_whose_driver_is_killed(tmp_path, monkeypatch):
    """The next driver repeats nothing that was finished."""
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    try:
        videos = write_videos(tmp_path / "in", **{f"v{n}": "slow 0.5" for n in range(8)})
        command = [sys.executable, "-m", "tests.batch.stub", tmp_path / "in", tmp_path / "out", cluster.address]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as first:
            until = time.monotonic() + 200
            while sum(ended(tmp_path / "in").values()) < 3:
                assert first.poll() is None, "the driver ended by itself"
                assert time.monotonic() < until, "nothing was finished"
                time.sleep(0.05)
            first.kill()
        finished = {path.name for path in (tmp_path / "out" / "videos").iterdir()}
        assert finished
        counts = run_on_cluster(str(tmp_path / "out"), videos, cluster.address)
        assert counts == {"pending": 0, "running": 0, "done": 8, "failed": 0}
        assert {name: ended(tmp_path / "in")[name] for name in finished} == dict.fromkeys(finished, 1)
    finally:
        ray.shutdown()
        cluster.shutdown()
