"""Where weights are: inside the package, in a cache on this machine, or at an address they are downloaded from once.

A download counts only when it is whole: its length is what the server stated, its checksum is the catalogue's (or,
where none is published, the one recorded when it was first used), and it can be read as weights.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import logging
import os
import re
import shutil
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

from twospeed.errors import CheckpointError, InputError, OutputError, TwospeedError, WeightsUnavailable
from twospeed.files import lock_file, make_folder, write_json
from twospeed.results import OnProgress, Progress
from twospeed.weights.catalog import CATALOG, PUBLISHED, find, published_for
from twospeed.weights.entries import Entry, WeightsFile

_log = logging.getLogger(__name__)
_CHUNK = 1 << 20
_ATTEMPTS = 4  # of one download; each continues where the one before broke off
_PAUSE_S = 1.0  # before the second attempt, doubled before each further one
_MOST_BYTES = 8 << 30
_DIRECT = (".pkl", ".pth", ".pyth")  # addresses of files, not of pages that offer one
_NOT_WEIGHTS = ("text/html", "application/json", "application/xml", "text/xml")


def cache_folder() -> Path:
    """The user's folder for downloads: $TWOSPEED_CACHE, else $XDG_CACHE_HOME/twospeed, else ~/.cache/twospeed."""
    if override := os.environ.get("TWOSPEED_CACHE"):
        return Path(override)
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "twospeed"


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def local_file(source: str | Path) -> Path:
    """Return the path of a file of weights; "hf://user/repository/file" is downloaded from the Hugging Face Hub once,
    and so is a file that the catalogue lists by its address.

    "hf://user/repository@revision/file" names a branch, tag or commit. Raises InputError for an address that is none,
    WeightsUnavailable where the package huggingface_hub or the file is missing.
    """
    if source in {file.url for file in PUBLISHED} and str(source).endswith(_DIRECT):
        folder, name = str(source).rsplit("/", 2)[1:]  # files of one name lie in several folders
        return _downloaded(WeightsFile(file=f"{folder}_{name}", url=str(source)))
    for entry in CATALOG.values():
        if entry.weights is not None and entry.weights.url == source:
            return default_weights(entry)
    address = re.fullmatch(r"hf://([^/@]+/[^/@]+)(?:@([^/]+))?/(.+)", str(source))
    if address is None:
        if re.match(r"[a-z][a-z0-9]+://", str(source)):
            raise InputError(
                f"weights {str(source)!r}: give a file, hf://user/repository/file, or an address that `twospeed models "
                "NAME` lists",
                option="weights",
            )
        return Path(source)
    try:
        import huggingface_hub
    except ImportError as error:
        raise WeightsUnavailable(f"{source} needs the package huggingface_hub: pip install 'twospeed[hub]'") from error
    repository, revision, name = address.groups()
    try:
        return Path(huggingface_hub.hf_hub_download(repository, name, revision=revision))
    except (OSError, ValueError, RuntimeError) as error:
        why = str(error).strip().partition("\n")[0]
        raise WeightsUnavailable(
            f"{source} cannot be downloaded ({why}); download it elsewhere and give the file"
        ) from error


def weights_sha256(name: str, weights: Any, *, on_progress: OnProgress | None = None) -> str | None:
    """Checksum of the file that `create_model(name, weights)` reads; None when it reads none.

    That of `model.json`, which holds those of all files, for an exported model. on_progress, and what is raised: as of
    `create_model`.
    """
    entry = find(name)
    if entry.exported is not None:
        return sha256(entry.exported.path)
    if weights == "default":
        return sha256(default_weights(entry, on_progress=on_progress))
    if not isinstance(weights, str | Path):
        return None
    from twospeed.weights.imports import check_there  # imports torch

    path = local_file(weights)
    check_there(path)
    return sha256(path)


def default_weights(entry: Entry, *, on_progress: OnProgress | None = None) -> Path:
    """Return the path of a model's default weights, downloading them once if neither torch's cache nor ours has them.

    A download that breaks off is resumed. on_progress: called with the bytes so far. Raises WeightsUnavailable, saying
    which file to put where, when the catalogue lists none, the machine is offline, or what came is not the file.
    """
    weights = entry.weights
    if weights is None:
        by_hand = [file for file in published_for(entry.name) if not file.what.startswith("start")]
        if by_hand:
            where = "; ".join(f"{file.url} ({file.what})" for file in by_hand)
            raise WeightsUnavailable(
                f"{entry.name} has no weights that a program can download; pass weights=FILE, from {where}; or "
                "weights=None for random ones",
                option="weights",
            )
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
    return _downloaded(weights, on_progress)


