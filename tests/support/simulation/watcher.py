"""The eye over all nodes: takes every final block once, compares the nodes with each other, and calls the judges.

Responsible for noticing a broken promise as soon as some node has committed it to disk. Must not help anybody:
it only reads. What is right is decided by the reference models, not here.
"""

import traceback
from collections import Counter
from collections.abc import Callable
from typing import Any

import msgspec

from bridge.abi import BridgeParams
from chainkit.block import Block, CertifiedBlock
from chainkit.chain import Chain, ExecutedBlock
from chainkit.codec import decode, encode
from chainkit.keys import is_dev_address
from chainkit.transaction import Call
from l1node.node import L1Node
from simulation.process import Process
from simulation.reference_l1 import ReferenceL1
from simulation.reference_merkle import tagged
from simulation.reference_money import transaction_id
from simulation.world import VALIDATORS, World, key_of

FAR_BEHIND = 8  # blocks


class PromiseBroken(AssertionError):  # noqa: N818
    """A promise of docs/TRUST.md does not hold; the message begins with its number."""


class Watcher:
    """Watches a world until its end. ``failures`` are what it found, first the first."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.failures: list[str] = []
        self.seen: Counter[str] = Counter()
        """Rare branches, by name."""
        self.blocks: list[CertifiedBlock] = []
        """The one final chain; height h is at h - 1."""
        self.tip: ExecutedBlock = world.chain.genesis_block
        bridge = world.chain.rules.contracts["bridge"]
        assert isinstance(bridge.params, BridgeParams)
        l2 = Chain(bridge.params.l2_genesis).genesis_tree
        self.reference = ReferenceL1(
            encode(world.chain.genesis), dict(world.chain.genesis_tree.items()), dict(l2.items()), self.seen
        )
        self.reference.bridge.honest = key_of("verifier").address
        self._final: dict[str, int] = {}
        self._said: dict[bytes, dict[int, tuple[int, bytes]]] = {}
        self._led: dict[tuple[bytes, int], bytes] = {}
        self._proposed: dict[int, bytes] = {}
        self._honest = {
            key_of(f"validator-{i}").address for i in range(VALIDATORS) if i != world.setup.byzantine
        }
        world.network.taps.append(self._tap)
        for process in world.processes.values():
            process.disk.on_commit = self._later(process)
        self._asked: set[str] = set()
        self._reached: dict[str, int] = {}
        self._behind: set[str] = set()

    def _later(self, process: Process) -> Callable[[], None]:
        """Look at a process once the callback that is writing has ended."""

        def committed() -> None:
            if process.name not in self._asked:
                self._asked.add(process.name)
                self.world.loop.call_soon(self._look, process)

        return committed

    def fail(self, promise: str, text: str) -> None:
        """Note a broken promise."""
        self.failures.append(f"{promise}: {text}")
        self.world.tell("BROKEN", f"{promise}: {text}")

    def _look(self, process: Process) -> None:
        self._asked.discard(process.name)
        if self.failures:
            return
        try:
            if isinstance(process.core, L1Node):
                self._look_at_validator(process)
            else:
                self._look_at_follower(process)
        except AssertionError as error:
            self.fail("promise", f"at {process.name}: {error}")
        except Exception:  # noqa: BLE001 - a judge that breaks must not pass for one that is content
            self.fail("judge", traceback.format_exc(limit=-3))

    # --- L1 ---

    def _look_at_validator(self, process: Process) -> None:
        node = process.core
        if node is None:
            return
        store = node.disk.store
        known, height = self._final.get(process.name, 0), store.head_height()
        if height < known:
            raise PromiseBroken(f"P8 {process.name} went back from final block {known} to {height}")
        if height == known:
            return
        self._caught_up(process.name, height)
        for stored in store.blocks_from(known + 1, height - known):
            assert stored.certificate is not None, "a final block has a certificate"
            self._final_block(process.name, stored.height, stored.hash, stored.block, stored.certificate)
        self._final[process.name] = height

    def _final_block(
        self, who: str, height: int, block_hash: bytes, block: bytes, certificate: bytes
    ) -> None:
        if height <= len(self.blocks):
            expected = self.blocks[height - 1].block.header.hash()
            if expected != block_hash:
                raise PromiseBroken(f"P6 {who} holds another final block {height} than others do")
            return
        decoded = decode(Block, block)
        executed = self.world.chain.execute(self.tip, decoded)
        self.blocks.append(CertifiedBlock(decoded, msgspec.msgpack.decode(certificate)))
        self.tip = executed
        self.world.trace("final", height, block_hash.hex())
        self._note_blindness()
        self._tell(executed)
        other = {key: value for key, value in executed.changes.items() if key[:1] != b"a"}
        self.reference.apply(block, certificate, [encode(r) for r in executed.receipts], other)

    def reached(self, name: str) -> int:
        """The final L1 height that a process had when it was last looked at."""
        return self._final.get(name, 0)

    @staticmethod
    def l2_id(wire: bytes) -> bytes:
        """The id of an L2 transaction in a batch; junk has none."""
        tx = msgspec.msgpack.decode(wire)
        return transaction_id(tx) if isinstance(tx, list) else wire

    def _caught_up(self, name: str, height: int) -> None:
        """Whether a process that was far behind has come back."""
        behind = self.height - height
        if behind >= FAR_BEHIND:
            self._behind.add(name)
        elif behind <= 2 and name in self._behind:
            self._behind.discard(name)
            self.seen["catch-up from far behind"] += 1

    def _note_blindness(self) -> None:
        """How many L1 blocks the longest notarized chain is ahead of what each rollup node has seen as final."""
        world = self.world
        nodes = [node for node in map(world.node, range(VALIDATORS)) if node is not None]
        head = max((node.engine.head.header.height for node in nodes), default=self.height)
        blind = {}
        for name in ("sequencer", "verifier"):
            process = world.processes.get(name)
            if process is not None:
                if process.core is not None:
                    self._reached[name] = process.core.node.l1_height
                blind[key_of(name).address] = head - self._reached.get(name, 0)
        self.reference.bridge.blind.append(blind)

    def _tell(self, executed: ExecutedBlock) -> None:
        """The story of the bridge, for the trace of a failure."""
        for tx, receipt in zip(executed.transactions, executed.receipts, strict=True):
            action = tx.body.action
            if isinstance(action, Call) and action.method not in ("deposit", "force", "claim"):
                who = is_dev_address(tx.body.sender) or tx.body.sender.hex()[:8]
                args = [
                    a.hex()[:8] if isinstance(a, bytes) else a for a in msgspec.msgpack.decode(action.args)
                ]
                outcome = receipt.code or "ok"
                self.world.tell(
                    f"L1 {executed.header.height}", f"{who} {action.method} {args!s:.80}: {outcome}"
                )

    @property
    def height(self) -> int:
        """Of the last final block that any node has."""
        return len(self.blocks)

    # --- what validators say ---

    def _tap(self, source: str, path: str, body: bytes) -> None:
        """P7: no two messages of an honest validator contradict each other."""
        if path != "/p2p/messages" or source not in self.world.processes:
            return
        try:
            messages = msgspec.msgpack.decode(body)
        except msgspec.DecodeError:
            return
        for message in messages:
            if message[0] == 0:
                header = message[1][0][0]
                if header[5] in self._honest:
                    block_hash = tagged("header", msgspec.msgpack.encode(header))
                    if self._led.setdefault((header[5], header[2]), block_hash) != block_hash:
                        self.fail("P7", f"an honest leader proposed twice in slot {header[2]}")
                if self._proposed.setdefault(header[1], header[4]) != header[4]:
                    self.seen["two branches at one height"] += 1
            elif message[0] == 1:
                _, slot, height, block_hash, voter, _ = message[1]
                self._vote(voter, slot, height, block_hash)

    def _vote(self, voter: bytes, slot: int, height: int, block_hash: bytes) -> None:
        if voter not in self._honest:
            return
        votes = self._said.setdefault(voter, {})
        if votes.setdefault(slot, (height, block_hash)) != (height, block_hash):
            self.fail("P7", f"an honest validator voted twice in slot {slot}")
        for other, (its_height, _) in votes.items():
            if (other < slot and its_height > height) or (other > slot and its_height < height):
                self.fail("P7", f"an honest validator voted lower: slots {other} and {slot}")

    # --- followers ---

    def _look_at_follower(self, process: Process) -> None:
        core = process.core
        if core is None:
            return
        derivation, tip = _derived(core)
        if 0 < tip.header.height <= self.height:
            expected = self.blocks[tip.header.height - 1].block.header.hash()
            if tip.hash != expected:
                raise PromiseBroken(f"P6 {process.name} follows another block {tip.header.height}")
        known = self._final.get(process.name, 0)
        if tip.header.height < known:
            raise PromiseBroken(f"P8 {process.name} went back from L1 block {known} to {tip.header.height}")
        self._final[process.name] = tip.header.height
        self._caught_up(process.name, tip.header.height)
        self.reference.compare_derivation(process.name, derivation)


def _derived(core: Any) -> tuple[Any, Any]:
    """Derivation and L1 tip of a rollup service or a bridge."""
    if hasattr(core, "node"):
        return core.node.derivation, core.node.replica.tip
    return core.state.derivation, core.replica.tip
