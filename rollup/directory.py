"""The directory of addresses: every address that a packed batch ever named, by number, in order of appearance.

Responsible for numbers, for the root that the contract commits to and for the proof of one entry. The directory only
grows, also through batches that are reverted later: an address is an address whatever became of its batch. The contract
keeps but the `Frontier`; whoever has L1's batches has the `Directory`. Must not know what stands in a batch.
"""

from collections.abc import Sequence

from chainkit.codec import U53, Address, Bytes32, Record
from chainkit.merkle_list import extend_peaks, list_proof, peaks_root

SIZE = 32


class Frontier(Record, frozen=True):
    """What it takes to append to the directory and to know its root: the tops of its full subtrees."""

    count: U53 = 0
    peaks: list[Bytes32] = []  # noqa: RUF012 - msgspec copies it

    def append(self, addresses: Sequence[Address]) -> "Frontier":
        return Frontier(self.count + len(addresses), extend_peaks(self.count, self.peaks, addresses))

    def root(self) -> Bytes32:
        """The list root of all addresses."""
        return peaks_root(self.count, self.peaks)


class Directory:
    """The addresses themselves: 32 bytes each in one array, and an index from address to number once one is asked."""

    def __init__(self) -> None:
        self.frontier = Frontier()
        self._data = bytearray()
        self._numbers: dict[Address, int] | None = None

    def __len__(self) -> int:
        return self.frontier.count

    def __getitem__(self, number: int) -> Address:
        """The address with a number. Raises `IndexError`."""
        if not 0 <= number < len(self):
            raise IndexError(f"no address {number} in a directory of {len(self)}")
        return bytes(self._data[SIZE * number : SIZE * (number + 1)])

    def at(self, numbers: Sequence[int]) -> list[Address]:
        """The addresses with these numbers. Raises `IndexError`."""
        if numbers and not 0 <= min(numbers) <= max(numbers) < len(self):
            raise IndexError(f"an address beyond a directory of {len(self)}")
        data = memoryview(self._data)
        return [bytes(data[start : start + SIZE]) for start in map(SIZE.__mul__, numbers)]

    def append(self, addresses: Sequence[Address]) -> None:
        """Give the next numbers to these addresses."""
        if self._numbers is not None:
            for number, address in enumerate(addresses, len(self)):
                self._numbers.setdefault(address, number)
        self._data += b"".join(addresses)
        self.frontier = self.frontier.append(addresses)

    def numbers(self) -> dict[Address, int]:
        """The first number of each address. To be read only."""
        if self._numbers is None:
            self._numbers = {}
            for number in range(len(self)):
                self._numbers.setdefault(self[number], number)
        return self._numbers

    def proof(self, number: int, count: int) -> list[Bytes32]:
        """The siblings of an entry in the directory as it was with ``count`` entries (one dispute in a while)."""
        return list_proof([self[i] for i in range(count)], number)
