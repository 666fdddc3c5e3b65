"""The way out with a key and L1 alone (promise P17).

Responsible for following L1, deriving L2 from it, and for the calls that freeze the bridge and take a balance
out. It asks no sequencer, no verifier and no bridge service, and believes no L1 node: every block is checked.
Must not know how its progress is shown.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from bridge import abi
from chainkit.block import Certificate
from chainkit.chain import Chain, ExecutedBlock
from chainkit.client import ApiError, ChainClient
from chainkit.codec import decode, encode
from chainkit.follower import Follower, FollowerCore
from chainkit.genesis import Genesis
from chainkit.keys import KeyPair
from chainkit.sender import TransactionSender
from chainkit.state import State, account_key, storage_key
from chainkit.transaction import Call
from rollup.derivation import Derivation
from rollup.player import clock_ran_out

BRIDGE: Final = "bridge"
CALL_GAS: Final = 3_000_000
LANDING_BLOCKS: Final = 16
"""L1 blocks after which a call that is in no block is sent again."""
TELLING_SHARE: Final = 10
"""How long there is to wait is said again when a tenth of it is over, or when it has become longer."""
ALIVE: Final = "the sequencer posted a batch"
"""So begins what is said first of a rollup that may not be dead at all."""

Progress = Callable[[str], None]


class EscapeError(Exception):
    """There is nothing to get out, or the bridge is not one that can be left; the message says why."""


@dataclass(frozen=True)
class ExitResult:
    """``amount`` in gwei was paid to ``account`` on L1 at ``height`` by transaction ``tx_id``."""

    account: bytes
    amount: int
    height: int
    tx_id: bytes
    froze: bool


@dataclass
class L1Reader:
    """L1 as its own final blocks tell it, and L2 as it follows from them."""

    urls: Sequence[str]
    genesis: Genesis
    blocks: list[tuple[ExecutedBlock, Certificate]] = field(default_factory=list)
    keep_blocks: bool = False

    def __post_init__(self) -> None:
        self.chain = Chain(self.genesis)
        contract = self.chain.rules.contracts.get(BRIDGE)
        if contract is None or not isinstance(contract.params, abi.BridgeParams):
            raise EscapeError("this L1 has no bridge contract")
        self.derivation = Derivation(contract.params.l2_genesis, BRIDGE)
        self.tip = self.chain.genesis_block
        self.clients = [ChainClient(url) for url in self.urls]
        self._core = FollowerCore(self.chain, self.tip)
        self._follower = Follower(self.clients, self._core, self._on_final)
        self._changed = asyncio.Condition()

    async def _on_final(self, block: ExecutedBlock, certificate: Certificate) -> None:
        pairs = list(zip(block.transactions, block.receipts, strict=True))
        self.derivation.apply_l1_block(block.header, pairs, block.tree)
        self.tip = block
        if self.keep_blocks or block.transactions:
            self.blocks.append((block, certificate))
        async with self._changed:
            self._changed.notify_all()

    async def __aenter__(self) -> "L1Reader":
        self._task = asyncio.create_task(self._follower.run())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        for client in self.clients:
            await client.aclose()

    async def until(self, done: Callable[[], bool]) -> None:
        """Return when ``done()`` is true of some final L1 block. Raises what ended the follower."""
        async with self._changed:
            while not done():
                if self._task.done():
                    self._task.result()
                    raise EscapeError("following L1 ended")
                try:
                    await asyncio.wait_for(self._changed.wait(), timeout=1.0)
                except TimeoutError:
                    continue

    async def catch_up(self, progress: Progress) -> None:
        """Follow up to where most of the reachable L1 nodes say that final blocks go.

        Raises `ApiError` if none can be reached. One liar among several can neither cut it short nor make it endless.
        """
        answers = await asyncio.gather(
            *(client.height("finalized") for client in self.clients), return_exceptions=True
        )
        heights = sorted(height for height in answers if isinstance(height, int))
        if not heights:
            raise next((e for e in answers if isinstance(e, ApiError)), EscapeError("no L1 node answers"))
        target = heights[(len(heights) - 1) // 2]
        progress(f"checking L1 block by block, up to {target}")
        await self.until(lambda: self.tip.header.height >= target)

    def stored(self, key: bytes) -> bytes:
        """A value in the bridge contract's storage at the final head."""
        return self.tip.tree.get(storage_key(BRIDGE, key))

    @property
    def totals(self) -> abi.BridgeTotals:
        return decode(abi.BridgeTotals, self.stored(abi.TOTALS_KEY))

    @property
    def settings(self) -> abi.BridgeSettings:
        return decode(abi.BridgeSettings, self.stored(abi.SETTINGS_KEY))


async def escape(
    l1_urls: Sequence[str], l1_genesis: Genesis, key: KeyPair, progress: Progress = lambda _: None
) -> ExitResult:
    """Freeze the bridge if need be, and take out the last final L2 balance of ``key``.

    Waits as long as the bridge's rules demand (``escape_timeout`` blocks without a batch). Raises
    `EscapeError` if there is nothing to take out, `ApiError` if no L1 node takes a call.
    """
    async with L1Reader(l1_urls, l1_genesis) as reader:
        await reader.catch_up(progress)
        return await _Escape(reader, key, progress).run()


