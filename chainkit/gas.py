"""The price list of execution, and the meter.

Responsible for how much gas each thing costs: deterministic, per transaction, byte, state access, signature
and hash. Must not know who pays or what a unit is worth (chainkit/fees.py does).
"""

TRANSACTION = 2_000  # sender, fee and block bookkeeping
SIGNATURE = 3_000  # one Ed25519 verification
READ = 2_000  # one state access: in a one-step proof it costs a Merkle path
WRITE = 2_000
VALUE_BYTE = 4  # per byte read from or written to storage, and per byte of the value that a write replaces
NEW_ACCOUNT = 3_000
EVENT = 400
EVENT_BYTE = 4
HASH = 60  # one SHA-256 in a Merkle path
CALL = 1_000


class OutOfGas(Exception):  # noqa: N818 - the field's own term
    """The gas limit does not cover the next charge."""


class GasMeter:
    """Counts gas up to a limit. ``used`` never exceeds ``limit``."""

    __slots__ = ("limit", "used")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0

    @property
    def left(self) -> int:
        """What can still be charged."""
        return self.limit - self.used

    def charge(self, amount: int) -> None:
        """Raises `OutOfGas`; then everything up to the limit counts as used."""
        if self.used + amount > self.limit:
            self.used = self.limit
            raise OutOfGas(f"gas limit {self.limit} exhausted")
        self.used += amount