def _downloaded(weights: WeightsFile, on_progress: OnProgress | None = None) -> Path:
    import torch  # its cache may hold what torchvision or PyTorchVideo downloaded: the same file by the same name

    assert weights.url is not None
    of_torch = Path(torch.hub.get_dir()) / "checkpoints" / weights.file
    if of_torch.is_file():
        return of_torch
    path = cache_folder() / weights.file
    if path.is_file() and not os.access(path.parent, os.W_OK):  # a cache that someone else keeps for many
        return path
    make_folder(path.parent)
    with _only_one(path):
        if not path.is_file():
            _fetch(weights.url, path, weights.sha256, on_progress)
        _check_unchanged(path, weights)
    return path


# --------------------------------------------------------------------------------------------- files that are there


def _records() -> dict[str, Any]:
    """What `checksums.json` in the cache says of each file: url, sha256, bytes, time of change (ns)."""
    try:
        records = json.loads((cache_folder() / "checksums.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return records if isinstance(records, dict) else {}


def _check_unchanged(path: Path, weights: WeightsFile) -> None:
    """Check a cached file against its record; a file without one is read, compared with the catalogue and recorded."""
    known, now = _records().get(path.name), path.stat()
    if isinstance(known, dict) and (known.get("bytes"), known.get("changed_ns")) == (now.st_size, now.st_mtime_ns):
        return
    found = sha256(path)
    if isinstance(known, dict) and known.get("sha256") != found:
        raise WeightsUnavailable(
            f"{path} has changed since it was first used (SHA-256 {found[:16]}..., was {str(known.get('sha256'))[:16]}"
            "...); remove it, and it is downloaded again"
        )
    if weights.sha256 is not None and not found.startswith(weights.sha256):
        raise WeightsUnavailable(
            f"{path} has SHA-256 {found[:16]}..., expected {weights.sha256[:16]}...; remove it, and it is downloaded "
            "again"
        )
    if known is None and (fault := _unreadable(path)):
        raise WeightsUnavailable(f"{fault}; remove it, and it is downloaded again")
    record = {"url": weights.url, "sha256": found, "bytes": now.st_size, "changed_ns": now.st_mtime_ns}
    with _only_one(cache_folder() / "checksums.json"):
        write_json(cache_folder() / "checksums.json", {**_records(), path.name: record})


def _unreadable(path: Path) -> str:
    """Return why a file cannot be read as weights, to its end; nothing where it can."""
    from twospeed.weights.imports import read_state

    try:
        read_state(path)
    except CheckpointError as error:
        return str(error)
    return ""


@contextlib.contextmanager
def _only_one(path: Path) -> Iterator[None]:
    """Wait until no other process or thread downloads this file, then keep others waiting."""
    lock = path.with_name(f".{path.name}.lock")
    with contextlib.ExitStack() as stack:
        waited = False
        while True:
            try:
                stack.enter_context(lock_file(lock, f"{path} is in use by another process"))
                break
            except InputError:
                if not waited:
                    _log.info("waiting for another process that uses %s", path.name)
                waited = True
                time.sleep(0.1)
        yield


# ------------------------------------------------------------------------------------------------------- downloads


class _Interrupted(Exception):
    """The connection broke; trying again may help."""


class _OtherFile(_Interrupted):
    """What is there is no beginning of what the server has; trying again starts anew."""


def _fetch(url: str, path: Path, checksum: str | None, on_progress: OnProgress | None) -> None:
    """Download to `path` by way of `path.part`, continuing what an earlier call left there."""
    part = path.with_name(path.name + ".part")
    manual = f"download {url} elsewhere and put it at {path}"
    _log.info("downloading %s to %s", url, path)
    for attempt in range(_ATTEMPTS):
        if attempt:
            time.sleep(_PAUSE_S * 2 ** (attempt - 1))
        try:
            _receive(url, part, manual, on_progress)
            break
        except _Interrupted as error:
            if isinstance(error, _OtherFile):
                _discard(part)
            _log.info("%s: %s (attempt %d of %d)", path.name, error, attempt + 1, _ATTEMPTS)
            if attempt + 1 == _ATTEMPTS:
                raise WeightsUnavailable(f"{error}; try again later (it resumes), or {manual}") from error
        except OSError as error:
            if isinstance(error, TwospeedError):
                raise
            raise OutputError(f"cannot write {part} ({error.strerror}); free space or set TWOSPEED_CACHE") from error
    found = sha256(part)
    first = _records().get(path.name, {})
    expected = checksum or (first.get("sha256") if first.get("url") == url else None)
    if expected is not None and not found.startswith(expected):
        _discard(part)
        raise WeightsUnavailable(
            f"{url} has SHA-256 {found[:16]}..., expected {expected[:16]}...; the download was removed. Try again; if "
            f"it stays so, the file at this address is another one now"
        )
    if fault := _unreadable(part):
        _discard(part)
        raise WeightsUnavailable(f"what {url} sent is not a whole file of weights ({fault}); {manual}")
    part.replace(path)
    _discard(part)


def _discard(part: Path) -> None:
    for file in (part, _about(part)):
        file.unlink(missing_ok=True)


def _about(part: Path) -> Path:
    """Beside an unfinished download: which version of the file at which address it is a part of."""
    return part.with_name(part.name + ".json")


def _resumable(url: str, part: Path) -> tuple[int, dict[str, Any]]:
    """Return how many bytes are there, and what is known of the whole; (0, {}) where they cannot be trusted."""
    try:
        about = json.loads(_about(part).read_text(encoding="utf-8"))
        have = part.stat().st_size
    except (OSError, ValueError):
        return 0, {}
    whole = isinstance(about, dict) and about.get("url") == url and isinstance(about.get("total"), int)
    return (have, about) if whole and 0 < have < about["total"] else (0, {})


def _receive(url: str, part: Path, manual: str, on_progress: OnProgress | None) -> None:
    """Make one request and append to `part`, or write it anew where the server does not continue the same file."""
    have, about = _resumable(url, part)
    headers = {"Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
        if about.get("etag"):
            headers["If-Range"] = about["etag"]
    started = time.monotonic()
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=30) as response:
            _check_response(url, response, manual)
            total, resumed = _total(response, have, about)
            done = have if resumed else 0
            if not resumed:
                _discard(part)
                etag = response.headers.get("ETag", "")
                etag = etag if etag.startswith('"') else ""  # weak ones do not promise the same bytes
                write_json(_about(part), {"url": url, "total": total, "etag": etag})
            _check_space(part, total, done)
            with part.open("ab" if resumed else "wb") as file:
                while chunk := response.read(_CHUNK):
                    file.write(chunk)
                    done += len(chunk)
                    if done > (total or _MOST_BYTES):
                        break
                    if on_progress is not None:
                        seconds = time.monotonic() - started
                        on_progress(Progress("download", done, total, "bytes", seconds, message=part.stem))
    except urllib.error.HTTPError as error:
        if error.code == 416:  # the part is no beginning of the file that is there now
            raise _OtherFile(f"{url} has no further bytes after {have}") from error
        if error.code in (408, 429) or error.code >= 500:
            raise _Interrupted(f"{url} answered {error.code}") from error
        raise WeightsUnavailable(f"{url} answered {error.code}; {manual}") from error
    except (urllib.error.URLError, TimeoutError, ConnectionError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        if isinstance(reason, socket.gaierror | ConnectionRefusedError):  # no network: trying again does not help
            raise WeightsUnavailable(f"cannot reach {url} ({reason}); offline? {manual}") from error
        raise _Interrupted(f"cannot reach {url} ({reason}); offline?") from error
    if total is not None and done > total:
        _discard(part)
        raise WeightsUnavailable(f"{url} sent more than the {total} bytes that it stated; {manual}")
    if done > _MOST_BYTES:
        _discard(part)
        raise WeightsUnavailable(f"{url} sends over {_MOST_BYTES} bytes; that is not a file of weights; {manual}")
    if total is not None and done != total:
        raise _Interrupted(f"{url} ended after {done} of {total} bytes")


def _check_response(url: str, response: Any, manual: str) -> None:
    kind = response.headers.get_content_type()
    if kind in _NOT_WEIGHTS:
        raise WeightsUnavailable(
            f"{url} answered with {'a web page' if 'html' in kind else kind}, not a file; {manual}"
        )
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise WeightsUnavailable(f"{url} answered in an encoding that was not asked for; {manual}")
    if url.startswith("https:") and not response.url.startswith("https:"):
        raise WeightsUnavailable(f"{url} leads to an address without encryption, {response.url}; {manual}")


def _total(response: Any, have: int, about: dict[str, Any]) -> tuple[int | None, bool]:
    """Return the length of the whole file (None where it is not stated), and whether the answer continues our part."""
    if response.status == 206:
        stated = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", response.headers.get("Content-Range", "").strip())
        total = about.get("total", 0)
        if not have or stated is None or [int(text) for text in stated.groups()] != [have, total - 1, total]:
            raise _OtherFile(f"{response.url} did not send the rest of the file, bytes {have} to {total - 1}")
        return total, True
    length = response.headers.get("Content-Length", "")
    return (int(length) if length.isdecimal() else None), False


def _check_space(part: Path, total: int | None, done: int) -> None:
    free = shutil.disk_usage(part.parent).free
    if total is not None and total - done > free:
        raise OutputError(
            f"{part.parent} has {free / 1e6:.0f} MB free, the download needs {(total - done) / 1e6:.0f} MB; free space "
            "or set TWOSPEED_CACHE"
        )
