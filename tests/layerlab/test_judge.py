"""The judge: it agrees with honest data, and sees or refuses every tampering that a liar may think of."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from bridge_harness import address
from hypothesis import given, settings
from hypothesis import strategies as st
from rollup_stack import Stack, certify, stack_at
from shown_chain import claim, story

from bridge import abi
from chainkit.block import Block, Header
from chainkit.chain import ExecutedBlock
from chainkit.codec import decode, encode
from chainkit.state import account_key, storage_key
from layerlab.judge import Exhibit, JudgeError, judge, list_root, state_root

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "merkle.json").read_text())


@pytest.mark.parametrize("case", VECTORS["lists"], ids=lambda c: c["name"])
def test_list_roots_are_those_of_the_protocol(case: dict[str, Any]) -> None:
    assert list_root([bytes.fromhex(leaf) for leaf in case["leaves"]]).hex() == case["root"]


@pytest.mark.parametrize("case", VECTORS["state"], ids=lambda c: c["name"])
def test_state_roots_are_those_of_the_protocol(case: dict[str, Any]) -> None:
    entries = {bytes.fromhex(key): bytes.fromhex(value) for key, value in case["entries"]}
    assert state_root(entries).hex() == case["root"]


def exhibit_of(stack: Stack) -> Exhibit:
    return Exhibit(
        genesis=encode(stack.chain.genesis),
        blocks=[(encode(b.block), encode(certify(b)), [encode(r) for r in b.receipts]) for b in stack.l1],
        l1_state=dict(stack.tip.tree.items()),
        l2_state=dict(stack.verifier.node.derivation.finalized_batch.end.tree.items()),
    )


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with stack_at(tmp_path_factory.mktemp("judge"), validators=True) as stack:
        story(stack)
        yield stack


@pytest.fixture(scope="module")
def honest(running: Stack) -> Exhibit:
    return exhibit_of(running)


def test_the_promises_hold_and_say_what_was_added_up(honest: Exhibit) -> None:
    verdict = judge(honest)
    assert verdict.holds
    assert sorted(verdict.promises) == ["P1", "P2", "P3", "P4"]
    assert verdict.promises["P1"]["withdrawals_not_claimed"] == 1_234
    assert verdict.promises["P1"]["deposits_not_taken_in"] == 9_999
    assert (verdict.promises["P3"]["claims"], verdict.promises["P3"]["paid"]) == (1, 4_321)
    assert verdict.promises["P4"]["credited"] == verdict.promises["P4"]["minted_on_l2"] == 50_000_000
    assert (verdict.promises["P4"]["deposits"], verdict.promises["P4"]["taken_in"]) == (2, 1)


def refused(exhibit: Exhibit, why: str = ".") -> None:
    with pytest.raises(JudgeError, match=why):
        judge(exhibit)


# --- the exhibit is not L1's ---


def test_a_changed_state_is_not_the_validators(honest: Exhibit) -> None:
    def shown(name: str, state: dict[bytes, bytes]) -> Exhibit:
        return replace(honest, l1_state=state) if name == "l1_state" else replace(honest, l2_state=state)

    for name in ("l1_state", "l2_state"):
        state = dict(getattr(honest, name))
        for key in sorted(state)[:: max(1, len(state) // 12)]:
            refused(shown(name, {**state, key: state[key] + b"\x00"}), "state")
            refused(shown(name, {k: v for k, v in state.items() if k != key}), "state")
        refused(shown(name, {**state, b"a" + b"\x07" * 32: b"\x92\x01\x00"}), "state")
        refused(shown(name, {}), "state")


def test_a_changed_receipt_transaction_header_or_order(honest: Exhibit) -> None:
    busy = next(i for i, (_, _, receipts) in enumerate(honest.blocks) if receipts)
    block, certificate, receipts = honest.blocks[busy]
    header, transactions = msgspec.msgpack.decode(block)

    def with_block(*changed: Any) -> Exhibit:
        blocks = [*honest.blocks]
        blocks[busy] = changed
        return replace(honest, blocks=blocks)

    refused(with_block(block, certificate, []), "receipts")
    refused(with_block(block, certificate, [*receipts, receipts[0]]), "receipts")
    refused(with_block(block, certificate, [receipts[0] + b"\x00", *receipts[1:]]), "receipts")
    refused(with_block(encode([header, []]), certificate, receipts), "receipts|transactions")
    for place in range(len(header)):
        value = header[place]
        changed = value + 1 if isinstance(value, int) else bytes(32)
        if changed != value:
            fake = [*header[:place], changed, *header[place + 1 :]]
            refused(with_block(encode([fake, transactions]), certificate, receipts))
    refused(replace(honest, blocks=[*honest.blocks[:busy], *honest.blocks[busy + 1 :]]), "follow")
    refused(replace(honest, blocks=honest.blocks[1:]), "follow")
    refused(replace(honest, blocks=honest.blocks[:-1]), "state")
    refused(replace(honest, blocks=[*honest.blocks, honest.blocks[-1]]), "follow")
    refused(replace(honest, blocks=[]), "no L1 block")


def test_a_certificate_that_proves_nothing(running: Stack, honest: Exhibit) -> None:
    def with_certificate(certificate: bytes) -> Exhibit:
        block, _, receipts = honest.blocks[4]
        blocks = [*honest.blocks]
        blocks[4] = (block, certificate, receipts)
        return replace(honest, blocks=blocks)

    good = certify(running.l1[4])
    refused(with_certificate(encode(certify(running.l1[4], 2))), "two thirds")
    refused(with_certificate(encode(certify(running.l1[4], 0))), "two thirds")
    twice = msgspec.structs.replace(good, votes=[good.votes[0]] * 3)
    refused(with_certificate(encode(twice)), "two thirds")
    refused(with_certificate(encode(certify(running.l1[3]))), "signature")
    forged = msgspec.structs.replace(good.votes[0], signature=bytes(64))
    refused(
        with_certificate(encode(msgspec.structs.replace(good, votes=[forged, *good.votes[1:]]))), "signature"
    )
    refused(with_certificate(b""), "malformed")


def test_another_genesis(honest: Exhibit) -> None:
    plain = msgspec.msgpack.decode(honest.genesis)
    plain[2] += 1
    refused(replace(honest, genesis=encode(plain)), "follow")
    plain[8] = []
    refused(replace(honest, genesis=encode(plain)))


@given(st.binary(max_size=40))
@settings(max_examples=40, deadline=None)
def test_any_bytes_anywhere_are_refused_and_never_crash(honest: Exhibit, junk: bytes) -> None:
    block, certificate, receipts = honest.blocks[0]
    for first in ((junk, certificate, receipts), (block, junk, receipts), (block, certificate, [junk])):
        refused(replace(honest, blocks=[first, *honest.blocks[1:]]))
    refused(replace(honest, genesis=junk))


# --- the validators signed it, and a promise is broken: a bridge with an error in it ---


def resigned(running: Stack, l1: dict[bytes, bytes], l2: dict[bytes, bytes], events: list[Any]) -> Exhibit:
    """One more block that the validators sign over any state and any events."""
    honest = exhibit_of(running)
    last = msgspec.msgpack.decode(honest.blocks[-1][0])[0]
    receipts = [encode([b"\x01" * 32, True, "", "", 0, 0, events])]
    wire = encode([900, b"", 0, 0, 0, 0, []])
    header = [*last[:1], last[1] + 1, last[2] + 1, *last[3:]]
    header[4] = running.tip.hash
    header[6], header[7], header[8] = state_root(l1), list_root([wire]), list_root(receipts)
    block = Block(Header(*header), [wire])
    signed = certify(ExecutedBlock(block, block.header.hash(), (), (), running.tip.tree, {}))
    shown = (encode(block), encode(signed), receipts)
    return replace(honest, blocks=[*honest.blocks, shown], l1_state=l1, l2_state=l2)


def broken(exhibit: Exhibit, *promises: str) -> None:
    verdict = judge(exhibit)
    assert not verdict.holds
    assert {name for name, p in verdict.promises.items() if not p["holds"]} == set(promises)


def on_l2(running: Stack, l1: dict[bytes, bytes], l2: dict[bytes, bytes]) -> dict[bytes, bytes]:
    """L1's state if its last final batch claimed this L2 state."""
    key = storage_key("bridge", abi.batch_key(running.totals.final_batch))
    record = msgspec.structs.replace(decode(abi.Batch, l1[key]), state_root=state_root(l2))
    return {**l1, key: encode(record)}


