"""A pickle reader that never calls, imports or builds anything of the file's choosing.

Python's own unpickler looks names up and calls them; leaving some out is not enough, because those that remain can be
misused (a NumPy dtype takes its flags from the file, and then reads the file's bytes as addresses). Here a name stays
text. What a pickle wants called goes, with its arguments, to a table of functions in `weights.imports`, which check
what they are given; every other name is refused. Work and memory are bounded by the size of the file.
"""

from __future__ import annotations

import codecs
import pickle
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

from twospeed.errors import CheckpointError

# A checkpoint with two optimizer states has some 100,000
_MOST_OPERATIONS = 2_000_000
_MOST_WORK = 1 << 26  # items and 16-byte pieces of text handed to functions: far more than a whole checkpoint has


@dataclass(frozen=True)
class Name:
    """A global that the pickle names, as "module.name"; only ever text."""

    text: str


class Ignored:
    """Stands for what is no weight, such as the arguments of a training script."""


class Damaged(Exception):
    """The bytes are no pickle, or not a whole one."""


def printable(text: object, most: int = 120) -> str:
    """Text from a file as it may be shown: control characters escaped, long text cut; of all else its type."""
    if not isinstance(text, str):  # whose text could be endless
        return type(text).__name__.lstrip("_")
    return text[:most].encode("unicode_escape").decode("ascii") + ("..." if len(text) > most else "")


def load_pickle(
    file: BinaryIO,
    functions: Mapping[str, Callable[..., Any]],
    names: frozenset[str],
    storage: Callable[[Any], Any] | None = None,
) -> Any:
    """Read one pickle from the file's position on; the position is then behind it.

    functions: what may be called, by the name in the file, each a function of ours. names: what may be named besides.
    storage: makes a value of a persistent id, where the format has them (torch). Dictionaries keep the entries
    whose keys are text, sets become lists. Raises CheckpointError for names that are not allowed, Damaged for the rest.
    """
    try:
        return _Machine(file, functions, names, storage).run()
    except (IndexError, KeyError, TypeError, ValueError, OverflowError, AttributeError, struct.error) as error:
        if isinstance(error, CheckpointError):
            raise
        raise Damaged(str(error) or type(error).__name__) from error