class _Escape:
    def __init__(self, reader: L1Reader, key: KeyPair, progress: Progress) -> None:
        self.reader = reader
        self.key = key
        self.progress = progress
        self.refusal = ""
        self.sender = TransactionSender(reader.clients, key, reader.chain.rules.chain_id)

    async def run(self) -> ExitResult:
        froze = await self._freeze()
        reader, me = self.reader, self.key.address
        if reader.stored(abi.exited_key(me)):
            raise EscapeError("this account has taken its balance out already")
        if reader.derivation.diverged is not None:
            raise EscapeError(
                f"L1 made the false state of batch {reader.derivation.diverged} final: nobody challenged it in "
                "time, and what L1 now believes proves no true balance"
            )
        tree = reader.derivation.finalized_batch.end.tree
        balance = State(tree).account(me).balance
        if balance == 0:
            raise EscapeError("the account had no balance on L2 when its last batch became final")
        self.progress(f"exit with {balance} gwei, proven against L1's last final state root")
        args = abi.ExitArgs(me, tree.prove([account_key(me)]))
        tx_id = await self._call("exit", encode(args), lambda: bool(reader.stored(abi.exited_key(me))))
        if tx_id is None:
            raise EscapeError(f"L1 refused the exit: {self.refusal}")
        return ExitResult(me, balance, decode(int, reader.stored(abi.exited_key(me))), tx_id, froze)

    async def _freeze(self) -> bool:
        """Wait out the silence, settle what is pending, and freeze. False if the bridge is frozen already."""
        reader = self.reader
        froze, longest, said = False, 0, 0
        last, now = reader.totals.last_batch_height, reader.tip.header.height
        if last and not reader.totals.frozen_height and now < self._freeze_possible_after():
            self.progress(
                f"{ALIVE} {now - last} L1 blocks ago: while it posts more nothing can be frozen, "
                "and layerlab withdraw is the way out"
            )
        while not reader.totals.frozen_height:
            await self._settle_pending()
            until = self._freeze_possible_after()
            if reader.tip.header.height < until:
                height = reader.tip.header.height
                left = until - height
                longest = max(longest, left)
                if not said or left > said or said - left >= longest // TELLING_SHARE:
                    said = left  # a line a block would be most of what there is to read
                    self.progress(f"the bridge may be frozen after L1 block {until}: {left} blocks left")
                await reader.until(self._later_than(height))
                continue
            self.progress("freezing the bridge")
            height = reader.tip.header.height
            froze = await self._call("freeze", b"\x90", lambda: bool(reader.totals.frozen_height)) is not None
            await reader.until(self._later_than(height))
        return froze

    def _freeze_possible_after(self) -> int:
        """The L1 height after which `freeze` is allowed, as things stand (bridge/withdrawals.py)."""
        totals, timeout = self.reader.totals, self.reader.settings.escape_timeout
        stalled = totals.last_final_height + abi.STALL_FACTOR * timeout
        silent = totals.last_batch_height + timeout
        return stalled if totals.pending else min(silent, stalled)

    async def _settle_pending(self) -> None:
        """Finalize the oldest batch if it is true and its window is over; call time on disputes nobody plays.

        A false batch is left alone: a bridge that stalls can be frozen too, on the last state that is final.
        """
        reader = self.reader
        for dispute in reader.derivation.open_disputes():
            if clock_ran_out(dispute, reader.tip.header.height):
                index = dispute.index
                args = encode(abi.DisputeArgs(index))
                self.progress(f"dispute {index}: calling time")
                await self._call("timeout", args, self._resolved(index))
        pending = self._oldest_pending()
        if (
            pending is not None
            and reader.derivation.batches[pending.index].matches
            and reader.tip.header.height >= pending.challenge_until
            and not pending.open_disputes
        ):
            self.progress(f"finalizing batch {pending.index}")
            before = reader.totals.final_batch
            args = encode(abi.BatchArgs(pending.index))
            await self._call("finalize", args, lambda: reader.totals.final_batch != before)

    def _later_than(self, height: int) -> Callable[[], bool]:
        return lambda: self.reader.tip.header.height > height

    def _resolved(self, index: int) -> Callable[[], bool]:
        def resolved() -> bool:
            return all(dispute.index != index for dispute in self.reader.derivation.open_disputes())

        return resolved

    def _oldest_pending(self) -> abi.Batch | None:
        derivation = self.reader.derivation
        batch = derivation.head_batch
        oldest: abi.Batch | None = None
        while batch.index != derivation.finalized:
            oldest = decode(abi.Batch, self.reader.stored(abi.batch_key(batch.index)))
            batch = derivation.batches[batch.record.parent]
        return oldest

    async def _call(self, method: str, args: bytes, done: Callable[[], bool]) -> bytes | None:
        """Send a call until L1 shows that it is done, by us or by somebody else; the id of ours.

        None if L1 refused it (``refusal`` says why): asked again in the same state, it would refuse again.
        """
        call = Call(BRIDGE, method, args, 0)
        while True:
            tx_id = await self.sender.send(call, CALL_GAS)
            sent = self.reader.tip.header.height
            await self.reader.until(self._settled(tx_id, sent, done))
            if done():
                return tx_id
            self.refusal = self._seen(tx_id)
            if self.refusal:
                self.progress(f"{method} was refused: {self.refusal}")
                return None
            self.sender.next_node()  # it was taken and never seen again

    def _settled(self, tx_id: bytes, sent: int, done: Callable[[], bool]) -> Callable[[], bool]:
        def settled() -> bool:
            late = self.reader.tip.header.height > sent + LANDING_BLOCKS
            return done() or bool(self._seen(tx_id)) or late

        return settled

    def _seen(self, tx_id: bytes) -> str:
        """What became of a call of ours that is in a block; empty if it is in none."""
        for block, _ in reversed(self.reader.blocks):
            for receipt in block.receipts:
                if receipt.tx_id == tx_id:
                    return receipt.message or "done"
        return ""
