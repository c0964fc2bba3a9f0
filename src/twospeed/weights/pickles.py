"""A pickle reader that never calls, imports or builds anything of the file's choosing.

Python's own unpickler looks names up and calls them; leaving some out is not enough, because those that remain can be
misused (a NumPy dtype takes its flags from the file, and then reads the file's bytes as addresses). Here a name stays
text. What a pickle wants called goes, with its arguments, to a table of functions in `weights.imports`, which check
what they are given; every other name is refused. Work and memory are bounded by the size of the file.
"""

from __future__ import annotations

import pickletools
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import IO, Any, BinaryIO

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


@dataclass
class _Machine:
    file: BinaryIO
    functions: Mapping[str, Callable[..., Any]]
    names: frozenset[str]
    storage: Callable[[Any], Any] | None
    stack: list[Any] = field(default_factory=list)
    below: list[list[Any]] = field(default_factory=list)  # stacks under the marks
    memo: dict[int, Any] = field(default_factory=dict)
    work: int = 0  # lengths of all arguments so far

    def run(self) -> Any:
        for _ in range(_MOST_OPERATIONS):
            code = self.file.read(1)
            known = _CODES.get(code)
            if known is None or known.name not in _OPERATIONS:
                raise Damaged(f"byte {code!r} is no pickle operation" if code else "it ends too early")
            argument = None if known.arg is None else _READERS.get(known.name, known.arg.reader)(self.file)
            if known.name == "STOP":
                return self.stack.pop()
            _OPERATIONS[known.name](self, argument)
        raise CheckpointError(f"its pickle has more than {_MOST_OPERATIONS} operations; no checkpoint needs as many")

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
    def name(self, name: str) -> None:
        """Name a global. name: its module and its name, with a space between them."""
        text = name.replace(" ", ".")
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

    def instance(self, name: str) -> None:
        arguments = self.since_mark()
        self.name(name)
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
        if not isinstance(module, str) or not isinstance(name, str):
            raise Damaged("a name is no text")
        self.name(f"{module} {name}")

    def push(self, value: Any) -> None:
        """Push a value that was made of the stack, which is another list since."""
        self.stack.append(value)


def _text_keys(items: list[Any]) -> dict[str, Any]:
    """Pairs as a dictionary. Other keys than text are left out: weights have names, and some keys are slow to hash."""
    return {key: value for key, value in zip(items[::2], items[1::2], strict=True) if isinstance(key, str)}


def _quoted(file: IO[bytes]) -> str:
    """Read a text of Python 2, whose bytes are characters: pickletools takes ASCII alone."""
    text: Any = pickletools.read_stringnl(file, decode=False)
    return str(text, "unicode_escape")


_CODES = {operation.code.encode("latin1"): operation for operation in pickletools.opcodes}
_READERS: Mapping[str, Callable[[IO[bytes]], Any]] = {"STRING": _quoted, "BYTEARRAY8": pickletools.read_bytes8}
_LITERALS = (
    "INT", "LONG", "BININT", "BININT1", "BININT2", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING", "BINSTRING",
    "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES",
    "BINBYTES8", "BYTEARRAY8",
)  # fmt: skip
"""Operations that push what they hold."""

_OPERATIONS: Mapping[str, Callable[[_Machine, Any], object]] = {
    **dict.fromkeys(_LITERALS, lambda m, value: m.stack.append(value)),
    **dict.fromkeys(("PROTO", "FRAME", "STOP"), lambda m, _: None),
    "MARK": lambda m, _: m.mark(),
    "POP": lambda m, _: m.pop(),
    "POP_MARK": lambda m, _: m.since_mark(),
    "DUP": lambda m, _: m.stack.append(m.stack[-1]),
    "NONE": lambda m, _: m.stack.append(None),
    "NEWTRUE": lambda m, _: m.stack.append(True),
    "NEWFALSE": lambda m, _: m.stack.append(False),
    "EMPTY_LIST": lambda m, _: m.stack.append([]),
    "EMPTY_SET": lambda m, _: m.stack.append([]),
    "LIST": lambda m, _: m.push(m.since_mark()),
    "FROZENSET": lambda m, _: m.push(m.since_mark()),
    "APPEND": lambda m, _: m.extend([m.stack.pop()]),
    "APPENDS": lambda m, _: m.extend(m.since_mark()),
    "ADDITEMS": lambda m, _: m.extend(m.since_mark()),
    "EMPTY_TUPLE": lambda m, _: m.stack.append(()),
    "TUPLE": lambda m, _: m.push(tuple(m.since_mark())),
    "TUPLE1": lambda m, _: m.tuple_of(1),
    "TUPLE2": lambda m, _: m.tuple_of(2),
    "TUPLE3": lambda m, _: m.tuple_of(3),
    "EMPTY_DICT": lambda m, _: m.stack.append({}),
    "DICT": lambda m, _: m.push(_text_keys(m.since_mark())),
    "SETITEM": lambda m, _: m.set_items([m.stack.pop(-2), m.stack.pop()]),
    "SETITEMS": lambda m, _: m.set_items(m.since_mark()),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), lambda m, key: m.stack.append(m.memo[key])),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), lambda m, key: m.remember(key)),
    "MEMOIZE": lambda m, _: m.remember(len(m.memo)),
    "GLOBAL": lambda m, name: m.name(name),
    "STACK_GLOBAL": lambda m, _: m.stack_global(),
    "REDUCE": lambda m, _: m.reduce(),
    "NEWOBJ": lambda m, _: m.reduce(),
    "NEWOBJ_EX": lambda m, _: m.new_with_keywords(),
    "BUILD": lambda m, _: m.build(),
    "INST": lambda m, name: m.instance(name),
    "OBJ": lambda m, _: m.object_of_mark(),
    "BINPERSID": lambda m, _: m.persistent(m.stack.pop()),
}
