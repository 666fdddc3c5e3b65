"""A fungible token: the contract ``apps.token:Token``.

Responsible for who holds how many units, and for what others may spend. Must not know which chain it runs on,
nor what a unit is worth.

Amounts are whole units of the token, 0 < x < 2**53, not gwei: no method takes a value. The supply never
exceeds ``cap``, and every balance is part of it, so no addition here can reach 2**53.

State (keys of the contract's own storage; every method touches at most five):

- ``supply``: `TokenSupply` (units in existence, number of addresses that ever held some)
- ``holder/`` + index: the address of each of the first `LISTED` holders, in the order in which they came
- ``balance/`` + address: units; 0 stays written once there was a balance, which is how a holder is known
- ``allowance/`` + owner + spender: units that the spender may still move

Interface after ERC-20 (EIP-20), with three differences: ``approve`` names the allowance that it replaces, no
allowance is endless, and units cannot be sent to what is no account.
"""

from typing import Annotated, Any

from msgspec import Meta

from chainkit import gas
from chainkit.codec import MAX_AMOUNT, U53, Address, Amount, Record, decode
from chainkit.contract import Context, Contract, Revert, Storage, method
from chainkit.genesis import Genesis
from chainkit.keys import is_valid_address

LISTED = 128
"""Holders whose balances ``public_state`` shows: it must stay bounded, however many there are."""

SUPPLY_KEY = b"supply"

Symbol = Annotated[str, Meta(pattern=r"^[A-Z][A-Z0-9]{0,10}\Z")]


class TokenParams(Record, frozen=True):
    """Parameters, fixed at genesis. Only ``minter`` may create units, and never more than ``cap``."""

    minter: Address
    symbol: Symbol = "TOKEN"
    cap: Amount = MAX_AMOUNT


# --- state ------------------------------------------------------------------------------------------------


class TokenSupply(Record, frozen=True):
    """``total`` units in existence; ``holders`` counts the addresses that ever held some."""

    total: Amount = 0
    holders: U53 = 0


def holder_key(index: int) -> bytes:
    """Where the address of a listed holder lies."""
    return b"holder/%d" % index


def balance_key(owner: Address) -> bytes:
    """Where an address's units lie, as an integer."""
    return b"balance/" + owner


def allowance_key(owner: Address, spender: Address) -> bytes:
    """Where what ``spender`` may still move of ``owner``'s units lies, as an integer."""
    return b"allowance/" + owner + spender


# --- arguments --------------------------------------------------------------------------------------------


class MintArgs(Record, frozen=True):
    """Create ``amount`` units for ``to``."""

    to: Address
    amount: Amount


class TransferArgs(Record, frozen=True):
    """Move ``amount`` of the sender's units to ``to``."""

    to: Address
    amount: Amount


class ApproveArgs(Record, frozen=True):
    """Let ``spender`` move ``amount`` of the sender's units in all; ``expected`` is the allowance before."""

    spender: Address
    amount: Amount
    expected: Amount


class TransferFromArgs(Record, frozen=True):
    """Move ``amount`` of ``owner``'s units to ``to``, out of what ``owner`` let the sender spend."""

    owner: Address
    to: Address
    amount: Amount


# --- events -----------------------------------------------------------------------------------------------


class TokensMinted(Record, frozen=True):
    """``supply``: units in existence afterwards."""

    to: Address
    amount: Amount
    supply: Amount


class TokensTransferred(Record, frozen=True):
    """``spender`` asked for it: the owner, or whom the owner let spend."""

    owner: Address
    to: Address
    amount: Amount
    spender: Address


class AllowanceSet(Record, frozen=True):
    """What ``spender`` may move of ``owner``'s units, after an approval or after spending."""

    owner: Address
    spender: Address
    amount: Amount


# --- the contract -----------------------------------------------------------------------------------------


