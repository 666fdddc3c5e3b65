"""The way out of the rollup in one verb: withdraw, follow, claim.

Responsible for following a withdrawal to the payout and for saying at each moment what it waits for, how long,
and who may act. Must not know how the bridge service finds that out.
"""

import asyncio
from collections.abc import Mapping
from typing import Annotated, Any, Final

import typer

from bridge.abi import ClaimArgs
from bridge.committee_abi import GATEWAY
from chainkit.client import ApiError, ReceiptInfo
from chainkit.codec import CodecError, encode, from_json
from chainkit.keys import KeyPair
from chainkit.transaction import Call
from layerlab.cli import signing
from layerlab.cli.amounts import show_amount
from layerlab.cli.bridge import BRIDGE, EVERY, PANEL, POLL_SECONDS, bridge_or_none, counting
from layerlab.cli.chain import read_hash
from layerlab.cli.common import STACK, From, OptionalAmount, Session, To, a_bridge, verb
from layerlab.cli.errors import CommandError
from layerlab.cli.output import Waiting, short
from rollup.messenger import WithdrawArgs

WAITING, IN_WINDOW, READY, CLAIMED, REVERTED = (
    "waiting-for-batch",
    "in-challenge-window",
    "ready-to-claim",
    "claimed",
    "reverted",
)
MESSENGER: Final = "messenger"
VOID_POLLS: Final = 50
"""How often a withdrawal may be found void before it is given up: an honest batch may still take it in."""


def register(app: typer.Typer) -> None:
    """Add the verbs of this file."""
    verb(app, "withdraw", STACK, panel=PANEL, needs=a_bridge)(withdraw)
    verb(app, "claim", STACK, panel=PANEL, needs=a_bridge)(claim)


async def withdraw(
    session: Session,
    sender: From,
    amount: OptionalAmount = None,
    to: To = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Follow it to the payout on L1, and claim it.")
    ] = False,
    resume: Annotated[
        str | None, typer.Option("--resume", metavar="ID", help="Follow an earlier withdrawal (its L2 hash).")
    ] = None,
    claimer: Annotated[
        str | None,
        typer.Option("--claimer", metavar="WHO", help="Who pays for the claim on L1 (default: --from)."),
    ] = None,
) -> None:
    """Withdraw coins from the rollup (or side chain) to L1. With --wait this is the whole way out, to the payout.

    Says at each moment what it waits for, how long, and who may act; claims by itself when the challenge window is
    over (a side chain's operators pay without a claim). On a devnet `layerlab warp --until-withdrawal ID` in another
    terminal makes it short.

    Examples:
    layerlab withdraw --from bob --amount 30 --wait
    layerlab withdraw --from bob --to alice --amount 0.5
    layerlab withdraw --from bob --resume 0x41… --wait
    """
    if (amount is None) == (resume is None):
        raise typer.BadParameter("give --amount, or --resume for an earlier withdrawal")
    key = await signing.signer(session, session.l2, sender)
    payer = key if claimer is None else await signing.signer(session, session.l1, claimer)
    with session.out.waiting() as waiting:
        value: dict[str, Any] = {"hash": resume}
        if resume is not None:
            await _require_known(session, resume)
            tx_hash = resume
        else:
            assert amount is not None
            recipient = key.address if to is None else await session.address(session.l2, to)
            info = await _burn(session, key, recipient, amount, waiting)
            tx_hash = "0x" + info.hash.hex()
            value = {
                "hash": tx_hash,
                "l2_height": info.height,
                "amount": amount,
                "to": "0x" + recipient.hex(),
            }
            value |= {"from": "0x" + key.address.hex(), "status": WAITING, "l2_fee": info.fee}
            waiting.done(f"{show_amount(amount)} left L2 in its block {info.height}  {tx_hash}")
        if wait or resume is not None:
            session.on_interrupt = (
                f"the withdrawal goes on; follow it with layerlab withdraw --from {sender} --resume {tx_hash}"
            )
            value |= await _Follow(session, tx_hash, payer, waiting).to_the_payout()
    session.out.result(value, lambda: session.out.say(_last_line(value, sender), whole=True))


async def _require_known(session: Session, name: str) -> None:
    """Raises `ApiError` or `CommandError` for a withdrawal that nobody knows: there is nothing to wait for."""
    try:
        await session.bridge.get(f"/withdrawals/{name}")
    except ApiError as error:
        if error.status == 503:
            return
        if error.status != 404 or name.isdecimal():
            raise
        if await bridge_or_none(session, f"/forced-transactions/{name}") is None:
            await _require_on_l2(session, name)


async def _require_on_l2(session: Session, name: str) -> None:
    """The sequencer has heard of every transaction before the bridge service has; raises `CommandError` else."""
    try:
        info = await session.l2.transaction(read_hash(name))
    except ApiError as error:
        if signing.unreachable(error):
            return
        raise
    if info is None:
        raise CommandError(
            f"no withdrawal {name}: neither the bridge service nor {session.l2.url} knows it",
            "unknown_withdrawal",
        )
    action = (info.answer.get("transaction") or {}).get("action") or {}
    if action.get("type") == "transfer":
        raise CommandError(f"{name} is a transfer and no withdrawal", "unknown_withdrawal")


def _last_line(value: Mapping[str, Any], sender: str) -> str:
    if value.get("status") == CLAIMED:
        paid = (
            f"{show_amount(value['amount'])} paid on L1 in block {value['paid_at']} to {short(value['to'])}"
        )
        return f"{paid}\n{value['claim']}"
    return f"follow it to the payout: layerlab withdraw --from {sender} --resume {value['hash']}"


