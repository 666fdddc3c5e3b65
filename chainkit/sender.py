"""Sending transactions of one key: nonces, fees, and another node when one is gone.

Responsible for getting an action into some node's mempool. Must not know whether it will ever be in a block:
the caller watches the chain and sends again.
"""

import asyncio
import logging
from collections.abc import Sequence
from typing import Final

from msgspec.structs import replace

from chainkit.chain import ExecutedBlock
from chainkit.client import AccountInfo, ApiError, ChainClient, Fees
from chainkit.fees import least_to_replace
from chainkit.keys import KeyPair
from chainkit.transaction import Body, Call, SignedTransaction, Transfer

log = logging.getLogger("layerlab.sender")

ATTEMPTS: Final = 6
REMEMBERED: Final = 64
"""Transactions of which the fee can be raised: the last ones that were sent."""
MAX_TIP: Final = 100
MAX_FEE: Final = 1_000_000
"""Gwei per gas that are offered at most, whatever a node says is needed: its word could empty the account."""
_RETRY: Final = frozenset(
    {"unreachable", "stale_nonce", "nonce_gap", "already_known", "replacement_underpriced", "fee_too_low"}
)
_NONSENSE: Final = (LookupError, TypeError, ValueError, OverflowError)


class TransactionSender:
    """Signs with ``key`` and submits to the first of ``clients`` that takes it, one transaction at a time."""

    def __init__(self, clients: Sequence[ChainClient], key: KeyPair, chain_id: int) -> None:
        self._clients = list(clients)
        self._key = key
        self._chain_id = chain_id
        self._turn = 0
        self._lock = asyncio.Lock()
        self._sent: dict[int, Body] = {}  # by nonce, as last signed; of this run only

    def next_node(self) -> None:
        """Send through the next node from now on: what the present one took has never been seen in a block."""
        self._turn += 1

    async def send(self, action: Transfer | Call, gas_limit: int) -> bytes:
        """Sign and submit; returns the transaction's id. Raises `ApiError` if no node takes it.

        One node's refusal is not believed: every other is asked before it is raised.
        """
        async with self._lock:
            refused = 0
            for attempt in range(max(ATTEMPTS, len(self._clients))):
                client = self._clients[self._turn % len(self._clients)]
                try:
                    return await self._send(client, action, gas_limit)
                except ApiError as error:
                    last = error
                except _NONSENSE as error:
                    last = ApiError("bad_answer", 0, f"{client.url} answers nonsense: {error!r}")
                refused += last.code not in _RETRY
                self._turn += 1
                if refused >= len(self._clients):
                    raise last
                await asyncio.sleep(min(0.05 * 2**attempt, 1.0))
            raise last

    async def _send(self, client: ChainClient, action: Transfer | Call, gas_limit: int) -> bytes:
        # The nonce comes from the node that will hold the transaction: its pool knows what waits there.
        account = await client.account(self._key.address)
        fees = await client.fees()
        await self._raise_fees(client, account, fees)
        body = Body(
            self._chain_id,
            self._key.address,
            account.pending_nonce,
            gas_limit,
            min(fees.max_fee_per_gas, MAX_FEE),
            min(fees.tip_per_gas, MAX_TIP),
            action,
        )
        tx = SignedTransaction.sign(body, self._key)
        await client.submit(tx)
        self._sent[body.nonce] = body
        if len(self._sent) > REMEMBERED:
            del self._sent[next(iter(self._sent))]
        return tx.id

    def on_l1_final(self, executed: ExecutedBlock) -> bool:
        """What stands in a final block waits no more; whether anything waits that no longer covers the base fee."""
        for tx in executed.transactions:
            if tx.body.sender == self._key.address:
                self._sent.pop(tx.body.nonce, None)
        return any(body.max_fee_per_gas < executed.header.base_fee for body in self._sent.values())

    async def raise_fees(self) -> None:
        """Offer more for what waits in vain, through the node that was sent to last. Raises nothing."""
        async with self._lock:
            client = self._clients[self._turn % len(self._clients)]
            try:
                account = await client.account(self._key.address)
                await self._raise_fees(client, account, await client.fees())
            except (ApiError, *_NONSENSE) as error:
                log.info("fees cannot be raised: %s", error)

    async def _raise_fees(self, client: ChainClient, account: AccountInfo, fees: Fees) -> None:
        """A nonce that nobody will run holds back all that comes after it."""
        for nonce, body in sorted(self._sent.items()):
            if not account.nonce <= nonce < account.pending_nonce or body.max_fee_per_gas >= fees.base_fee:
                continue
            most = min(max(fees.max_fee_per_gas, least_to_replace(body.max_fee_per_gas)), MAX_FEE)
            tip = min(max(fees.tip_per_gas, least_to_replace(body.tip_per_gas)), MAX_TIP, most)
            again = replace(body, max_fee_per_gas=most, tip_per_gas=tip)
            try:
                await client.submit(SignedTransaction.sign(again, self._key))
            except ApiError as error:
                log.info("the fee of a waiting transaction cannot be raised: %s", error)
            else:
                self._sent[nonce] = again
