"""The frivolous challenger: it disputes an honest batch and has nothing to show for it.

Responsible for its moves. Must not know why anybody would do that.
"""

from bridge import abi
from rollup.player import Move, choose_move

WRONG_ROOT = bytes(31) + b"\x01"
"""The root that it claims to be true."""


def frivolous_move(dispute: abi.Dispute, bridge: str) -> Move | None:
    """Always "disagrees" with the last segment; at the single step it is left with, it is silent."""
    if dispute.turn != abi.CHALLENGER or dispute.stage != abi.CHOOSE:
        return None
    return choose_move(dispute, len(dispute.points), bridge)
