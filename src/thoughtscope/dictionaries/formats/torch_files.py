"""Files that `torch.save` writes: a dictionary of tensors and plain values, memory-mapped, and nothing else.

Such a file is a zip archive of stored bytes, with a small program that puts them together. Nothing here runs it as
Python would: its steps are read one by one, and those that make tensors, numbers, texts and their containers are
followed. Any other step, and any that would make more bytes than the file has, is refused.
"""

from __future__ import annotations

import os
import pickletools
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from thoughtscope.core.errors import CorruptArtefact, LimitExceeded
from thoughtscope.core.files import open_regular
from thoughtscope.dictionaries.formats.npz import data_offset

MAX_PROGRAM = 2**20
"""Bytes of the program: one for 200 tensors has 20,000."""
MAX_MEMBERS = 4096
_STORAGES = {
    f"torch {name}Storage": dtype
    for name, dtype in {
        "Double": torch.float64, "Float": torch.float32, "Half": torch.float16, "BFloat16": torch.bfloat16,
        "Long": torch.int64, "Int": torch.int32, "Short": torch.int16, "Char": torch.int8, "Byte": torch.uint8,
        "Bool": torch.bool,
    }.items()
}  # fmt: skip
_REBUILD, _PARAMETER, _ORDERED = (
    "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter", "collections OrderedDict",
)  # fmt: skip
_KNOWN = {*_STORAGES, _REBUILD, _PARAMETER, _ORDERED}


def read_torch(path: Path) -> dict[str, Any]:
    """The dictionary that a file holds; its tensors stay on disk until they are used.

    Raises `CorruptArtefact` naming the file for anything but a dictionary of tensors and plain values, and for one in
    the layout before PyTorch 1.6; `LimitExceeded` for one that claims to be larger than it is.
    """
    if not path.is_file():
        raise CorruptArtefact(f"{path} is missing.")
    open_regular(path).close()
    try:
        with zipfile.ZipFile(path) as archive:
            members = _members(path, archive)
            program = archive.read(members["data.pkl"])
            order = archive.read(members["byteorder"]) if "byteorder" in members else b"little"
        if order != b"little":
            raise ValueError("its numbers are stored with the high byte first")
        found = _Program(path, members).run(program)
    except (CorruptArtefact, LimitExceeded):
        raise
    except Exception as error:  # damage makes the libraries raise many kinds
        told = str(error) or type(error).__name__
        raise CorruptArtefact(
            f"{path} is not a readable file of PyTorch (1.6 or later) with tensors only: {told.rstrip('.'):.200}."
        ) from None
    if not isinstance(found, dict) or not all(isinstance(key, str) for key in found):
        raise CorruptArtefact(f"{path} holds no dictionary with texts for keys.")
    return found


def write_torch(path: Path, value: Mapping[str, Any]) -> None:
    """Writes what `read_torch` read, into a folder that `replaced_folder` gave."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(value, path)
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _members(path: Path, archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """The archive's members by their name within its one folder."""
    entries = archive.infolist()
    if len(entries) > MAX_MEMBERS:
        raise ValueError(f"it has {len(entries)} members")
    found = {entry.filename.partition("/")[2]: entry for entry in entries}
    if len(found) != len(entries) or len({entry.filename.partition("/")[0] for entry in entries}) != 1:
        raise ValueError("its members do not lie in one folder under names of their own")
    for entry in entries:
        if entry.flag_bits & 1 or entry.compress_type != zipfile.ZIP_STORED:
            raise ValueError(f"{entry.filename!r:.80} is compressed or encrypted, which PyTorch never does")
    if sum(entry.file_size for entry in entries) > path.stat().st_size:
        raise LimitExceeded(f"{path} claims to hold more bytes than it has.")
    if "data.pkl" not in found or found["data.pkl"].file_size > MAX_PROGRAM:
        raise ValueError("it has no small data.pkl")
    return found