async def _burn(
    session: Session, key: KeyPair, recipient: bytes, amount: int, waiting: Waiting
) -> ReceiptInfo:
    hosted = {contract.name for contract in (await session.l2.genesis()).contracts}
    door = GATEWAY if GATEWAY in hosted else MESSENGER
    call = Call(door, "withdraw", encode(WithdrawArgs(recipient)), amount)
    return await signing.send(session, session.l2, key, call, what="the withdrawal on L2", waiting=waiting)


class _Follow:
    """One withdrawal on its way; ``payer`` signs the claim."""

    def __init__(self, session: Session, name: str, payer: KeyPair, waiting: Waiting) -> None:
        self.session = session
        self.name = name
        self.payer = payer
        self.waiting = waiting
        self._seen = ""
        self._voids = 0

    async def to_the_payout(self) -> dict[str, Any]:
        """Follow and claim. Raises `CommandError` if it can never be paid."""
        while True:
            shown = await bridge_or_none(self.session, f"/withdrawals/{self.name}")
            status = "" if shown is None else shown["status"]
            self._say_what_changed(status, shown or {})
            if shown is None:
                self.waiting.now("waiting for the bridge to hear of it")
            elif status == CLAIMED:
                return _paid(shown)
            elif status == REVERTED:
                self._void(shown)
            elif status == READY:
                await self._claim(shown)
            else:
                every = str((shown.get("blocks_left") or 0) // EVERY)
                self.waiting.now(f"waiting for {_words(shown)}", counting(shown), every=every)
            await asyncio.sleep(POLL_SECONDS)

    def _say_what_changed(self, status: str, shown: Mapping[str, Any]) -> None:
        if status == self._seen:
            return
        if status == IN_WINDOW:
            self.waiting.done(f"batch {shown.get('batch')} with it is on L1")
        elif status == READY and self._seen:
            self.waiting.done("the challenge window is over, the batch is final")
        self._seen = status

    def _void(self, shown: Mapping[str, Any]) -> None:
        self._voids += 1
        reason = shown.get("reason") or "its batch was reverted"
        self.waiting.now(f"its batch is void ({reason}); waiting whether an honest batch takes it in")
        if self._voids > VOID_POLLS:
            raise CommandError(
                f"withdrawal {self.name} is void: {reason}", "reverted", withdrawal=dict(shown)
            )

    async def _claim(self, shown: Mapping[str, Any]) -> None:
        self.waiting.now("claiming on L1", "anyone may; the recipient is paid")
        try:
            await send_claim(self.session, self.payer, shown, self.waiting)
        except CommandError as error:
            if error.code != "already_claimed":  # somebody else was faster: it is paid all the same
                raise
        while (now := await bridge_or_none(self.session, f"/withdrawals/{self.name}")) is None or now[
            "status"
        ] == READY:
            self.waiting.now("claimed; waiting for the claim's L1 block to become final")
            await asyncio.sleep(POLL_SECONDS)


def _words(shown: Mapping[str, Any]) -> str:
    """What it waits for, without the figure that counts down beside it."""
    return str(shown.get("waits_for") or "L1").partition(":")[0]


def _paid(shown: Mapping[str, Any]) -> dict[str, Any]:
    paid = shown.get("claim") or {}
    return {
        "status": CLAIMED,
        "amount": shown["amount"],
        "to": shown["recipient"],
        "index": shown.get("index"),
        "claim": paid.get("tx"),
        "paid_at": paid.get("height"),
        "withdrawal": dict(shown),
    }


async def send_claim(
    session: Session, payer: KeyPair, shown: Mapping[str, Any], waiting: Waiting
) -> ReceiptInfo:
    """Sign and send the L1 claim of a withdrawal that is ready. Raises `CommandError`."""
    try:
        arguments = from_json(ClaimArgs, shown.get("claim_arguments") or {})
    except CodecError as error:
        raise CommandError(
            f"the bridge service gave claim arguments that make no sense: {error}", "bad_answer"
        ) from None
    call = Call(BRIDGE, "claim", encode(arguments), 0)
    return await signing.send(session, session.l1, payer, call, what="the claim on L1", waiting=waiting)


async def claim(
    session: Session,
    name: Annotated[str, typer.Argument(metavar="ID", help="The withdrawal: its L2 hash or index.")],
    sender: From,
) -> None:
    """Claim a withdrawal on L1 once its challenge window is over. Anyone may; its recipient is paid.

    Examples:
    layerlab claim 0x41… --from bob
    layerlab claim 3 --from alice --json
    """
    shown = await session.bridge.get(f"/withdrawals/{name}")
    if shown["status"] == CLAIMED:
        raise CommandError(
            f"withdrawal {name} was paid already: {short(_paid(shown)['claim'])}", "already_claimed"
        )
    if shown["status"] != READY:
        raise CommandError(
            f"withdrawal {name} is {shown['status']}, waiting for {shown.get('waits_for') or 'nothing'}; "
            f"{counting(shown)}",
            shown["status"].replace("-", "_"),
            blocks_left=shown.get("blocks_left"),
            seconds_left=shown.get("seconds_left"),
        )
    key = await signing.signer(session, session.l1, sender)
    with session.out.waiting() as waiting:
        info = await send_claim(session, key, shown, waiting)
    value = {
        "hash": "0x" + info.hash.hex(),
        "height": info.height,
        "amount": shown["amount"],
        "to": shown["recipient"],
    }
    paid = f"{show_amount(shown['amount'])} paid in L1 block {info.height} to {short(shown['recipient'])}"
    line = f"{paid}\n{value['hash']}"
    session.out.result(value, lambda: session.out.say(line))
