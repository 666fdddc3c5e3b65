"""The workload on one model, measured: users, economics and burden, by the same means on every model.

Responsible for one run on one devnet of the model's true size. Must not know how a figure is shown, nor any
experiment.

Time runs at its own pace from start to end, so every latency is in seconds of the chain and of the wall at once.
The services are idle but for the run and for those who watch it: they watch the idle devnet in the same way.
"""

import asyncio
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from bridge.committee_abi import GATEWAY
from chainkit.client import ApiError, ChainClient
from chainkit.codec import encode, parse_hex
from chainkit.execution import FeeParameters
from chainkit.keys import KeyPair, dev_keypair
from chainkit.transaction import Call
from layerlab.config import COIN, DevnetConfig
from layerlab.genesis import L2_FEES
from layerlab.lab.agents import Workload, WorkloadResult
from layerlab.lab.compare import meter
from layerlab.lab.compare.ledger import Spending, read_ledger
from layerlab.lab.experiments.common import usual
from layerlab.lab.place import running_world
from layerlab.lab.tracker import Tracker, percentile
from layerlab.models import BRIDGE, MODELS, OPERATOR_THRESHOLD, OPERATORS, VERIFIER
from layerlab.world import World, require
from rollup.messenger import WithdrawArgs

MESSENGER: Final = "messenger"
VAULT: Final = "vault"
LEAVER: Final = "dave"
"""Who leaves; also pays for the claim."""
LEAVES_WITH: Final = 3 * COIN
FINAL_SECONDS: Final = 120.0
_UNITS: Final = {
    "soft_p50": "soft_p50_s",
    "soft_p95": "soft_p95_s",
    "fees": "fees_gwei",
    "fee_per_call": "fee_per_call_gwei",
    "all_fees": "all_fees_gwei",
}
"""A record's names have their units."""
EXIT_SECONDS: Final = 150.0


@dataclass(frozen=True)
class Size:
    """How much of it. ``idle_seconds``: how long the devnet is watched before anything is asked of it."""

    agents: int
    rounds: int
    idle_seconds: float


QUICK: Final = Size(agents=100, rounds=3, idle_seconds=6.0)
FULL: Final = Size(agents=100, rounds=12, idle_seconds=20.0)


