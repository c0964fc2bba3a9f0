"""Where a program runs: devices, machine, versions, commit. The last three are written beside every result."""

from __future__ import annotations

import ctypes
import math
import os
import platform
import subprocess
import sys
import textwrap
from collections.abc import Iterator, MutableMapping
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from twospeed.errors import InputError

if TYPE_CHECKING:
    import torch

_VERSIONS_OF = ("twospeed", "torch", "torchvision", "numpy", "scipy", "opencv-python-headless", "pillow", "av")


SPIN_COUNT = 10_000
"""Rounds that a waiting thread of libgomp spins before it sleeps (benchmarks/threads.py)."""

BUSY_SPIN_COUNT = 1000
"""The same on a machine that is busy when the program starts."""

WAITING = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
"""Variables that say how libgomp's threads wait."""


def use_threads_well(environment: MutableMapping[str, str] = os.environ, system: Path = Path("/")) -> None:
    """Set how the threads of torch wait and how many there are, in variables that are read when torch is loaded.

    To be called before torch is imported; processes that are started later inherit it. What is set already stays.
    Waiting: libgomp (torch on Linux) spins for about 6 ms by itself, which on a busy machine takes the processor from
    threads that have work; here it spins for `SPIN_COUNT` rounds, and for fewer where other programs keep half of the
    cores busy already. The runtimes of other systems do not read this. Number: where a container's CPU quota allows
    fewer cores than there are, as many threads as it allows, rounded up; torch alone would start one for every core,
    and the system would stop them all for most of the time. system: as `usable_cores`.
    """
    cores = usable_cores(system)
    if not any(name in environment for name in WAITING):
        is_busy = hasattr(os, "getloadavg") and os.getloadavg()[0] >= cores / 2  # in the last minute
        environment["GOMP_SPINCOUNT"] = str(BUSY_SPIN_COUNT if is_busy else SPIN_COUNT)
    if "OMP_NUM_THREADS" not in environment and cores < _cores():
        environment["OMP_NUM_THREADS"] = str(cores)


def use_one_heap() -> None:
    """Let all threads of this process take their memory from one heap (glibc, so most Linux; nothing elsewhere).

    To be called before threads are started. By itself each has a heap of its own, and what one has freed does not serve
    the others. A process that opens a decoder, with its threads, for every jump in a video holds much more that way.
    Freed memory is kept, as by `keep_freed_memory`.
    """
    _set_allocator((-8, 1))  # M_ARENA_MAX
    keep_freed_memory()


def keep_freed_memory() -> None:
    """Let up to 32 MB at the heap's end stay when they are freed (glibc, so most Linux; nothing elsewhere).

    An image that comes and goes would otherwise be taken from the system each time, page by page.
    """
    _set_allocator((-3, 32 << 20), (-1, 32 << 20))  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD


def _set_allocator(*options: tuple[int, int]) -> None:
    if sys.platform == "linux" and (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)) is not None:
        for option, value in options:
            mallopt(option, value)


def usable_cores(system: Path = Path("/")) -> int:
    """Return how many cores this process may use: those that it may run on, or fewer by its containers' CPU quota.

    A quota of 2.5 cores counts as 3. system: the root folder, below which /proc and /sys are read.
    """
    quotas = [math.ceil(quota) for quota in _cpu_quotas(system)]
    return max(1, min([_cores(), *quotas]))


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cpu_quotas(system: Path) -> Iterator[float]:
    """Give the quotas, in cores, of the control groups that this process is in (Linux; versions 2 and 1)."""
    groups = system / "sys/fs/cgroup"
    try:
        lines = (system / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        inside = PurePosixPath(group.lstrip("/"))
        if not controllers:  # version 2
            for folder in (inside, *inside.parents):
                yield from _quota(groups / folder, "cpu.max")
        elif "cpu" in controllers.split(","):
            for folder in (inside, *inside.parents):
                yield from _quota(groups / "cpu" / folder, "cpu.cfs_quota_us", "cpu.cfs_period_us")


def _quota(folder: Path, *names: str) -> Iterator[float]:
    """Give time allowed in each period, over the period; nothing where there is no limit."""
    try:
        quota, period = " ".join((folder / name).read_text() for name in names).split()
        if float(quota) > 0:
            yield float(quota) / float(period)
    except (OSError, ValueError, ZeroDivisionError):  # "max", -1, or no such group here
        return


def machine_name() -> str:
    """Describe the machine: processor, cores that may be used, and the graphics card if torch uses one."""
    name = f"{_processor()}, {_cores()} cores"
    torch = sys.modules.get("torch")  # never imported for the sake of its name
    if torch is not None and torch.cuda.is_available():
        name += f", {torch.cuda.get_device_name()}"
    return name


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def physical_memory(device: torch.device | str | None = None) -> int:
    """Return the bytes of memory of a CUDA device, else of this machine; 8 GiB where the system does not say."""
    if getattr(device, "type", "cpu") == "cuda":
        import torch

        return torch.cuda.mem_get_info(device)[1]
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows
        return 8 << 30


def peak_memory() -> int | None:
    """Return the most bytes that this process has held; None where the system does not say."""
    try:  # Linux: what getrusage gives there begins with the peak of the program that started this one
        lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        pass
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def installed_versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that can move a score."""
    versions = {"python": platform.python_version()}
    for package in _VERSIONS_OF:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions


def checkout_of_this_code() -> Path | None:
    """Return the folder of the repository that this package runs from, None for an installed package."""
    package = Path(__file__).resolve().parent
    checkout = package.parents[1]
    return checkout if package == checkout / "src" / "twospeed" and (checkout / ".git").exists() else None


def commit_of_this_code() -> str | None:
    """Return the commit of the checkout that this package runs from ("+changes" if edited), None outside of one."""
    checkout = checkout_of_this_code()
    if checkout is None:
        return None
    try:
        head = _git(checkout, "rev-parse", "HEAD")
        changed = _git(checkout, "status", "--porcelain", "--untracked-files=no", "--", "src")
    except (OSError, subprocess.SubprocessError):
        return None
    return head + ("+changes" if changed else "")


def _git(checkout: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(checkout), *arguments], capture_output=True, text=True, timeout=10, check=True
    )
    return done.stdout.strip()


def resolve_device(wanted: str | torch.device | None) -> torch.device:
    """Return the device asked for; None takes CUDA if it is there, else MPS (Apple's graphics), else the CPU.

    Raises InputError for one that cannot be used.
    """
    import torch  # kept out of the module: commands that need no network stay instant

    try:
        device = torch.device(wanted or _best_device())
        if device.type == "meta":
            raise RuntimeError("it holds no values")
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError, ImportError, AttributeError) as error:  # as torch does
        sentence = str(error).splitlines()[0].split(". ")[0].rstrip(".")  # what follows is advice of torch's own
        why = textwrap.shorten(sentence, 100, placeholder=" ...")
        raise InputError(f"device {str(wanted)!r} cannot be used here ({why}); choose cpu, or leave it out") from error
    return device


def _best_device() -> str:
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"
