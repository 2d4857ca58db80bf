"""Read an untrusted file of `torch.save`: tensors and plain values, each byte checked by its CRC.

The file is a ZIP: data.pkl has the structure, and data/0, data/1 … have the numbers. This reader does not use
`torch.load`: it checks no CRC, and it takes the size of a tensor from the pickle, beyond the bytes that are there.
"""

from __future__ import annotations

import io
import math
import os
import pickle
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import torch
from torch import Tensor

LARGEST_FILE = 32 << 30  # bytes
LARGEST_PICKLE = 64 << 20  # bytes; that of a run with the largest ConvNeXt has one million
DEEPEST = 16  # levels of dicts and lists
MOST_VALUES = 5_000_000
STORAGES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
NUMPY_NUMBERS = {"f2": "e", "f4": "f", "f8": "d", "i4": "i", "i8": "q"}  # dtype → format of struct


class Unreadable(ValueError):
    """The file cannot be read; the message names the entry and the fault, for the second half of a sentence."""


def read_torch_file(path: Path) -> Any:
    """The contents of a file of `torch.save`, on the CPU.

    They are dicts, lists, tuples, text, numbers and dense tensors; numbers of numpy become Python's. Raises Unreadable
    for anything else and for a damaged file, OSError if it cannot be opened.
    """
    with open(path, "rb", opener=_without_waiting) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise Unreadable("it is a pipe or a device, not a file")
        if status.st_size > LARGEST_FILE:
            raise Unreadable(f"it has more than the {LARGEST_FILE >> 30} GiB allowed")
        records = _records(file)
    roots = [name.removesuffix("data.pkl") for name in records if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(roots) != 1:
        raise Unreadable(f"it has {len(roots)} entries data.pkl instead of one")
    (root,) = roots
    if records.get(f"{root}byteorder", b"little") != b"little":
        raise Unreadable("its entry byteorder does not name little-endian numbers")
    pickled = records[f"{root}data.pkl"]
    if len(pickled) > LARGEST_PICKLE:
        raise Unreadable(f"the entry data.pkl has {len(pickled)} bytes, more than {LARGEST_PICKLE}")
    try:
        contents = _Reader(pickled, {name.removeprefix(f"{root}data/"): data for name, data in records.items()}).load()
    except Unreadable:
        raise
    except Exception as error:  # a hostile pickle can raise anything
        raise Unreadable(f"the entry data.pkl is no pickle of torch.save ({type(error).__name__})") from None
    _check_values(contents)
    return contents


def _without_waiting(path: str, flags: int) -> int:
    """Open a file; a pipe would otherwise wait for a writer."""
    return os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY)


def _records(file: BinaryIO) -> dict[str, bytearray]:
    """The bytes of each entry of the ZIP, in all at most as many as the file has; raises Unreadable."""
    size = file.seek(0, 2)
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
            for entry in entries:
                if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
                    raise Unreadable(f"the entry {entry.filename!r} is compressed, which torch.save never does")
            if sum(entry.file_size for entry in entries) > size:
                raise Unreadable("its entries have more bytes than the file")
            if len({entry.filename for entry in entries}) < len(entries):
                raise Unreadable("two of its entries share a name")
            return {entry.filename: _record(archive, entry) for entry in entries}
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, OverflowError, EOFError, struct.error) as error:
        raise Unreadable(f"it is no ZIP as torch.save writes it ({error})") from None
    except (UnicodeDecodeError, ValueError, OSError) as error:
        if isinstance(error, Unreadable):
            raise
        raise Unreadable(f"its ZIP directory is damaged ({type(error).__name__})") from None