def test_control_a_further_block_with_nothing_in_it_breaks_nothing(running: Stack, honest: Exhibit) -> None:
    assert judge(resigned(running, dict(honest.l1_state), dict(honest.l2_state), [])).holds


def test_a_withdrawal_that_was_paid_twice(running: Stack, honest: Exhibit) -> None:
    again = ["bridge", "WithdrawalClaimed", encode([0, 1, address("dave"), 4_321])]
    broken(resigned(running, dict(honest.l1_state), dict(honest.l2_state), [again]), "P3")


@pytest.mark.parametrize(
    "event",
    [
        ("WithdrawalClaimed", [7, 1, b"\x01" * 32, 1]),
        ("WithdrawalClaimed", [1, 1, b"\x01" * 32, 1_234]),
        ("WithdrawalClaimed", [1, 1, None, 9_999]),
        ("AccountExited", [b"\x01" * 32, 5]),
        ("DepositRefunded", [0, None, 50_000_000]),
    ],
)
def test_a_payout_that_nothing_stands_behind(
    running: Stack, honest: Exhibit, event: tuple[str, list[Any]]
) -> None:
    name, fields = event
    fields = [address("dave") if value is None else value for value in fields]
    shown = resigned(
        running, dict(honest.l1_state), dict(honest.l2_state), [["bridge", name, encode(fields)]]
    )
    broken(shown, "P3")


