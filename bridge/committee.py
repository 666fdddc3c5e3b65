"""A bridge that believes its operators: ``bridge.committee:CommitteeBridge`` on L1, ``:Gateway`` on the side chain.

Responsible for both contracts: escrow on one side, reserve on the other, and the rule that m of n operator keys move
either (as in Ronin, Multichain and Harmony Horizon). Must not know how operators learn what is true:
whatever m of them attest is paid, and that is the point.

Nothing of the side chain is proven to L1. What the contracts do promise: below the threshold nothing moves, an index
is paid at most once, an operator has one voice per index, and a deposit that L1 takes can be credited.

Units: amounts in gwei, indices count from 0, heights are those of the chain that the contract is on.
"""

from typing import Any, TypeVar

from msgspec.structs import replace

from bridge.abi import DepositArgs, DepositInitiated, Withdrawal
from bridge.committee_abi import (
    BRIDGE,
    GATEWAY,
    MAX_OPERATORS,
    TOTALS_KEY,
    AttestArgs,
    CommitteeParams,
    Deposit,
    DepositAttested,
    DepositCredited,
    EscrowTotals,
    GatewayTotals,
    Payout,
    Voice,
    WithdrawalAttested,
    WithdrawalInitiated,
    WithdrawalPaid,
    WithdrawArgs,
    count_key,
    deposit_key,
    paid_key,
    voice_key,
    withdrawal_key,
)
from chainkit.codec import MAX_AMOUNT, Address, Record, encode, to_json
from chainkit.contract import Context, Contract, Revert, Storage, method
from chainkit.genesis import Genesis, GenesisContract
from chainkit.keys import dev_keypair, is_dev_address, is_valid_address

R = TypeVar("R", bound=Record)


def require(condition: bool, code: str, message: str) -> None:
    """Raises `Revert` unless the condition holds."""
    if not condition:
        raise Revert(code, message)


def check_params(params: CommitteeParams, *, devnet: bool) -> None:
    """Raises `ValueError` naming what no committee may have: no threshold, one that nobody reaches, a key twice."""
    keys = params.operators
    if keys != sorted(set(keys)):
        raise ValueError("operators must be sorted by address, each once")
    well_known = {} if devnet else _dev_operators()
    for key in keys:
        if not is_valid_address(key):
            raise ValueError(f"operators: 0x{key.hex()} is not a valid public key")
        name = is_dev_address(key) or well_known.get(key)
        if name is not None and not devnet:
            raise ValueError(
                f"operators: 0x{key.hex()} is the well-known key of {name!r}; only a devnet may use it"
            )
    if not 1 <= params.threshold <= len(keys):
        raise ValueError(
            f"threshold must be from 1 to {len(keys)}, the number of operators, not {params.threshold}"
        )
    if params.side_chain_id < 1:
        raise ValueError("side_chain_id must be positive")
    if params.min_deposit < 1:
        raise ValueError("min_deposit must be positive")
    if params.reserve < 1:
        raise ValueError("reserve must be positive: nothing could ever be credited")
    if params.reserve + params.backing > MAX_AMOUNT:
        raise ValueError("reserve and backing together must stay below 2**53 gwei")


def _dev_operators() -> dict[Address, str]:
    names = [f"operator-{i}" for i in range(MAX_OPERATORS)]
    return {dev_keypair(name).address: name for name in names}


class _Committee(Contract):
    """What both contracts share: parameters, and the counting of voices."""

    params_type = CommitteeParams
    params: CommitteeParams

    def _voice(self, ctx: Context, args: AttestArgs) -> int:
        """Count the sender's attestation; returns how many operators say the same.

        Refused: ``not_operator``, ``already_paid``, ``zero_amount``, ``invalid_address``, ``already_attested``,
        ``conflicting_attestation``.
        """
        require(
            ctx.sender in self.params.operators, "not_operator", "only an operator of this bridge attests"
        )
        require(not ctx.storage.get(paid_key(args.index)), "already_paid", f"index {args.index} was paid")
        require(args.amount > 0, "zero_amount", "nothing is paid with an amount of zero")
        require(
            is_valid_address(args.to), "invalid_address", "the recipient is not a valid Ed25519 public key"
        )
        own, said = voice_key(args.index, ctx.sender), Voice(args.to, args.amount)
        before = ctx.storage.load(own, Voice)
        require(before != said, "already_attested", f"this operator has attested index {args.index}")
        require(
            before is None,
            "conflicting_attestation",
            f"this operator said another thing of index {args.index}",
        )
        ctx.storage.store(own, said)
        key = count_key(args.index, args.to, args.amount)
        count = ctx.storage.load_int(key) + 1
        ctx.storage.store_int(key, count)
        return count

    def _pay(self, ctx: Context, args: AttestArgs) -> None:
        """Pay an index, for good."""
        ctx.storage.store(paid_key(args.index), Payout(args.to, args.amount, ctx.height))
        ctx.transfer(args.to, args.amount)

    def _require_first(self, ctx: Context) -> None:
        if ctx.storage.get(TOTALS_KEY):
            raise ValueError("the contract is initialised already")


