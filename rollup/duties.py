"""A rollup node's duties on L1: which calls it should have on their way right now.

Responsible for batching, disputes, finalizing and challenging, honest or not. It only looks at a node (and
turns it into a liar where a fault says so); asked again before a call is on L1, it names the same call by the
same key. Must not know how calls are signed, sent, paid for or repeated.
"""

import logging
from collections.abc import Container, Iterator
from dataclasses import dataclass

import msgspec

from bridge import abi
from bridge.settings import batch_gas
from chainkit.codec import Bytes32, encode
from chainkit.execution import FeeParameters
from chainkit.transaction import Call
from rollup import player
from rollup.batch import BatchBlock, encode_batch, inflate
from rollup.batch_size import BatchSize
from rollup.block import L2Block
from rollup.contents import write_contents
from rollup.derived import DerivedBatch
from rollup.faults import FaultError, frivolous_move, frivolous_root, make_lie, should_challenge_frivolously
from rollup.node import THIEF, Lie, LieRecord, RollupNode, make_trace
from rollup.player import Move
from rollup.stf import Transact
from rollup.trace import Trace

log = logging.getLogger("layerlab.rollup")

ENVELOPE_BYTES = 4 * 1024
"""Of an L1 transaction, beside the batch data that it carries."""
IN_FLIGHT = 4
"""Batches on their way at once: each has a bond, and L1 takes no more than `abi.MAX_PENDING_BATCHES` before they are
final."""
FINALIZE_GAS = 1_500_000
LANDING_BLOCKS = 4
"""L1 blocks that a call may take from now until it runs."""
MOST_UNDER_WAY = 16
"""L1 blocks that a call may be on its way before it counts as lost (rollup/outbox.py)."""
VERIFIER_PATIENCE = 8
"""L1 blocks that a verifier waits for the proposer to finalize its own batch."""


Key = tuple[str | int, ...]


@dataclass(frozen=True)
class Duty:
    """A call that should be on its way. ``key`` names it: one at a time per key."""

    key: Key
    move: Move


def duties(node: RollupNode, batch_before_ms: int, under_way: Container[Key] = ()) -> Iterator[Duty]:
    """Everything that the node should have on its way to L1.

    ``batch_before_ms``: L2 blocks up to this time may be batched (L1's own time must not be behind theirs).
    ``under_way``: keys that need not be thought of again.
    """
    if node.derivation.settings is None:
        return
    if node.role == "verifier":
        yield from challenge_duties(node)
    elif ("batch", node.derivation.head) not in under_way:
        yield from batch_duties(node, batch_before_ms)
    yield from dispute_duties(node)
    yield from finalize_duties(node)


# --- batches ---


def batch_duties(node: RollupNode, before_ms: int) -> Iterator[Duty]:
    """The next batch and, while more blocks wait than fit it, those that will stand on it.

    L1 takes some slots to make a batch final; one at a time would bound how much is ever posted. Should the first not
    land, L1 refuses the others for their parent, and all are made again.
    """
    first = _next_batch(node, before_ms)
    if first is None:
        return
    duty, blocks = first
    yield duty
    derivation, inbox_to = node.derivation, node.derivation.head_batch.record.inbox_to
    totals = derivation.totals
    if node.lies or node.faults.lie is not None or totals is None or _strangers_may_post(node, totals):
        return
    waiting, parent = _unposted(node, derivation.head_batch), totals.next_batch
    while len(waiting := waiting[len(blocks) :]) and parent < totals.next_batch + IN_FLIGHT - 1:
        inbox_to += sum(block.inbox_count for block in blocks)
        blocks = _fitting(node, waiting, before_ms)
        if not blocks:
            return
        inbox_after = inbox_to + sum(block.inbox_count for block in blocks)
        yield _submit(node, parent, inbox_after, blocks, blocks[-1].tree.root)
        parent += 1


