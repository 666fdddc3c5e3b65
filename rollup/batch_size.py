"""How large the data of some blocks is at most, in whichever format: known before anything is packed.

Responsible for a bound that no block breaks, near enough to what packing gives that batches are well filled. Must not
know what else a batch has to fit, nor who posts it. Both formats are told in `rollup.batch` and `rollup.packing`.
"""

from typing import Final, NamedTuple
from weakref import WeakKeyDictionary

from chainkit.codec import MAX_AMOUNT, Address, encode
from chainkit.keys import ADDRESS_SIZE
from chainkit.transaction import Transfer
from rollup.block import L2Block
from rollup.directory import Directory
from rollup.packing import SIGNATURE_BYTES, column_width

_ENVELOPE: Final = 1024
"""Version, lengths of columns, and what deflate adds where nothing can be made smaller (5 bytes for each 16 KB)."""
_BLOCK: Final = 32
_ITEM: Final = 5
"""The length that stands before a byte string in a list."""
_KIND: Final = 1


class _Extent(NamedTuple):
    """What one block brings: its own transactions' bytes in the plain format, and what its columns depend on."""

    plain: int
    is_odd: bool
    """One of them cannot be decoded: it has no packed form, nor has a batch with it."""
    transactions: int
    named: frozenset[Address]
    calls: int
    """Bytes of the actions that are no transfers."""
    largest: tuple[int, ...]
    """Gas limit, maximum fee, tip, amount."""


_extents: Final[WeakKeyDictionary[L2Block, _Extent]] = WeakKeyDictionary()
"""Of blocks that wait to be posted, which are asked for again and again; it holds none of them."""


class BatchSize:
    """The size of a batch, block by block, that is packed against this directory."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        self._named: set[Address] = set()  # which have no number there
        self._plain = _ENVELOPE
        self._is_odd = False
        self._transactions = self._others = 0
        self._largest: tuple[int, ...] = (0, 0, 0, 0)

    @property
    def bytes(self) -> int:
        """Of the smaller format at most."""
        return self._plain if self._is_odd else min(self._plain, self._packed)

    @property
    def _packed(self) -> int:
        """A row's numbers are as wide as the widest of its column; nonces may be any."""
        number = column_width(len(self._directory) + len(self._named))
        numbers = 2 * number + column_width(MAX_AMOUNT) + sum(map(column_width, self._largest))
        row = _KIND + numbers + SIGNATURE_BYTES
        return _ENVELOPE + self._others + row * self._transactions + ADDRESS_SIZE * len(self._named)

    def add(self, block: L2Block) -> None:
        """One block more."""
        extent = _extents.get(block)
        if extent is None:
            extent = _extents[block] = _extent(block)
        self._plain += extent.plain
        self._is_odd = self._is_odd or extent.is_odd
        self._transactions += extent.transactions
        self._others += _BLOCK + extent.calls
        self._largest = tuple(map(max, self._largest, extent.largest))
        self._named |= extent.named.difference(self._directory.numbers())


def _extent(block: L2Block) -> _Extent:
    wires = block.wires
    bodies = [tx.body for tx in block.own_transactions if tx is not None]
    transfers = [body.action for body in bodies if isinstance(body.action, Transfer)]
    calls = [encode(body.action) for body in bodies if not isinstance(body.action, Transfer)]
    return _Extent(
        _BLOCK + sum([len(wire) + _ITEM for wire in wires]),
        len(bodies) < len(wires),
        len(bodies),
        frozenset([*(body.sender for body in bodies), *(transfer.to for transfer in transfers)]),
        sum([len(call) + _ITEM for call in calls]),
        (
            max([body.gas_limit for body in bodies], default=0),
            max([body.max_fee_per_gas for body in bodies], default=0),
            max([body.tip_per_gas for body in bodies], default=0),
            max([transfer.amount for transfer in transfers], default=0),
        ),
    )
