"""The records of a bridge with operators: parameters, arguments, stored state, events and storage keys.

Responsible for the bytes that its two contracts take, keep and emit; operators, clients and services read them from
here. Must not know any rule.

Units: amounts in gwei, indices count from 0, heights are those of the chain that the contract is on.
"""

from typing import Annotated, Final

from msgspec import Meta

from chainkit.codec import U53, Address, Amount, Record

BRIDGE: Final = "bridge"
GATEWAY: Final = "gateway"
MAX_OPERATORS: Final = 32


class CommitteeParams(Record, frozen=True):
    """Parameters of both contracts, the same on both chains.

    ``operators`` are sorted by address, each once; ``threshold`` of them move money. ``reserve`` is what the gateway
    holds at the side chain's genesis, ``backing`` all other coins there (stakes too): L1's escrow begins with as much,
    so that every coin that can come to the gateway has its like on L1.
    """

    operators: Annotated[list[Address], Meta(min_length=1, max_length=MAX_OPERATORS)]
    threshold: U53
    side_chain_id: U53
    reserve: Amount
    backing: Amount = 0
    min_deposit: Amount = 1_000


# --- arguments ---


class AttestArgs(Record, frozen=True):
    """``release`` and ``credit``: that ``index`` is a withdrawal (a deposit) of ``amount`` to ``to``."""

    index: U53
    to: Address
    amount: Amount


class WithdrawArgs(Record, frozen=True):
    """The L1 account that is to be paid; the call's value is the amount."""

    recipient: Address


# --- stored records ---


class EscrowTotals(Record, frozen=True):
    """L1's books. ``deposits`` and ``released`` are counts; the next deposit has index ``deposits``."""

    escrow: Amount
    deposits: U53 = 0
    released: U53 = 0


class GatewayTotals(Record, frozen=True):
    """The side chain's books. ``outstanding`` is what L1 backs: coins outside the reserve, burned fees included."""

    reserve: Amount
    outstanding: Amount
    withdrawals: U53 = 0
    credited: U53 = 0


class Deposit(Record, frozen=True):
    """A deposit on L1, kept for the operators; ``height`` is that of its L1 block."""

    index: U53
    depositor: Address
    to: Address
    amount: Amount
    height: U53


class Voice(Record, frozen=True):
    """What one operator attested of an index."""

    to: Address
    amount: Amount


class Payout(Record, frozen=True):
    """What an index was paid: the nullifier. ``height`` is that of the block."""

    to: Address
    amount: Amount
    height: U53


# --- events (deposits and withdrawals are called as in the other bridges) ---


class WithdrawalInitiated(Record, frozen=True):
    index: U53
    sender: Address
    recipient: Address
    amount: Amount


class WithdrawalAttested(Record, frozen=True):
    """``attestations`` operators, this one included, have said the same of this index."""

    index: U53
    operator: Address
    recipient: Address
    amount: Amount
    attestations: U53
    threshold: U53


class WithdrawalPaid(Record, frozen=True):
    index: U53
    recipient: Address
    amount: Amount


class DepositAttested(Record, frozen=True):
    """As `WithdrawalAttested`, of a deposit."""

    index: U53
    operator: Address
    to: Address
    amount: Amount
    attestations: U53
    threshold: U53


class DepositCredited(Record, frozen=True):
    index: U53
    to: Address
    amount: Amount


# --- storage keys ---

TOTALS_KEY = b"totals"


def _indexed(prefix: bytes, index: int) -> bytes:
    return prefix + index.to_bytes(8, "big")


def deposit_key(index: int) -> bytes:
    """A `Deposit` in the bridge's storage."""
    return _indexed(b"deposit/", index)


def withdrawal_key(index: int) -> bytes:
    """A `bridge.abi.Withdrawal` in the gateway's storage."""
    return _indexed(b"withdrawal/", index)


def voice_key(index: int, operator: Address) -> bytes:
    """An operator's `Voice`: its one attestation of an index."""
    return _indexed(b"voice/", index) + operator


def count_key(index: int, to: Address, amount: int) -> bytes:
    """How many operators have said exactly this of an index."""
    return _indexed(b"count/", index) + to + amount.to_bytes(8, "big")


def paid_key(index: int) -> bytes:
    """The nullifier, a `Payout`: by index alone, whatever an attestation says."""
    return _indexed(b"paid/", index)