class _Machine:
    def __init__(
        self,
        file: BinaryIO,
        functions: Mapping[str, Callable[..., Any]],
        names: frozenset[str],
        storage: Callable[[Any], Any] | None,
    ) -> None:
        self.file, self.functions, self.names, self.storage = file, functions, names, storage
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []  # stacks under the marks
        self.memo: dict[int, Any] = {}
        self.work = 0  # lengths of all arguments so far

    def run(self) -> Any:
        for _ in range(_MOST_OPERATIONS):
            code = self.file.read(1)
            if code == pickle.STOP:
                return self.stack.pop()
            operation = _OPERATIONS.get(code)
            if operation is None:
                raise Damaged(f"byte {code!r} is no pickle operation" if code else "it ends too early")
            operation(self)
        raise CheckpointError(f"its pickle has more than {_MOST_OPERATIONS} operations; no checkpoint needs as many")

    # Reading -------------------------------------------------------------------------------------------------------
    def number(self, layout: str) -> Any:
        return struct.unpack(layout, self.taken(struct.calcsize(layout)))[0]

    def taken(self, length: int) -> bytes:
        data = self.file.read(length) if 0 <= length < 1 << 62 else b""
        if len(data) != length:
            raise Damaged(f"it holds {len(data)} of the {length} bytes that it announces")
        return data

    def skip(self, length: int) -> None:
        self.taken(length)

    def line(self) -> bytes:
        line = self.file.readline()
        if not line.endswith(b"\n"):
            raise Damaged("it ends too early")
        return line[:-1]

    # Stack ---------------------------------------------------------------------------------------------------------
    def since_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.below.pop()
        return items

    def mark(self) -> None:
        self.below.append(self.stack)
        self.stack = []

    def pop(self) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self.since_mark()

    def tuple_of(self, count: int) -> None:
        if len(self.stack) < count:
            raise Damaged("its stack is empty")
        self.stack[-count:] = [tuple(self.stack[-count:])]

    def remember(self, key: int) -> None:
        self.memo[key] = self.stack[-1]

    def extend(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, list):
            raise Damaged(f"it appends to a {type(target).__name__}")
        target.extend(items)

    def set_items(self, items: list[Any]) -> None:
        if not isinstance(self.stack[-1], dict):
            raise Damaged(f"it sets items of a {type(self.stack[-1]).__name__}")
        self.stack[-1].update(_text_keys(items))

    # Names ---------------------------------------------------------------------------------------------------------
    def name(self, module: object, name: object) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise Damaged("a name is no text")
        text = f"{module}.{name}"
        if text not in self.functions and text not in self.names:
            raise CheckpointError(
                f"the pickle asks for {printable(text)}, which could run code; refused. "
                "Load it where you trust it and save the plain state dict"
            )
        self.stack.append(Name(text))

    def call(self, name: object, arguments: Any) -> None:
        if not isinstance(name, Name) or name.text not in self.functions:
            what = name.text if isinstance(name, Name) else type(name).__name__
            raise CheckpointError(f"the pickle calls {printable(what)}, which no file of weights needs; refused")
        # A file may hand one long value to many calls
        self.work += sum(len(value) for value in arguments if isinstance(value, list | tuple))
        self.work += sum(len(value) // 16 for value in arguments if isinstance(value, str | bytes))
        if self.work > _MOST_WORK:
            raise CheckpointError("its pickle repeats itself without end; refused")
        self.stack.append(self.functions[name.text](*arguments))

    def reduce(self) -> None:
        arguments, name = self.stack.pop(), self.stack.pop()
        self.call(name, arguments)

    def build(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if hasattr(target, "take_state"):
            target.take_state(state)
        elif not isinstance(target, dict | Ignored):  # whose attributes no network needs
            raise Damaged(f"it sets the state of a {type(target).__name__}")

    def instance(self) -> None:
        module, name = self.line().decode(), self.line().decode()
        arguments = self.since_mark()
        self.name(module, name)
        self.call(self.stack.pop(), arguments)

    def object_of_mark(self) -> None:
        name, *arguments = self.since_mark()
        self.call(name, arguments)

    def new_with_keywords(self) -> None:
        if self.stack.pop():
            raise Damaged("it calls with keywords")
        self.reduce()

    def persistent(self, key: Any) -> None:
        if self.storage is None:
            raise Damaged("it refers to data outside of it")
        self.stack.append(self.storage(key))

    def stack_global(self) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self.name(module, name)

    def pushes(self, value: Any) -> None:
        self.stack.append(value)


def _text_keys(items: list[Any]) -> dict[str, Any]:
    """Pairs as a dictionary. Other keys than text are left out: weights have names, and some keys are slow to hash."""
    return {key: value for key, value in zip(items[::2], items[1::2], strict=True) if isinstance(key, str)}


def _int(text: bytes) -> int | bool:
    return text == b"01" if text in (b"00", b"01") else int(text.rstrip(b"L"))


def _long(data: bytes) -> int:
    return int.from_bytes(data, "little", signed=True)


def _quoted(text: bytes) -> str:
    return codecs.decode(text.strip()[1:-1], "unicode_escape")


_Operation = Callable[[_Machine], None]


def _push(read: Callable[[_Machine], Any]) -> _Operation:
    return lambda m: m.stack.append(read(m))


_OPERATIONS: Mapping[bytes, _Operation] = {
    pickle.PROTO: lambda m: m.skip(1),
    pickle.FRAME: lambda m: m.skip(8),
    pickle.MARK: _Machine.mark,
    pickle.POP: _Machine.pop,
    pickle.POP_MARK: lambda m: m.since_mark().clear(),
    pickle.DUP: lambda m: m.stack.append(m.stack[-1]),
    pickle.NONE: lambda m: m.stack.append(None),
    pickle.NEWTRUE: lambda m: m.stack.append(True),
    pickle.NEWFALSE: lambda m: m.stack.append(False),
    pickle.INT: _push(lambda m: _int(m.line())),
    pickle.LONG: _push(lambda m: _int(m.line())),
    pickle.BININT: _push(lambda m: m.number("<i")),
    pickle.BININT1: _push(lambda m: m.number("<B")),
    pickle.BININT2: _push(lambda m: m.number("<H")),
    pickle.LONG1: _push(lambda m: _long(m.taken(m.number("<B")))),
    pickle.LONG4: _push(lambda m: _long(m.taken(m.number("<i")))),
    pickle.FLOAT: _push(lambda m: float(m.line())),
    pickle.BINFLOAT: _push(lambda m: m.number(">d")),
    pickle.STRING: _push(lambda m: _quoted(m.line())),
    pickle.BINSTRING: _push(lambda m: m.taken(m.number("<i")).decode("latin1")),
    pickle.SHORT_BINSTRING: _push(lambda m: m.taken(m.number("<B")).decode("latin1")),
    pickle.UNICODE: _push(lambda m: m.line().decode("raw-unicode-escape")),
    pickle.BINUNICODE: _push(lambda m: m.taken(m.number("<I")).decode("utf-8", "surrogatepass")),
    pickle.SHORT_BINUNICODE: _push(lambda m: m.taken(m.number("<B")).decode("utf-8", "surrogatepass")),
    pickle.BINUNICODE8: _push(lambda m: m.taken(m.number("<Q")).decode("utf-8", "surrogatepass")),
    pickle.BINBYTES: _push(lambda m: m.taken(m.number("<I"))),
    pickle.SHORT_BINBYTES: _push(lambda m: m.taken(m.number("<B"))),
    pickle.BINBYTES8: _push(lambda m: m.taken(m.number("<Q"))),
    pickle.BYTEARRAY8: _push(lambda m: m.taken(m.number("<Q"))),
    pickle.EMPTY_LIST: lambda m: m.stack.append([]),
    pickle.EMPTY_SET: lambda m: m.stack.append([]),
    pickle.LIST: lambda m: m.pushes(m.since_mark()),
    pickle.FROZENSET: lambda m: m.pushes(m.since_mark()),
    pickle.APPEND: lambda m: m.extend([m.stack.pop()]),
    pickle.APPENDS: lambda m: m.extend(m.since_mark()),
    pickle.ADDITEMS: lambda m: m.extend(m.since_mark()),
    pickle.EMPTY_TUPLE: lambda m: m.stack.append(()),
    pickle.TUPLE: lambda m: m.pushes(tuple(m.since_mark())),
    pickle.TUPLE1: lambda m: m.tuple_of(1),
    pickle.TUPLE2: lambda m: m.tuple_of(2),
    pickle.TUPLE3: lambda m: m.tuple_of(3),
    pickle.EMPTY_DICT: lambda m: m.stack.append({}),
    pickle.DICT: lambda m: m.pushes(_text_keys(m.since_mark())),
    pickle.SETITEM: lambda m: m.set_items([m.stack.pop(-2), m.stack.pop()]),
    pickle.SETITEMS: lambda m: m.set_items(m.since_mark()),
    pickle.GET: lambda m: m.pushes(m.memo[int(m.line())]),
    pickle.BINGET: lambda m: m.pushes(m.memo[m.number("<B")]),
    pickle.LONG_BINGET: lambda m: m.pushes(m.memo[m.number("<I")]),
    pickle.PUT: lambda m: m.remember(int(m.line())),
    pickle.BINPUT: lambda m: m.remember(m.number("<B")),
    pickle.LONG_BINPUT: lambda m: m.remember(m.number("<I")),
    pickle.MEMOIZE: lambda m: m.remember(len(m.memo)),
    pickle.GLOBAL: lambda m: m.name(m.line().decode(), m.line().decode()),
    pickle.STACK_GLOBAL: _Machine.stack_global,
    pickle.REDUCE: _Machine.reduce,
    pickle.NEWOBJ: _Machine.reduce,
    pickle.NEWOBJ_EX: _Machine.new_with_keywords,
    pickle.BUILD: _Machine.build,
    pickle.INST: _Machine.instance,
    pickle.OBJ: _Machine.object_of_mark,
    pickle.BINPERSID: lambda m: m.persistent(m.stack.pop()),
}