def _strangers_may_post(node: RollupNode, totals: abi.BridgeTotals) -> bool:
    """Whether somebody else's batch may take the index of our next one while ours are on their way: what we meant to
    stand on ours would stand on his, and be false."""
    settings = node.derivation.settings
    assert settings is not None
    margin = min(MOST_UNDER_WAY, settings.sequencer_timeout // 2)
    return node.l1_height + margin > totals.last_batch_height + settings.sequencer_timeout


def batch_duty(node: RollupNode, before_ms: int) -> Duty | None:
    """The next batch, if there are blocks for it and no lie of somebody else to build on."""
    found = _next_batch(node, before_ms)
    return None if found is None else found[0]


def _next_batch(node: RollupNode, before_ms: int) -> tuple[Duty, list[L2Block]] | None:
    """`batch_duty`, and the blocks that the batch has."""
    derivation = node.derivation
    head = derivation.head_batch
    if derivation.frozen or node.faults.get("withhold") or node.faults.get("halt"):
        return None
    if not head.matches and not _is_own_lie(node, head):
        return None
    blocks = _postable(node, head, before_ms)
    if not blocks:
        return None
    lie = node.lies.get(blocks[0].header.height) or _new_lie(node, blocks)
    root = blocks[-1].tree.root if lie is None else lie.root
    inbox_to = head.record.inbox_to + sum(block.inbox_count for block in blocks)
    return _submit(node, head.index, inbox_to, blocks, root), blocks


def _submit(node: RollupNode, parent: int, inbox_to: int, blocks: list[L2Block], root: Bytes32) -> Duty:
    derivation = node.derivation
    batch_blocks = [_batch_block(block) for block in blocks]
    decoded = [tx for block in blocks for tx in block.own_transactions if tx is not None]
    at_hand = decoded if len(decoded) == sum(len(block.transactions) for block in batch_blocks) else None
    data = write_contents(batch_blocks, derivation.rules.chain_id, derivation.directory, at_hand)
    if len(data) > _room(node):  # `_fitting` promises that one of the two forms fits, not which
        data = min(data, encode_batch(batch_blocks), key=len)
    derivation.remember(data, batch_blocks)
    args = abi.SubmitBatchArgs(parent, inbox_to, data, root)
    steps = sum(1 + len(block.steps) for block in blocks)
    messages = sum(block.inbox_count for block in blocks)
    inflated, _ = inflate(data[1:])
    gas_limit = batch_gas(_l1_fees(node), len(data), len(inflated), steps, messages)
    assert derivation.settings is not None
    call = Call(derivation.bridge, "submit_batch", encode(args), derivation.settings.proposer_bond)
    why = f"post {len(blocks)} L2 blocks ({steps} steps, {len(data)} bytes) on batch {parent}"
    return Duty(("batch", parent), Move(call, gas_limit, why))


def _postable(node: RollupNode, head: DerivedBatch, before_ms: int) -> list[L2Block]:
    """The blocks of the next batch. If L1 would refuse it for a message that waits in a later block, the
    messages are moved to the front first: otherwise no batch could ever follow."""
    blocks = _next_span(node, head, before_ms)
    if blocks and _leaves_out_overdue(node, head, blocks) and node.bring_messages_forward():
        blocks = _next_span(node, head, before_ms)
    return blocks


def _next_span(node: RollupNode, head: DerivedBatch, before_ms: int) -> list[L2Block]:
    """What fits the next batch; of a batch that was falsified before, the very blocks."""
    blocks = _fitting(node, _unposted(node, head), before_ms)
    lie = node.lies.get(blocks[0].header.height) if blocks else None
    return blocks if lie is None else [block for block in blocks if block.header.height <= lie.last_block]


def _unposted(node: RollupNode, head: DerivedBatch) -> list[L2Block]:
    return node.local.between(head.end.header.height + 1, node.local.head.header.height)


def _leaves_out_overdue(node: RollupNode, head: DerivedBatch, blocks: list[L2Block]) -> bool:
    """Whether L1 may refuse the batch: it is not full of messages, and the next one is (almost) overdue."""
    derivation = node.derivation
    settings = derivation.settings
    assert settings is not None
    taken = sum(block.inbox_count for block in blocks)
    following = head.record.inbox_to + taken
    if taken >= settings.max_inbox_per_batch or following >= node.local.cursor:
        return False
    deadline = derivation.inbox[following].l1_height + settings.inclusion_delay
    return deadline <= node.l1_height + LANDING_BLOCKS


def _room(node: RollupNode) -> int:
    """Bytes of batch data that an L1 transaction carries."""
    return _l1_fees(node).max_transaction_bytes - ENVELOPE_BYTES


def _l1_fees(node: RollupNode) -> FeeParameters:
    return node.replica.chain.rules.fees


def _fitting(node: RollupNode, blocks: list[L2Block], before_ms: int) -> list[L2Block]:
    """As many blocks as fit what the contract takes, an L1 transaction and its gas: for that of a single block
    `check_l1` has made sure."""
    settings = node.derivation.settings
    assert settings is not None
    fees, room = _l1_fees(node), _room(node)
    taken: list[L2Block] = []
    size = BatchSize(node.derivation.directory)
    steps = messages = 0
    for block in blocks:
        size.add(block)
        steps += 1 + len(block.steps)
        messages += block.inbox_count
        if (
            block.header.time > before_ms
            or size.bytes > room
            or steps > settings.max_steps
            or messages > settings.max_inbox_per_batch
            or (taken and batch_gas(fees, size.bytes, size.bytes, steps, messages) > fees.max_transaction_gas)
        ):
            break
        taken.append(block)
    return taken


def _batch_block(block: L2Block) -> BatchBlock:
    return BatchBlock(block.header.time, block.inbox_count, block.wires)


def _is_own_lie(node: RollupNode, batch: DerivedBatch) -> bool:
    """Whether a false batch stands on this sequencer's own lie, which it then keeps up."""
    while not batch.matches:
        lie = node.lies.get(batch.record.first_block)
        if lie is not None and lie.root == batch.record.state_root:
            return True
        batch = node.derivation.batches[batch.record.parent]
    return False


def _new_lie(node: RollupNode, blocks: list[L2Block]) -> Lie | None:
    """If a lying fault is set: play it on this batch, once."""
    fault = node.faults.lie
    busy = any(isinstance(step, Transact) for block in blocks for step in block.steps)
    if fault is None or not busy:  # a lie hides among real transactions
        return None
    first = blocks[0].header.height
    before = node.local.between(first - 1, first - 1)
    start = before[0].tree if before else node.local.base.tree
    steps = [step for block in blocks for step in block.all_steps]
    try:
        index, _ = make_lie(fault, node.derivation.rules, steps, start, THIEF)
    except FaultError as error:
        node.faults.clear(fault.name)
        log.warning("the fault %s cannot be played: %s", fault.name, error)
        return None
    fault = msgspec.structs.replace(fault, at_step=index)
    record = LieRecord(first, blocks[-1].header.height, bytes(32), fault)
    trace = make_trace(node.derivation.rules, record, steps, start).trace
    record = msgspec.structs.replace(record, root=trace.root(len(steps)))
    lie = Lie(record, trace)
    node.falsify(lie)
    node.switch.lie_told(fault.name, step=index, steps=len(steps), first_block=first)
    return lie


# --- disputes ---


def challenge_duties(node: RollupNode) -> Iterator[Duty]:
    """Challenge the first false batch of the line (and honest ones, if the fault says so)."""
    derivation, me = node.derivation, node.key.address
    settings = derivation.settings
    assert settings is not None
    if node.faults.get("asleep"):
        return
    disputes = list(derivation.disputes.values())
    for batch in _pending(node):
        if node.l1_height < batch.record.height + node.faults.delay:
            continue
        if player.should_challenge(batch, disputes, me, node.l1_height, settings):
            move = player.challenge(batch.index, batch.computed_root, settings, derivation.bridge)
            yield Duty(("challenge", batch.index), move)
    yield from _frivolous_challenge(node)


def _frivolous_challenge(node: RollupNode) -> Iterator[Duty]:
    derivation, me, height = node.derivation, node.key.address, node.l1_height
    settings = derivation.settings
    assert settings is not None
    if "frivolous" not in node.faults or any(d.challenger == me for d in derivation.open_disputes()):
        return
    disputes = list(derivation.disputes.values())
    for batch in _pending(node):
        if should_challenge_frivolously(batch, disputes, me, height, settings):
            move = player.challenge(batch.index, frivolous_root(batch), settings, derivation.bridge)
            yield Duty(("challenge", batch.index), move)
            return


def dispute_duties(node: RollupNode) -> Iterator[Duty]:
    """The next move in every open dispute that the node is a side of, and an end to those that others let lie."""
    derivation, me = node.derivation, node.key.address
    settings = derivation.settings
    assert settings is not None
    if node.faults.get("silent-in-dispute") or node.faults.get("asleep"):
        return
    for dispute in derivation.open_disputes():
        batch = derivation.batches[dispute.batch]
        if batch.status != abi.PENDING:
            settle = player.settle_move(dispute, batch, me, derivation.bridge)
            if settle is not None:
                yield Duty(("settle", dispute.index), settle)
            continue
        if me not in (dispute.defender, dispute.challenger):
            move = player.bystander_move(dispute, settings, node.l1_height, derivation.bridge)
            if move is not None and node.role == "verifier":
                yield Duty(("bystander", dispute.index), move)
            continue
        key = ("move", dispute.index, dispute.moves)
        trace = _trace(node, batch)
        frivolous = dispute.challenger == me and dispute.claimed_root == frivolous_root(batch)
        choose = frivolous_move if frivolous else player.next_move
        move = choose(dispute, trace, me, settings, node.l1_height, batch.step_hashes, derivation.bridge)
        if move is not None:
            yield Duty(key, move)


def _trace(node: RollupNode, batch: DerivedBatch) -> Trace:
    lie = node.lies.get(batch.record.first_block)
    if lie is not None and lie.root == batch.record.state_root:
        return lie.trace
    cached = node.traces.get(batch.index)
    if cached is None:
        cached = node.traces[batch.index] = player.batch_trace(node.derivation.rules, batch)
    return cached


# --- finalizing ---


def finalize_duties(node: RollupNode) -> Iterator[Duty]:
    """Finalize the oldest pending batch once its window is over. Nobody honest finalizes a false one."""
    derivation = node.derivation
    oldest = next(iter(_pending(node)), None)
    if oldest is None or node.faults.get("halt"):
        return
    if not oldest.matches and (node.role == "verifier" or not _is_own_lie(node, oldest)):
        return
    patience = VERIFIER_PATIENCE if node.role == "verifier" else 0
    disputed = any(d.batch == oldest.index for d in derivation.open_disputes())
    if node.l1_height >= oldest.record.challenge_until + patience and not disputed:
        call = Call(derivation.bridge, "finalize", encode(abi.BatchArgs(oldest.index)), 0)
        yield Duty(("finalize", oldest.index), Move(call, FINALIZE_GAS, f"finalize batch {oldest.index}"))


def _pending(node: RollupNode) -> list[DerivedBatch]:
    """The pending batches of the line, oldest first."""
    derivation = node.derivation
    line: list[DerivedBatch] = []
    batch = derivation.head_batch
    while batch.index != derivation.finalized:
        line.append(batch)
        batch = derivation.batches[batch.record.parent]
    return line[::-1]
