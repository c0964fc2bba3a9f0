"""Ray's actors do what local processes do, and die as they do. Needs the extra `ray`."""

from __future__ import annotations

import os
import sys

import pytest

from tests.batch.stub import prepare, run, write_videos
from twospeed.batch.driver import Batch, Policy
from twospeed.batch.storage import open_storage
from twospeed.batch.worker import Work

ray = pytest.importorskip("ray")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


def test_a_cluster_that_loses_workers_and_a_node(tmp_path, monkeypatch):
    """Two nodes, one of which is removed while it works: every video done once, or failed with its reason."""
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
        assert sorted(path.name for path in (tmp_path / "out" / "videos").iterdir()) == sorted(
            {"unlucky", *(f"v{n}" for n in range(6))}
        )
    finally:
        ray.shutdown()
        cluster.shutdown()
