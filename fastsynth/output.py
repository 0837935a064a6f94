"""Copies as Parquet files in a folder, written part by part, so that an interrupted run can go on.

::

    copy_1.parquet              a copy of one part; of more:
    copy_1/part_01.parquet, ...
    manifest.json               what run this is, and the parts that are whole: name, rows, SHA-256
    audit.json                  what was done; written last, so it says that nothing is missing

A part is written under a temporary name and renamed. The folder may be the URI of a file system (``s3://...``).
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import time
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from fastsynth.errors import OutputError
from fastsynth.source import filesystem

MANIFEST, AUDIT = "manifest.json", "audit.json"
TEMPORARY = ".unfinished-"
# The manifest is written anew at most this often: parts that it lacks are only drawn once more.
MANIFEST_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Part:
    """A file that is whole.

    Attributes
    ----------
    name : str
    rows : int
    sha256 : str
    counts : dict of str to int
        Rows that found nothing admissible in their leaf, by column; under "" those that were drawn anew as a whole.
    """

    name: str
    rows: int
    sha256: str
    counts: dict[str, int] = field(default_factory=dict)


def part_name(copy: int, m: int, part: int, n_parts: int) -> str:
    """Name of a part within the folder; copies and parts are counted from 1."""
    name = f"copy_{copy + 1:0{len(str(m))}}"
    return f"{name}.parquet" if n_parts == 1 else f"{name}/part_{part + 1:0{len(str(n_parts))}}.parquet"


def copy_name(parts: list[str]) -> str:
    """What holds the parts of a copy: a file, or a folder of them."""
    return parts[0] if len(parts) == 1 else parts[0].partition("/")[0]


def write_part(folder: str, name: str, table: pa.Table) -> Part:
    """Write one part. Safe to repeat: the file is there as a whole or not at all."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", row_group_size=max(table.num_rows, 1))
    content = sink.getvalue()
    _write(folder, name, content)
    return Part(name, table.num_rows, hashlib.sha256(content).hexdigest())


def _write(folder: str, name: str, content: Any) -> None:
    try:
        system, inside = filesystem(folder)
        parent, _, base = f"{inside}/{name}".rpartition("/")
        system.create_dir(parent, recursive=True)
        temporary = f"{parent}/{TEMPORARY}{secrets.token_hex(4)}-{base}"
        try:
            with system.open_output_stream(temporary) as stream:
                stream.write(content)
            system.move(temporary, f"{parent}/{base}")
        except BaseException:
            if system.get_file_info(temporary).type == pafs.FileType.File:
                system.delete_file(temporary)
            raise
    except (OSError, pa.ArrowException) as error:
        raise OutputError(f"Cannot write to {folder!r} ({type(error).__name__}).") from None


