"""The bridge service's way to a chain's nodes: submit, and ask what is not final yet.

Responsible for finding a node that answers and for never sending one request twice under two nonces. Must not
know what is sent. What a node says here is a hint shown to users; facts come from the follower.
"""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

from chainkit.client import ApiError, ChainClient, ReceiptInfo
from chainkit.codec import MAX_AMOUNT, Address, Bytes32, CodecError, parse_hex
from chainkit.problems import Problem
from chainkit.submission import refused
from chainkit.transaction import SignedTransaction
from chainkit.views import json_bytes

ASK_SECONDS: Final = 2.0
"""For questions whose answer only adds to what is known here."""
_ANOTHER: Final = frozenset({"unreachable", "overloaded"})

T = TypeVar("T")


class Nodes:
    """The nodes of one chain; ``name`` ("L1", "L2") is for messages. No node: everything is unreachable."""

    def __init__(self, name: str, clients: Sequence[ChainClient]) -> None:
        self.name = name
        self.clients = list(clients)
        self._signing: defaultdict[Address, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def aclose(self) -> None:
        for client in self.clients:
            await client.aclose()

    # --- writing ---

    async def submit(self, tx: SignedTransaction) -> Mapping[str, Any]:
        """Offer a signed transaction to one node after the other. Raises `Problem` with a node's refusal."""

        async def offer(client: ChainClient) -> Mapping[str, Any]:
            return (await client.submit(tx)).answer

        return _checked(await self._first(tx.body.sender, offer))

    async def submit_dev(self, sender: Address, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """Have a devnet's node sign and take ``body``. Raises `Problem` with a node's refusal.

        The nonce is fixed before anything is sent, so that of two nodes that both took it one copy runs.
        """
        async with self._signing[sender]:
            if body.get("nonce") is None:
                nonce = await self._first(sender, lambda client: _pending_nonce(client, sender))
                body = {**body, "nonce": nonce}
            return _checked(await self._first(sender, lambda client: client.post("/transactions", body)))

    async def _first(self, sender: Address, ask: Callable[[ChainClient], Awaitable[T]]) -> T:
        # One sender's transactions go to one node, which knows those that wait: others hear of them later.
        start = sender[0] % len(self.clients) if self.clients else 0
        for client in [*self.clients[start:], *self.clients[:start]]:
            try:
                return await ask(client)
            except ApiError as error:
                if error.code not in _ANOTHER:
                    raise as_problem(error) from None
            except (AttributeError, KeyError, TypeError, ValueError):
                raise _bad_answer() from None
        raise Problem(
            503,
            f"{self.name.lower()}_unreachable",
            f"No {self.name} node can be reached",
            f"none of {len(self.clients)} {self.name} nodes answers; whether one took it is not known",
        )

    # --- asking ---

    async def transaction(self, tx_id: Bytes32) -> ReceiptInfo | None:
        """What some node says of a transaction; None if none knows it or answers in time."""
        for found in await self._ask_all(lambda client: client.transaction(tx_id)):
            if found is not None and found.hash == tx_id:
                return found
        return None

    async def status(self) -> Mapping[str, Any] | None:
        """The first node's ``GET /status``; None without an answer."""
        answers = await self._ask_all(lambda client: client.status(), self.clients[:1])
        return answers[0] if answers and isinstance(answers[0], dict) else None

    async def nonce(self, address: Address) -> int | None:
        """The account's next nonce at the first node's head, what waits in its pool not counted."""
        answers = await self._ask_all(lambda client: client.account(address), self.clients[:1])
        nonce = answers[0].nonce if answers and answers[0] is not None else None
        return nonce if type(nonce) is int and 0 <= nonce <= MAX_AMOUNT else None

    async def pending_nonce(self, address: Address) -> int | None:
        """The highest nonce that a node gives the account's next transaction, its pool counted; None: no answer."""
        answers = await self._ask_all(lambda client: _pending_nonce(client, address))
        good = [n for n in answers if type(n) is int and 0 <= n <= MAX_AMOUNT]
        return max(good, default=None)

    async def _ask_all(
        self, ask: Callable[[ChainClient], Awaitable[T]], clients: Sequence[ChainClient] | None = None
    ) -> list[T | None]:
        async def guarded(client: ChainClient) -> T | None:
            try:
                async with asyncio.timeout(ASK_SECONDS):
                    return await ask(client)
            except (ApiError, TimeoutError, AttributeError, KeyError, TypeError, ValueError):
                return None

        asked = self.clients if clients is None else clients
        return list(await asyncio.gather(*(guarded(client) for client in asked)))


async def _pending_nonce(client: ChainClient, address: Address) -> int:
    return (await client.account(address)).pending_nonce


def _bad_answer() -> Problem:
    detail = "what became of the request is not known; look it up before it is sent again"
    return Problem(502, "bad_answer", "A node answered what makes no sense", detail)


def _checked(answer: Any) -> Mapping[str, Any]:
    """A node's answer to a write, fit to be handed on. Raises `Problem`."""
    try:
        json_bytes(answer)
        parse_hex(answer["hash"], "hash", 32)
    except (CodecError, KeyError, TypeError, ValueError, OverflowError):
        raise _bad_answer() from None
    checked: Mapping[str, Any] = answer
    return checked


def as_problem(error: ApiError) -> Problem:
    """A node's refusal, handed on as it is."""
    known = {"type", "title", "status", "code", "detail", "accepted", "message"}
    extra = {name: value for name, value in error.problem.items() if name not in known}
    if "accepted" in error.problem:  # one of a list of results, which has no status of its own
        return refused(error.code or "refused", error.detail, **extra)
    title = str(error.problem.get("title", "The transaction is refused"))
    status = error.status if 400 <= error.status <= 599 else 502
    return Problem(status, error.code or "refused", title, error.detail, **extra)
