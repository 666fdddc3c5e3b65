"""A rollup stack's L1 as an auditor is shown it, and the same with something in it forged."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from bridge_harness import l2_transfer, l2_withdraw
from rollup_stack import Stack, certify

from bridge import abi
from chainkit.block import Block, Header
from chainkit.chain import ExecutedBlock
from chainkit.codec import decode, encode
from layerlab.audit.plain import list_root, state_root
from rollup.faults import Fault
from rollup.stf import Deposit, step_hash


class Unwatched(Stack):
    """A stack in which promises may break: its own checks are off."""

    def check(self) -> None:
        """The audit is what looks here."""

    def _watch(self, receipt: Any) -> None:
        """Also not at what is paid."""


class ShownStack:
    """An `auditor.Source` over a stack; ``blocks`` and ``receipts`` can be changed in place."""

    name = "stack"

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.shown = [[_plain(b.block), _plain(certify(b))] for b in stack.l1]
        self.given = [[encode(r) for r in b.receipts] for b in stack.l1]
        self.states: dict[int, Mapping[bytes, bytes] | None] = {}
        self.goal = len(stack.l1) - 1
        """The last block has nothing above it that would show it to be final."""

    def final(self) -> int:
        return self.goal

    def blocks(self, start: int) -> Sequence[Any]:
        return self.shown[start - 1 : start + 9]

    def receipts(self, start: int) -> Sequence[Sequence[bytes]]:
        return self.given[start - 1 : start + 6]

    def state(self, height: int) -> Mapping[bytes, bytes] | None:
        if height in self.states:
            return self.states[height]
        return dict(self.stack.l1[height - 1].tree.items())

    def resign(self, height: int, state: Mapping[bytes, bytes]) -> None:
        """All that the validators signed from block ``height`` on, had they computed ``state`` there."""
        self.states[self.goal] = state
        parent = None
        for at in range(height, len(self.shown) + 1):
            header = list(self.shown[at - 1][0][0])
            wires = self.shown[at - 1][0][1]
            header[4] = parent or header[4]
            if at == self.goal:
                header[6] = state_root(state)
            header[8] = list_root(self.given[at - 1])
            block = Block(Header(*header), wires)
            parent = block.header.hash()
            tree = self.stack.l1[at - 1].tree
            signed = certify(ExecutedBlock(block, parent, (), (), tree, {}))
            self.shown[at - 1] = [_plain(block), _plain(signed)]


def _plain(record: Any) -> Any:
    return msgspec.msgpack.decode(encode(record))


def claim(stack: Stack, index: int, *, batch: int | None = None, who: str = "carol") -> None:
    """Have a withdrawal claimed in the next block, under a batch's root (the last final one's)."""
    derivation = stack.verifier.node.derivation
    batch = derivation.finalized if batch is None else batch
    tree = derivation.batches[batch].end.tree
    record = decode(abi.Withdrawal, tree.get(abi.withdrawal_state_key(index)))
    proof = tree.prove([abi.withdrawal_state_key(index)])
    stack.call(who, "claim", abi.ClaimArgs(batch, index, record.recipient, record.amount, proof))


def story(stack: Stack) -> None:
    """Deposits, transfers, withdrawals, a forced call, a lie that is reverted, a claim; then quiet."""
    stack.deposit("alice", "carol", 50_000_000)
    stack.transfer("alice", "bob", 5)
    stack.submit(l2_withdraw("mallory", 0, "dave", 4_321))
    stack.submit(l2_withdraw("mallory", 1, "dave", 1_234))
    stack.step(3)
    stack.call("dave", "force", abi.ForceArgs(l2_transfer("bob", 0, "carol", 6)))
    stack.sequencer.faults.set(Fault("mint"))
    stack.transfer("alice", "bob", 7)
    stack.step_until(lambda: stack.totals.pending > 0)
    stack.step_until(lambda: stack.totals.pending == 0 and stack.totals.final_batch > 2)
    claim(stack, 0)
    stack.deposit("bob", "carol", 9_999)
    stack.sequencer.faults.set(Fault("halt"))
    stack.step(3)


def deposit_of_more(books: Any, _rules: Any, args: abi.DepositArgs) -> None:
    """`bridge.batches.deposit` with the error that cost Qubit and Meter: the credit is not what came."""
    ctx, totals = books.ctx, books.totals
    index, amount = totals.inbox_length, 2 * ctx.value
    books.take_escrow(ctx.value)
    entry = abi.InboxEntry(
        step_hash(Deposit(index, ctx.sender, args.to, amount)), ctx.height, ctx.sender, amount
    )
    books.store_inbox(index, entry)
    books.note(inbox_length=index + 1)
    ctx.emit(abi.DepositInitiated(index, ctx.sender, args.to, amount))