class Output:
    """A folder of copies that is being written.

    Parameters
    ----------
    folder : str
        Path or URI.
    resume : bool
        Whether to go on with what an interrupted run left there.

    Attributes
    ----------
    finished : dict of str to Part
        Parts by name; after ``begin`` those found on the disk have the right checksum.
    run : dict
        What run this is, as the manifest says; empty for a new one.

    Raises
    ------
    OutputError
        The folder is a file, holds something that ``resume`` may not touch, or cannot be written to.
    """

    def __init__(self, folder: str | os.PathLike[str], resume: bool = False) -> None:
        # Workers of a cluster may run in another folder.
        self.folder = os.fspath(folder).rstrip("/") if "://" in os.fspath(folder) else os.path.abspath(folder)
        self.finished: dict[str, Part] = {}
        self.run: dict[str, Any] = {}
        self._written = 0.0
        try:
            self._system, self._inside = filesystem(self.folder)
            info = self._system.get_file_info(self._inside)
            files = [] if info.type == pafs.FileType.File else self._files()
        except (OSError, pa.ArrowException, ValueError) as error:
            raise OutputError(f"Cannot open {self.folder!r} ({type(error).__name__}).") from None
        if info.type == pafs.FileType.File:
            raise OutputError(f"{self.folder!r} is a file. Name a new or empty folder for the copies.")
        self._created = info.type == pafs.FileType.NotFound
        if isinstance(self._system, pafs.LocalFileSystem):
            _check_writable(self._inside)
        self._resumed = resume and MANIFEST in files
        if self._resumed:
            self._read_manifest()
        elif not all(map(self._temporary, files)):
            hint = (
                " It holds an unfinished run: resume=True (--resume) goes on with it."
                if self._unfinished(files)
                else ""
            )
            raise OutputError(
                f"Folder {self.folder!r} is not empty. Name a new or empty one; nothing was written.{hint}"
            )

    def _files(self) -> list[str]:
        selector = pafs.FileSelector(self._inside, recursive=True, allow_not_found=True)
        found = self._system.get_file_info(selector)
        return [item.path[len(self._inside) + 1 :] for item in found if item.type == pafs.FileType.File]

    def _temporary(self, name: str) -> bool:
        return name.rpartition("/")[2].startswith(TEMPORARY)

    def _unfinished(self, files: list[str]) -> bool:
        return MANIFEST in files and AUDIT not in files

    def _read(self, name: str) -> bytes:
        with self._system.open_input_stream(f"{self._inside}/{name}") as stream:
            content: bytes = stream.read()
        return content

    def _read_manifest(self) -> None:
        try:
            manifest = json.loads(self._read(MANIFEST))
            self.run = manifest["run"]
            self.finished = {part["name"]: Part(**part) for part in manifest["parts"]}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise OutputError(
                f"{MANIFEST} in {self.folder!r} cannot be read ({type(error).__name__}). Name a new folder."
            ) from None

    def _is_whole(self, part: Part) -> bool:
        try:
            return hashlib.sha256(self._read(part.name)).hexdigest() == part.sha256
        except OSError:
            return False

    def begin(self, run: dict[str, Any]) -> None:
        """Say what run this is; refuse to go on with another one."""
        if self._resumed and self.run != run:
            differing = sorted(key for key in self.run.keys() | run.keys() if self.run.get(key) != run.get(key))
            raise OutputError(
                f"The run in {self.folder!r} differs in {', '.join(differing)}: its parts and new ones would not fit "
                "together. Repeat the call that began it, or name a new folder."
            )
        self.run = run
        # A part that is gone or damaged is simply drawn again.
        self.finished = {name: part for name, part in self.finished.items() if self._is_whole(part)}
        self._write_manifest()

    def add(self, part: Part) -> None:
        """Note a part as finished."""
        self.finished[part.name] = part
        if time.monotonic() - self._written > MANIFEST_SECONDS:
            self._write_manifest()

    def _write_manifest(self) -> None:
        parts = [asdict(self.finished[name]) for name in sorted(self.finished)]
        text = json.dumps({"run": self.run, "parts": parts}, indent=1)
        _write(self.folder, MANIFEST, text.encode())
        self._written = time.monotonic()

    def __enter__(self) -> Output:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        """Write down what is finished, after an error."""
        if error is not None and self.run:
            self._write_manifest()

    def finish(self, audit: dict[str, Any]) -> None:
        """Write what was done, and take away what interrupted runs left."""
        self._write_manifest()
        for name in self._files():
            if self._temporary(name):
                self._system.delete_file(f"{self._inside}/{name}")
        _write(self.folder, AUDIT, (json.dumps(audit, indent=2) + "\n").encode())

    def discard(self) -> None:
        """Take away again what was written."""
        if self._created:
            if self._system.get_file_info(self._inside).type == pafs.FileType.Directory:
                self._system.delete_dir(self._inside)
            return
        for name in {*self.finished, MANIFEST, AUDIT} & set(self._files()):
            self._system.delete_file(f"{self._inside}/{name}")
        for name in {part.partition("/")[0] for part in self.finished if "/" in part}:
            self._system.delete_dir(f"{self._inside}/{name}")


def read_folder(folder: str | os.PathLike[str]) -> tuple[str, dict[str, Any], list[list[str]]]:
    """Place of a finished folder, its audit, and the names of the parts of each copy."""
    try:
        output = Output(folder, resume=True)
        audit = json.loads(output._read(AUDIT))
    except (OSError, ValueError):
        raise OutputError(
            f"{os.fspath(folder)!r} holds no finished copies (no {AUDIT}). Name the folder that they were written to."
        ) from None
    copies: dict[str, list[str]] = {}
    for name in sorted(output.finished):
        copies.setdefault(name.partition("/")[0], []).append(name)
    return output.folder, audit, list(copies.values())


def _check_writable(folder: str) -> None:
    nearest = folder
    while not os.path.exists(nearest):
        nearest = os.path.dirname(nearest)
    if not os.path.isdir(nearest) or not os.access(nearest, os.W_OK | os.X_OK):
        raise OutputError(f"Cannot write in {nearest!r}. Name a folder that can be written to.")