async def measure(model: str, size: Size, seed: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Run the workload on a devnet of its own: the record's ``measured`` and ``assumptions``, JSON-able.

    Raises one of `layerlab.lab.experiment.FAILURES`.
    """
    async with running_world(usual(model), seed, say) as world:
        return {
            "assumptions": {**assumptions(world.devnet.config), "agents": size.agents, "rounds": size.rounds},
            "measured": await _Run(world, size, seed, say).run(),
        }


def assumptions(config: DevnetConfig) -> dict[str, Any]:
    """What figures taken on such a devnet rest on: set by us, not found out. Gwei, ms, L1 blocks."""
    settings, model = config.settings, config.kind
    l1_fees = FeeParameters()
    app_fees = L2_FEES if model.rollup else l1_fees
    chosen: dict[str, Any] = {
        "l1_validators": config.validators,
        "l1_slot_ms": config.slot_ms,
        "stake_per_validator_gwei": config.stake,
        "app_base_fee_gwei": app_fees.initial_base_fee,
        "app_gas_per_byte": app_fees.gas_per_byte,
    }
    if model.bridged:
        chosen |= {"l1_base_fee_gwei": l1_fees.initial_base_fee, "l1_gas_per_byte": l1_fees.gas_per_byte}
    if model.rollup:
        chosen |= {
            "l2_block_ms": config.block_ms,
            "challenge_window_l1_blocks": settings.challenge_window,
            "inclusion_delay_l1_blocks": settings.inclusion_delay,
            "escape_timeout_l1_blocks": settings.escape_timeout,
            "exit_window_l1_blocks": settings.exit_window,
            "proposer_bond_gwei": settings.proposer_bond,
            "challenger_bond_gwei": settings.challenger_bond,
        }
    elif model.bridged:
        chosen |= {
            "side_validators": len(model.replicas),
            "side_slot_ms": config.slot_ms,
            "operators": len(OPERATORS),
            "threshold": OPERATOR_THRESHOLD,
        }
    return chosen


class _Run:
    """One workload. ``world`` has been up for a moment."""

    def __init__(self, world: World, size: Size, seed: int, say: Callable[[str], None]) -> None:
        self.world, self.size, self.seed, self.say = world, size, seed, say
        self.config = world.devnet.config
        self.model = MODELS[self.config.model]
        self.own = set(self.model.others) if self.model.bridged else set(self.config.validator_names)

    @property
    def judge(self) -> ChainClient:
        """Whom a user asks what is final: on a rollup, one that derived it from L1."""
        return self.world.verifier if VERIFIER in self.model.others else self.world.app

    async def run(self) -> dict[str, Any]:
        async with Tracker(self.world.app, self.world.now, self.judge) as tracker:
            self.say(f"watching the idle devnet for {self.size.idle_seconds:g} s")
            idle = await self._idle()
            workload = Workload(tracker, self.size.agents, self.size.rounds, self.seed, self.say)
            income = await self._income()
            l1_start = await self.world.l1.height("finalized")
            first = await asyncio.to_thread(meter.read, self.world.devnet)
            await workload.prepare()
            played = await workload.run()
            earned = await self._income() - income
            leaving = asyncio.create_task(self._exit())
            try:
                self.say("waiting for all of it to become final")
                await tracker.wait(list(tracker.sent), "final", FINAL_SECONDS)
                last = await asyncio.to_thread(meter.read, self.world.devnet)
                way_out = await leaving
            finally:
                leaving.cancel()
            final = tracker.latencies("final")
            transfers = await workload.burst()  # last, so that it is in no other figure
        return {
            "users": {
                "transfers_per_second": transfers,
                **{_UNITS.get(name, name): value for name, value in played.to_json().items()},
                "final_p50_s": _rounded(percentile(final, 50)),
                "final_p95_s": _rounded(percentile(final, 95)),
                **way_out,
            },
            "economics": await self._economics(played, earned, l1_start),
            "burden": self._burden(played, idle, meter.between(first, last), last),
        }

    async def _idle(self) -> meter.Use:
        first = await asyncio.to_thread(meter.read, self.world.devnet)
        await asyncio.sleep(self.size.idle_seconds)
        return meter.between(first, await asyncio.to_thread(meter.read, self.world.devnet))

    # --- economics ---

    async def _income(self) -> int:
        """What those who run the chain of the application have there (gwei): the vault, or its validators."""
        names = [VAULT] if self.model.rollup else [*(self.model.replicas or self.config.validator_names)]
        return sum([await self.world.balance(self.world.app, name) for name in names])

    async def _economics(self, played: WorkloadResult, earned: int, l1_start: int) -> dict[str, Any]:
        """What the users paid, who got it, and what the operators paid on L1 meanwhile, bonds aside."""
        spent = Spending()
        if self.model.bridged:
            l1_end = await self.world.l1.height("finalized")
            ledger = await read_ledger(self.world.l1, self.world.genesis, l1_start, l1_end)
            spent = ledger.of({dev_keypair(name).address for name in self.own - {BRIDGE}})
        fees, count = played.all_fees, played.all_transactions
        return {
            "users_fees_gwei": fees,
            "operators_income_gwei": earned,
            "burned_gwei": fees - earned,
            "operators_l1_transactions": spent.transactions,
            "operators_l1_fees_gwei": spent.fees,
            "operators_l1_bytes": spent.wire_bytes,
            "l1_share_percent": _percent(spent.fees, fees),
            "l1_bytes_per_transaction": round(spent.wire_bytes / count, 1) if count else None,
            "margin_percent": _percent(earned - spent.fees, fees),
            "margin_gwei": earned - spent.fees,
        }

    # --- burden ---

    def _burden(
        self, played: WorkloadResult, idle: meter.Use, use: meter.Use, last: meter.Reading
    ) -> dict[str, Any]:
        net = meter.without_idle(use, idle)
        thousands = played.all_transactions / 1000
        seconds = idle.seconds
        return {
            "processes_own": sum(n for name, n in last.processes.items() if name in self.own),
            "processes_l1": sum(n for name, n in last.processes.items() if name not in self.own),
            **self._locked(),
            "cpu_s_per_1000_transactions": round(sum(net.cpu.values()) / thousands, 2) if thousands else None,
            "cpu_s_per_1000_transactions_own": round(
                sum(v for name, v in net.cpu.items() if name in self.own) / thousands, 2
            ),
            "stored_bytes_per_1000_transactions": round(sum(net.stored.values()) / thousands)
            if thousands
            else None,
            "idle_cpu_percent_of_a_core": round(100 * sum(idle.cpu.values()) / seconds, 1),
            "idle_stored_bytes_per_s": round(sum(idle.stored.values()) / seconds),
            "until_final_s": round(use.seconds, 1),
            "cpu_s_by_service": {name: round(v, 2) for name, v in use.cpu.items()},
            "stored_bytes_by_service": dict(use.stored),
        }

    def _locked(self) -> dict[str, int]:
        """What genesis and settings ask to be locked (gwei): by those of the model, and by the L1 beneath."""
        validators = len(self.config.validator_names) * self.config.stake
        if not self.model.bridged:
            return {"locked_own_gwei": validators, "locked_l1_gwei": 0}
        if self.model.rollup:
            bonds = self.config.settings.proposer_bond + self.config.settings.challenger_bond
            return {"locked_own_gwei": bonds, "locked_l1_gwei": validators}
        return {"locked_own_gwei": len(self.model.replicas) * self.config.stake, "locked_l1_gwei": validators}

    # --- the way out ---

    async def _exit(self) -> dict[str, Any]:
        """One user leaves for L1, to an account that has nothing there; measured until that is final on L1."""
        hosted = {contract["name"] for contract in await self.world.app.contracts()}
        door = next((name for name in (GATEWAY, MESSENGER) if name in hosted), None)
        if not self.model.bridged or door is None:
            return {"exit_s": None, "exit_l1_blocks": None, "exit": "no exit"}
        to = KeyPair(secrets.token_bytes(32)).address
        begin, start = self.world.now(), await self.world.l1.height("finalized")
        call = Call(door, "withdraw", encode(WithdrawArgs(to)), LEAVES_WITH)
        sent = await self.world.send(self.world.app, LEAVER, call, at="head")
        require(bool(sent.success), f"the withdrawal failed: {sent.message}")
        await self._until_paid(f"/withdrawals/0x{sent.hash.hex()}", to)
        return {
            "exit_s": round(self.world.now() - begin, 2),
            "exit_l1_blocks": await self.world.l1.height("finalized") - start,
            "exit": "paid on L1",
        }

    async def _until_paid(self, path: str, to: bytes) -> None:
        claimed, deadline = "", time.monotonic() + EXIT_SECONDS
        while (await self.world.l1.account(to, "finalized")).balance < LEAVES_WITH:
            require(time.monotonic() < deadline, f"the withdrawal is not paid after {EXIT_SECONDS:g} s")
            shown = await self.world.bridge_get(path)
            if shown is not None and shown["status"] == "ready-to-claim" and not claimed:
                claimed = await self._claim(path)
            await asyncio.sleep(0.1)

    async def _claim(self, path: str) -> str:
        try:
            answer = await self.world.bridge.post(path + "/claim", {"from": LEAVER})
        except ApiError as error:
            if error.code == "already_claimed":
                return error.code
            raise
        info = await self.world.l1.wait_for_receipt(parse_hex(answer["hash"]), "head", EXIT_SECONDS)
        require(bool(info.success), f"the claim failed: {info.message}")
        return str(answer["hash"])


def _percent(part: int, whole: int) -> float | None:
    return round(100 * part / whole, 2) if whole else None


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
