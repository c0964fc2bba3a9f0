"""Where weights lie: inside the package, in the user's cache, or still at their authors' address."""

from __future__ import annotations

import hashlib
import os
import sys
import urllib.error
import urllib.request
from importlib import resources
from pathlib import Path

from twospeed.errors import OutputError, WeightsUnavailable
from twospeed.weights.catalog import Entry

_CHUNK = 1 << 20


def cache_folder() -> Path:
    """The user's folder for fetched weights: $TWOSPEED_CACHE, else $XDG_CACHE_HOME/twospeed, else ~/.cache/twospeed."""
    if override := os.environ.get("TWOSPEED_CACHE"):
        return Path(override)
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "twospeed"


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def default_weights(entry: Entry, *, progress: bool = True) -> Path:
    """Return the path of a model's default weights, fetching them once if neither torch's cache nor ours has them.

    An interrupted fetch is resumed. Raises WeightsUnavailable, saying which file to put where, when the catalogue lists
    none, the machine is offline, or the checksum disagrees.
    """
    weights = entry.weights
    if weights is None:
        raise WeightsUnavailable(
            f"no weights are published for {entry.name}; pass weights=FILE (a checkpoint that you have), "
            "or weights=None for random ones",
            option="weights",
        )
    shipped = resources.files("twospeed") / "weights" / "shipped" / weights.file
    if weights.url is None:
        if not shipped.is_file():
            raise WeightsUnavailable(f"{weights.file} is missing from this installation; reinstall twospeed")
        return Path(str(shipped))
    import torch  # its cache may hold what torchvision or PyTorchVideo fetched: the same file by the same name

    of_torch = Path(torch.hub.get_dir()) / "checkpoints" / weights.file
    if of_torch.is_file():
        return of_torch
    path = cache_folder() / weights.file
    if not path.is_file():
        _fetch(weights.url, path, weights.sha256, progress)
    return path


def _fetch(url: str, path: Path, checksum: str | None, progress: bool) -> None:
    """Download to `path` by way of `path.part`, which a later call resumes."""
    part = path.with_name(path.name + ".part")
    manual = f"fetch {url} elsewhere and put it at {path}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        have = part.stat().st_size if part.exists() else 0
        request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
        with urllib.request.urlopen(request, timeout=30) as response:
            if response.headers.get_content_type() == "text/html":
                raise WeightsUnavailable(f"{url} answered with a web page instead of a file; {manual}")
            resumed = have > 0 and response.status == 206
            done = have if resumed else 0
            length = response.headers.get("Content-Length")
            total = done + int(length) if length is not None else None
            with part.open("ab" if resumed else "wb") as file:
                while chunk := response.read(_CHUNK):
                    file.write(chunk)
                    done += len(chunk)
                    if progress and sys.stderr.isatty():
                        share = f" of {total / 1e6:.0f}" if total else ""
                        print(f"\rfetching {path.name}: {done / 1e6:.0f}{share} MB", end="", file=sys.stderr)
            if progress and sys.stderr.isatty():
                print(file=sys.stderr)
        if total is not None and done != total:
            raise WeightsUnavailable(f"{url} ended after {done} of {total} bytes; try again (it resumes), or {manual}")
    except urllib.error.HTTPError as error:
        if error.code != 416:  # range past the end: the part is whole already
            raise WeightsUnavailable(f"{url} answered {error.code}; {manual}") from error
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        reason = getattr(error, "reason", error)
        raise WeightsUnavailable(f"cannot reach {url} ({reason}); offline? {manual}") from error
    except OSError as error:
        if isinstance(error, WeightsUnavailable):
            raise
        raise OutputError(f"cannot write {part} ({error.strerror}); free space or set TWOSPEED_CACHE") from error
    if checksum is not None and not (found := sha256(part)).startswith(checksum):
        part.unlink()
        raise WeightsUnavailable(
            f"{url} has SHA-256 {found[:16]}..., expected {checksum[:16]}...; the damaged file was removed, try again"
        )
    part.replace(path)