class _Program:
    """Follows the steps of one file. What a step makes is a plain value, a tensor, or the name of something known."""

    def __init__(self, path: Path, members: Mapping[str, zipfile.ZipInfo]) -> None:
        self.path, self.members = path, members
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.storages: dict[str, Tensor] = {}

    def run(self, program: bytes) -> Any:
        for step, argument, _ in pickletools.genops(program):
            if step.name == "STOP":
                (found,) = self.stack
                return found if not self.marks else None
            if step.name in _PUSHED:
                self.stack.append(_PUSHED[step.name](argument))
            elif step.name in _STEPS:
                _STEPS[step.name](self, argument)
            else:
                raise ValueError(f"its program has the step {step.name}, which tensors do not need")
        raise ValueError("its program does not end")

    def cut(self) -> list[Any]:
        """What was put on the stack since the latest mark."""
        start = self.marks.pop()
        found = self.stack[start:]
        del self.stack[start:]
        return found

    def take(self, n: int) -> list[Any]:
        if n > len(self.stack) - (self.marks[-1] if self.marks else 0):
            raise ValueError("its program takes more than it has")
        found = self.stack[-n:]
        del self.stack[-n:]
        return found

    def name(self, argument: str) -> None:
        if argument not in _KNOWN:
            raise ValueError(f"it asks for {argument!r:.80}; only tensors are read, and never Python objects")
        self.stack.append(_Name(argument))

    def call(self, _: Any) -> None:
        function, arguments = self.take(2)
        if not isinstance(function, _Name) or not isinstance(arguments, tuple):
            raise ValueError("its program calls what is no function")
        if function == _ORDERED and not arguments:
            self.stack.append(OrderedDict())
        elif function == _REBUILD:
            self.stack.append(_view(*arguments))
        elif function == _PARAMETER and len(arguments) == 3 and isinstance(arguments[0], Tensor):
            self.stack.append(torch.nn.Parameter(arguments[0], requires_grad=bool(arguments[1])))
        else:
            raise ValueError(f"it calls {function}")

    def storage(self, _: Any) -> None:
        """The numbers of one member, mapped."""
        (reference,) = self.take(1)
        kind, dtype, key, _place, size = reference
        if kind != "storage" or type(dtype) is not _Name or dtype not in _STORAGES or type(key) is not str:
            raise ValueError("it refers to something that is no storage")
        if key not in self.storages:
            entry = self.members[f"data/{key}"]
            mapped = (
                np.memmap(self.path, np.uint8, "c", data_offset(self.path, entry), (entry.file_size,))
                if entry.file_size
                else np.zeros(0, dtype=np.uint8)
            )
            self.storages[key] = torch.from_numpy(mapped).view(_STORAGES[dtype])
        found = self.storages[key]
        if found.dtype != _STORAGES[dtype] or found.numel() != size:
            raise ValueError(f"storage {key!r:.20} has {found.numel()} numbers where {size} are meant")
        self.stack.append(found)

    def state(self, _: Any) -> None:
        """An ordered dictionary's own attributes: the versions of modules."""
        target, attributes = self.take(2)
        if not isinstance(target, OrderedDict) or not isinstance(attributes, dict):
            raise ValueError("it sets attributes of something that is no dictionary")
        if set(attributes) != {"_metadata"}:
            raise ValueError("it sets attributes that dictionaries of weights do not have")
        target.__dict__.update(attributes)

    def setitems(self, pairs: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) not in (dict, OrderedDict) or len(pairs) % 2:
            raise ValueError("it fills something that is no dictionary")
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            if type(key) is not str or key in target or type(value) is _Name:
                raise ValueError("a key is no text or occurs twice, or its value is no value")
            target[key] = value

    def extend(self, values: list[Any]) -> None:
        if type(self.stack[-1]) is not list:
            raise ValueError("it fills something that is no list")
        self.stack[-1].extend(values)

    def get(self, place: int) -> None:
        self.stack.append(self.memo[place])

    def put(self, place: int) -> None:
        self.memo[place] = self.stack[-1]


class _Name(str):
    """One of the few names that a program may use; equal to its text, but never a value of a file."""


def _view(
    storage: Any, offset: Any, size: Any, stride: Any, requires_grad: Any, hooks: Any, *_: Any
) -> Tensor:
    """A tensor within its storage; no larger than it."""
    numbers = [offset, *size, *stride]
    if not isinstance(storage, Tensor) or not all(type(number) is int and number >= 0 for number in numbers):
        raise ValueError("a tensor has a shape that is none")
    size, stride = tuple(size), tuple(stride)
    n = int(np.prod([1, *size], dtype=object))
    last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    if n > storage.numel() or (n and last >= storage.numel()):
        raise ValueError(f"a tensor of shape {size} does not lie within its {storage.numel()} numbers")
    return storage.as_strided(size, stride, offset)


def _same(value: Any) -> Any:
    return value


_PUSHED: dict[str, Callable[[Any], Any]] = {
    **dict.fromkeys(("BINUNICODE", "SHORT_BINUNICODE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"), _same),
    "NONE": lambda _: None, "NEWTRUE": lambda _: True, "NEWFALSE": lambda _: False, "EMPTY_TUPLE": lambda _: (),
    "EMPTY_DICT": lambda _: {}, "EMPTY_LIST": lambda _: [],
}  # fmt: skip
_STEPS: dict[str, Callable[[_Program, Any], None]] = {
    "PROTO": lambda program, _: None,
    "MARK": lambda program, _: program.marks.append(len(program.stack)),
    "GLOBAL": _Program.name,
    "REDUCE": _Program.call,
    "BINPERSID": _Program.storage,
    "BUILD": _Program.state,
    "TUPLE": lambda program, _: program.stack.append(tuple(program.cut())),
    "TUPLE1": lambda program, _: program.stack.append(tuple(program.take(1))),
    "TUPLE2": lambda program, _: program.stack.append(tuple(program.take(2))),
    "TUPLE3": lambda program, _: program.stack.append(tuple(program.take(3))),
    "SETITEM": lambda program, _: program.setitems(program.take(2)),
    "SETITEMS": lambda program, _: program.setitems(program.cut()),
    "APPEND": lambda program, _: program.extend(program.take(1)),
    "APPENDS": lambda program, _: program.extend(program.cut()),
    "BINGET": _Program.get,
    "LONG_BINGET": _Program.get,
    "BINPUT": _Program.put,
    "LONG_BINPUT": _Program.put,
}
