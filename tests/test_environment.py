"""Devices: the best that is there, and one line for those that are not. Threads: how they wait, and how many."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from twospeed import InputError
from twospeed.environment import (
    BUSY_SPIN_COUNT,
    SPIN_COUNT,
    WAITING,
    resolve_device,
    usable_cores,
    use_threads_well,
)


@pytest.mark.parametrize(
    ("cuda", "mps", "wanted"),
    [(True, True, "cuda"), (True, False, "cuda"), (False, True, "mps"), (False, False, "cpu")],
)
def test_the_best_device_is_taken(monkeypatch, cuda, mps, wanted):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    monkeypatch.setattr(torch, "zeros", lambda *_, device: device)
    assert resolve_device(None) == torch.device(wanted)


@pytest.mark.parametrize("name", ["meta", "hpu", "cuda:99", "nonsense", "cpu:x", "vulkan", ""])
def test_devices_that_cannot_be_used(name):
    if not name:
        assert resolve_device(name).type in ("cpu", "cuda", "mps")
        return
    with pytest.raises(
        InputError, match=f"device '{name}' cannot be used here .* choose cpu, or leave it out"
    ) as error:
        resolve_device(name)
    assert str(error.value).isprintable()


QUIET = {"PATH": "/bin"}


def cores_are(monkeypatch, count: int) -> None:
    """Let this process run on so many cores."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(count)), raising=False)


def quota_is(system: Path, text: str) -> None:
    """Let the container have this CPU quota."""
    for name, content in {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": text}.items():
        (system / name).parent.mkdir(parents=True, exist_ok=True)
        (system / name).write_text(content)


@pytest.mark.parametrize(("load", "count"), [(0.2, SPIN_COUNT), (1.9, SPIN_COUNT), (2.0, BUSY_SPIN_COUNT)])
def test_waiting_threads_sleep_soon_and_sooner_on_a_busy_machine(monkeypatch, tmp_path, load, count):
    cores_are(monkeypatch, 4)
    monkeypatch.setattr(os, "getloadavg", lambda: (load, 0.0, 0.0), raising=False)
    environment = dict(QUIET)
    use_threads_well(environment, tmp_path)
    assert environment["GOMP_SPINCOUNT"] == str(count)


@pytest.mark.parametrize("name", ["GOMP_SPINCOUNT", "OMP_WAIT_POLICY"])
def test_what_says_how_to_wait_stays(name):
    environment = {**QUIET, name: "77"}
    use_threads_well(environment)
    assert {key: value for key, value in environment.items() if key in WAITING} == {name: "77"}


def test_threads_follow_the_quota_unless_their_number_is_set(monkeypatch, tmp_path):
    cores_are(monkeypatch, 64)
    quota_is(tmp_path, "250000 100000\n")
    environment, chosen = dict(QUIET), {**QUIET, "OMP_NUM_THREADS": "5"}
    use_threads_well(environment, tmp_path)
    use_threads_well(chosen, tmp_path)
    assert (environment["OMP_NUM_THREADS"], chosen["OMP_NUM_THREADS"]) == ("3", "5")


def test_without_a_quota_torch_decides_how_many_threads_there_are(tmp_path):
    environment = dict(QUIET)
    use_threads_well(environment, tmp_path)
    assert "OMP_NUM_THREADS" not in environment


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        pytest.param({}, 64, id="no control groups"),
        pytest.param({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "250000 100000\n"}, 3, id="container"),
        pytest.param({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, 64, id="no limit"),
        pytest.param({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "10000 100000\n"}, 1, id="part of a core"),
        pytest.param({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "many\n"}, 64, id="not understood"),
        pytest.param(
            {
                "proc/self/cgroup": "0::/a/b\n",
                "sys/fs/cgroup/a/b/cpu.max": "max 100000",
                "sys/fs/cgroup/a/cpu.max": "400000 100000",
            },
            4,
            id="the limit of an outer group",
        ),
        pytest.param(
            {
                "proc/self/cgroup": "5:memory:/x\n4:cpu,cpuacct:/docker/1f\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "150000\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "50000\n",
            },
            3,
            id="version 1 in a container",
        ),
        pytest.param(
            {
                "proc/self/cgroup": "4:cpu,cpuacct:/x\n",
                "sys/fs/cgroup/cpu/x/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/x/cpu.cfs_period_us": "50000\n",
            },
            64,
            id="version 1 without a limit",
        ),
    ],
)
def test_usable_cores(tmp_path, monkeypatch, files, cores):
    cores_are(monkeypatch, 64)
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert usable_cores(tmp_path) == cores


def test_the_command_line_sets_it_before_torch_is_loaded():
    code = """
import os, sys
from twospeed.__main__ import run
sys.argv = ["twospeed", "--version"]
try:
    run()
except SystemExit:
    print(os.environ["GOMP_SPINCOUNT"], "torch" in sys.modules)
"""
    environment = {key: value for key, value in os.environ.items() if key not in WAITING}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split()[-2] in (str(SPIN_COUNT), str(BUSY_SPIN_COUNT))
    assert done.stdout.split()[-1] == "False"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not say")
def test_peak_memory_is_of_this_process_alone():
    """Not of the program that started it, and what was given back counts."""
    held = b"x" * 200_000_000
    code = "from twospeed.environment import peak_memory as p; a = p(); b'x' * 100_000_000; print(a, p())"
    before, after = map(
        int, subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout.split()
    )
    assert before < len(held)
    assert 90_000_000 < after - before < 150_000_000


HEAPS = """
import sys, threading
from pathlib import Path
from twospeed.environment import use_one_heap

def heaps():  # of further threads: each begins at a multiple of 64 MiB
    parts = [line.split()[:2] for line in Path("/proc/self/maps").read_text().splitlines()]
    return sum(rights[:2] == "rw" and int(place.partition("-")[0], 16) % (64 << 20) == 0 for place, rights in parts)

def work():
    held = [bytearray(1000) for _ in range(1000)]
    all_hold.wait()
    counted.wait()

if sys.argv[1] == "one":
    use_one_heap()
before, all_hold, counted = heaps(), threading.Barrier(5), threading.Barrier(5)
for _ in range(4):
    threading.Thread(target=work).start()
all_hold.wait()
print(heaps() - before)
counted.wait()
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc gives each thread a heap of its own")
def test_threads_share_one_heap_where_that_is_asked_for():
    def further(how):
        done = subprocess.run([sys.executable, "-c", HEAPS, how], check=True, capture_output=True, text=True)
        return int(done.stdout)

    assert further("one") == 0
    assert further("many") > 0


FAULTS = """
import resource, sys
from twospeed.environment import keep_freed_memory

if sys.argv[1] == "kept":
    keep_freed_memory()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for size in range(30, 60):
    held = bytearray(size * 100_000)  # of its own mapping, and larger each time
    del held
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is asked")
def test_freed_memory_is_kept_where_that_is_asked_for():
    def faults(how):
        done = subprocess.run([sys.executable, "-c", FAULTS, how], check=True, capture_output=True, text=True)
        return int(done.stdout)

    assert faults("kept") < faults("given back") / 4
