"""The mempool: transactions that wait for a block.

Responsible for which transactions are held, which make room for others, and in what order they are offered.
Must not know who makes blocks, nor how transactions come in; accounts are looked up by a function.

Every cap is hard. What is *gapped* (an earlier nonce of its sender is missing) cannot run now: it has a small
share of the room and is the first to go, so that a flood of it keeps nobody out (promise P23). A sender must
be able to pay for all that it has waiting, so that a flood needs as much money as it claims to spend.

What makes it fast: nothing is kept twice (`chainkit.waiting`); what comes next of its sender, while there is room, is
put at the end of a list (`Mempool.add`); what ran was nearly always all that its sender had, and otherwise only the
front of it is taken off (`Mempool.remove_included`); who was looked at for a block is put back only if it is still
there when the next one is made (`chainkit.offering`); the order in which transactions would have to go exists only
while the pool is full (`chainkit.eviction`).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence

from chainkit.codec import Address, Bytes32
from chainkit.eviction import Eviction
from chainkit.execution import InvalidTransaction, Rules, check_stateless
from chainkit.fees import least_to_replace
from chainkit.offering import Offering
from chainkit.state import Account
from chainkit.transaction import SignedTransaction
from chainkit.waiting import GAPPED, Entry, Sender, make_entry

AccountLookup = Callable[[Address], Account]

GAPPED_SHARE = 8
"""Gapped transactions may take one part in so many of the room."""


class Mempool:
    """Pending transactions of one chain.

    Parameters
    ----------
    rules
        The chain's execution rules: what they refuse for good is refused here.
    max_transactions, max_bytes
        Caps on all that is held. A gapped newcomer is taken in only while such have under an eighth of each
        (a reorganisation may make more of them).
    max_per_sender
        How far a nonce may be ahead of the account's, and so how many transactions a sender may have here.

    The accounts given to `add` and `update` should be of one and the same head (a node: the last final one,
    so that what an orphaned block contained is still here); those given to `select` are of the parent that
    the block is built on.
    """

    def __init__(
        self,
        rules: Rules,
        *,
        max_transactions: int = 20_000,
        max_bytes: int = 32 * 1024 * 1024,
        max_per_sender: int = 64,
    ) -> None:
        if min(max_transactions, max_bytes, max_per_sender) < 1:
            raise ValueError("every cap of a mempool must be positive")
        self._rules = rules
        self._max_transactions = max_transactions
        self._max_bytes = max_bytes
        self._max_per_sender = max_per_sender
        self._senders: dict[Address, Sender] = {}
        self._by_id: dict[Bytes32, SignedTransaction] = {}
        self._eviction = Eviction(self._senders)
        self._offering = Offering(rules, self._senders)
        self._bytes = 0
        self._gapped = 0
        self._gapped_bytes = 0
        self._seq = 0

    # --- what is held ---

    def __len__(self) -> int:
        return len(self._by_id)

    def __contains__(self, tx_id: Bytes32) -> bool:
        return tx_id in self._by_id

    def __iter__(self) -> Iterator[SignedTransaction]:
        """Every transaction held, those of a sender in nonce order (for gossip and snapshots)."""
        for sender in self._senders.values():
            for entry in sender.entries:
                yield entry.tx

    @property
    def size(self) -> int:
        """Bytes of all transactions held."""
        return self._bytes

    @property
    def gapped(self) -> int:
        """How many of them wait for an earlier nonce."""
        return self._gapped

    def get(self, tx_id: Bytes32) -> SignedTransaction | None:
        return self._by_id.get(tx_id)

    def next_nonce(self, address: Address, account: Account) -> int:
        """The nonce that the account's next transaction should have, given those that wait here."""
        sender = self._senders.get(address)
        return account.nonce if sender is None else max(account.nonce, sender.end)

    # --- taking in ---

    def add(self, tx: SignedTransaction, account_of: AccountLookup) -> list[SignedTransaction]:
        """Take in a transaction; returns those that it replaced or pushed out.

        Raises `InvalidTransaction`, having changed nothing but forgotten what the account's nonce made stale,
        with the codes of `chainkit.execution.check_stateless`, or ``already_known``, ``stale_nonce``,
        ``nonce_gap``, ``insufficient_balance``, ``replacement_underpriced``, ``mempool_full``.
        A fee under the present base fee is no reason to refuse: the base fee moves.
        """
        if tx.id in self._by_id:
            raise InvalidTransaction("already_known", "the transaction is already waiting")
        if tx.passed is not self._rules:
            check_stateless(self._rules, tx)
        nonce, address = tx.body.nonce, tx.body.sender
        account = account_of(address)
        if not account.nonce <= nonce < account.nonce + self._max_per_sender:
            self._refuse_nonce(nonce, account)
        sender = self._senders.get(address)
        if sender is not None and sender.nonce != account.nonce:
            self._refresh(address, sender, account)
            sender = self._senders.get(address)
        entry = make_entry(tx, self._seq)
        if self._add_next(address, sender, account, entry):
            return []
        if sender is None:
            sender = Sender(account.nonce)
        old = sender.at(nonce)
        if old is not None:
            _check_replacement(old.tx, tx)
        total = sender.cost + entry.cost - (old.cost if old else 0)
        if total > account.balance:
            raise InvalidTransaction(
                "insufficient_balance",
                f"with what is waiting already it needs {total} gwei, the account has {account.balance}",
            )
        gone = self._make_room(entry, sender.standing_of(nonce), old)
        self._seq += 1
        self._senders[address] = sender
        if old is None:
            self._by_id[tx.id] = tx
            self._insert(address, sender, entry)
        else:
            self._swap(address, sender, old, entry)
            gone.append(old.tx)
        if self._eviction.active and self._has_plenty():
            self._eviction.forget()
        return gone

    def _add_next(self, address: Address, sender: Sender | None, account: Account, entry: Entry) -> bool:
        """What the rest of `add` does with a sender's next transaction while there is room for it and nothing waits
        behind a gap; False if it is not so, and nothing was done."""
        tx, by_id = entry.tx, self._by_id
        size = self._bytes + len(tx.wire)
        if len(by_id) >= self._max_transactions or size > self._max_bytes or self._eviction.active:
            return False
        if sender is None:
            if tx.body.nonce != account.nonce or entry.cost > account.balance:
                return False
            self._senders[address] = sender = Sender(account.nonce, [entry], [], entry.cost)
            self._offering.place(address, sender, entry.key)
        else:
            ready, cost = sender.ready, sender.cost + entry.cost
            if sender.gapped or tx.body.nonce != sender.nonce + len(ready) or cost > account.balance:
                return False
            ready.append(entry)
            sender.cost = cost
            if entry.key < sender.place:
                self._offering.place(address, sender, entry.key)
        by_id[tx.id] = tx
        self._bytes = size
        self._seq += 1
        return True

    def _refuse_nonce(self, nonce: int, account: Account) -> None:
        if nonce < account.nonce:
            raise InvalidTransaction("stale_nonce", f"nonce {nonce}; the account's next is {account.nonce}")
        raise InvalidTransaction(
            "nonce_gap",
            f"nonce {nonce} is too far ahead; the account's next is {account.nonce} "
            f"and {self._max_per_sender} may wait",
        )

    def _make_room(self, entry: Entry, standing: int, old: Entry | None) -> list[SignedTransaction]:
        """Push out what must go; if that is not worth less than ``entry``, undo it (ages, too) and refuse."""
        count, size = (0, len(entry.tx.wire) - len(old.tx.wire)) if old else (1, len(entry.tx.wire))
        gone: list[tuple[Sender, Entry]] = []
        while not self._fits(count, size, len(gone), ready=standing != GAPPED):
            victim = self._eviction.first(entry.tx.body.sender, entry.tx.body.nonce)
            if victim is None or victim[:2] >= (standing, entry.tx.body.max_fee_per_gas):
                for sender, evicted in reversed(gone):
                    self._senders[evicted.tx.body.sender] = sender
                    self._insert(evicted.tx.body.sender, sender, evicted)
                raise InvalidTransaction(
                    "mempool_full", "the mempool is full; offer a higher max_fee_per_gas"
                )
            sender = self._senders[victim.address]
            gone.append((sender, self._take_last(victim.address, sender)))
        for _, evicted in gone:
            del self._by_id[evicted.tx.id]
        return [evicted.tx for _, evicted in gone]

    def _fits(self, count: int, size: int, gone: int, *, ready: bool) -> bool:
        """Whether so much more fits, so many having been taken from their senders, but not yet from `_by_id`."""
        if len(self._by_id) - gone + count > self._max_transactions or self._bytes + size > self._max_bytes:
            return False
        return ready or (
            self._gapped + count <= max(1, self._max_transactions // GAPPED_SHARE)
            and self._gapped_bytes + size <= self._max_bytes // GAPPED_SHARE
        )

    # --- offering ---

    def select(
        self, account_of: AccountLookup | None, base_fee: int, gas_limit: int, max_bytes: int
    ) -> Iterator[SignedTransaction]:
        """What may run on that state (None: the one that `add` and `update` were told of last): each sender's in
        nonce order, the best tip first, then the oldest.

        If there is more than a block takes, an eighth of it is for those that have waited longest, whatever they
        bid: a flood that bids more than somebody else may delay him, but not for as long as it lasts (P23).
        Ends when the block is certainly full: by bytes, or by the least gas that each uses. How much they
        really use only execution knows, so whoever builds must still skip what no longer fits.
        """
        oldest = self._by_id.values() if self._bytes > max_bytes else ()
        return self._offering.select(account_of, base_fee, gas_limit, max_bytes, oldest)

    # --- after a block ---

    def remove_included(self, transactions: Iterable[SignedTransaction], account_of: AccountLookup) -> None:
        """Forget what ran in a block, and bring up to its account after the block what else its senders have.

        Nearly always it was all that its sender had: then nobody asks for the account.
        """
        senders, by_id = self._senders, self._by_id
        others: dict[Address, None] = {}
        for tx in transactions:
            address = tx.body.sender
            sender = senders.get(address)
            if sender is None:
                continue
            ready = sender.ready
            if len(ready) == 1 and ready[0].tx is tx and not sender.gapped:
                ready.clear()
                del senders[address], by_id[tx.id]
                self._bytes -= len(tx.wire)
            else:
                others[address] = None
        self.update(account_of, others)

    def update(
        self, account_of: AccountLookup, addresses: Iterable[Address] | None = None
    ) -> list[SignedTransaction]:
        """Drop, and return, what can no longer run: stale, too far ahead, or no longer paid for.

        With ``addresses`` only those accounts are looked at (the ones that a block changed).
        """
        senders, by_id = self._senders, self._by_id
        dropped: list[SignedTransaction] = []
        for address in list(senders) if addresses is None else addresses:
            sender = senders.get(address)
            if sender is None:
                continue
            account, ready = account_of(address), sender.ready
            if account.nonce - sender.nonce != len(ready) or sender.gapped:
                dropped += self._refresh(address, sender, account)
                continue
            for entry in ready:  # all that it had is in a block
                tx = entry.tx
                self._bytes -= len(tx.wire)
                del by_id[tx.id]
                dropped.append(tx)
            ready.clear()
            del senders[address]
        return dropped

    def remove(self, tx_id: Bytes32) -> None:
        """Forget one transaction, if it is here (execution found that it may not run)."""
        tx = self._by_id.get(tx_id)
        if tx is not None:
            sender = self._senders[tx.body.sender]
            self._keep(
                tx.body.sender, sender, [entry for entry in sender.entries if entry.tx is not tx], [tx]
            )

    def _refresh(self, address: Address, sender: Sender, account: Account) -> list[SignedTransaction]:
        """Bring one sender up to its account; returns what had to go."""
        gone: list[SignedTransaction] = []
        if sender.nonce <= account.nonce <= sender.end:
            gone = self._take_front(address, sender, account.nonce)
            if sender.cost <= account.balance:  # as after nearly every block
                return gone
        kept, dropped = sender.split(account, self._max_per_sender)
        sender.nonce = account.nonce
        lost = [entry.tx for entry in dropped]
        self._keep(address, sender, kept, lost)
        return gone + lost

    def _take_front(self, address: Address, sender: Sender, nonce: int) -> list[SignedTransaction]:
        """Forget what is before ``nonce``, up to which none is missing: whatever waits behind stays as it is."""
        gone = [entry.tx for entry in sender.take_front(nonce)]
        for tx in gone:
            self._bytes -= len(tx.wire)
            del self._by_id[tx.id]
        if not (sender.ready or sender.gapped):
            del self._senders[address]
        elif gone:
            self._offering.place(address, sender, sender.best())
            self._eviction.changed(address, sender)
        return gone

    # --- bookkeeping: everything below keeps all counters in step ---

    def _insert(self, address: Address, sender: Sender, entry: Entry) -> None:
        """Put one among its sender's that is in `_by_id`."""
        self._bytes += len(entry.tx.wire)
        before = _gapped(sender)
        sender.put(entry)
        self._count_gapped(sender, before)
        self._place(address, sender, entry)
        self._eviction.changed(address, sender)

    def _swap(self, address: Address, sender: Sender, old: Entry, new: Entry) -> None:
        before = _gapped(sender)
        sender.swap(old, new)
        self._count_gapped(sender, before)
        del self._by_id[old.tx.id]
        self._by_id[new.tx.id] = new.tx
        self._bytes += len(new.tx.wire) - len(old.tx.wire)
        self._place(address, sender, new)
        self._eviction.changed(address, sender)

    def _take_last(self, address: Address, sender: Sender) -> Entry:
        """Take a sender's last one from everywhere but `_by_id`."""
        before = _gapped(sender)
        entry = sender.take_last()
        self._count_gapped(sender, before)
        self._bytes -= len(entry.tx.wire)
        if sender.ready or sender.gapped:
            self._eviction.changed(address, sender)
        else:
            del self._senders[address]
        return entry

    def _keep(
        self, address: Address, sender: Sender, kept: list[Entry], dropped: Sequence[SignedTransaction]
    ) -> None:
        """Leave a sender with these, without those."""
        for tx in dropped:
            del self._by_id[tx.id]
            self._bytes -= len(tx.wire)
        before = _gapped(sender)
        sender.keep(kept)
        self._count_gapped(sender, before)
        if kept:
            self._eviction.changed(address, sender)
            self._offering.place(address, sender, sender.best())
        else:
            del self._senders[address]

    def _place(self, address: Address, sender: Sender, entry: Entry) -> None:
        """Let `select` find a sender with one transaction more."""
        if len(sender.ready) + len(sender.gapped) == 1 or entry.key < sender.place:
            self._offering.place(address, sender, entry.key)

    def _count_gapped(self, sender: Sender, before: tuple[int, int]) -> None:
        """Count in what changed of a sender since `_gapped` said so of it."""
        count, size = before
        self._gapped += len(sender.gapped) - count
        self._gapped_bytes += sender.gapped_bytes - size

    def _has_plenty(self) -> bool:
        """Whether half of everything is free. (Not a little: to rank all again must be paid for by many newcomers.)"""
        return (
            2 * len(self._by_id) <= self._max_transactions
            and 2 * self._bytes <= self._max_bytes
            and 2 * GAPPED_SHARE * self._gapped <= self._max_transactions
            and 2 * GAPPED_SHARE * self._gapped_bytes <= self._max_bytes
        )


def _gapped(sender: Sender) -> tuple[int, int]:
    """How many of a sender's are gapped, and their bytes."""
    return len(sender.gapped), sender.gapped_bytes


def _check_replacement(old: SignedTransaction, new: SignedTransaction) -> None:
    """A replacement pays a tenth more in both parts, or it would be a free way to make everyone work."""
    for name in ("max_fee_per_gas", "tip_per_gas"):
        before, after = getattr(old.body, name), getattr(new.body, name)
        if after < least_to_replace(before):
            raise InvalidTransaction(
                "replacement_underpriced", f"{name} must be at least {least_to_replace(before)} to replace it"
            )
