"""Read weight files of others without running anything from them, and without believing what they say of themselves.

A file holds tensors as bytes, and a description of them. Only the description of the tensors is read (`weights.pickles`
never calls what a file names), every size that it states is checked against the bytes that are there, and only tensors
of the state dict are read at all: optimizers and other passengers stay in the file.
"""

from __future__ import annotations

import io
import math
import sys
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from twospeed.errors import CheckpointError
from twospeed.weights.pickles import Damaged, Ignored, Name, load_pickle, printable

# What authors wrap their state dicts in: PySlowFast and PyTorchVideo, STCN's resume files, Lightning and GSVNet, Caffe2
_WRAPPERS = ("model_state", "network", "state_dict", "model", "blobs", "model_state_dict")
_MOST_BYTES = 8 << 30  # of weights; the largest published file for these networks has 0.7 GB

_DTYPES: Mapping[str, torch.dtype] = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
}
_ARRAY_DTYPES = frozenset({"f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1"})


def check_there(path: Path) -> None:
    """Raise CheckpointError when there is no such file."""
    if not path.is_file():
        what = "it is a folder; " if path.is_dir() else ""
        raise CheckpointError(f"no checkpoint at {path}; {what}give a file, or weights='default'")


def read_state(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read a checkpoint's tensors and metadata: safetensors, a torch file, or a Caffe2 pickle, by content.

    What authors wrap around the state dict, and a leading `module.`, is taken off. Raises CheckpointError when the file
    is missing, is none of these, is damaged, states sizes that it does not have, or asks to run code.
    """
    path = Path(path)
    check_there(path)
    metadata: dict[str, str] = {}
    content: Any
    try:
        with path.open("rb") as file:
            head = file.read(9)
            file.seek(0)
            if what := _known_mistake(head):
                raise CheckpointError(f"it is {what} instead of the weights themselves; download it again")
            if head[8:9] == b"{":
                with safe_open(str(path), framework="pt") as tensors:
                    metadata = dict(tensors.metadata() or {})
                    content = {name: tensors.get_tensor(name) for name in tensors.keys()}  # noqa: SIM118 (no dict)
            elif head.startswith(b"PK"):
                content = _read_torch_zip(file, path.stat().st_size)
            else:
                content = _read_bare_pickle(file, path.stat().st_size)
            return unwrap(content, str(path)), metadata
    except SafetensorError as error:
        why = printable(str(error))
        raise CheckpointError(f"{path}: not a whole safetensors file ({why}); download it again") from error
    except CheckpointError as error:
        if str(error).startswith(str(path)):
            raise
        raise CheckpointError(f"{path}: {error}") from error
    except Damaged as error:
        why = printable(str(error))
        raise CheckpointError(
            f"{path} is neither safetensors, nor a torch file, nor a Caffe2 pickle, or it is not whole ({why})"
        ) from error
    except (OSError, MemoryError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error or 'not enough memory'})") from error


def _known_mistake(head: bytes) -> str:
    if head.startswith(b"version h"):
        return "a Git LFS pointer"
    return "a web page" if head.lstrip()[:1] == b"<" else ""


def unwrap(content: object, where: str) -> dict[str, Tensor]:
    """Find the state dict inside what was read, as tensors. Raises CheckpointError when there is none."""
    seen: set[int] = set()
    while isinstance(content, Mapping):
        if id(content) in seen:
            raise CheckpointError(f"{where}: a dictionary in it contains itself; no checkpoint needs that")
        seen.add(id(content))
        if isinstance(content.get("state_dict_of"), Mapping) and isinstance(content.get("state_dict"), Mapping):
            # GSVNet keeps its flow network beside the rest
            flow = {f"flow_network.{name}": value for name, value in _bare(content["state_dict_of"]).items()}
            content = {**_bare(content["state_dict"]), **flow}
            break
        inner = next((content[key] for key in _WRAPPERS if isinstance(content.get(key), Mapping)), None)
        if inner is None:
            break
        content = inner
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{where} holds a {_kind(content)}, not a dictionary of weights")
    state: dict[str, Tensor] = {}
    total = 0
    for name, value in content.items():
        total += value.nbytes if isinstance(value, _StoredTensor | _PickledArray) else 0
        if total > _MOST_BYTES:
            raise CheckpointError(
                f"{where} states over {total / 1e9:.0f} GB of weights; {_MOST_BYTES / 1e9:.0f} GB are read"
            )
        if isinstance(value, _StoredTensor | _PickledArray):
            value = value.read()
        elif isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
            value = torch.from_numpy(np.ascontiguousarray(value))
        if isinstance(name, str) and isinstance(value, Tensor):
            state[name] = value
    if not state:
        raise CheckpointError(f"{where} holds no tensors; is it a checkpoint of a network?")
    return _bare(state)


def _kind(content: object) -> str:
    return "tensor" if isinstance(content, _StoredTensor) else type(content).__name__.lstrip("_")


def _bare(state: Mapping[str, Any]) -> dict[str, Any]:
    """Take off the `module.` that data-parallel training puts before every name."""
    if all(name.startswith("module.") for name in state):
        return {name.removeprefix("module."): value for name, value in state.items()}
    return dict(state)


# ------------------------------------------------------------------------------------------------ torch's files


@dataclass(eq=False)
class _Storage:
    """Values of one kind that lie in the file; read when a tensor needs them, once."""

    key: str
    dtype: torch.dtype
    count: int
    fetch: Callable[[_Storage], bytearray]
    values: Tensor | None = None

    def read(self) -> Tensor:
        if self.values is None:
            stated = self.count * self.dtype.itemsize
            if stated > _MOST_BYTES:
                raise CheckpointError(
                    f"it states {stated / 1e9:.1f} GB of values in one piece; that is not a checkpoint"
                )
            data = self.fetch(self)
            if len(data) != stated:
                raise CheckpointError(f"it states {stated} bytes of values, but holds {len(data)}")
            if self.dtype == torch.bool:
                self.values = (
                    torch.frombuffer(data, dtype=torch.uint8) != 0 if data else torch.empty(0, dtype=torch.bool)
                )
            else:
                self.values = torch.frombuffer(data, dtype=self.dtype) if data else torch.empty(0, dtype=self.dtype)
        return self.values


@dataclass(frozen=True, eq=False)
class _StoredTensor:
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def __post_init__(self) -> None:
        numbers = (self.offset, *self.shape, *self.strides)
        if len(self.shape) != len(self.strides) or len(self.shape) > 16:
            raise Damaged("a tensor's shape is damaged")
        if not all(isinstance(number, int) and 0 <= number < 1 << 48 for number in numbers):
            raise Damaged("a tensor's shape is damaged")
        count = math.prod(self.shape)
        last = self.offset + sum((size - 1) * stride for size, stride in zip(self.shape, self.strides, strict=True))
        if count and (count > self.storage.count or last >= self.storage.count):
            raise CheckpointError(
                f"a tensor of shape {self.shape} states more than the {self.storage.count} values it has"
            )

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.storage.dtype.itemsize

    def read(self) -> Tensor:
        return self.storage.read().as_strided(self.shape, self.strides, self.offset)


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> _StoredTensor:
    if not isinstance(storage, _Storage):
        raise Damaged("a tensor has no values")
    return _StoredTensor(storage, offset, tuple(shape), tuple(strides))


def _refused(what: str) -> Callable[..., Any]:
    def refuse(*_: Any) -> Any:
        raise CheckpointError(
            f"it holds {what}; save the weights as plain tensors (dense, floating-point, with values)"
        )

    return refuse


_TORCH_FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": lambda tensor, *_: tensor,
    "torch._utils._rebuild_parameter_with_state": lambda tensor, *_: tensor,
    "torch._utils._rebuild_sparse_tensor": _refused("a sparse tensor"),
    "torch._utils._rebuild_qtensor": _refused("a quantised tensor"),
    "torch._utils._rebuild_meta_tensor_no_storage": _refused("a tensor without values"),
    "torch.serialization._get_layout": lambda *_: Ignored(),
    "torch.Size": lambda sizes=(): tuple(sizes),
    "torch.device": lambda *_: Ignored(),
}
_TORCH_NAMES = frozenset(
    {f"torch.{kind}" for kind in (*_DTYPES, "QInt8Storage", "QUInt8Storage", "QInt32Storage", "sparse_coo")}
    | {f"torch.{kind}" for kind in ("strided", "float16", "float32", "float64", "bfloat16", "int64", "int32", "qint8")}
    | {"torch.per_tensor_affine", "torch.per_channel_affine"}
)


def _storage_of(identity: Any, storages: dict[str, _Storage], fetch: Callable[[_Storage], bytearray]) -> _Storage:
    """Make a storage of what torch keeps in its pickle: ("storage", type, key, location, count, ...)."""
    if not isinstance(identity, tuple) or len(identity) < 5 or identity[0] != "storage":
        raise Damaged("it refers to data in an unknown way")
    _, kind, key, _, count, *view = identity
    if not isinstance(kind, Name) or not isinstance(key, str) or not isinstance(count, int) or count < 0:
        raise Damaged("it refers to data in an unknown way")
    dtype = _DTYPES.get(kind.text.removeprefix("torch."))
    if dtype is None:
        raise CheckpointError(f"it holds values of the kind {kind.text}; save the weights as floating-point tensors")
    if view and view[0] is not None:
        raise CheckpointError("it holds views of storages, as torch before 0.4 wrote; save it again with a newer torch")
    storage = storages.setdefault(key, _Storage(key, dtype, count, fetch))
    if (storage.dtype, storage.count) != (dtype, count):
        raise Damaged("it describes one piece of data in two ways")
    return storage


def _read_torch_zip(file: BinaryIO, size: int) -> Any:
    """torch.save's format: an archive without compression with `data.pkl` and a record for each storage."""
    try:
        archive = zipfile.ZipFile(file)
        records = {info.filename: info for info in archive.infolist()}
    except (zipfile.BadZipFile, NotImplementedError, ValueError, EOFError) as error:
        raise Damaged(f"a torch file that is cut off or damaged: {error}") from error
    for info in records.values():
        if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size or info.flag_bits & 1:
            raise CheckpointError(
                f"its record {printable(info.filename)} is compressed ({info.compress_size} bytes for "
                f"{info.file_size}), which torch never does; refused"
            )
    if (total := sum(info.file_size for info in records.values())) > size:
        raise CheckpointError(f"its records state {total} bytes, the file has {size}; refused")
    pickles = [name for name in records if name == "data.pkl" or name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise Damaged("an archive, but not one of torch")
    root = pickles[0].removesuffix("data.pkl")
    storages: dict[str, _Storage] = {}

    def record(name: str) -> bytes:
        try:
            return archive.read(records[root + name])
        except KeyError as error:
            raise CheckpointError(f"its record {printable(name)} is missing; download it again") from error
        except (zipfile.BadZipFile, ValueError, EOFError, NotImplementedError) as error:
            raise CheckpointError(f"its record {printable(name)} is damaged ({error}); download it again") from error

    def fetch(storage: _Storage) -> bytearray:
        return bytearray(record(f"data/{storage.key}"))

    order = record("byteorder") if root + "byteorder" in records else b"little"
    if order != sys.byteorder.encode():
        raise CheckpointError(f"it was written on a machine of the byte order {order!r}; save it again here")
    description = record("data.pkl")
    return _load(io.BytesIO(description), lambda identity: _storage_of(identity, storages, fetch))


_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001


def _read_bare_pickle(file: BinaryIO, size: int) -> Any:
    """A Caffe2 pickle; or torch's format before 1.6, five pickles and the values of the storages."""
    content = _load(file, None)
    if content != _MAGIC or isinstance(content, bool):
        return content
    if _load(file, None) != _PROTOCOL:
        raise Damaged("a torch file of an unknown version")
    _load(file, None)  # the machine that wrote it
    storages: dict[str, _Storage] = {}
    places: dict[str, int] = {}

    def fetch(storage: _Storage) -> bytearray:
        file.seek(places[storage.key])
        return bytearray(file.read(storage.count * storage.dtype.itemsize))

    content = _load(file, lambda identity: _storage_of(identity, storages, fetch))
    keys = _load(file, None)
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys) or set(keys) != set(storages):
        raise Damaged("a torch file whose list of storages is damaged")
    for key in keys:
        count = int.from_bytes(file.read(8), "little")
        if count != storages[key].count:
            raise CheckpointError(f"it states {storages[key].count} values in one place and {count} in another")
        places[key] = file.tell()
        end = places[key] + count * storages[key].dtype.itemsize
        if end > size:
            raise CheckpointError(f"it is cut off: {size} bytes, where {end} are needed at least; download it again")
        file.seek(end)
    return content


# ------------------------------------------------------------------------------------------- numpy's arrays in pickles


class _Dtype:
    """A plain numeric dtype, by its name; of the state that pickles give it only the byte order is taken."""

    def __init__(self, name: Any, *_: Any) -> None:
        if not isinstance(name, str) or name.lstrip("<>=|") not in _ARRAY_DTYPES:
            raise CheckpointError(f"it holds an array of the kind {printable(name)}; only plain numbers are read")
        self.dtype = np.dtype(name.lstrip("<>=|"))

    def take_state(self, state: Any) -> None:
        if isinstance(state, tuple) and len(state) > 1 and state[1] == ">":
            self.dtype = self.dtype.newbyteorder(">")


class _PickledArray:
    """An array as pickles write it: empty until its state comes, whose description and bytes have to fit each other."""

    dtype: np.dtype[Any] | None = None
    shape: tuple[int, ...] = (0,)
    order: Literal["C", "F"] = "C"
    raw: bytes | str = b""  # text where Python 2 wrote it

    def take_state(self, state: Any) -> None:
        _, shape, dtype, fortran, raw = state
        if not isinstance(dtype, _Dtype) or not isinstance(shape, tuple) or not isinstance(raw, bytes | str):
            raise Damaged("an array's description is damaged")
        if len(shape) > 16 or not all(isinstance(number, int) and 0 <= number < 1 << 48 for number in shape):
            raise Damaged("an array's shape is damaged")
        self.dtype, self.shape, self.raw = dtype.dtype, shape, raw
        self.order = "F" if fortran is True or fortran == 1 else "C"
        if self.nbytes != len(raw):
            raise CheckpointError(f"an array of shape {shape} states {self.nbytes} bytes, but has {len(raw)}")

    @property
    def nbytes(self) -> int:
        return 0 if self.dtype is None else math.prod(self.shape) * self.dtype.itemsize

    def values(self) -> np.ndarray[Any, Any]:
        assert self.dtype is not None
        raw = self.raw.encode("latin1") if isinstance(self.raw, str) else self.raw
        values = np.frombuffer(raw, self.dtype).reshape(self.shape, order=self.order)
        return np.array(values, self.dtype.newbyteorder("="), order="C")

    def read(self) -> Tensor | None:
        return None if self.dtype is None else torch.from_numpy(self.values())


def _reconstruct(kind: Any, *_: Any) -> _PickledArray:
    if not isinstance(kind, Name) or kind.text != "numpy.ndarray":
        raise Damaged("it builds an array of an unknown kind")
    return _PickledArray()


def _frombuffer(raw: Any, dtype: Any, shape: Any, order: Any) -> _PickledArray:
    array = _PickledArray()
    array.take_state((1, shape, dtype, order == "F", raw))
    return array


def _scalar(dtype: Any, raw: Any = b"") -> Any:
    return _frombuffer(raw, dtype, (), "C").values().item()


def _encode(text: Any, *_: Any) -> bytes:
    if not isinstance(text, str):
        raise Damaged("bytes are written in an unknown way")
    return text.encode("latin1")


def _ordered(items: Any = ()) -> dict[str, Any]:
    pairs = [pair for pair in items if isinstance(pair, list | tuple) and len(pair) == 2]
    return {pair[0]: pair[1] for pair in pairs if isinstance(pair[0], str)}


_FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    **_TORCH_FUNCTIONS,
    "collections.OrderedDict": _ordered,
    "argparse.Namespace": lambda *_: Ignored(),  # GSVNet keeps its command line's arguments in the file
    "builtins.set": list,
    "__builtin__.set": list,
    "builtins.bytes": lambda: b"",
    "__builtin__.bytes": lambda: b"",
    "_codecs.encode": _encode,
    "numpy.dtype": _Dtype,
    "numpy.core.multiarray._reconstruct": _reconstruct,
    "numpy._core.multiarray._reconstruct": _reconstruct,
    "numpy.core.numeric._frombuffer": _frombuffer,
    "numpy._core.numeric._frombuffer": _frombuffer,
    "numpy.core.multiarray.scalar": _scalar,
    "numpy._core.multiarray.scalar": _scalar,
}
_NAMES = _TORCH_NAMES | {"numpy.ndarray"}


def _load(file: BinaryIO, storage: Callable[[Any], Any] | None) -> Any:
    return load_pickle(file, _FUNCTIONS, _NAMES, storage)
