"""Sending transactions of one key: nonces, fees, and another node when one is gone.

Responsible for getting an action into some node's mempool. Must not know whether it will ever be in a block:
the caller watches the chain and sends again.
"""

import asyncio
import logging
from collections.abc import Sequence
from typing import Final

from chainkit.client import ApiError, ChainClient
from chainkit.keys import KeyPair
from chainkit.transaction import Body, Call, SignedTransaction, Transfer

log = logging.getLogger("layerlab.sender")

ATTEMPTS: Final = 6
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
        return tx.id
