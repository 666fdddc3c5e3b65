"""The bridge contract, as L1's consensus hosts it: ``bridge.contract:Bridge``.

Responsible for its methods and its first state. The rules live beside it: batches, dispute and arbitration,
withdrawals, upgrade, settings; each method opens the books, applies its rule and has the books checked.
"""

from typing import Any

from bridge import abi, arbitration, batches, upgrade, withdrawals
from bridge.books import open_books
from bridge.settings import check_l1, check_l2_genesis, check_settings, check_strangers
from chainkit.codec import Record, to_json
from chainkit.contract import Context, Contract, Storage, method
from chainkit.execution import Rules
from chainkit.genesis import Genesis, make_rules
from rollup.batch import steps_root


class Bridge(Contract):
    """Escrow, inbox, batches, disputes and ways out of one rollup. See docs/PROTOCOL.md, section 8."""

    params_type = abi.BridgeParams
    events = abi.EVENTS
    params: abi.BridgeParams

    def __init__(self, name: str, params: Record) -> None:
        super().__init__(name, params)
        self._rules: Rules | None = None

    @property
    def l2_rules(self) -> Rules:
        """The rollup's rules. They follow from the parameters, which never change, and are made once."""
        if self._rules is None:
            self._rules = make_rules(self.params.l2_genesis)
        return self._rules

    def genesis(self, ctx: Context, genesis: Genesis) -> None:
        """Write the first books and batch 0, once. Raises `ValueError` naming the bad value."""
        if ctx.storage.get(abi.TOTALS_KEY):
            raise ValueError("the bridge is initialised already")
        l2, settings = self.params.l2_genesis, self.params.settings
        check_settings(settings)
        check_l1(genesis)
        check_strangers(genesis, settings)
        _, tree = check_l2_genesis(genesis, l2)
        supply = l2.total_supply
        if ctx.balance() != supply:
            raise ValueError(f"balance must be {supply}, the supply of l2_genesis, not {ctx.balance()}")
        ctx.storage.store(abi.SETTINGS_KEY, settings)
        ctx.storage.store(abi.TOTALS_KEY, abi.BridgeTotals(escrow=supply))
        ctx.storage.store(abi.batch_key(abi.GENESIS_BATCH), genesis_batch(l2, tree.root))

    # --- inbox and batches ---

    @method(abi.DepositArgs, payable=True)
    def deposit(self, ctx: Context, args: abi.DepositArgs) -> None:
        with open_books(ctx) as books:
            batches.deposit(books, self.l2_rules, args)

    @method(abi.ForceArgs)
    def force(self, ctx: Context, args: abi.ForceArgs) -> None:
        with open_books(ctx) as books:
            batches.force(books, self.l2_rules, args)

    @method(abi.SubmitBatchArgs, payable=True)
    def submit_batch(self, ctx: Context, args: abi.SubmitBatchArgs) -> None:
        with open_books(ctx) as books:
            batches.submit_batch(books, args)

    @method(abi.BatchArgs)
    def finalize(self, ctx: Context, args: abi.BatchArgs) -> None:
        with open_books(ctx) as books:
            batches.finalize(books, args)

    # --- disputes ---

    @method(abi.ChallengeArgs, payable=True)
    def challenge(self, ctx: Context, args: abi.ChallengeArgs) -> None:
        with open_books(ctx) as books:
            arbitration.challenge(books, args)

    @method(abi.BisectArgs)
    def bisect(self, ctx: Context, args: abi.BisectArgs) -> None:
        with open_books(ctx) as books:
            arbitration.bisect_dispute(books, args)

    @method(abi.ChooseArgs)
    def choose(self, ctx: Context, args: abi.ChooseArgs) -> None:
        with open_books(ctx) as books:
            arbitration.choose_segment(books, args)

    @method(abi.ProveArgs)
    def prove(self, ctx: Context, args: abi.ProveArgs) -> None:
        with open_books(ctx) as books:
            arbitration.prove(books, self.l2_rules, args)

    @method(abi.DisputeArgs)
    def timeout(self, ctx: Context, args: abi.DisputeArgs) -> None:
        with open_books(ctx) as books:
            arbitration.timeout(books, args)

    @method(abi.DisputeArgs)
    def settle(self, ctx: Context, args: abi.DisputeArgs) -> None:
        with open_books(ctx) as books:
            arbitration.settle(books, args)

    # --- ways out ---

    @method(abi.ClaimArgs)
    def claim(self, ctx: Context, args: abi.ClaimArgs) -> None:
        with open_books(ctx) as books:
            withdrawals.claim(books, args)

    @method()
    def freeze(self, ctx: Context, _: Record) -> None:
        with open_books(ctx) as books:
            withdrawals.freeze(books)

    @method(abi.ExitArgs)
    def exit(self, ctx: Context, args: abi.ExitArgs) -> None:
        with open_books(ctx) as books:
            withdrawals.exit_account(books, self.l2_rules, args)

    @method(abi.RefundArgs)
    def refund(self, ctx: Context, args: abi.RefundArgs) -> None:
        with open_books(ctx) as books:
            withdrawals.refund(books, args)

    # --- upgrades ---

    @method(abi.UpgradeArgs)
    def schedule_upgrade(self, ctx: Context, args: abi.UpgradeArgs) -> None:
        with open_books(ctx) as books:
            upgrade.schedule_upgrade(books, args)

    @method()
    def apply_upgrade(self, ctx: Context, _: Record) -> None:
        with open_books(ctx) as books:
            upgrade.apply_upgrade(books)

    @method()
    def cancel_upgrade(self, ctx: Context, _: Record) -> None:
        with open_books(ctx) as books:
            upgrade.cancel_upgrade(books)

    def public_state(self, storage: Storage) -> dict[str, Any]:
        """Settings, totals, both ends of the line of batches, and the parts of the invariant, as JSON."""
        totals = storage.load(abi.TOTALS_KEY, abi.BridgeTotals)
        if totals is None:
            return {}
        scheduled = storage.load(abi.UPGRADE_KEY, abi.ScheduledUpgrade)
        return {
            "settings": to_json(storage.load(abi.SETTINGS_KEY, abi.BridgeSettings)),
            "scheduled_upgrade": to_json(scheduled) if scheduled else None,
            "totals": to_json(totals),
            "head_batch": to_json(storage.load(abi.batch_key(totals.head_batch), abi.Batch)),
            "final_batch": to_json(storage.load(abi.batch_key(totals.final_batch), abi.Batch)),
            "frozen": totals.frozen_height > 0,
            "invariant": {
                "escrow": totals.escrow,
                "bonds": totals.bonds,
                "balance": totals.escrow + totals.bonds,
            },
        }


def genesis_batch(l2: Genesis, root: bytes) -> abi.Batch:
    """Batch 0: the L2 genesis block, final."""
    return abi.Batch(
        index=abi.GENESIS_BATCH,
        parent=abi.GENESIS_BATCH,
        first_block=0,
        blocks=1,
        last_time=l2.time,
        inbox_from=0,
        inbox_to=0,
        steps=0,
        steps_root=steps_root([]),
        previous_root=root,
        state_root=root,
        data_hash=bytes(32),
        proposer=bytes(32),
        bond=0,
        height=0,
        status=abi.FINALIZED,
    )
