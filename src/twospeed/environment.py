"""Where a program runs: devices, machine, versions, commit. The last three are written beside every result."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from twospeed.errors import InputError

if TYPE_CHECKING:
    import torch

_VERSIONS_OF = ("twospeed", "torch", "torchvision", "numpy", "scipy", "opencv-python-headless", "pillow", "av")


def machine_name() -> str:
    """Describe the machine: processor, cores that may be used, and the graphics card if torch uses one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    name = f"{_processor()}, {cores} cores"
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


def physical_memory(device: torch.device | None = None) -> int:
    """Return the bytes of memory of a CUDA device, else of this machine; 8 GiB where the system does not say."""
    if device is not None and device.type == "cuda":
        import torch

        return torch.cuda.mem_get_info(device)[1]
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows
        return 8 << 30


def installed_versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that can move a score."""
    versions = {"python": platform.python_version()}
    for package in _VERSIONS_OF:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions


def commit_of_this_code() -> str | None:
    """Return the commit of the checkout that this package runs from ("+changes" if edited), None outside of one."""
    package = Path(__file__).resolve().parent
    checkout = package.parents[1]
    if package != checkout / "src" / "twospeed" or not (checkout / ".git").exists():
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
        why = str(error).splitlines()[0][:100]
        raise InputError(f"device {str(wanted)!r} cannot be used here ({why}); choose cpu, or leave it out") from error
    return device


def _best_device() -> str:
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"
