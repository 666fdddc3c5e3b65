"""The audit: content with an honest history, and for each promise a history in which that one is broken."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from bridge_harness import address, l2_withdraw
from rollup_stack import Stack, certify
from shown_chain import ShownStack, Unwatched, claim, deposit_of_more, story

from bridge import abi, batches, withdrawals
from chainkit.codec import encode
from chainkit.state import account_key, storage_key
from layerlab.audit.auditor import audit
from layerlab.audit.l1 import L1, LieError
from layerlab.audit.verdict import HOLDS, IDLE, PROMISES, UNKNOWN, Verdict
from layerlab.config import DevnetConfig
from layerlab.genesis import make_l1_genesis
from rollup.faults import Fault


@contextmanager
def stack_of(path: Path) -> Iterator[Unwatched]:
    stack = Unwatched(path, validators=True)
    try:
        yield stack
    finally:
        stack.close()


def judged(shown: ShownStack) -> Verdict:
    return audit(encode(shown.stack.chain.genesis), shown)


def broken(verdict: Verdict) -> set[str]:
    return {finding.promise for finding in verdict.findings}


def until_final(stack: Stack, batch: int) -> None:
    stack.step_until(lambda: stack.totals.final_batch >= batch)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with stack_of(tmp_path_factory.mktemp("audit")) as stack:
        story(stack)
        yield stack


@pytest.fixture
def honest(running: Stack) -> ShownStack:
    return ShownStack(running)


def test_an_honest_history_holds_with_these_figures(honest: ShownStack) -> None:
    verdict = judged(honest)
    assert (verdict.exit_code, verdict.findings, verdict.missing) == (0, [], {})
    figures = verdict.figures
    assert figures["P1"]["withdrawals_not_claimed"] == 1_234
    assert figures["P1"]["deposits_not_taken_in"] == 9_999
    assert (figures["P3"]["claims"], figures["P3"]["paid"]) == (1, 4_321)
    assert (figures["P4"]["deposits"], figures["P4"]["credits"], figures["P4"]["credited"]) == (
        2,
        1,
        50_000_000,
    )
    p2 = figures["P2"]
    parts = ("balances", "stake", "unbonding", "bonds", "escrow", "burned")
    assert sum(p2[part] for part in parts) == p2["genesis"]
    assert p2["burned"] > 500_000, "half of the liar's bond, at least"
    assert all(line.split()[1] == "holds" for line in verdict.lines())


def test_the_way_out_of_a_frozen_bridge_is_judged_too(tmp_path: Path) -> None:
    with stack_of(tmp_path) as stack:
        stack.transfer("alice", "bob", 5)
        until_final(stack, 1)
        stack.sequencer.faults.set(Fault("halt"))
        stack.deposit("bob", "carol", 9_999)
        stack.step(stack.verifier.node.derivation.settings.escape_timeout + 2)  # type: ignore[union-attr]
        stack.call("carol", "freeze")
        stack.step()
        tree = stack.verifier.node.derivation.finalized_batch.end.tree
        stack.call("carol", "exit", abi.ExitArgs(address("bob"), tree.prove([account_key(address("bob"))])))
        stack.call("carol", "refund", abi.RefundArgs(0))
        stack.step(3)
        verdict = judged(ShownStack(stack))
    assert verdict.exit_code == 0, verdict.lines()
    assert (verdict.figures["P3"]["exits"], verdict.figures["P3"]["refunds"]) == (1, 1)


# --- a promise is broken, and validators signed it: an error in what they all run ---


def test_p1_the_contract_books_another_escrow(honest: ShownStack) -> None:
    state = dict(honest.state(honest.goal) or {})
    key = storage_key("bridge", abi.TOTALS_KEY)
    totals = msgspec.msgpack.decode(state[key])
    totals[0] += 5
    honest.resign(honest.goal, {**state, key: encode(totals)})
    verdict = judged(honest)
    assert broken(verdict) == {"P1"}
    assert verdict.of("P1")[0].height == honest.goal
    assert "5" in verdict.of("P1")[0].text


@pytest.mark.parametrize("who", ["alice", "nobody before"])
def test_p2_money_appears_on_l1(honest: ShownStack, who: str) -> None:
    state = dict(honest.state(honest.goal) or {})
    account = address("alice") if who == "alice" else bytes(31) + b"\x07"
    balance, nonce = msgspec.msgpack.decode(state.get(account_key(account), encode([0, 0])))
    honest.resign(honest.goal, {**state, account_key(account): encode([balance + 77, nonce])})
    verdict = judged(honest)
    assert broken(verdict) == {"P2"}
    assert verdict.exit_code == 1
    assert {finding.account for finding in verdict.of("P2")} == {"", "0x" + account.hex()}
    assert "77 gwei appeared" in verdict.of("P2")[0].text


def test_p2_money_changes_hands_without_a_transaction(honest: ShownStack) -> None:
    state = dict(honest.state(honest.goal) or {})
    for who, change in (("alice", -1_000), ("mallory", 1_000)):
        balance, nonce = msgspec.msgpack.decode(state[account_key(address(who))])
        state[account_key(address(who))] = encode([balance + change, nonce])
    honest.resign(honest.goal, state)
    verdict = judged(honest)
    assert broken(verdict) == {"P2"}
    assert {f.account for f in verdict.findings} == {"0x" + address(n).hex() for n in ("alice", "mallory")}


def test_p2_a_fee_that_is_not_what_the_gas_costs(honest: ShownStack) -> None:
    busy = next(i for i, receipts in enumerate(honest.given) if receipts)
    receipt = msgspec.msgpack.decode(honest.given[busy][0])
    receipt[5] += 1
    honest.given[busy][0] = encode(receipt)
    honest.resign(busy + 1, dict(honest.state(honest.goal) or {}))
    verdict = judged(honest)
    assert broken(verdict) == {"P2"}
    assert verdict.findings[0].height == busy + 1


def test_p3_without_a_nullifier_a_withdrawal_is_paid_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        withdrawals, "claimed_key", lambda index: b"claimed/" + index.to_bytes(8) + b"x" * (height[0] % 7)
    )
    height = [0]
    with stack_of(tmp_path) as stack:
        stack.submit(l2_withdraw("mallory", 0, "dave", 4_321))
        until_final(stack, 1)
        for height[0] in (1, 2):
            claim(stack, 0)
            stack.step()
        stack.step(2)
        assert stack.codes("claim") == ["", ""]
        verdict = judged(ShownStack(stack))
    assert "P3" in broken(verdict)
    assert broken(verdict) <= {"P1", "P3", "P5"}, "what was paid twice is missing in escrow"
    (found,) = verdict.of("P3")
    assert found.account == "0x" + address("dave").hex()
    assert "paid before" in found.text


def test_p4_a_deposit_is_credited_with_more_than_came(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "deposit", deposit_of_more)
    with stack_of(tmp_path) as stack:
        stack.deposit("alice", "carol", 5_000)
        stack.step(5)
        verdict = judged(ShownStack(stack))
    assert "P4" in broken(verdict)
    assert verdict.of("P4")[0].account == "0x" + address("carol").hex()
    assert "P1" in broken(verdict), "L2 has more than escrow holds"


def test_p4_and_p5_a_false_root_becomes_final(tmp_path: Path) -> None:
    with stack_of(tmp_path) as stack:
        stack.verifier.faults.set(Fault("asleep"))
        stack.sequencer.faults.set(Fault("mint", at_step=1))
        stack.transfer("alice", "bob", 1)
        until_final(stack, 1)
        stack.step(2)
        verdict = judged(ShownStack(stack))
    assert broken(verdict) == {"P4", "P5"}
    assert "batch 1 became final" in verdict.of("P4")[0].text


def test_p5_a_withdrawal_is_paid_from_a_batch_that_may_yet_be_void(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(withdrawals, "require_final", lambda *_: None)
    with stack_of(tmp_path) as stack:
        stack.submit(l2_withdraw("mallory", 0, "dave", 4_321))
        stack.step_until(lambda: stack.totals.pending > 0)
        claim(stack, 0, batch=1)
        stack.step(3)
        assert stack.codes("claim") == [""]
        verdict = judged(ShownStack(stack))
    assert {"P3", "P5"} == broken(verdict), "escrow still is what the head owes"
    assert "batch 1 is not final" in verdict.of("P3")[0].text


# --- somebody lies about what validators signed ---


def refused(shown: ShownStack, why: str) -> None:
    with pytest.raises(LieError, match=why):
        judged(shown)


def test_a_node_that_lies_is_caught_by_votes_and_hashes(running: Stack) -> None:
    def with_(**changed: Any) -> ShownStack:
        shown = ShownStack(running)
        for name, value in changed.items():
            getattr(shown, name).update(value) if name == "states" else getattr(shown, name).__setitem__(
                *value
            )
        return shown

    honest = ShownStack(running)
    block, certificate = honest.shown[4]
    busy = next(i for i, receipts in enumerate(honest.given) if receipts)
    for place in range(11):
        header = list(block[0])
        header[place] = header[place] + 1 if isinstance(header[place], int) else bytes(32)
        if header != block[0]:
            refused(with_(shown=(4, [[header, block[1]], certificate])), "block 5|block 6")
    refused(with_(shown=(4, [[block[0], [b"x"]], certificate])), "transactions")
    refused(with_(shown=(4, [block, [*certificate[:3], certificate[3][:2]]])), "two thirds")
    refused(with_(shown=(4, [block, [*certificate[:3], [certificate[3][0]] * 4]])), "two thirds")
    refused(with_(shown=(4, [block, [*certificate[:3], []]])), "two thirds")
    refused(with_(shown=(4, [block, honest.shown[5][1]])), "another block's")
    refused(with_(given=(busy, [])), "receipts")
    refused(with_(given=(busy, [*honest.given[busy], honest.given[busy][0]])), "receipts")
    state = dict(honest.state(honest.goal) or {})
    richer = {**state, account_key(address("mallory")): encode([10**15, 0])}
    refused(with_(states={honest.goal: richer}), "state shown")
    for junk in (None, 7, [], b"", [[[], []], []], {"a": 1}):
        refused(with_(shown=(3, junk)), "malformed|follow")


def test_strangers_cannot_make_a_chain_of_their_own(running: Stack) -> None:
    """Votes by keys with no stake count nothing, however many."""
    shown = ShownStack(running)
    genesis = msgspec.msgpack.decode(encode(running.chain.genesis))
    genesis[8] = [[address("mallory"), 100 * 10**9]]
    with pytest.raises(LieError, match="follow"):
        audit(encode(genesis), shown)


def test_who_says_that_more_is_final_than_votes_show(honest: ShownStack) -> None:
    honest.goal += 1
    refused(honest, "said to be final")


def test_blocks_after_a_gap_in_slots_are_not_final_yet(running: Stack) -> None:
    """Three in consecutive slots: the last two are shown, the third is missing."""
    shown = ShownStack(running)
    shown.shown = shown.shown[:-1]
    refused(shown, "said to be final")


def test_without_the_state_p2_is_not_judged_and_that_is_said(honest: ShownStack) -> None:
    honest.states[honest.goal] = None
    verdict = judged(honest)
    assert verdict.exit_code == 2
    assert set(verdict.missing) == {"P2"}
    assert "GET /state" in "\n".join(verdict.lines())


def test_the_certificates_are_those_of_three_of_four(running: Stack) -> None:
    """Control: what the honest history is signed with is just enough."""
    assert len(certify(running.l1[0]).votes) == 3
    assert set(PROMISES) == {"P1", "P2", "P3", "P4", "P5"}


# --- other models ---


def genesis_of(model: str) -> bytes:
    return encode(make_l1_genesis(DevnetConfig(model=model), 1_700_000_000_000))


def test_a_chain_without_a_bridge_has_nothing_to_hold_but_its_supply() -> None:
    verdict = Verdict()
    L1(genesis_of("sovereign"), verdict)
    assert [verdict.status(name) for name in PROMISES] == [IDLE, HOLDS, IDLE, IDLE, IDLE]
    assert verdict.exit_code == 0
    assert "no bridge" in verdict.lines()[0]


def test_of_a_side_chain_l1_says_only_what_was_paid_and_how_often() -> None:
    verdict = Verdict()
    bridge = L1(genesis_of("sidechain"), verdict).bridge
    assert bridge is not None
    assert [verdict.status(name) for name in PROMISES] == [UNKNOWN, HOLDS, HOLDS, UNKNOWN, UNKNOWN]
    assert verdict.exit_code == 2
    who, escrow = address("dave"), bridge.escrow
    bridge.call(3, address("carol"), [who], 50, [("DepositInitiated", [0, address("carol"), who, 50])])
    assert bridge.escrow == escrow + 50
    for height in (4, 5):
        (paid,) = bridge.call(height, address("judy"), [7, who, 20], 0, [("WithdrawalPaid", [7, who, 20])])
        assert (paid.to, paid.amount) == (who, 20)
    assert (verdict.exit_code, broken(verdict)) == (1, {"P3"})
    assert verdict.of("P3")[0].told() == (
        f"L1 block 5, account 0x{who.hex()}: withdrawal 7 of 20 gwei: it was paid before"
    )


def test_a_bridge_of_an_unknown_kind_is_not_judged() -> None:
    genesis = msgspec.msgpack.decode(genesis_of("optimistic"))
    for spec in genesis[9]:
        if spec[0] == "bridge":
            spec[1] = "somebody.else:Bridge"
    with pytest.raises(LieError, match=r"somebody\.else"):
        L1(encode(genesis), Verdict())
