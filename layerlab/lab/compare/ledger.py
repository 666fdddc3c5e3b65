"""What a stretch of a chain's blocks cost whom: fees, fees burned, and bytes on the chain, by sender.

Responsible for adding up what blocks and receipts say. Must not know who the senders are to the model.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from chainkit.client import ChainClient
from chainkit.codec import CodecError, encode, from_json, parse_hex, to_json
from chainkit.contract import Contract
from chainkit.genesis import Genesis, load_contract
from chainkit.transaction import SignedTransaction

PAGE: Final = 50


@dataclass
class Spending:
    """Of one sender: transactions, gwei paid in fees, bytes of the transactions as they are in blocks."""

    transactions: int = 0
    fees: int = 0
    wire_bytes: int = 0


@dataclass
class Ledger:
    """By sender's address; ``burned`` in gwei (the base fees, on a chain that burns them)."""

    senders: dict[bytes, Spending] = field(default_factory=dict)
    burned: int = 0

    def of(self, addresses: set[bytes]) -> Spending:
        """What these have spent together."""
        found = [spent for address, spent in self.senders.items() if address in addresses]
        return Spending(
            sum(s.transactions for s in found), sum(s.fees for s in found), sum(s.wire_bytes for s in found)
        )


async def read_ledger(client: ChainClient, genesis: Genesis, after: int, to: int) -> Ledger:
    """Add up the blocks above height ``after`` up to ``to``. Raises `ApiError`."""
    contracts = {spec.name: load_contract(spec) for spec in genesis.contracts}
    ledger = Ledger()
    while after < to:
        blocks = [block for block in await client.blocks(after + 1, PAGE) if block["height"] <= to]
        if not blocks:
            break
        after = blocks[-1]["height"]
        for block in blocks:
            header = block["header"]
            ledger.burned += 0 if genesis.vault else header["base_fee"] * header["gas_used"]
            for name in block["transactions"]:
                await _add(client, contracts, ledger, parse_hex(name))
    return ledger


async def _add(client: ChainClient, contracts: Mapping[str, Contract], ledger: Ledger, tx_id: bytes) -> None:
    info = await client.transaction(tx_id)
    if info is None:
        return
    shown = info.answer["transaction"]
    spent = ledger.senders.setdefault(parse_hex(shown["sender"]), Spending())
    spent.transactions += 1
    spent.fees += info.fee
    spent.wire_bytes += wire_bytes(contracts, shown)


def wire_bytes(contracts: Mapping[str, Contract], shown: Mapping[str, Any]) -> int:
    """The size of a transaction whose arguments a service shows by name: encoded again, and checked by its hash.

    Raises `CodecError` if that does not give the transaction back.
    """
    action = dict(shown["action"])
    if isinstance(action.get("args"), dict):
        method = contracts[action["contract"]].methods[action["method"]]
        action["args"] = to_json(encode(from_json(method.args, action["args"])))
    fields = {name: value for name, value in shown.items() if name != "hash"}
    tx = SignedTransaction.from_json({**fields, "action": action})
    if tx.id != parse_hex(shown["hash"]):
        raise CodecError("the transaction does not encode to its hash")
    return len(tx.wire)