class CommitteeBridge(_Committee):
    """L1's side: takes deposits into escrow, and pays what m operators attest. Nothing else moves the escrow."""

    events = (DepositInitiated, WithdrawalAttested, WithdrawalPaid)

    def genesis(self, ctx: Context, genesis: Genesis) -> None:
        """Write the first books. Raises `ValueError` naming the bad value."""
        self._require_first(ctx)
        params = self.params
        check_params(params, devnet=genesis.devnet)
        if params.side_chain_id == genesis.chain_id:
            raise ValueError("side_chain_id must be another chain's, not this one's")
        if ctx.balance() != params.backing:
            raise ValueError(f"balance must be {params.backing}, the backing in params, not {ctx.balance()}")
        ctx.storage.store(TOTALS_KEY, EscrowTotals(params.backing))

    @method(DepositArgs, payable=True)
    def deposit(self, ctx: Context, args: DepositArgs) -> None:
        """Escrow the call's value for ``to`` on the side chain.

        Refused: ``deposit_too_small``, ``invalid_address``, ``deposit_limit`` (the reserve could not credit it).
        """
        params, totals = self.params, _load(ctx, EscrowTotals)
        minimum = params.min_deposit
        require(ctx.value >= minimum, "deposit_too_small", f"a deposit is at least {minimum} gwei")
        require(
            is_valid_address(args.to), "invalid_address", "the recipient is not a valid Ed25519 public key"
        )
        escrow = totals.escrow + ctx.value
        limit = params.backing + params.reserve
        require(
            escrow <= limit,
            "deposit_limit",
            f"escrow may hold {limit} gwei: the side chain has no more coins",
        )
        index = totals.deposits
        ctx.storage.store(deposit_key(index), Deposit(index, ctx.sender, args.to, ctx.value, ctx.height))
        _close(ctx, replace(totals, escrow=escrow, deposits=index + 1), escrow)
        ctx.emit(DepositInitiated(index, ctx.sender, args.to, ctx.value))

    @method(AttestArgs)
    def release(self, ctx: Context, args: AttestArgs) -> None:
        """Attest a withdrawal; the voice that makes it m pays it.

        Refused besides what `_voice` refuses: ``escrow_too_small``.
        """
        count, threshold = self._voice(ctx, args), self.params.threshold
        ctx.emit(WithdrawalAttested(args.index, ctx.sender, args.to, args.amount, count, threshold))
        if count < threshold:
            return
        totals = _load(ctx, EscrowTotals)
        require(
            args.amount <= totals.escrow,
            "escrow_too_small",
            f"escrow holds {totals.escrow} gwei, {args.amount} asked",
        )
        self._pay(ctx, args)
        escrow = totals.escrow - args.amount
        _close(ctx, replace(totals, escrow=escrow, released=totals.released + 1), escrow)
        ctx.emit(WithdrawalPaid(args.index, args.to, args.amount))

    def public_state(self, storage: Storage) -> dict[str, Any]:
        """Parameters and books, as JSON."""
        return _public(self.params, storage.load(TOTALS_KEY, EscrowTotals))


