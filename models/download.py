"""Transfers of published files.

A file gets its name once it is complete and its checksum matches; the checksum is recorded beside
it. After an interruption, the next call resumes.
"""

import json
import os
import shutil
import urllib.error
import urllib.request
import zipfile
import zlib
from pathlib import Path
from urllib.parse import urlsplit

from tqdm import tqdm

from models.errors import InputError
from models.files import (
    check_zip,
    is_web_page,
    is_zip,
    replacing,
    sha256_of,
    write_atomically,
)
from models.published_file import PublishedFile
from models.weights import record_path

TIMEOUT = 60  # seconds without an answer


class DownloadError(Exception):
    """A URL did not return the file; the message says what it returned."""


def get(file: PublishedFile) -> str:
    """Make sure that ``file`` exists and is correct; return what was done.

    Raises:
        DownloadError: if every URL fails, naming them all; or if the file is there, its checksum is
            not known, and its content shows that it is damaged.
    """
    state = file.state()
    if state == "present":
        return "already exists"
    if state == "unverified":
        try:
            _refuse_damaged(file.path)
        except InputError as error:
            raise DownloadError(f"{error}; delete it and get another copy") from error
        _record(file, url=None)
        return "already existed; its checksum is recorded"
    problems = []
    for url in file.urls:
        # One partial file per mirror: a transfer must not resume from another mirror's bytes.
        part = file.path.with_name(f".{file.path.name}.{zlib.crc32(url.encode()):08x}.part")
        try:
            part.parent.mkdir(parents=True, exist_ok=True)
            _transfer(url, part)
            _accept(file, part)
        except Exception as error:  # each kind of transfer has its own errors
            problems.append(f"{url} ({type(error).__name__}: {error})")
            continue
        _record(file, url)
        return f"downloaded to {file.path}"
    raise DownloadError(", ".join(problems))


def _transfer(url: str, part: Path) -> None:
    """Complete ``part``, resuming from its existing bytes."""
    host = urlsplit(url).hostname
    if host == "drive.google.com":
        _from_drive(url, part)
    elif host == "huggingface.co":
        _from_hub(url, part)
    else:
        _from_http(url, part)


def _from_http(url: str, part: Path) -> None:
    done = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={done}-"} if done else {})
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == 416 and done:  # nothing is left to send
            return
        raise
    with response:
        if response.status != 206:  # the host sends the whole file again
            done = 0
        length = response.headers.get("Content-Length")
        total = done + int(length) if length else None
        with (
            open(part, "ab" if done else "wb") as out,
            tqdm(total=total, initial=done, unit="B", unit_scale=True, desc=part.name) as bar,
        ):
            while block := response.read(1 << 20):
                out.write(block)
                bar.update(len(block))
    if total is not None and part.stat().st_size != total:
        raise DownloadError(
            f"{part.stat().st_size} of {total} bytes received; run it again to resume"
        )


def _from_drive(url: str, part: Path) -> None:
    import gdown  # needed for Google Drive only

    name = urlsplit(url).path.split("/")[3]  # /file/d/ID/view
    gdown.download(id=name, output=str(part), resume=True)


def _from_hub(url: str, part: Path) -> None:
    from huggingface_hub import hf_hub_download

    owner, repository, _, revision, *path = urlsplit(url).path.strip("/").split("/")
    folder = part.with_suffix(".hub")
    file = hf_hub_download(
        f"{owner}/{repository}", "/".join(path), revision=revision, local_dir=folder
    )
    os.replace(file, part)
    shutil.rmtree(folder)


def _accept(file: PublishedFile, part: Path) -> None:
    """Rename a complete ``part`` to the file's name if it is correct, else remove it.

    It stays if it cannot be read or its member not be written, such as to a full disk.
    """
    try:
        _check_and_place(file, part)
    except OSError:
        raise
    except Exception:
        part.unlink(missing_ok=True)
        raise
    part.unlink(missing_ok=True)


def _check_and_place(file: PublishedFile, part: Path) -> None:
    with open(part, "rb") as content:
        if content.read(64).lstrip()[:1] == b"<":
            raise DownloadError("the host sent a web page, such as a quota notice")
    expected = file.expected_sha256()
    if expected is None:
        _refuse_damaged(part)
    with replacing(file.path) as temporary:
        if file.member is None:
            os.replace(part, temporary)
        else:
            with (
                zipfile.ZipFile(part) as archive,
                archive.open(file.member) as source,
                open(temporary, "wb") as target,
            ):
                shutil.copyfileobj(source, target, 1 << 20)
        actual = sha256_of(temporary)
        if expected not in (None, actual):
            raise DownloadError(f"its SHA-256 is {actual[:16]}..., it should be {expected[:16]}...")


def _refuse_damaged(path: Path) -> None:
    """Refuse a file whose checksum nobody knows, if its content shows that it is damaged.

    Once its checksum is recorded, it counts as correct, and is no longer looked into.
    """
    if is_web_page(path):
        raise InputError(f"{path} is a web page, such as a quota notice")
    if is_zip(path):
        check_zip(path)


def _record(file: PublishedFile, url: str | None) -> None:
    record = {"file": file.path.name, "sha256": sha256_of(file.path), "url": url}
    record |= {"bytes": file.path.stat().st_size, "licence": file.licence}
    write_atomically(record_path(file.path), (json.dumps(record, indent=2) + "\n").encode())
