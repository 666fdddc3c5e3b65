"""Snapshots of the whole stack: every data directory, the genesis and the clock, at one instant.

Responsible for saving and restoring them whole or not at all. Must not know what is in a data directory: services
keep what must survive (mempools, open disputes) on disk and shut down cleanly.
"""

import json
import re
import shutil
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from chainkit.clock import rebase, stop_clock
from layerlab.config import DevnetError
from layerlab.devnet import Devnet
from layerlab.processes import Progress

MANIFEST: Final = "manifest.json"
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_PARTS: Final = ("data", "genesis")


def _nothing(_: str) -> None:
    return


def directory_of(devnet: Devnet, name: str) -> Path:
    """Where a snapshot lies. Raises `DevnetError` for a name that is none."""
    if not _NAME.fullmatch(name):
        raise DevnetError(f"{name!r} is no snapshot name; use lower-case letters, digits, '.', '_' and '-'")
    return devnet.directory / "snapshots" / name


def list_snapshots(devnet: Devnet) -> list[dict[str, Any]]:
    """Each snapshot's name, instant (virtual seconds since 1970), final L1 height and bytes."""
    found = sorted((devnet.directory / "snapshots").glob(f"*/{MANIFEST}"))
    shown = []
    for file in found:
        content = _read_manifest(file.parent)
        total = sum(size for _, size in content["files"].values())
        shown.append(
            {
                "name": file.parent.name,
                "virtual": content["virtual"],
                "height": content["height"],
                "bytes": total,
            }
        )
    return shown


def save_snapshot(devnet: Devnet, name: str, progress: Progress = _nothing) -> dict[str, Any]:
    """Stop the world, copy it, and let it go on if it ran. Raises `DevnetError`."""
    target = directory_of(devnet, name)
    if target.exists():
        raise DevnetError(f"there is a snapshot {name!r} already; choose another name")
    height = devnet.final_height() if devnet.is_running else None
    was_running, virtual = _stop_world(devnet, progress)
    temporary = target.with_name(f".{name}.new")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        progress("copying")
        for part in _PARTS:
            shutil.copytree(devnet.directory / part, temporary / part)
        files = {path: [digest, size] for path, digest, size in _digests(temporary)}
        manifest = {"virtual": virtual, "height": height, "config": devnet.config.to_json(), "files": files}
        (temporary / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
        temporary.replace(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if was_running:
            devnet.up(progress)
    return {"name": name, "virtual": virtual, "height": height}


def restore_snapshot(devnet: Devnet, name: str, progress: Progress = _nothing) -> dict[str, Any]:
    """Put the world back to a snapshot, and let it run if it ran. Raises `DevnetError`, having changed nothing."""
    source = directory_of(devnet, name)
    if not (source / MANIFEST).is_file():
        known = ", ".join(item["name"] for item in list_snapshots(devnet)) or "none"
        raise DevnetError(f"no snapshot {name!r}; there are: {known}")
    manifest = _read_manifest(source)
    progress("checking")
    if {path: [digest, size] for path, digest, size in _digests(source)} != manifest["files"]:
        raise DevnetError(f"snapshot {name!r} is damaged: its files are not those of its manifest")
    staged = devnet.directory / ".restoring"
    shutil.rmtree(staged, ignore_errors=True)
    for part in _PARTS:
        shutil.copytree(source / part, staged / part)
    was_running, _ = _stop_world(devnet, progress)
    for part in _PARTS:
        shutil.rmtree(devnet.directory / part, ignore_errors=True)
        (staged / part).replace(devnet.directory / part)
    shutil.rmtree(staged, ignore_errors=True)
    rebase(devnet.supervisor.clock_file, manifest["virtual"], rate=0.0)
    if was_running:
        devnet.up(progress)
    return {"name": name, "virtual": manifest["virtual"], "height": manifest["height"]}


def _stop_world(devnet: Devnet, progress: Progress) -> tuple[bool, float]:
    """Stop time, then the services; returns whether they ran, and the instant."""
    was_running = devnet.is_running
    virtual = stop_clock(devnet.supervisor.clock_file)
    if was_running:
        progress("stopping the services")
        devnet.supervisor.stop_all()
        devnet.save()
    return was_running, virtual


def _read_manifest(directory: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads((directory / MANIFEST).read_text())
        return {key: content[key] for key in ("virtual", "height", "config", "files")}
    except (OSError, ValueError, KeyError, TypeError):
        raise DevnetError(f"snapshot {directory.name!r} is damaged: its manifest cannot be read") from None


def _digests(directory: Path) -> list[tuple[str, str, int]]:
    """Path, SHA-256 and size of every file of the snapshot."""
    found = []
    for part in _PARTS:
        for path in sorted((directory / part).rglob("*")):
            if path.is_file():
                content = path.read_bytes()
                name = path.relative_to(directory).as_posix()
                found.append((name, sha256(content).hexdigest(), len(content)))
    return found
