"""What an earlier start has established about a genesis, so that a start with a million accounts takes seconds.

Responsible for the note that a directory keeps: which genesis was checked, and the root of its state. Checking every
account's key and hashing every account is the same work with the same outcome each time; the note is bound to the
hash of the genesis and to itself. A note that is damaged, or of another genesis, is as good as none. Must not know
what the chain is for.
"""

import contextlib
import os
from pathlib import Path
from typing import Final

from chainkit.chain import Chain
from chainkit.codec import Bytes32
from chainkit.genesis import Genesis
from chainkit.hashing import HASH_SIZE, tagged_hash

FILE_NAME: Final = "genesis.known"


def open_chain(genesis: Genesis, directory: Path) -> Chain:
    """The chain of a genesis whose note is kept in ``directory`` (made if missing).

    Raises `chainkit.genesis.GenesisError`. A note that cannot be written costs the next start its time, no more.
    """
    file = directory / FILE_NAME
    root = _read(file, genesis.hash())
    if root is not None:
        return Chain(genesis, root)
    chain = Chain(genesis)
    with contextlib.suppress(OSError):
        directory.mkdir(parents=True, exist_ok=True)
        _write(file, _note(chain.genesis_hash, chain.genesis_header.state_root))
    return chain


def _note(genesis_hash: Bytes32, root: Bytes32) -> bytes:
    return genesis_hash + root + tagged_hash("known-genesis", genesis_hash + root)


def _read(file: Path, genesis_hash: Bytes32) -> Bytes32 | None:
    try:
        with file.open("rb") as opened:
            data = opened.read(3 * HASH_SIZE + 1)
    except OSError:
        return None
    root = data[HASH_SIZE : 2 * HASH_SIZE]
    return root if data == _note(genesis_hash, root) else None


def _write(file: Path, data: bytes) -> None:
    """All of it or nothing, also if the power fails."""
    temporary = file.with_suffix(".new")
    with temporary.open("wb") as opened:
        opened.write(data)
        opened.flush()
        os.fsync(opened.fileno())
    temporary.replace(file)
