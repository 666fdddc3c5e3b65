"""The mempool: transactions that wait for a block.

Responsible for which transactions are held, which make room for others, and in what order they are offered.
Must not know who makes blocks, nor how transactions come in; accounts are looked up by a function.

Every cap is hard. What is *gapped* (an earlier nonce of its sender is missing) cannot run now: it has a small
share of the room and is the first to go, so that a flood of it keeps nobody out (promise P23). A sender must
be able to pay for all that it has waiting, so that a flood needs as much money as it claims to spend.
"""

from bisect import insort
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush

from chainkit.codec import Address, Bytes32
from chainkit.execution import InvalidTransaction, Rules, check_stateless, intrinsic_gas
from chainkit.state import Account
from chainkit.transaction import SignedTransaction

AccountLookup = Callable[[Address], Account]

GAPPED_SHARE = 8
"""Gapped transactions may take one part in so many of the room."""
_GAPPED, _READY = 0, 1
_HEAP_SLACK = 1024
MAX_MISSES = 64
"""`Mempool.select` ends when so many in a row were too large for what is left of the block."""


@dataclass(slots=True)
class _Entry:
    tx: SignedTransaction
    seq: int
    cost: int  # gwei, at most: gas_limit * max_fee_per_gas + value


@dataclass(slots=True)
class _Sender:
    nonce: int  # the account's next
    end: int  # the first nonce from there on that is missing
    entries: dict[int, _Entry] = field(default_factory=dict)
    nonces: list[int] = field(default_factory=list)  # sorted
    cost: int = 0
    gapped: int = 0
    gapped_bytes: int = 0
    place: tuple[int, int] = (0, 0)  # no transaction of this sender comes before it in the order of `select`

    def class_of(self, nonce: int) -> int:
        """Whether a transaction with this nonce could run after those before it."""
        return _READY if nonce <= self.end else _GAPPED


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
        self._senders: dict[Address, _Sender] = {}
        self._by_id: dict[Bytes32, SignedTransaction] = {}
        self._tails: list[
            tuple[int, int, int, Address, int]
        ] = []  # heap: the first to go first; may be stale
        self._places: list[tuple[int, int, Address]] = []  # heap: who may be offered first; may be stale
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
            for nonce in sender.nonces:
                yield sender.entries[nonce].tx

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
        check_stateless(self._rules, tx)
        body = tx.body
        account = account_of(body.sender)
        self._check_nonce(body.nonce, account)
        entry = _Entry(tx, self._seq, body.gas_limit * body.max_fee_per_gas + tx.value)
        sender = self._senders.get(body.sender)
        if sender is not None and sender.nonce != account.nonce:
            self._refresh(body.sender, sender, account)
            sender = self._senders.get(body.sender)
        sender = sender or _Sender(account.nonce, account.nonce)
        old = sender.entries.get(body.nonce)
        if old is not None:
            _check_replacement(old.tx, tx)
        total = sender.cost + entry.cost - (old.cost if old else 0)
        if total > account.balance:
            raise InvalidTransaction(
                "insufficient_balance",
                f"with what is waiting already it needs {total} gwei, the account has {account.balance}",
            )
        gone = self._make_room(entry, sender.class_of(body.nonce), old)
        self._seq += 1
        self._senders[body.sender] = sender
        if old is None:
            self._insert(body.sender, sender, entry)
        else:
            self._swap(body.sender, sender, old, entry)
            gone.append(old.tx)
        self._compact()
        return gone

    def _check_nonce(self, nonce: int, account: Account) -> None:
        if nonce < account.nonce:
            raise InvalidTransaction("stale_nonce", f"nonce {nonce}; the account's next is {account.nonce}")
        if nonce >= account.nonce + self._max_per_sender:
            raise InvalidTransaction(
                "nonce_gap",
                f"nonce {nonce} is too far ahead; the account's next is {account.nonce} "
                f"and {self._max_per_sender} may wait",
            )

    def _make_room(self, entry: _Entry, kind: int, old: _Entry | None) -> list[SignedTransaction]:
        """Push out what must go; if that is not worth less than ``entry``, undo it and refuse."""
        rank = (kind, entry.tx.body.max_fee_per_gas)
        count = 0 if old else 1
        size = len(entry.tx.wire) - (len(old.tx.wire) if old else 0)
        gone: list[tuple[_Sender, _Entry]] = []
        while not self._fits(count, size, kind):
            victim = self._first_to_go(entry.tx)
            if victim is None or victim[:2] >= rank:
                for sender, evicted in reversed(gone):
                    self._senders[evicted.tx.body.sender] = sender
                    self._insert(evicted.tx.body.sender, sender, evicted)
                self._compact()
                raise InvalidTransaction(
                    "mempool_full", "the mempool is full; offer a higher max_fee_per_gas"
                )
            address = victim[3]
            sender = self._senders[address]
            gone.append((sender, self._remove_last(address, sender)))
        return [evicted.tx for _, evicted in gone]

    def _fits(self, count: int, size: int, kind: int) -> bool:
        if len(self._by_id) + count > self._max_transactions or self._bytes + size > self._max_bytes:
            return False
        return kind == _READY or (
            self._gapped + count <= max(1, self._max_transactions // GAPPED_SHARE)
            and self._gapped_bytes + size <= self._max_bytes // GAPPED_SHARE
        )

    def _first_to_go(self, newcomer: SignedTransaction) -> tuple[int, int, int, Address, int] | None:
        """The last transaction of some sender: gapped before ready, then cheap before dear, then late first.

        Never one that the newcomer itself builds on or replaces.
        """
        aside = None
        found = None
        while self._tails and found is None:
            top = self._tails[0]
            address, nonce = top[3], top[4]
            if not self._is_current(top):
                heappop(self._tails)
            elif address == newcomer.body.sender and nonce <= newcomer.body.nonce:
                aside = heappop(self._tails)
            else:
                found = top
        if aside is not None:
            heappush(self._tails, aside)
        return found

    def _is_current(self, tail: tuple[int, int, int, Address, int]) -> bool:
        kind, _, seq, address, nonce = tail
        sender = self._senders.get(address)
        if sender is None or not sender.nonces or sender.nonces[-1] != nonce:
            return False
        return sender.entries[nonce].seq == -seq and sender.class_of(nonce) == kind

    # --- offering ---

    def select(
        self, account_of: AccountLookup, base_fee: int, gas_limit: int, max_bytes: int
    ) -> Iterator[SignedTransaction]:
        """What may run on that state: each sender's in nonce order, the best tip first, then the oldest.

        Ends when the block is certainly full: by bytes, or by the least gas that each uses. How much they
        really use only execution knows, so whoever builds must still skip what no longer fits.
        """
        # Who is behind in `_places` cannot come before who is in front: only those in front are looked at.
        queue: list[tuple[int, int, Address, int]] = []
        looked_at: dict[Address, tuple[int, int, Address]] = {}
        gas_left, bytes_left, misses = gas_limit, max_bytes, 0
        try:
            while misses < MAX_MISSES:
                while self._places and (not queue or self._places[0][:2] <= queue[0][:2]):
                    top = heappop(self._places)
                    if self._stands(top) and top[2] not in looked_at:
                        looked_at[top[2]] = top
                        self._enqueue(queue, top[2], account_of(top[2]).nonce, base_fee)
                if not queue:
                    break
                _, seq, address, nonce = heappop(queue)
                sender = self._senders.get(address)
                entry = sender.entries.get(nonce) if sender else None
                if entry is None or entry.seq != seq:
                    continue  # replaced or removed since
                tx = entry.tx
                least = intrinsic_gas(self._rules, tx)
                if tx.body.gas_limit > gas_limit or least > gas_left or len(tx.wire) > bytes_left:
                    misses += 1
                    continue
                misses = 0
                gas_left -= least
                bytes_left -= len(tx.wire)
                self._enqueue(queue, address, nonce + 1, base_fee)
                yield tx
        finally:
            for top in looked_at.values():
                heappush(self._places, top)

    def _stands(self, top: tuple[int, int, Address]) -> bool:
        sender = self._senders.get(top[2])
        return sender is not None and sender.place == top[:2]

    def _enqueue(
        self, queue: list[tuple[int, int, Address, int]], address: Address, nonce: int, base_fee: int
    ) -> None:
        sender = self._senders.get(address)
        entry = sender.entries.get(nonce) if sender else None
        if entry is not None and entry.tx.body.max_fee_per_gas >= base_fee:
            heappush(queue, (-_tip(entry.tx, base_fee), entry.seq, address, nonce))

    # --- after a block ---

    def remove_included(self, transactions: Sequence[SignedTransaction]) -> None:
        """Forget the transactions of a block, and whatever else had their nonces."""
        nonces: dict[Address, int] = {}
        for tx in transactions:
            nonces[tx.body.sender] = max(tx.body.nonce + 1, nonces.get(tx.body.sender, 0))
        for address, nonce in nonces.items():
            sender = self._senders.get(address)
            if sender is not None and sender.nonce < nonce:
                self._refresh(address, sender, Account(sender.cost, nonce))
        self._compact()

    def update(
        self, account_of: AccountLookup, addresses: Iterable[Address] | None = None
    ) -> list[SignedTransaction]:
        """Drop, and return, what can no longer run: stale, too far ahead, or no longer paid for.

        With ``addresses`` only those accounts are looked at (the ones that a block changed).
        """
        dropped: list[SignedTransaction] = []
        for address in list(self._senders) if addresses is None else addresses:
            sender = self._senders.get(address)
            if sender is not None:
                dropped += self._refresh(address, sender, account_of(address))
        self._compact()
        return dropped

    def remove(self, tx_id: Bytes32) -> None:
        """Forget one transaction, if it is here (execution found that it may not run)."""
        tx = self._by_id.get(tx_id)
        if tx is not None:
            sender = self._senders[tx.body.sender]
            del sender.entries[tx.body.nonce]
            self._rebuild(tx.body.sender, sender, [tx])
            self._compact()

    def _refresh(self, address: Address, sender: _Sender, account: Account) -> list[SignedTransaction]:
        """Bring one sender up to its account; returns what had to go."""
        if (
            sender.nonces[-1] < account.nonce and not sender.gapped
        ):  # as after nearly every block: all are in it
            gone = [entry.tx for entry in sender.entries.values()]
            for tx in gone:
                del self._by_id[tx.id]
                self._bytes -= len(tx.wire)
            del self._senders[address]
            return gone
        sender.nonce = account.nonce
        kept: dict[int, _Entry] = {}
        dropped: list[SignedTransaction] = []
        cost = 0
        for nonce in sender.nonces:
            entry = sender.entries[nonce]
            inside = account.nonce <= nonce < account.nonce + self._max_per_sender
            if inside:
                cost += entry.cost  # once it exceeds the balance, all later ones go too
            if inside and cost <= account.balance:
                kept[nonce] = entry
            else:
                dropped.append(entry.tx)
        sender.entries = kept
        self._rebuild(address, sender, dropped)
        return dropped

    # --- bookkeeping: everything below keeps all counters in step ---

    def _insert(self, address: Address, sender: _Sender, entry: _Entry) -> None:
        nonce, size = entry.tx.body.nonce, len(entry.tx.wire)
        kind = sender.class_of(nonce)
        sender.entries[nonce] = entry
        insort(sender.nonces, nonce)
        sender.cost += entry.cost
        self._by_id[entry.tx.id] = entry.tx
        self._bytes += size
        self._place(address, sender, entry)
        if kind == _GAPPED:
            self._count_gapped(sender, 1, size)
        else:
            sender.end += 1
            while (promoted := sender.entries.get(sender.end)) is not None:
                self._count_gapped(sender, -1, -len(promoted.tx.wire))
                sender.end += 1
        self._push_tail(address, sender)

    def _swap(self, address: Address, sender: _Sender, old: _Entry, new: _Entry) -> None:
        nonce, growth = new.tx.body.nonce, len(new.tx.wire) - len(old.tx.wire)
        sender.entries[nonce] = new
        sender.cost += new.cost - old.cost
        del self._by_id[old.tx.id]
        self._by_id[new.tx.id] = new.tx
        self._bytes += growth
        self._place(address, sender, new)
        if nonce >= sender.end:
            self._count_gapped(sender, 0, growth)
        self._push_tail(address, sender)

    def _remove_last(self, address: Address, sender: _Sender) -> _Entry:
        nonce = sender.nonces.pop()
        entry = sender.entries.pop(nonce)
        size = len(entry.tx.wire)
        sender.cost -= entry.cost
        del self._by_id[entry.tx.id]
        self._bytes -= size
        if nonce < sender.end:
            sender.end = nonce
        else:
            self._count_gapped(sender, -1, -size)
        if sender.nonces:
            self._push_tail(address, sender)
        else:
            del self._senders[address]
        return entry

    def _rebuild(self, address: Address, sender: _Sender, dropped: Sequence[SignedTransaction]) -> None:
        """Recount a sender from its entries, after ``dropped`` left them."""
        for tx in dropped:
            del self._by_id[tx.id]
            self._bytes -= len(tx.wire)
        self._count_gapped(sender, -sender.gapped, -sender.gapped_bytes)
        sender.nonces = sorted(sender.entries)
        sender.cost = sum(entry.cost for entry in sender.entries.values())
        sender.end = sender.nonce
        while sender.end in sender.entries:
            sender.end += 1
        for nonce in sender.nonces:
            if nonce > sender.end:
                self._count_gapped(sender, 1, len(sender.entries[nonce].tx.wire))
        if sender.nonces:
            self._push_tail(address, sender)
            first, *others = sender.entries.values()
            sender.place = _best(first)
            for entry in others:
                sender.place = min(sender.place, _best(entry))
            heappush(self._places, (*sender.place, address))
        else:
            del self._senders[address]

    def _place(self, address: Address, sender: _Sender, entry: _Entry) -> None:
        """Let `select` find a sender with one transaction more."""
        best = _best(entry)
        if len(sender.entries) == 1 or best < sender.place:
            sender.place = best
            heappush(self._places, (*best, address))

    def _count_gapped(self, sender: _Sender, count: int, size: int) -> None:
        sender.gapped += count
        sender.gapped_bytes += size
        self._gapped += count
        self._gapped_bytes += size

    def _push_tail(self, address: Address, sender: _Sender) -> None:
        nonce = sender.nonces[-1]
        entry = sender.entries[nonce]
        fee = entry.tx.body.max_fee_per_gas
        heappush(self._tails, (sender.class_of(nonce), fee, -entry.seq, address, nonce))

    def _compact(self) -> None:
        """Rebuild the heap once most of it is stale, so that it stays as small as what is held."""
        if len(self._tails) > 2 * len(self._senders) + _HEAP_SLACK:
            self._tails = []
            for address, sender in self._senders.items():
                self._push_tail(address, sender)
        if len(self._places) > 2 * len(self._senders) + _HEAP_SLACK:
            self._places = [(*sender.place, address) for address, sender in self._senders.items()]
            heapify(self._places)


def _check_replacement(old: SignedTransaction, new: SignedTransaction) -> None:
    """A replacement pays a tenth more in both parts, or it would be a free way to make everyone work."""
    for name in ("max_fee_per_gas", "tip_per_gas"):
        before, after = getattr(old.body, name), getattr(new.body, name)
        if 10 * after < 11 * before:
            raise InvalidTransaction(
                "replacement_underpriced", f"{name} must be at least {-(-11 * before // 10)} to replace it"
            )


def _best(entry: _Entry) -> tuple[int, int]:
    """Before this place in the order of `select` the transaction cannot come, whatever the base fee is."""
    return -entry.tx.body.tip_per_gas, entry.seq


def _tip(tx: SignedTransaction, base_fee: int) -> int:
    """What the builder earns per gas; negative if the base fee is not covered."""
    return min(tx.body.tip_per_gas, tx.body.max_fee_per_gas - base_fee)
