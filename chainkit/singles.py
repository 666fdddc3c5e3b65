"""Transactions that come alone, one in a request: the short way of ``POST /transactions`` (`chainkit.express`).

Responsible for which requests mean one transaction and nothing else, for that those of one turn of the event loop go to
the intake together, and for the answer to each: the one that the ordinary way gives. Whatever is not in order goes that
way, which knows why. Must not know of connections, nor which chain is behind the intake.
"""

import asyncio
import logging
from typing import Final

from chainkit.codec import CodecError
from chainkit.execution import Rules
from chainkit.express import Answer, Headers
from chainkit.intake import MSGPACK, PATH, Intake, results_json
from chainkit.problems import MEDIA_TYPE, Problem, internal_error
from chainkit.transaction import SignedTransaction

_KIND: Final = MSGPACK.encode()
_JSON: Final = b"application/json"
_MEANINGFUL: Final = frozenset({b"origin", b"expect", b"upgrade", b"transfer-encoding"})
"""Headers of requests for the ordinary way, whatever they say."""
_ONE_SHORT: Final = b"\x91\xc4"
"""How a MessagePack array begins of one byte string of at most 255 bytes; its length and the string follow."""
_Waiting = tuple[SignedTransaction, Answer]

_log = logging.getLogger("layerlab.intake")


class Singles:
    """A `chainkit.express.Lane` to an intake."""

    line = f"POST {PATH} HTTP/1.1\r\n".encode()

    def __init__(self, rules: Rules, intake: Intake) -> None:
        self._limit = rules.fees.max_transaction_bytes
        self._intake = intake
        self._gathered: list[_Waiting] = []
        self._tasks: set[asyncio.Task[None]] = set()

    def admits(self, headers: Headers) -> bool:
        """Whether it is MessagePack, wants JSON back, comes from no other site and asks nothing of the connection."""
        kind = b""
        for name, value in headers:
            if name in _MEANINGFUL or (name == b"connection" and value.lower() != b"keep-alive"):
                return False
            if name == b"accept" and _KIND in value:
                return False
            if name == b"content-type":
                kind = value
        return kind == _KIND

    def take(self, body: bytes, answer: Answer) -> bool:
        """Begin with a transaction, if the body is one; False: nothing was done."""
        if body[:2] != _ONE_SHORT or len(body) < 3 or body[2] != len(body) - 3:
            return False
        try:
            tx = SignedTransaction.decode(body[3:], limit=self._limit)
        except CodecError:
            return False
        self._gathered.append((tx, answer))
        if len(self._gathered) == 1:  # the first of this turn of the loop goes for all
            task = asyncio.get_running_loop().create_task(self._offer_gathered(), name="singles")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return True

    async def _offer_gathered(self) -> None:
        gathered, self._gathered = self._gathered, []
        try:
            results = await self._intake.submit([tx for tx, _ in gathered])
        except Exception as error:  # noqa: BLE001 - as for any request: the log says why, and the service goes on
            if not isinstance(error, Problem):
                _log.exception("transactions could not be taken in")
            problem = error if isinstance(error, Problem) else internal_error()
            body = problem.body()
            for _, answer in gathered:
                answer(problem.status, MEDIA_TYPE.encode(), body)
            return
        for (_, answer), result in zip(gathered, results, strict=True):
            answer(202, _JSON, results_json([result]))
