"""Weak subjectivity: a block that the chain must contain, known from somewhere else than its peers.

Responsible for reading ``HEIGHT:HASH`` and for refusing another history. Must not know where it comes from.

Validators that have left can sign a longer history at no cost, and their keys may be for sale; no rule inside
the chain tells it from the true one ("long-range attack"). A recent hash from a friend does.
"""

from typing import NamedTuple

from chainkit.codec import MAX_AMOUNT, Bytes32, CodecError, parse_hex
from chainkit.startup import StartupError


class Checkpoint(NamedTuple):
    """At ``height`` the chain has the block ``hash``."""

    height: int
    hash: Bytes32

    def check_stored(self, stored: Bytes32 | None) -> None:
        """Compare with the final block that a data directory has at this height (None: not that far yet).

        Raises `StartupError`.
        """
        if stored is not None and stored != self.hash:
            raise StartupError(
                f"the data directory has another block at height {self.height} than --checkpoint "
                f"(LAYERLAB_CHECKPOINT) says (0x{stored.hex()}): another history; correct it, or give an empty "
                f"--data (LAYERLAB_DATA)"
            )


def parse_checkpoint(text: str) -> Checkpoint:
    """Read ``HEIGHT:HASH``. Raises `StartupError`."""
    height, _, block_hash = text.partition(":")
    try:
        if not (height.isascii() and height.isdigit() and len(height) <= 16 and int(height) <= MAX_AMOUNT):
            raise CodecError("the height is not a number")
        return Checkpoint(int(height), parse_hex(block_hash, "the hash", 32))
    except CodecError as error:
        raise StartupError(f"--checkpoint (LAYERLAB_CHECKPOINT) is not HEIGHT:0xHASH: {error}") from None