class Gateway(_Committee):
    """The side chain's end: credits what m operators attest from its reserve, and takes withdrawals back into it.

    The reserve is there from genesis, so crediting is a transfer and the chain's supply never grows.
    """

    events = (WithdrawalInitiated, DepositAttested, DepositCredited)

    def genesis(self, ctx: Context, genesis: Genesis) -> None:
        """Write the first books. Raises `ValueError` naming the bad value."""
        self._require_first(ctx)
        params = self.params
        check_params(params, devnet=genesis.devnet)
        if params.side_chain_id != genesis.chain_id:
            raise ValueError(
                f"side_chain_id must be {genesis.chain_id}, this chain's, not {params.side_chain_id}"
            )
        if ctx.balance() != params.reserve:
            raise ValueError(f"balance must be {params.reserve}, the reserve in params, not {ctx.balance()}")
        outside = genesis.total_supply - params.reserve
        if params.backing != outside:
            raise ValueError(
                f"backing must be {outside}, all coins outside the reserve, not {params.backing}"
            )
        ctx.storage.store(TOTALS_KEY, GatewayTotals(params.reserve, params.backing))

    @method(AttestArgs)
    def credit(self, ctx: Context, args: AttestArgs) -> None:
        """Attest a deposit; the voice that makes it m credits it.

        Refused besides what `_voice` refuses: ``reserve_exhausted``.
        """
        count, threshold = self._voice(ctx, args), self.params.threshold
        ctx.emit(DepositAttested(args.index, ctx.sender, args.to, args.amount, count, threshold))
        if count < threshold:
            return
        totals = _load(ctx, GatewayTotals)
        require(
            args.amount <= totals.reserve,
            "reserve_exhausted",
            f"the reserve holds {totals.reserve} gwei, {args.amount} asked",
        )
        self._pay(ctx, args)
        self._book(ctx, totals, -args.amount, credited=totals.credited + 1)
        ctx.emit(DepositCredited(args.index, args.to, args.amount))

    @method(WithdrawArgs, payable=True)
    def withdraw(self, ctx: Context, args: WithdrawArgs) -> None:
        """Take the call's value back into the reserve, for ``recipient`` on L1.

        Refused: ``zero_amount``, ``invalid_address``.
        """
        require(ctx.value > 0, "zero_amount", "a withdrawal needs a value above zero")
        require(
            is_valid_address(args.recipient),
            "invalid_address",
            "the recipient is not a valid Ed25519 public key",
        )
        totals = _load(ctx, GatewayTotals)
        index = totals.withdrawals
        record = Withdrawal(index, ctx.sender, args.recipient, ctx.value)
        ctx.storage.store(withdrawal_key(index), record)
        self._book(ctx, totals, ctx.value, withdrawals=index + 1)
        ctx.emit(WithdrawalInitiated(index, ctx.sender, args.recipient, ctx.value))

    def _book(self, ctx: Context, totals: GatewayTotals, into_reserve: int, **counts: int) -> None:
        """Move gwei between ``outstanding`` and ``reserve``; their sum is the genesis supply, for ever."""
        reserve, outstanding = totals.reserve + into_reserve, totals.outstanding - into_reserve
        require(outstanding >= 0, "books", "more comes to the gateway than is outside")
        _close(ctx, replace(totals, reserve=reserve, outstanding=outstanding, **counts), reserve)

    def public_state(self, storage: Storage) -> dict[str, Any]:
        """Parameters and books, as JSON."""
        return _public(self.params, storage.load(TOTALS_KEY, GatewayTotals))


def _load(ctx: Context, kind: type[R]) -> R:
    totals = ctx.storage.load(TOTALS_KEY, kind)
    if totals is None:
        raise Revert("no_genesis", "the contract was never initialised")
    return totals


def _close(ctx: Context, totals: EscrowTotals | GatewayTotals, held: int) -> None:
    """Store the books and hold them against the balance. A gift may lie on top of it: it must stop nobody."""
    ctx.storage.store(TOTALS_KEY, totals)
    balance = ctx.balance()
    require(balance >= held, "books", f"balance is {balance} gwei, the books say {held}")


def _public(params: CommitteeParams, totals: Record | None) -> dict[str, Any]:
    return {} if totals is None else {"params": to_json(params), "totals": to_json(totals)}


# --- for makers of a genesis ---


def l1_contract_spec(params: CommitteeParams) -> GenesisContract:
    """The entry ``bridge`` of L1's genesis; its balance backs the side chain's genesis coins."""
    return GenesisContract(BRIDGE, f"{__name__}:CommitteeBridge", encode(params), params.backing)


def side_contract_spec(params: CommitteeParams) -> GenesisContract:
    """The entry ``gateway`` of the side chain's genesis; its balance is the reserve."""
    return GenesisContract(GATEWAY, f"{__name__}:Gateway", encode(params), params.reserve)
