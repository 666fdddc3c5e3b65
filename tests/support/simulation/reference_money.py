"""Accounts and fees as docs/PROTOCOL.md says them: dicts of integers, for both layers.

Responsible for validity, gas and fees of transactions and for the supply. Shares no code with chainkit.
Transactions are the arrays that MessagePack gives: ``[chain_id, sender, nonce, gas_limit, max_fee, tip, action,
signature]``.
"""

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from simulation.reference_merkle import tagged

Plain = Any
TRANSACTION, SIGNATURE, READ, WRITE, BYTE = 2_000, 3_000, 2_000, 2_000, 4
NEW_ACCOUNT, EVENT, CALL = 3_000, 400, 1_000


def plain(data: bytes) -> Plain:
    """MessagePack to lists, ints and bytes."""
    return msgspec.msgpack.decode(data)


def packed(value: Plain) -> bytes:
    """The canonical encoding of plain values."""
    return msgspec.msgpack.encode(value)


@lru_cache(maxsize=20_000)
def signed_by(key: bytes, message: bytes, signature: bytes) -> bool:
    """Ed25519 through another library than the nodes use."""
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def transaction_id(tx: Plain) -> bytes:
    """What the signature signs."""
    return tagged("transaction", packed(tx[:7]))


def value_of(tx: Plain) -> int:
    """What the action takes along."""
    return int(tx[6][2] if tx[6][0] == 0 else tx[6][4])


@dataclass
class Fees:
    """``[initial_base_fee, min_base_fee, block_gas_limit, max_transaction_gas, max_transaction_bytes, per_byte]``."""

    minimum: int
    block_gas: int
    transaction_gas: int
    transaction_bytes: int
    per_byte: int

    @classmethod
    def of(cls, values: Plain) -> "Fees":
        return cls(*values[1:6])

    def next(self, base: int, used: int) -> int:
        """EIP-1559."""
        target = self.block_gas // 2
        if used > target:
            return base + max(1, base * (used - target) // target // 8)
        return max(self.minimum, base - base * (target - used) // target // 8)

    def intrinsic(self, size: int) -> int:
        return TRANSACTION + SIGNATURE + self.per_byte * size


@dataclass
class Money:
    """The accounts of one layer: address -> [balance, nonce], and ``[genesis, minted, burned]``."""

    accounts: dict[bytes, list[int]]
    supply: list[int]
    block: list[Any]
    """``[height, slot, time, proposer, base_fee, gas_used]``."""
    fees: Fees
    chain_id: int
    contracts: dict[bytes, str] = field(default_factory=dict)

    @classmethod
    def of_state(cls, state: dict[bytes, bytes], genesis: Plain) -> "Money":
        accounts = {key[1:]: plain(value) for key, value in state.items() if key[:1] == b"a"}
        names = {tagged("contract", c[0].encode()): c[0] for c in genesis[9]}
        money = cls(
            accounts,
            plain(state[b"ssupply"]),
            plain(state[b"sblock"]),
            Fees.of(genesis[6]),
            genesis[0],
            names,
        )
        assert money.total == money.supply[0], "the genesis balances are the genesis supply"
        return money

    def copy(self) -> "Money":
        accounts = {address: list(account) for address, account in self.accounts.items()}
        return Money(accounts, list(self.supply), list(self.block), self.fees, self.chain_id, self.contracts)

    @property
    def total(self) -> int:
        """All balances, counted one by one."""
        return sum(account[0] for account in self.accounts.values())

    def balance(self, address: bytes) -> int:
        return self.accounts.get(address, [0, 0])[0]

    def move(self, source: bytes, to: bytes, amount: int) -> None:
        assert self.balance(source) >= amount >= 0, (
            f"{amount} gwei from an account that has {self.balance(source)}"
        )
        self.accounts.setdefault(source, [0, 0])[0] -= amount
        self.accounts.setdefault(to, [0, 0])[0] += amount

    def burn(self, source: bytes, amount: int) -> None:
        assert self.balance(source) >= amount >= 0, "burned what was not there"
        self.accounts[source][0] -= amount
        self.supply[2] += amount

    def begin(self, height: int, slot: int, time: int, proposer: bytes) -> None:
        base = self.fees.next(self.block[4], self.block[5])
        self.block = [height, slot, time, proposer, base, 0]

    def refusal(self, wire: bytes, *, forced: bool = False) -> str:
        """Why a transaction may not run now; empty if it may."""
        try:
            tx = plain(wire)
            chain_id, sender, nonce, gas_limit, max_fee, tip, _, signature = tx
        except (msgspec.DecodeError, ValueError, TypeError):
            return "undecodable"
        fees, base = self.fees, self.block[4]
        account = self.accounts.get(sender, [0, 0])
        rules = (
            (chain_id == self.chain_id, "wrong_chain"),
            (len(wire) <= fees.transaction_bytes, "transaction_too_large"),
            (gas_limit <= fees.transaction_gas, "gas_limit_too_high"),
            (gas_limit >= fees.intrinsic(len(wire)), "gas_limit_too_low"),
            (tip <= max_fee, "tip_above_max_fee"),
            (max_fee >= max(fees.minimum, base), "fee_too_low"),
            (nonce == account[1], "nonce"),
            (account[0] >= gas_limit * max_fee + value_of(tx), "insufficient_balance"),
            (forced or self.block[5] + gas_limit <= fees.block_gas, "block_full"),
            (signed_by(sender, transaction_id(tx), signature), "bad_signature"),
        )
        return next((why for holds, why in rules if not holds), "")

    def transfer_gas(self, wire: bytes, to: bytes) -> tuple[int, bool]:
        """Gas of a transfer as if there were no limit, and whether it succeeds with enough."""
        used = self.fees.intrinsic(len(wire))
        if to in self.contracts:
            return used, False
        return used + WRITE + (0 if to in self.accounts else NEW_ACCOUNT), True

    def state(self) -> dict[bytes, bytes]:
        """Its part of the state."""
        found = {b"a" + address: packed(account) for address, account in self.accounts.items()}
        return {**found, b"ssupply": packed(self.supply), b"sblock": packed(self.block)}
