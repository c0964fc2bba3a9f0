"""Examples for containers and clusters are what their programs read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "containers"
yaml = pytest.importorskip("yaml")


@pytest.mark.parametrize("name", ["Dockerfile", "Dockerfile.cuda"])
def test_dockerfiles(name):
    lines = [line for line in (FOLDER / name).read_text().splitlines() if line and line[0] not in "# "]
    words = [line.split()[0] for line in lines]
    assert words[0] in ("ARG", "FROM")
    assert {"FROM", "RUN", "COPY", "USER", "HEALTHCHECK", "ENTRYPOINT"} <= set(words)
    assert words.index("USER") > max(place for place, word in enumerate(words) if word == "RUN") - 1
    (user,) = [line.split()[1] for line in lines if line.startswith("USER")]
    assert user not in ("root", "0")
    assert not any(line.endswith(":latest") for line in lines)


def test_ray_cluster_is_valid():
    ray = pytest.importorskip("ray")
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text())
    cluster = yaml.safe_load((FOLDER / "ray-cluster.yaml").read_text())
    jsonschema.validate(cluster, schema)
    assert cluster["available_node_types"].keys() >= {cluster["head_node_type"]}


def test_kubernetes_job():
    """The fields of batch/v1 that a job needs, and what its pod may do."""
    job = yaml.safe_load((FOLDER / "kubernetes-job.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("batch/v1", "Job")
    assert set(job) == {"apiVersion", "kind", "metadata", "spec"}
    pod = job["spec"]["template"]["spec"]
    assert pod["restartPolicy"] in ("Never", "OnFailure")
    assert pod["securityContext"]["runAsNonRoot"]
    (container,) = pod["containers"]
    assert not container["securityContext"]["allowPrivilegeEscalation"]
    assert container["args"][:2] == ["batch", "segment"]
    assert set(container["resources"]) == {"requests", "limits"}
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
