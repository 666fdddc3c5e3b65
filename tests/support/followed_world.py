"""L1 with the real bridge contract, and a derivation that follows every block of it."""

from collections.abc import Mapping
from itertools import count

from bridge_harness import KEYS, L1_CHAIN, SETTINGS, World, address, l2_genesis, name_of

from bridge import abi
from chainkit.chain import ExecutedBlock, executed_transactions
from chainkit.execution import Receipt
from chainkit.transaction import Body, SignedTransaction
from rollup.derivation import Derivation, DerivationEvent, DerivedBatch
from rollup.player import Move, batch_trace, challenge, next_move
from rollup.trace import Lie, Trace


class Followed(World):
    """A `World` with its derivation; ``log`` are all its events, ``l1`` all L1 blocks."""

    def __init__(self, settings: abi.BridgeSettings = SETTINGS) -> None:
        super().__init__(settings)
        self.derivation = Derivation(l2_genesis())
        self.log: list[DerivationEvent] = list(self.derivation.refresh(self.tip.tree))
        self.l1: list[ExecutedBlock] = []

    def mine(self, *txs: SignedTransaction) -> list[Receipt]:
        receipts = super().mine(*txs)
        self.l1.append(self.tip)
        self.log += self.derivation.apply_l1_block(
            self.tip.header, executed_transactions(self.tip), self.tip.tree
        )
        return receipts

    def events(self, kind: type[DerivationEvent]) -> list[DerivationEvent]:
        return [event for event in self.log if isinstance(event, kind)]

    def derived(self, index: int) -> DerivedBatch:
        return self.derivation.batches[index]

    def trace(self, index: int, lie: Lie | None = None) -> Trace:
        return batch_trace(self.derivation.rules, self.derived(index), lie)

    def send(self, who: str, move: Move) -> Receipt:
        """Put a player's move on L1 with its own gas limit."""
        nonce = self.state.account(address(who)).nonce
        body = Body(L1_CHAIN, address(who), nonce, move.gas_limit, 16, 0, move.call)
        return self.mine(SignedTransaction.sign(body, KEYS[who]))[0]

    def challenge_with(self, batch: int, root: bytes, who: str = "verifier") -> int:
        index = self.totals.next_dispute
        receipt = self.send(who, challenge(batch, root, SETTINGS))
        assert receipt.success, (receipt.code, receipt.message)
        return index

    def play_out(
        self, index: int, traces: Mapping[str, Trace], policies: Mapping[str, object] | None = None
    ) -> dict[str, int]:
        """Let every player do what its policy says until the dispute is over; returns its calls by player.

        Every call must be accepted. A block without a call is mined when nobody has one.
        """
        calls = dict.fromkeys(traces, 0)
        hashes = self.derived(self.dispute(index).batch).step_hashes
        for _ in count():
            dispute = self.dispute(index)
            if dispute.stage == abi.RESOLVED:
                return calls
            for who, trace in traces.items():
                policy = (policies or {}).get(who, next_move)
                assert callable(policy)
                move = policy(dispute, trace, address(who), SETTINGS, self.height, hashes)
                if move is not None:
                    receipt = self.send(who, move)
                    assert receipt.success, (move.why, receipt.code, receipt.message)
                    calls[who] += 1
                    break
            else:
                self.mine()
        raise AssertionError("unreachable")

    def sides(self, index: int) -> tuple[str, str]:
        dispute = self.dispute(index)
        return name_of(dispute.defender), name_of(dispute.challenger)
