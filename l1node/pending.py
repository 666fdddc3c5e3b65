"""Transactions on their way into a block: from users and from peers, into the pool, and out into a block of ours.

Responsible for the pool, for what is checked of a peer's transactions and in which order, and for how much a block may
take while finality lags. Must not know of messages, disks, or who leads a slot; what blocks became final it is told.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress

from chainkit.at_hand import MOST as MOST_AT_HAND
from chainkit.at_hand import AtHand
from chainkit.backend import SubmitResult
from chainkit.block import MAX_BLOCK_BYTES
from chainkit.chain import Chain, ExecutedBlock
from chainkit.codec import Address, CodecError
from chainkit.execution import InvalidTransaction, intrinsic_gas
from chainkit.fees import suggest_fees
from chainkit.mempool import Mempool
from chainkit.merkle import Tree
from chainkit.signature_pool import SignaturePool
from chainkit.state import Account
from chainkit.submission import check_submitted
from chainkit.transaction import SignedTransaction
from l1node.recent import Recent

CALM_SLOTS = 3
"""How far, in slots, a new block is above the last final one when all goes well: two, and one to spare."""
FIRST_SHARE = 4
"""The share of a full block, one part in so many, that may follow an empty one."""
MAX_HALVINGS = 6
"""How often the room in a block is halved while finality lags, once for every two slots."""
MAX_CHECKING = 4096
"""Transactions from peers whose signatures may wait for their check: a quarter of a second."""
_MOST_AT_ONCE = 256


class Pending:
    """What waits, admitted against the last final state (``tree``); ``counts`` are those of the node."""

    def __init__(self, chain: Chain, tree: Tree, counts: Counter[str]) -> None:
        self.pool = Mempool(chain.rules)
        self.recent = Recent()
        self._chain = chain
        self._counts = counts
        self._checking = 0
        self._signatures = SignaturePool()
        self._at_hand = AtHand()
        self._tree = tree
        self._state = self._at_hand.state(tree)

    def account(self, address: Address) -> Account:
        """An account in the last final block; what was asked is remembered, however many strangers are asked for."""
        if len(self._state.read()) > MOST_AT_HAND:
            self._state = self._at_hand.state(self._tree)
        return self._state.account(address)

    def on_final(self, blocks: Sequence[ExecutedBlock]) -> None:
        """These are the next final blocks: what they took in waits no more."""
        for block in blocks:
            self._at_hand.move(self._tree, block.tree, {**self._state.read(), **block.changes})
            self._tree = block.tree
            self._state = self._at_hand.state(block.tree)
            self.recent.remove(block.transactions)
        if len(self.pool):  # whatever a block took in has changed its sender's nonce
            touched = {k[1:] for block in blocks for k in block.changes if k[:1] == b"a" and len(k) == 33}
            self.pool.update(self._state.account, sorted(touched))

    # --- into a block ---

    def candidates(self, parent: ExecutedBlock, slot: int, final_slot: int) -> Iterator[SignedTransaction]:
        """What a block of ours may take, after ``parent`` in ``slot``, the last final block being of ``final_slot``."""
        if not len(self.pool):
            return iter(())
        base_fee = suggest_fees(self._chain.rules, parent.tree).base_fee
        gas_limit = self._chain.rules.fees.block_gas_limit
        account = self._chain.state(parent.tree).account
        found = self.pool.select(account, base_fee, gas_limit, MAX_BLOCK_BYTES)
        return self._few(found, _room(parent, slot - final_slot, gas_limit))

    def _few(self, candidates: Iterable[SignedTransaction], gas_left: int) -> Iterator[SignedTransaction]:
        """The first of them, at least one: the largest transaction finds its place in any block. What counts is the gas
        that each uses at least: a limit that nobody pays for must not keep others out."""
        for tx in candidates:
            yield tx
            gas_left -= intrinsic_gas(self._chain.rules, tx)
            if gas_left <= 0:
                return

    # --- from users ---

    def admit(self, tx: SignedTransaction) -> SubmitResult:
        """Take a transaction whose signature is good into the pool, or say why not."""
        try:
            self.pool.add(tx, self.account)
        except InvalidTransaction as refusal:
            known = refusal.code == "already_known"
            return SubmitResult(tx.id, known, refusal.code, refusal.message)
        self.recent.add(tx)
        return SubmitResult(tx.id, True)

    # --- from peers ---

    async def receive(self, wires: Sequence[bytes]) -> bool:
        """Transactions from a peer; False if a signature is bad: then the rest was not looked at.

        They are not passed on: the peer told everyone. More than `MAX_CHECKING` at once are left out: who sent them
        has them still.
        """
        fresh = self._fresh(wires)
        if self._checking + len(fresh) > MAX_CHECKING:
            self._counts["transactions_left_out"] += len(fresh)
            return True
        self._checking += len(fresh)
        self.recent.begin_check(fresh)
        try:
            start, size = 0, 1
            while start < len(fresh):  # a few first: one bad signature must not cost the check of a thousand
                if not await self._take(fresh[start : start + size]):
                    return False
                start, size = start + size, min(2 * size, _MOST_AT_ONCE)
        finally:
            self._checking -= len(fresh)
            self.recent.end_check(fresh)
        return True

    async def _take(self, fresh: Sequence[SignedTransaction]) -> bool:
        """Check signatures, and take in what is good; whether all signatures were."""
        unseen = [tx for tx in fresh if not self.recent.is_good(tx)]
        await self._signatures.verify(unseen)
        for tx in fresh:
            if not tx.signature_valid():
                self._counts["bad_signatures_in"] += 1
                return False
            with suppress(InvalidTransaction):
                check_submitted(self._chain.rules, tx)
                self.pool.add(tx, self.account)
                self.recent.add(tx)
                self._counts["transactions_in"] += 1
        return True

    def _fresh(self, wires: Sequence[bytes]) -> list[SignedTransaction]:
        """Those that may be news, by what can be seen without checking a signature."""
        fresh = []
        for wire in wires:
            with suppress(CodecError):
                tx = self.recent.get(wire) or SignedTransaction.decode(
                    wire, limit=self._chain.rules.fees.max_transaction_bytes
                )
                account, body = self.account(tx.body.sender), tx.body
                stale = body.nonce < account.nonce
                if tx.id in self.pool or stale or body.chain_id != self._chain.rules.chain_id:
                    self._counts["duplicates_in"] += 1
                elif body.gas_limit * body.max_fee_per_gas + tx.value > account.balance:
                    self._counts["unpaid_in"] += (
                        1  # the pool would refuse it, after its signature was checked
                    )
                else:
                    fresh.append(tx)
        return fresh


def _room(parent: ExecutedBlock, lag: int, gas_limit: int) -> int:
    """How much gas a block of ours may use: full blocks may take these machines longer than a slot, and then no
    three consecutive ones would come together while the load lasts. So blocks shrink while finality lags, and
    grow from one to the next by no more than twofold."""
    if lag > CALM_SLOTS:
        return gas_limit >> min((lag - CALM_SLOTS + 1) // 2, MAX_HALVINGS)
    return min(gas_limit, max(gas_limit // FIRST_SHARE, 2 * parent.header.gas_used))
