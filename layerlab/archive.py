"""A snapshot's files: copying them out and back, whole or not at all, and knowing when one is damaged.

Responsible for the manifest (the SHA-256 of every file) and for what an interruption at any moment leaves. Must
not know of processes or clocks: whoever calls has stopped what writes to the directory.

A snapshot is copied beside its place and renamed into it; a restore is copied to ``.restoring``, which is either
complete or ignored, and moved into place from there, again from the start if that was interrupted.
"""

import json
import os
import shutil
from dataclasses import asdict, dataclass
from hashlib import file_digest
from pathlib import Path
from typing import Any, Final

from layerlab.config import DevnetConfig, DevnetError
from layerlab.layout import PARTS, Layout, sync_directory, write_json

MANIFEST: Final = "manifest.json"


@dataclass(frozen=True)
class Manifest:
    """What a snapshot is of. ``virtual`` in seconds of the devnet's time, ``height`` final on L1 if known.

    ``files``: path to [SHA-256, bytes].
    """

    virtual: float
    height: int | None
    genesis: str
    config: dict[str, Any]
    files: dict[str, list[Any]]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(size for _, size in self.files.values())


def write_archive(
    layout: Layout, target: Path, config: DevnetConfig, genesis: str, virtual: float, height: int | None
) -> Manifest:
    """Copy the devnet's files to ``target``, which appears complete or not at all. Raises `DevnetError`."""
    temporary = target.with_name(f".{target.name}.new")
    try:
        remove_tree(temporary)
        for part in PARTS:
            shutil.copytree(layout.directory / part, temporary / part)
        manifest = Manifest(virtual, height, genesis, config.to_json(), _digests(temporary))
        write_json(temporary / MANIFEST, asdict(manifest))
        _sync_files(temporary, manifest)
        temporary.replace(target)
        sync_directory(target.parent)
    except (OSError, shutil.Error) as error:
        raise DevnetError(f"the snapshot cannot be written: {_reason(error)}") from None
    finally:
        remove_tree(temporary)
    return manifest


def read_manifest(directory: Path) -> Manifest:
    """Raises `DevnetError` if there is none that can be read."""
    damaged = DevnetError(f"snapshot {directory.name!r} is damaged: its {MANIFEST} cannot be read")
    try:
        value = json.loads((directory / MANIFEST).read_bytes())
        manifest = Manifest(**value)
        virtual, height, files = manifest.virtual, manifest.height, manifest.files
        good = type(virtual) in (int, float) and 0 <= virtual < 1e11
        good = good and (height is None or type(height) is int) and isinstance(manifest.genesis, str)
        good = good and all(isinstance(digest, str) and type(size) is int for digest, size in files.values())
    except (OSError, TypeError, ValueError, AttributeError, RecursionError):
        raise damaged from None
    if not good:
        raise damaged
    return manifest


def stage(layout: Layout, source: Path, manifest: Manifest) -> Path:
    """Copy a snapshot beside the devnet's files and check the copy; `commit` is next. Raises `DevnetError`."""
    staged = layout.restoring.with_name(".restoring.new")
    try:
        remove_tree(staged)
        shutil.copytree(source, staged)
        found = _digests(staged)
    except (OSError, shutil.Error) as error:
        remove_tree(staged)
        raise DevnetError(f"snapshot {source.name!r} cannot be read: {_reason(error)}") from None
    wrong = sorted(n for n in {**found, **manifest.files} if found.get(n) != manifest.files.get(n))
    if wrong:
        remove_tree(staged)
        raise DevnetError(
            f"snapshot {source.name!r} is damaged ({wrong[0]} is not what was saved); choose another"
        )
    return staged


def commit(layout: Layout, staged: Path) -> None:
    """From here on the restore will be finished, if not now, then when the devnet is next opened."""
    try:
        _sync_files(staged, read_manifest(staged))
        remove_tree(layout.restoring)
        staged.replace(layout.restoring)
        sync_directory(layout.directory)
    except OSError as error:
        raise DevnetError(f"the restore cannot begin: {_reason(error)}; nothing has changed") from None


def pending(layout: Layout) -> bool:
    """Whether a restore was committed and is not finished."""
    return (layout.restoring / MANIFEST).is_file()


def put_in_place(layout: Layout) -> Manifest:
    """Replace the devnet's files by the committed ones; can be repeated. `clear` is last. Raises `DevnetError`."""
    manifest = read_manifest(layout.restoring)
    try:
        for part in PARTS:
            if (layout.restoring / part).exists():
                remove_tree(layout.directory / part)
                (layout.restoring / part).replace(layout.directory / part)
        sync_directory(layout.directory)
    except OSError as error:
        raise DevnetError(f"the restore cannot be finished: {_reason(error)}; repeat it") from None
    return manifest


def clear(layout: Layout) -> None:
    """The restore is finished."""
    (layout.restoring / MANIFEST).unlink(missing_ok=True)
    remove_tree(layout.restoring)


def _digests(directory: Path) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for part in PARTS:
        for path in sorted((directory / part).rglob("*")):
            if path.is_file():
                with path.open("rb") as file:
                    digest = file_digest(file, "sha256").hexdigest()
                found[path.relative_to(directory).as_posix()] = [digest, path.stat().st_size]
    return found


def _sync_files(directory: Path, manifest: Manifest) -> None:
    for name in manifest.files:
        descriptor = os.open(directory / name, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def remove_tree(directory: Path) -> None:
    """Delete a directory if it is there."""
    if directory.exists():
        shutil.rmtree(directory)


def _reason(error: OSError) -> str:
    if isinstance(error, shutil.Error) and error.args and isinstance(error.args[0], list):
        return str(error.args[0][0][-1])  # the first of the files that could not be copied
    return error.strerror or str(error)