class Token(Contract):
    """Units that one key creates and everybody can move.

    Refusals (the code of the receipt): ``zero_amount`` · ``not_minter`` · ``cap_exceeded`` ·
    ``invalid_recipient`` · ``insufficient_tokens`` · ``insufficient_allowance`` · ``allowance_changed``.
    """

    params_type = TokenParams
    events = (TokensMinted, TokensTransferred, AllowanceSet)
    params: TokenParams

    def genesis(self, ctx: Context, genesis: Genesis) -> None:
        """Nobody holds anything yet. Raises `ValueError` if no key could ever mint."""
        if not is_valid_address(self.params.minter):
            raise ValueError("minter is not a valid Ed25519 public key")
        if not self.params.cap:
            raise ValueError("cap must be positive")
        ctx.storage.store(SUPPLY_KEY, TokenSupply())

    @method(MintArgs)
    def mint(self, ctx: Context, args: MintArgs) -> None:
        """Create units; the minter only.

        Emits `TokensMinted`. Refused: ``not_minter``, ``zero_amount``, ``cap_exceeded``, ``invalid_recipient``.
        """
        if ctx.sender != self.params.minter:
            raise Revert("not_minter", "only the minter that genesis names creates units")
        _require_amount(args.amount)
        supply = load_supply(ctx.storage)
        if supply.total + args.amount > self.params.cap:
            raise Revert("cap_exceeded", f"{supply.total} of at most {self.params.cap} units exist")
        ctx.storage.store(SUPPLY_KEY, TokenSupply(supply.total + args.amount, supply.holders))
        _credit(ctx, args.to, args.amount)
        ctx.emit(TokensMinted(args.to, args.amount, supply.total + args.amount))

    @method(TransferArgs)
    def transfer(self, ctx: Context, args: TransferArgs) -> None:
        """Move the sender's own units.

        Emits `TokensTransferred`. Refused: ``zero_amount``, ``insufficient_tokens``, ``invalid_recipient``.
        """
        _require_amount(args.amount)
        _move(ctx, ctx.sender, args.to, args.amount)

    @method(ApproveArgs)
    def approve(self, ctx: Context, args: ApproveArgs) -> None:
        """Set what a spender may move. ``expected`` must be the present allowance, but to take it all back.

        ERC-20's approve lets a spender who sees a change from 100 to 50 coming take 100 first and 50 after.
        Naming the old value closes that: spending in between makes the change fail, and the owner decides
        anew. (Increase and decrease would close it too, but the owner could not say what is allowed in all.)
        An ``amount`` of 0 always succeeds, or spending one unit at a time could hold off the revocation.

        Emits `AllowanceSet`. Refused: ``allowance_changed``.
        """
        key = allowance_key(ctx.sender, args.spender)
        present = ctx.storage.load_int(key)
        if args.amount and args.expected != present:
            raise Revert("allowance_changed", f"the allowance is {present} units, not {args.expected}")
        ctx.storage.store_int(key, args.amount)
        ctx.emit(AllowanceSet(ctx.sender, args.spender, args.amount))

    @method(TransferFromArgs)
    def transfer_from(self, ctx: Context, args: TransferFromArgs) -> None:
        """Move an owner's units, as far as the owner allowed the sender to (an owner needs that, too).

        Emits `AllowanceSet` (what is left) and `TokensTransferred`. Refused: ``zero_amount``,
        ``insufficient_allowance``, ``insufficient_tokens``, ``invalid_recipient``.
        """
        _require_amount(args.amount)
        key = allowance_key(args.owner, ctx.sender)
        allowed = ctx.storage.load_int(key)
        if args.amount > allowed:
            raise Revert("insufficient_allowance", f"the allowance is {allowed} units, {args.amount} needed")
        ctx.storage.store_int(key, allowed - args.amount)
        ctx.emit(AllowanceSet(args.owner, ctx.sender, allowed - args.amount))
        _move(ctx, args.owner, args.to, args.amount)

    def public_state(self, storage: Storage) -> dict[str, Any]:
        """Supply, number of holders, and the balances of the first `LISTED` of them."""
        supply = load_supply(storage)
        listed = [storage.get(holder_key(index)) for index in range(min(supply.holders, LISTED))]
        return {
            "symbol": self.params.symbol,
            "total_supply": supply.total,
            "holders": supply.holders,
            "balances": [
                {"address": address, "balance": storage.load_int(balance_key(address))} for address in listed
            ],
        }


def load_supply(storage: Storage) -> TokenSupply:
    """The supply record."""
    return storage.load(SUPPLY_KEY, TokenSupply) or TokenSupply()


def _require_amount(amount: int) -> None:
    if not amount:
        raise Revert("zero_amount", "the amount must be above zero")


def _move(ctx: Context, owner: Address, to: Address, amount: int) -> None:
    balance = ctx.storage.load_int(balance_key(owner))
    if amount > balance:
        raise Revert("insufficient_tokens", f"the balance is {balance} units, {amount} needed")
    # Written before the recipient's is read: they may be the same.
    ctx.storage.store_int(balance_key(owner), balance - amount)
    _credit(ctx, to, amount)
    ctx.emit(TokensTransferred(owner, to, amount, ctx.sender))


def _credit(ctx: Context, to: Address, amount: int) -> None:
    held = ctx.storage.get(balance_key(to))
    if held:
        ctx.storage.store_int(balance_key(to), decode(int, held) + amount)
        return
    ctx.charge(gas.NEW_ACCOUNT)
    if to != ctx.sender and not is_valid_address(to):
        raise Revert("invalid_recipient", "the recipient is not a valid Ed25519 public key")
    supply = load_supply(ctx.storage)
    if supply.holders < LISTED:
        ctx.storage.set(holder_key(supply.holders), to)
    ctx.storage.store(SUPPLY_KEY, TokenSupply(supply.total, supply.holders + 1))
    ctx.storage.store_int(balance_key(to), amount)
