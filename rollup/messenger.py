"""The L2 side of the bridge: the contract ``messenger``.

Responsible for taking withdrawals out of L2's supply and keeping a record that L1 can be shown.
Must not know whether or when L1 pays.
"""

from typing import Any

from bridge.abi import Withdrawal, withdrawal_storage_key
from chainkit.codec import U53, Address, Amount, Record
from chainkit.contract import Context, Contract, Revert, Storage, method
from chainkit.keys import is_valid_address

COUNT_KEY = b"count"


class WithdrawArgs(Record, frozen=True):
    """The L1 account that is paid; the call's value is the amount."""

    recipient: Address


class WithdrawalInitiated(Record, frozen=True):
    index: U53
    sender: Address
    recipient: Address
    amount: Amount


class Messenger(Contract):
    """Withdrawals burn on L2 and are numbered for good: the number is what L1 pays at most once."""

    events = (WithdrawalInitiated,)

    @method(WithdrawArgs, payable=True)
    def withdraw(self, ctx: Context, args: WithdrawArgs) -> None:
        """Burn the value here; it can be claimed on L1 once a batch that holds it is final."""
        if ctx.value == 0:
            raise Revert("zero_amount", "a withdrawal needs a value above zero")
        if not is_valid_address(args.recipient):
            raise Revert("invalid_address", "the recipient is not a valid Ed25519 public key")
        index = ctx.storage.load_int(COUNT_KEY)
        ctx.storage.store_int(COUNT_KEY, index + 1)
        ctx.burn(ctx.value)
        record = Withdrawal(index, ctx.sender, args.recipient, ctx.value)
        ctx.storage.store(withdrawal_storage_key(index), record)
        ctx.emit(WithdrawalInitiated(index, ctx.sender, args.recipient, ctx.value))

    def public_state(self, storage: Storage) -> dict[str, Any]:
        return {"withdrawals": storage.load_int(COUNT_KEY)}
