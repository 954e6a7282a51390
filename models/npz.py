"""Untrusted npz files: an array is read exactly as stored, or refused with one kind of error.

numpy and zipfile raise a dozen kinds on damaged bytes, and read some damage as content.
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
    """An npz file is damaged or lacks an array; the message names both."""


class Layout(NamedTuple):
    """What the header of an array says."""

    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype


class Npz:
    """An npz file, opened anew for every call.

    Args:
        file: its path, or an open binary file.
        name: its name in messages; default: ``file``.

    Raises (every method):
        NpzError: if the file is damaged, or the array is missing, pickled, or of another size than
            its header says.
        FileNotFoundError, PermissionError: as ``open`` does.
    """

    def __init__(self, file: str | Path | BinaryIO, name: str | Path | None = None):
        self.file, self.name = file, name or file

    def names(self) -> list[str]:
        """The names of its arrays."""
        with self._refusing(), zipfile.ZipFile(self.file) as archive:
            return [name.removesuffix(".npy") for name in archive.namelist()]

    def layout(self, array: str) -> Layout:
        """Shape, order and type of an array, without reading its values."""
        with self._values(array) as (_, layout):
            return layout

    def read(self, array: str) -> np.ndarray:
        """A whole array, compared with its checksum."""
        with self._values(array) as (member, layout):
            values = np.frombuffer(member.read(), layout.dtype)
            return values.reshape(layout.shape, order="F" if layout.fortran else "C")

    def rows(self, array: str, start: int, stop: int, step: int) -> Iterator[np.ndarray]:
        """Rows [start, stop) of an array in C order, at most ``step`` at a time.

        The checksum is compared only if these are all rows; see ``check``.
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
                    f"{self.name} is a web page, not an npz file: the host sent a page instead of "
                    "the file; delete it and download it again"
                ) from error
            raise NpzError(
                f"{self.name} is not an npz file, or is damaged: {error}; get another copy"
            ) from error
