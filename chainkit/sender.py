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
_RETRY: Final = frozenset(
    {"unreachable", "stale_nonce", "nonce_gap", "already_known", "replacement_underpriced", "fee_too_low"}
)


class TransactionSender:
    """Signs with ``key`` and submits to the first of ``clients`` that takes it, one transaction at a time."""

    def __init__(self, clients: Sequence[ChainClient], key: KeyPair, chain_id: int) -> None:
        self._clients = list(clients)
        self._key = key
        self._chain_id = chain_id
        self._turn = 0
        self._lock = asyncio.Lock()

    async def send(self, action: Transfer | Call, gas_limit: int) -> bytes:
        """Sign and submit; returns the transaction's id. Raises `ApiError` if no node takes it."""
        async with self._lock:
            last: ApiError | None = None
            for attempt in range(ATTEMPTS):
                client = self._clients[self._turn % len(self._clients)]
                try:
                    return await self._send(client, action, gas_limit)
                except ApiError as error:
                    if error.code not in _RETRY:
                        raise
                    last = error
                    self._turn += 1
                    await asyncio.sleep(0.05 * 2**attempt)
            assert last is not None
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
            fees.max_fee_per_gas,
            fees.tip_per_gas,
            action,
        )
        tx = SignedTransaction.sign(body, self._key)
        await client.submit(tx)
        return tx.id
