"""What a transaction should offer to be in the next block, or to take the place of one that waits.

Responsible for suggested fees and gas limits. Must not know of pools or of who asks.
"""

from typing import NamedTuple

from chainkit import gas
from chainkit.execution import Rules, environment, next_base_fee
from chainkit.merkle import Tree
from chainkit.state import State

DEFAULT_TIP = 1  # gwei per gas

_ENVELOPE_BYTES = 256  # a transaction without its arguments, generously


class SuggestedFees(NamedTuple):
    """In gwei per gas. ``base_fee`` is the next block's; the maximum outlives six full blocks."""

    base_fee: int
    max_fee_per_gas: int
    tip_per_gas: int


def suggest_fees(rules: Rules, tree: Tree) -> SuggestedFees:
    """Fees that suffice for the block after the state ``tree``, and for a while if demand rises."""
    env = environment(State(tree))
    base_fee = next_base_fee(rules.fees, env.base_fee, env.gas_used)
    return SuggestedFees(base_fee, 2 * base_fee + DEFAULT_TIP, DEFAULT_TIP)


def least_to_replace(fee: int) -> int:
    """What must be offered, of maximum and of tip alike, instead of ``fee`` to take a waiting transaction's place: a
    tenth more."""
    return -(-11 * fee // 10)


def transfer_gas(gas_per_byte: int) -> int:
    """A gas limit that any transfer fits, one that creates its recipient's account included."""
    return gas.TRANSACTION + gas.SIGNATURE + gas_per_byte * _ENVELOPE_BYTES + gas.WRITE + gas.NEW_ACCOUNT


def call_gas(gas_per_byte: int, args_bytes: int, execution_gas: int = 500_000) -> int:
    """A gas limit for a call with ``args_bytes`` of arguments that may use ``execution_gas`` itself."""
    return gas.TRANSACTION + gas.SIGNATURE + gas_per_byte * (_ENVELOPE_BYTES + args_bytes) + execution_gas
