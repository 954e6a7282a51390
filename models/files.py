"""Files: hashes, atomic writes, and checked reading of JSON and zip files."""

import contextlib
import errno
import hashlib
import json
import os
import tempfile
import uuid
import zipfile
from collections.abc import Iterator
from pathlib import Path

from models.errors import InputError

# Errors of file systems that lack an operation: FAT, FUSE, object stores, some NFS mounts.
_UNKNOWN = {errno.EPERM, errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}


def sha256_of(path: str | Path) -> str:
    """Hex SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def where_known() -> Iterator[None]:
    """Ignore failures of chmod, fsync or link on file systems that lack them."""
    try:
        yield
    except OSError as error:
        if error.errno not in _UNKNOWN:
            raise


def beside(path: Path) -> Path:
    """A hidden temporary name in the folder of ``path``, unique among processes and machines."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary file that replaces ``path`` as a whole or not at all, even if killed."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = beside(path)
    try:
        temporary.touch()
        mode = temporary.stat().st_mode
        yield temporary
        with where_known():
            temporary.chmod(mode)  # as the umask says; safetensors hides it from other users
        with open(temporary, "rb+") as file, where_known():
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_atomically(path: str | Path, data: bytes) -> None:
    """Write ``data`` to ``path`` as a whole or not at all, even if killed."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def create_exclusively(path: Path, data: bytes) -> bool:
    """Write ``data`` to ``path`` unless it exists; return whether this process wrote it.

    Of concurrent callers, one succeeds. The others find the file complete or, on file systems
    without hard links, possibly empty for a moment.
    """
    temporary = beside(path)
    try:
        write_atomically(temporary, data)
        with where_known():
            os.link(temporary, path)
            return True
        with open(path, "xb") as file:
            try:
                file.write(data)
                file.flush()
            except OSError:
                path.unlink()
                raise
        return True
    except FileExistsError:
        return False
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def writing(path: str | Path, setting: str | None = None) -> Iterator[None]:
    """Turn a full disk, a quota or missing rights into one InputError that says what to do.

    Args:
        setting: the setting that names ``path``, for the message.
    """
    try:
        yield
    except OSError as error:
        name = f"{setting}={path}" if setting else path
        raise InputError(
            f"{name} cannot be written to: {error.strerror or error}; make room, fix the folder, "
            "or choose another"
        ) from error


@contextlib.contextmanager
def saved_by_library(path: Path) -> Iterator[None]:
    """A block in which a library writes ``path`` by itself.

    torch and safetensors report a full disk by errors of their own, without the system's number.

    Raises:
        OSError: if the library failed and the folder takes no more data.
    """
    try:
        yield
    except Exception as error:
        if not isinstance(error, OSError):
            with tempfile.TemporaryFile(dir=path.parent) as file:
                file.write(bytes(2**20))
                file.flush()
        raise


def check_writable(folder: str | Path, setting: str) -> None:
    """Refuse a folder that cannot be written to; it need not exist and is not created.

    Raises:
        InputError: naming ``setting`` and the reason.
    """
    folder = Path(folder).absolute()
    with writing(folder, setting):
        there = next(place for place in (folder, *folder.parents) if place.exists())
        with tempfile.TemporaryFile(dir=there) as file:
            file.write(bytes(4096))  # an empty file fits on a full disk
            file.flush()


def read_json(path: str | Path) -> object:
    """The content of a JSON file.

    Raises:
        InputError: if it is damaged, or holds NaN or an infinity, which JSON lacks.
    """
    try:
        return json.loads(Path(path).read_bytes(), parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{path} is damaged, it is not JSON ({error}); restore it or move it away"
        ) from error


def is_web_page(path: str | Path) -> bool:
    """Whether a file is a web page sent in its place, such as Google Drive's quota notice."""
    with open(path, "rb") as file:
        start = file.read(64).lstrip().lower()
    return start.startswith((b"<!doctype", b"<html", b"<?xml", b"<head"))


def _no_number(constant: str) -> None:
    raise ValueError(f"it holds {constant}, which is not a finite number")


def is_zip(path: str | Path) -> bool:
    """Whether a file is a zip file, or was one before it was truncated."""
    with open(path, "rb") as file:
        return zipfile.is_zipfile(file) or (file.seek(0) == 0 and file.read(2) == b"PK")


def check_zip(path: str | Path) -> None:
    """Compare every member of a zip file with its checksum; not every reader does.

    Raises:
        InputError: if one differs, or the file is not a zip file from its first byte on.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if min((info.header_offset for info in archive.infolist()), default=0):
                raise zipfile.BadZipFile("other bytes precede its beginning")
            damaged = archive.testzip()
    except Exception as error:  # zipfile raises a dozen kinds on damaged bytes
        raise InputError(f"{path} is damaged: {type(error).__name__}: {error}") from error
    if damaged is not None:
        raise InputError(f"{path} is damaged: the checksum of its member {damaged} differs")