def _record(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytearray:
    data = bytearray(entry.file_size)
    try:
        with archive.open(entry) as record:
            read = record.readinto(data)  # type: ignore[attr-defined]  # io.BufferedIOBase
    except zipfile.BadZipFile:
        read = -1
    if read != len(data) or zlib.crc32(data) != entry.CRC:
        raise Unreadable(f"the entry {entry.filename!r} is damaged: its bytes do not have the CRC of the directory")
    return data


@dataclass(frozen=True)
class _Storage:
    """The bytes of one or more tensors, as uint8 (n,)."""

    name: str
    dtype: torch.dtype
    data: Tensor


class _StateDict(dict[Any, Any]):
    """An OrderedDict of a state dict, without its attribute `_metadata`."""

    def __setstate__(self, state: object) -> None:
        pass


class _Dtype:
    """A dtype of numpy: pickled as dtype(name), then its byte order as the second item of a state."""

    def __init__(self, name: str, *flags: object) -> None:
        self.name, self.order = name, "<"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = ">" if state[1] == ">" else "<"

    def numbers(self, raw: bytes | bytearray) -> list[float]:
        if self.name not in NUMPY_NUMBERS:
            raise Unreadable(f"it holds a value of numpy's dtype {str(self.name)[:20]!r}; save plain floats")
        return [number for (number,) in struct.iter_unpack(f"{self.order}{NUMPY_NUMBERS[self.name]}", raw)]


class _Array(list[float]):
    """A numpy array of numbers, flat."""

    def __init__(self, *shape: object) -> None:
        super().__init__()

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, _, dtype, _, raw = state
        self[:] = dtype.numbers(raw)


def _numpy_scalar(dtype: _Dtype, raw: bytes) -> float:
    (number,) = dtype.numbers(raw)
    return number


def _tensor(storage: _Storage, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *more: object) -> Tensor:
    """The tensor of `torch._utils._rebuild_tensor_v2`, within the bytes of its storage only."""
    if not isinstance(storage, _Storage):
        raise Unreadable("a tensor in data.pkl has no entry with its numbers")
    numbers = (offset, *size, *stride)
    whole = all(type(number) is int and 0 <= number < 1 << 40 for number in numbers) and len(size) == len(stride) <= 8
    claimed = math.prod(size) if whole else 0
    end = offset + 1 + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) if claimed else 0
    if not whole or max(end, claimed) * storage.dtype.itemsize > len(storage.data):
        raise Unreadable(f"the entry data/{storage.name} has fewer bytes than its shape {str(size)[:60]} needs")
    flat = storage.data[: len(storage.data) // storage.dtype.itemsize * storage.dtype.itemsize].view(storage.dtype)
    return flat.as_strided(size, stride, offset) if claimed else torch.empty(size, dtype=storage.dtype)


def _parameter(data: Tensor, *more: object) -> Tensor:
    return data


def _encode(text: str, encoding: str) -> bytes:
    return text.encode("latin-1")  # how pickles of protocol 2 store bytes


ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): _StateDict,
    ("torch", "Size"): tuple,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("_codecs", "encode"): _encode,
    ("numpy", "dtype"): _Dtype,
    ("numpy", "ndarray"): None,
    **{(f"numpy.{core}.multiarray", "scalar"): _numpy_scalar for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _Array for core in ("core", "_core")},
    **{("torch", name): dtype for name, dtype in STORAGES.items()},
}


class _Reader(pickle._Unpickler):  # not the one in C, where two bytes of a pickle can request gigabytes
    """Calls nothing but the functions of `ALLOWED`."""

    def __init__(self, pickled: bytearray, records: dict[str, bytearray]) -> None:
        super().__init__(io.BytesIO(pickled))
        self._records = records
        self._storages: dict[str, _Storage] = {}

    def _build(self: Any) -> None:
        if not isinstance(self.stack[-2], (_StateDict, _Dtype, _Array)):  # else Tensor.__setstate__ could be called
            raise Unreadable(f"data.pkl sets the attributes of a {type(self.stack[-2]).__name__}")
        self.load_build()

    dispatch: ClassVar[dict[int, Any]] = {**pickle._Unpickler.dispatch, pickle.BUILD[0]: _build}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise Unreadable(f"it holds {f'{module}.{name}'[:80]} besides dense tensors and plain values")
        return ALLOWED[module, name]

    def persistent_load(self, pid: Any) -> _Storage:
        _, dtype, key, _, count = pid
        if key in self._storages and self._storages[key].dtype == dtype:
            return self._storages[key]
        data = self._records.get(key)
        if not isinstance(dtype, torch.dtype) or data is None or len(data) != count * dtype.itemsize:
            raise Unreadable(
                f"the entry data/{str(key)[:40]} does not hold the {str(count)[:20]} numbers of its tensor"
            )
        flat = torch.frombuffer(data, dtype=torch.uint8) if data else torch.empty(0, dtype=torch.uint8)
        self._storages[key] = _Storage(key, dtype, flat)
        return self._storages[key]


def _check_values(contents: Any) -> None:
    """Raise Unreadable, with the name of the entry, for a value that is nested too deeply or is not a plain one."""
    for seen, (name, depth, value) in enumerate(_values(contents)):
        if depth > DEEPEST or seen > MOST_VALUES:
            raise Unreadable(f"the value {name[:80]} is nested too deeply, or there are too many")
        if type(value) is int and abs(value) >= 1 << 64:
            raise Unreadable(f"the value {name[:80]} is an integer of {value.bit_length()} bits")
        if not isinstance(value, (dict, list, tuple, str, int, float, bytes, Tensor)) and value is not None:
            raise Unreadable(f"the value {name[:80]} is a {type(value).__name__} instead of a plain value")


def _values(contents: Any) -> Iterator[tuple[str, int, Any]]:
    stack: list[tuple[str, int, Any]] = [("", 0, contents)]
    while stack:
        name, depth, value = stack.pop()
        yield name, depth, value
        if isinstance(value, dict):
            for key in value:
                if not isinstance(key, (str, int, float)):
                    raise Unreadable(f"the value {name[:80]} has a key of the kind {type(key).__name__}")
            stack += [(f"{name}.{str(key)[:80]}".lstrip("."), depth + 1, item) for key, item in value.items()]
        elif isinstance(value, (list, tuple)):
            stack += [(f"{name}[{i}]", depth + 1, item) for i, item in enumerate(value)]