def test_escrow_that_does_not_cover_l2(running: Stack, honest: Exhibit) -> None:
    l1 = dict(honest.l1_state)
    key = storage_key("bridge", abi.TOTALS_KEY)
    totals = decode(abi.BridgeTotals, l1[key])
    l1[key] = encode(msgspec.structs.replace(totals, escrow=totals.escrow - 1))
    broken(resigned(running, l1, dict(honest.l2_state), []), "P1")


def test_coins_minted_on_l2(running: Stack, honest: Exhibit) -> None:
    l2 = dict(honest.l2_state)
    l2[account_key(address("mallory"))] = encode([10**12, 5])
    broken(resigned(running, on_l2(running, dict(honest.l1_state), l2), l2, []), "P1")
    supply = msgspec.msgpack.decode(l2[b"ssupply"])
    l2 = {**honest.l2_state, b"ssupply": encode([supply[0], supply[1] + 1, supply[2]])}
    broken(resigned(running, on_l2(running, dict(honest.l1_state), l2), l2, []), "P4")


def test_coins_from_nowhere_on_l1(running: Stack, honest: Exhibit) -> None:
    l1 = dict(honest.l1_state)
    l1[account_key(address("judy"))] = encode([10**13 + 1, 0])
    broken(resigned(running, l1, dict(honest.l2_state), []), "P2")


def test_exits_and_refunds_of_a_frozen_bridge(running: Stack) -> None:
    """Last, for it ends the story: everybody leaves."""
    stack = running
    stack.step_until(lambda: stack.height > stack.totals.last_batch_height + 40)
    stack.call("dave", "freeze")
    stack.step()
    assert stack.codes("freeze") == [""]
    tree = stack.verifier.node.derivation.finalized_batch.end.tree
    for name in ("alice", "carol", "mallory"):
        who = address(name)
        stack.call("dave", "exit", abi.ExitArgs(who, tree.prove([account_key(who)])))
    stack.call("dave", "refund", abi.RefundArgs(2))
    claim(stack, 1)
    stack.step()
    assert set(stack.codes("exit")) == set(stack.codes("refund")) == set(stack.codes("claim")) == {""}
    verdict = judge(exhibit_of(stack))
    assert verdict.holds
    assert (verdict.promises["P3"]["exits"], verdict.promises["P3"]["refunds"]) == (3, 1)
