"""A running devnet as whoever acts on it sees it: clients, keys, waiting, faults and the pace of time.

Responsible for reaching the services, for whatever the demo and the experiments have in common. Must not know what
is told or measured with it.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from bridge.abi import BridgeSettings
from chainkit.client import ApiError, ChainClient, ReceiptInfo, suppress_unreachable
from chainkit.codec import Record, encode
from chainkit.execution import FeeParameters
from chainkit.fees import call_gas, transfer_gas
from chainkit.genesis import Genesis
from chainkit.keys import KeyPair, dev_keypair
from chainkit.store import StoredEvent
from chainkit.transaction import Body, Call, SignedTransaction, Transfer
from layerlab.devnet import Devnet

T = TypeVar("T")

POLL_SECONDS: Final = 0.1
STEP_SECONDS: Final = 60.0
USUAL_SLOT_MS: Final = 400
"""On a devnet with longer slots time runs faster once `set_rate` was called, so that a slot takes as long as this."""
SLOW_SLOT_SECONDS: Final = 0.4
"""What a slot may take at most while time runs fast."""
RENEW_SECONDS: Final = 1.5
BRIDGE: Final = "bridge"
CALL_GAS: Final = 2_000_000
"""What a call may use, or three fifths of what its chain allows at most."""


class StepFailed(Exception):  # noqa: N818 - reads as what it is
    """Something did not come about; the message says what was expected and what was seen."""


def require(condition: bool, message: str) -> None:
    """Raises `StepFailed`."""
    if not condition:
        raise StepFailed(message)


@dataclass
class World:
    """What one can do on a devnet. ``say`` shows one line of what is going on."""

    devnet: Devnet
    genesis: Genesis
    seed: int
    say: Callable[[str], None]

    def __post_init__(self) -> None:
        urls = self.devnet.urls()
        config = self.devnet.config
        self.l1s = {name: ChainClient(urls[name], retries=1) for name in config.validator_names}
        self.l1 = self.l1s["validator-0"]
        self._others = {name: ChainClient(urls[name], retries=1) for name in config.kind.others}
        self.app = {**self.l1s, **self._others}[config.kind.app]
        """The chain that carries the application."""
        self._fees: dict[str, FeeParameters] = {}
        self._usual_rate = max(1.0, config.slot_ms / USUAL_SLOT_MS)
        self._rate = 1.0
        self._pace: asyncio.Task[None] | None = None

    async def close(self) -> None:
        """Time runs at 1 again."""
        if self._pace is not None:
            self._pace.cancel()
        if self._rate != 1.0:
            self.devnet.set_rate(1.0)
        for client in (*self.l1s.values(), *self._others.values()):
            await client.aclose()

    def validator(self, name: str) -> ChainClient:
        """A validator's chain API, L1's or a side chain's."""
        return {**self.l1s, **self._others}[name]

    @property
    def l2(self) -> ChainClient:
        """The rollup's sequencer."""
        return self._others["sequencer"]

    @property
    def verifier(self) -> ChainClient:
        return self._others["verifier"]

    @property
    def bridge(self) -> ChainClient:
        return self._others["bridge"]

    @property
    def settings(self) -> BridgeSettings:
        return self.devnet.config.settings

    def now(self) -> float:
        """The devnet's own time, in seconds: it may run fast."""
        return self.devnet.time.now()[0]

    # --- accounts ---

    @staticmethod
    def key(name: str) -> KeyPair:
        return dev_keypair(name)

    async def balance(self, client: ChainClient, name: str, at: str = "head") -> int:
        """Balance in gwei."""
        account = await client.account(dev_keypair(name).address, at)  # type: ignore[arg-type]
        return account.balance

    # --- transactions ---

    async def sign(
        self, client: ChainClient, key: KeyPair, action: Transfer | Call, *, nonce: int | None = None
    ) -> SignedTransaction:
        """A transaction with the account's next nonce and fees that suffice."""
        status = await client.status()
        fees, rules = status["fees"], await self._rules(client)
        if nonce is None:
            nonce = (await client.account(key.address)).pending_nonce
        if isinstance(action, Transfer):
            gas_limit = transfer_gas(rules.gas_per_byte)
        else:
            least = min(CALL_GAS, rules.max_transaction_gas * 3 // 5)
            gas_limit = call_gas(rules.gas_per_byte, len(action.args), least)
        body = Body(
            status["chain_id"],
            key.address,
            nonce,
            gas_limit,
            fees["max_fee_per_gas"],
            fees["tip_per_gas"],
            action,
        )
        return SignedTransaction.sign(body, key)

    async def _rules(self, client: ChainClient) -> FeeParameters:
        if client.url not in self._fees:
            self._fees[client.url] = (await client.genesis()).fees
        return self._fees[client.url]

    async def send(
        self, client: ChainClient, name: str, action: Transfer | Call, *, at: str = "finalized"
    ) -> ReceiptInfo:
        """Sign as a well-known account, submit, and wait until it is in the chain up to head ``at``."""
        tx = await self.sign(client, self.key(name), action)
        await client.submit(tx)
        return await client.wait_for_receipt(tx.id, at, STEP_SECONDS)  # type: ignore[arg-type]

    async def call_bridge(
        self, name: str, method: str, args: Record, value: int = 0, *, at: str = "finalized"
    ) -> ReceiptInfo:
        """Call the bridge contract on L1."""
        return await self.send(self.l1, name, Call(BRIDGE, method, encode(args), value), at=at)

    async def bridge_get(self, path: str) -> Any:
        """A GET of the bridge service; None for what it does not know (yet)."""
        try:
            return await self.bridge.get(path)
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    # --- waiting ---

    async def until(
        self, what: str, probe: Callable[[], Awaitable[T | None]], seconds: float = STEP_SECONDS
    ) -> T:
        """Ask until the answer is neither None nor False. Raises `StepFailed` when the time is over."""
        self.say(what)
        deadline = time.monotonic() + seconds
        while True:
            found: T | None = None
            with suppress_unreachable():
                found = await probe()
            if found is not None and found is not False:
                return found
            require(time.monotonic() < deadline, f"waited {seconds:g} s in vain: {what}")
            await asyncio.sleep(POLL_SECONDS)

    async def height(self, client: ChainClient, ref: str = "finalized") -> int:
        return await client.height(ref)  # type: ignore[arg-type]

    async def fast_until(
        self,
        what: str,
        probe: Callable[[], Awaitable[T | None]],
        *,
        rate: float = 3.0,
        seconds: float | None = None,
    ) -> T:
        """As `until`, with the devnet's time running ``rate`` times as fast as usual."""
        self.set_rate(rate)
        seconds = seconds or STEP_SECONDS + self.settings.challenge_window * SLOW_SLOT_SECONDS
        try:
            return await self.until(f"{what} (time runs {self._rate:.3g} times as fast)", probe, seconds)
        finally:
            self.set_rate(1.0)

    def set_rate(self, rate: float) -> None:
        """Let time run ``rate`` times as fast as usual; it ends when we end."""
        self._rate = rate * self._usual_rate
        if self._rate != 1.0 and self._pace is None:
            self._pace = asyncio.create_task(self._keep_pace())
        self._run()

    def _run(self) -> None:
        if self._rate == 1.0:
            self.devnet.set_rate(1.0)
        else:
            self.devnet.time.run(self._rate)

    async def _keep_pace(self) -> None:
        while True:
            await asyncio.sleep(RENEW_SECONDS)
            if self._rate != 1.0:
                self._run()

    # --- events ---

    async def last_event(self, client: ChainClient) -> int:
        """The number of a service's newest event."""
        return int((await client.status())["events"])

    async def find_event(
        self, client: ChainClient, name: str, since: int, **wanted: Any
    ) -> StoredEvent | None:
        """The first event of that name after number ``since`` whose data has these values."""
        for event in await client.events(since + 1, 1000):
            if event.name == name and all(event.data.get(k) == v for k, v in wanted.items()):
                return event
        return None

    async def event(
        self, client: ChainClient, name: str, since: int, what: str, **wanted: Any
    ) -> StoredEvent:
        """Wait for that event."""
        return await self.until(what, lambda: self.find_event(client, name, since, **wanted))

    # --- faults ---

    async def fault(self, service: str, **fault: Any) -> None:
        """Turn a fault on, with the devnet's token."""
        await self._faults("POST", service, fault)

    async def honest(self, service: str) -> None:
        """Turn all faults of a service off."""
        await self._faults("DELETE", service, None)

    async def faults(self, service: str) -> Mapping[str, Any]:
        """What ``GET /faults`` says."""
        return await self._faults("GET", service, None)

    async def _faults(self, method: str, service: str, body: Any) -> Mapping[str, Any]:
        client = ChainClient(self.devnet.config.url(service), token=self.devnet.config.fault_token)
        try:
            if method == "POST":
                return dict(await client.post("/faults", body))
            return dict(await (client.delete("/faults") if method == "DELETE" else client.get("/faults")))
        finally:
            await client.aclose()
