"""Npz files from outside: an array is read as it was stored, or refused by one kind of error.

numpy and zipfile raise a dozen kinds on damaged bytes, and take some damage for content.
"""

import contextlib
import math
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from models.errors import InputError
from models.files import is_web_page

_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


class NpzError(InputError):
    """An npz file is damaged, or has not what is wanted; the message names file and array."""


class Layout(NamedTuple):
    """What the header of an array says."""

    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype


class Npz:
    """An npz file, opened for every question anew.

    Args:
        file: where it is, or its bytes.
        name: what messages call it; default: ``file``.

    Raises (every method):
        NpzError: if the file is damaged, or the array missing, pickled, or not as long as its
            header says.
        FileNotFoundError, PermissionError: as ``open`` does.
    """

    def __init__(self, file: str | Path | BinaryIO, name: str | Path | None = None):
        self.file, self.name = file, name or file

    def names(self) -> list[str]:
        """The arrays that it has."""
        with self._refusing(), zipfile.ZipFile(self.file) as archive:
            return [name.removesuffix(".npy") for name in archive.namelist()]

    def layout(self, array: str) -> Layout:
        """How an array lies, without its values."""
        with self._values(array) as (_, layout):
            return layout

    def read(self, array: str) -> np.ndarray:
        """An array as a whole, compared with its checksum."""
        with self._values(array) as (member, layout):
            values = np.frombuffer(member.read(), layout.dtype)
            return values.reshape(layout.shape, order="F" if layout.fortran else "C")

    def rows(self, array: str, start: int, stop: int, step: int) -> Iterator[np.ndarray]:
        """Rows [start, stop) of an array in C order, at most ``step`` at a time.

        They are compared with the checksum only if they are all: see ``check``.
        """
        with self._values(array) as (member, layout):
            size = math.prod(layout.shape[1:]) * layout.dtype.itemsize
            member.seek(start * size, 1)
            for begin in range(start, stop, step):
                count = min(step, stop - begin)
                values = np.frombuffer(member.read(count * size), layout.dtype)
                yield values.reshape(count, *layout.shape[1:])

    def check(self, array: str) -> None:
        """Compare an array with its checksum."""
        with self._values(array) as (member, _):
            while member.read(2**24):
                pass

    @contextlib.contextmanager
    def _values(self, array: str) -> Iterator[tuple[BinaryIO, Layout]]:
        """The bytes of an array's values, to be read in order."""
        with self._refusing(), zipfile.ZipFile(self.file) as archive:
            if f"{array}.npy" not in archive.namelist():
                has = ", ".join(self.names()) or "nothing"
                raise NpzError(f"{self.name} has no {array}; it has {has}")
            info = archive.getinfo(f"{array}.npy")
            with archive.open(info) as member:
                version = np.lib.format.read_magic(member)
                layout = Layout(*_HEADERS[version](member))
                if layout.dtype.hasobject:
                    raise NpzError(
                        f"{array} of {self.name} holds pickled objects, which may run code when "
                        "read; they are refused: store plain numbers"
                    )
                size = info.file_size - member.tell()
                if size != math.prod(layout.shape) * layout.dtype.itemsize:
                    raise NpzError(
                        f"{array} of {self.name} is damaged: it has {size} bytes of values, its "
                        f"header says {layout.dtype} {layout.shape}"
                    )
                yield member, layout

    @contextlib.contextmanager
    def _refusing(self) -> Iterator[None]:
        try:
            yield
        except (InputError, FileNotFoundError, PermissionError):
            raise
        except Exception as error:
            if isinstance(self.file, str | Path) and is_web_page(self.file):
                raise NpzError(
                    f"{self.name} is a web page, no npz file: the host answered with a page of its "
                    "own; delete it and download it again"
                ) from error
            raise NpzError(
                f"{self.name} is no npz file, truncated or damaged: {error}; get another copy"
            ) from error
