"""A contract that touches as many keys, or as much of them, as its gas allows: the worst step for a proof."""

from hashlib import sha256
from itertools import count

from chainkit.codec import U53, Record
from chainkit.contract import Context, Contract, method

FAT_VALUES = 400


class GreedArgs(Record, frozen=True):
    """``first`` is where the keys begin."""

    first: U53


def stranger(index: int) -> bytes:
    """The address of an account that nobody has the key of."""
    return sha256(b"stranger/%d" % index).digest()


def fat_key(index: int) -> bytes:
    return b"fat/%d" % (index % FAT_VALUES)


def deep_key(index: int) -> bytes:
    """A key whose place in the tree a test chooses: the index in the top seven bits."""
    return b"deep" + (index % 128 << 249).to_bytes(32, "big")


class Greedy(Contract):
    """Every method goes on until its gas is used up."""

    @method(GreedArgs)
    def balances(self, ctx: Context, args: GreedArgs) -> None:
        for i in count(args.first):
            ctx.balance(stranger(i))

    @method(GreedArgs)
    def absent(self, ctx: Context, args: GreedArgs) -> None:
        for i in count(args.first):
            ctx.storage.get(b"absent/%d" % i)

    @method(GreedArgs)
    def deep(self, ctx: Context, args: GreedArgs) -> None:
        for i in count(args.first):
            ctx.storage.get(deep_key(i))

    @method(GreedArgs)
    def create(self, ctx: Context, args: GreedArgs) -> None:
        for i in count(args.first):
            ctx.storage.set(b"new/%d" % i, b"")

    @method(GreedArgs)
    def read_fat(self, ctx: Context, args: GreedArgs) -> None:
        for i in count(args.first):
            ctx.storage.get(fat_key(i))

    @method(GreedArgs)
    def clear_fat(self, ctx: Context, args: GreedArgs) -> None:
        for i in count(args.first):
            ctx.storage.delete(fat_key(i))

    @method(GreedArgs)
    def overwrite_fat(self, ctx: Context, args: GreedArgs) -> None:
        for i in count(args.first):
            ctx.storage.set(fat_key(i), b"x")
