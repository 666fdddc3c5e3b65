"""Snapshots of the whole stack: every data directory, the genesis and the clock, at one instant.

Responsible for stopping the world, for having it copied or replaced, and for letting it go on. Must not know what
is in a data directory: services keep what must survive (mempools, open disputes) on disk and shut down cleanly.
"""

import re
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from layerlab import archive
from layerlab.archive import MANIFEST, Manifest, read_manifest
from layerlab.config import DevnetError
from layerlab.devnet import Devnet
from layerlab.processes import Progress, nothing

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


def directory_of(devnet: Devnet, name: str) -> Path:
    """Where a snapshot lies. Raises `DevnetError` for a name that is none."""
    if not _NAME.fullmatch(name):
        raise DevnetError(
            f"{name!r:.80} is no snapshot name; use a-z, 0-9, '.', '_' and '-', 64 at most, no '.' first"
        )
    return devnet.layout.snapshots / name


def list_snapshots(devnet: Devnet) -> list[dict[str, Any]]:
    """Each snapshot's name, instant (virtual seconds since 1970), final L1 height and bytes, by name.

    One that cannot be read has an "error" instead.
    """
    shown: list[dict[str, Any]] = []
    for directory in sorted(devnet.layout.snapshots.glob("*")):
        if not _NAME.fullmatch(directory.name) or not directory.is_dir():
            continue
        try:
            shown.append(_shown(directory.name, read_manifest(directory)))
        except DevnetError as error:
            shown.append({"name": directory.name, "error": str(error)})
    return shown


def save_snapshot(devnet: Devnet, name: str, progress: Progress = nothing) -> dict[str, Any]:
    """Stop the world, copy it, and let what ran go on. Raises `DevnetError`, leaving no half snapshot."""
    target = directory_of(devnet, name)
    with ExitStack() as stack:
        stack.enter_context(devnet.exclusive())
        if target.exists():
            raise DevnetError(f"there is a snapshot {name!r} already; choose another name")
        height = devnet.final_height() if devnet.is_running else None
        _stop_world(devnet, stack, progress)
        progress("copying")
        target.parent.mkdir(exist_ok=True)
        manifest = archive.write_archive(
            devnet.layout, target, devnet.config, devnet.genesis_hash, devnet.time.standing(), height
        )
    return _shown(name, manifest)


def restore_snapshot(devnet: Devnet, name: str, progress: Progress = nothing) -> dict[str, Any]:
    """Put the world back to a snapshot, and let what ran run again. The ports stay those of now.

    Raises `DevnetError`, having changed nothing, if the snapshot is unknown or damaged. Interrupted later, it
    is finished when the devnet is next opened.
    """
    source = directory_of(devnet, name)
    if not (source / MANIFEST).is_file():
        known = ", ".join(item["name"] for item in list_snapshots(devnet)) or "none"
        raise DevnetError(f"no snapshot {name!r}; there are: {known}")
    manifest = read_manifest(source)
    with ExitStack() as stack:
        stack.enter_context(devnet.exclusive())
        progress("checking")
        staged = archive.stage(devnet.layout, source, manifest)
        _stop_world(devnet, stack, progress)
        archive.commit(devnet.layout, staged)
        devnet.conclude_restore()
    return _shown(name, manifest)


def _stop_world(devnet: Devnet, stack: ExitStack, progress: Progress) -> None:
    """Stop time, then the services; ``stack`` starts again those that ran."""
    ran = devnet.halt(progress)
    if ran:

        def go_on() -> None:
            wanted = [name for name in devnet.config.services if name in ran]
            devnet.up(progress, wanted)

        stack.callback(go_on)


def _shown(name: str, manifest: Manifest) -> dict[str, Any]:
    return {"name": name, "virtual": manifest.virtual, "height": manifest.height, "bytes": manifest.size}
