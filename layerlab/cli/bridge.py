"""Verbs of the bridge but withdrawing: deposit, claim, force, exit, batches and disputes.

Responsible for signing locally and for showing what the bridge service tells. Must not know how to play a
dispute (see ``disputes``) nor how to follow a withdrawal (see ``withdraw``).
"""

import asyncio
import re
from collections.abc import Mapping
from typing import Annotated, Any, Final

import typer

from bridge.abi import DepositArgs, ForceArgs
from chainkit.client import ApiError
from chainkit.codec import encode
from chainkit.transaction import Call, SignedTransaction, Transfer
from layerlab.cli import signing
from layerlab.cli.amounts import show_amount
from layerlab.cli.common import (
    L1_ONLY,
    STACK,
    Amount,
    From,
    OptionalAmount,
    Session,
    To,
    a_bridge,
    a_rollup,
    read_amount,
    verb,
)
from layerlab.cli.errors import CommandError, add_refusal
from layerlab.cli.output import Waiting, blocks, duration, person, short
from layerlab.cli.reading import verified
from layerlab.escape import ALIVE, EscapeError, escape
from rollup.messenger import WithdrawArgs

PANEL: Final = "Bridge"
BRIDGE: Final = "bridge"
POLL_SECONDS: Final = 0.4
EVERY: Final = 25
"""Blocks between two lines where there is no terminal."""
add_refusal(EscapeError)


def register(app: typer.Typer) -> None:
    """Add the verbs of this file."""
    verb(app, "deposit", STACK, panel=PANEL, needs=a_bridge)(deposit)
    verb(app, "force", STACK, panel=PANEL, needs=a_rollup)(force)
    verb(app, "exit", L1_ONLY, panel=PANEL, needs=a_rollup)(exit_)
    verb(app, "batches", STACK, panel=PANEL, needs=a_rollup)(batches)
    verb(app, "disputes", STACK, panel="Disputes and dishonesty", needs=a_rollup)(disputes)


# --- deposits --------------------------------------------------------------------------------------------------------


async def deposit(
    session: Session,
    sender: From,
    amount: Amount,
    to: To = None,
    wait: Annotated[bool, typer.Option("--wait", help="Until the rollup has credited it.")] = False,
) -> None:
    """Deposit coins on L1; the rollup credits them once the deposit's block is final.

    Examples:
    layerlab deposit --from alice --amount 10 --wait
    layerlab deposit --from alice --to bob --amount 2.5 --json
    """
    key = await signing.signer(session, session.l1, sender)
    recipient = key.address if to is None else await session.address(session.l1, to)
    call = Call(BRIDGE, "deposit", encode(DepositArgs(recipient)), amount)
    with session.out.waiting() as waiting:
        info = await signing.send(session, session.l1, key, call, what="the deposit on L1", waiting=waiting)
        tx_hash = "0x" + info.hash.hex()
        value: dict[str, Any] = {"hash": tx_hash, "height": info.height, "amount": amount, "fee": info.fee}
        value |= {"from": "0x" + key.address.hex(), "to": "0x" + recipient.hex(), "status": "in-l1-block"}
        if wait:
            waiting.done(f"{show_amount(amount)} are in L1 block {info.height}  {short(tx_hash)}")
            session.on_interrupt = "the deposit goes on by itself"
            value |= await _credited(session, tx_hash, waiting)
    session.out.result(value, lambda: session.out.say(_deposit_line(value)))


def _deposit_line(value: Mapping[str, Any]) -> str:
    amount = show_amount(value["amount"])
    if value["status"] == "credited":
        return f"L2 has credited {amount} to {short(value['to'])} ({value['credited_by']})"
    if value["status"] == "refunded":
        return f"the bridge is frozen: {amount} were refunded on L1"
    return f"{amount} are in L1 block {value['height']}; L2 credits them when it is final\n{value['hash']}"


async def _credited(session: Session, tx_hash: str, waiting: Waiting) -> dict[str, Any]:
    while True:
        shown = await bridge_or_none(session, f"/deposits/{tx_hash}")
        if shown is None:
            waiting.now("waiting for the deposit's L1 block to become final")
        elif shown["status"] in ("credited", "refunded"):
            return {"status": shown["status"], "credited_by": shown.get("credited_by"), "deposit": shown}
        else:
            waiting.now(f"waiting for {shown['waits_for'] or 'L2'}", counting(shown))
        await asyncio.sleep(POLL_SECONDS)


async def bridge_or_none(session: Session, path: str) -> Any:
    """A GET of the bridge service; None while it does not know the thing, or does not answer for a moment."""
    try:
        return await session.bridge.get(path)
    except ApiError as error:
        if error.status in (404, 503):
            return None
        raise


def counting(shown: Mapping[str, Any]) -> str:
    """How long, and who may act."""
    parts = []
    left = shown.get("blocks_left") or 0
    if left:
        parts.append(f"{blocks(left)} left, about {duration(shown.get('seconds_left') or 0)}")
    who = who_may_act(shown)
    if who:
        parts.append(f"may act: {who}")
    return " · ".join(parts)


def who_may_act(shown: Mapping[str, Any]) -> str:
    return str(shown.get("who_may_act") or shown.get("may_act") or "")


# --- forced transactions ---------------------------------------------------------------------------------------------


async def force(
    session: Session,
    sender: From,
    to: To = None,
    amount: OptionalAmount = None,
    withdraw: Annotated[
        int | None,
        typer.Option(
            "--withdraw",
            parser=read_amount,
            metavar="COINS",
            help="Force a withdrawal of so many coins instead.",
        ),
    ] = None,
    by: Annotated[
        str | None, typer.Option("--by", metavar="WHO", help="Who pays for it on L1 (default: the sender).")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Until it has run on L2.")] = False,
) -> None:
    """Run an L2 transaction through L1: no sequencer can leave it out for longer than the inclusion delay.

    Examples:
    layerlab force --from carol --to bob --amount 7 --wait
    layerlab force --from carol --withdraw 20
    """
    if (withdraw is None) == (to is None or amount is None):
        raise typer.BadParameter("give --to and --amount, or --withdraw")
    key = await signing.signer(session, session.l1, sender)
    payer = key if by is None else await signing.signer(session, session.l1, by)
    action: Transfer | Call
    if withdraw is not None:
        recipient = key.address if to is None else await session.address(session.l1, to)
        action = Call("messenger", "withdraw", encode(WithdrawArgs(recipient)), withdraw)
    else:
        assert to is not None
        assert amount is not None
        action = Transfer(await session.address(session.l1, to), amount)
    tx = await _sign_for_l2(session, key, action)
    call = Call(BRIDGE, "force", encode(ForceArgs(tx.wire)), 0)
    with session.out.waiting() as waiting:
        info = await signing.send(
            session, session.l1, payer, call, what="the forced call on L1", waiting=waiting
        )
        value: dict[str, Any] = {
            "hash": "0x" + info.hash.hex(),
            "height": info.height,
            "l2_hash": "0x" + tx.id.hex(),
            "fee": info.fee,
        }
        if wait:
            waiting.done(f"queued in L1 block {info.height}  {short(value['hash'])}")
            session.on_interrupt = f"it goes on by itself; see layerlab tx {value['l2_hash']} --l2"
            value |= await _executed(session, tx.id, waiting)
    session.out.result(value, lambda: session.out.say(_forced_line(value)))


async def _sign_for_l2(session: Session, key: Any, action: Transfer | Call) -> SignedTransaction:
    """For a transaction that L1 carries the sequencer may be gone: then the verifier's word must do."""
    try:
        return await signing.sign(session, session.l2, key, action)
    except ApiError as error:
        if not signing.unreachable(error) or session.options.get("l2_url"):
            raise
        verifier = session.client(session.network.service("verifier"))
        return await signing.sign(session, verifier, key, action)


async def _executed(session: Session, tx_id: bytes, waiting: Waiting) -> dict[str, Any]:
    path = f"/forced-transactions/0x{tx_id.hex()}"
    while True:
        shown = await bridge_or_none(session, path)
        info = await _l2_or_none(session, tx_id)
        if info is not None and info.success is not None:
            if not info.success:
                raise CommandError(f"it ran on L2 and failed: {info.message or info.code}", info.code)
            return {"status": "executed", "l2_height": info.height}
        if shown is None:
            waiting.now("waiting for its L1 block to become final")
        else:
            waiting.now(f"waiting for {shown.get('waits_for') or 'L2'}", counting(shown))
        await asyncio.sleep(POLL_SECONDS)


async def _l2_or_none(session: Session, tx_id: bytes) -> Any:
    """Where the transaction stands on L2, by the sequencer or else the verifier."""
    for client in (session.l2, session.client(session.network.service("verifier"))):
        try:
            info = await client.transaction(tx_id)
        except ApiError:
            continue
        if info is not None and info.success is not None:
            return info
    return None


def _forced_line(value: Mapping[str, Any]) -> str:
    if value.get("status") == "executed":
        return f"it ran in L2 block {value['l2_height']}\n{value['l2_hash']}"
    return (
        f"queued in L1 block {value['height']}: it runs on L2 by the deadline, whatever the sequencer wants\n"
        f"{value['l2_hash']}"
    )


# --- leaving ---------------------------------------------------------------------------------------------------------


async def exit_(session: Session, sender: From) -> None:
    """Leave a dead rollup with a key and L1 alone: freeze the bridge and take out the last final balance.

    Asks no sequencer, no verifier and no bridge service, and checks every L1 block itself. Waits until the rules
    allow a freeze (escape_timeout blocks without a batch). Fast on a devnet: layerlab warp.

    Examples:
    layerlab exit --from dave
    layerlab exit --from ./me.pem --l1-url https://node.example --l1-genesis l1.json
    """
    key = await signing.signer(session, session.l1, sender)
    genesis = await session.genesis()
    session.on_interrupt = "run it again at any time; it goes on from where L1 stands"
    with session.out.waiting() as waiting:
        result = await verified(
            escape(session.l1_urls, genesis, key, lambda line: _show_progress(waiting, line))
        )
    value = {
        "account": "0x" + result.account.hex(),
        "amount": result.amount,
        "height": result.height,
        "hash": "0x" + result.tx_id.hex(),
        "froze_the_bridge": result.froze,
    }
    line = (
        f"{sender} left with {show_amount(result.amount)}, paid in L1 block {result.height}\n{value['hash']}"
    )
    session.out.result(value, lambda: session.out.say(line))


_COUNTDOWN: Final = re.compile(r"(.*)[:,] ([0-9]+) (?:more )?blocks? left")


def _show_progress(waiting: Waiting, line: str) -> None:
    """A line of `layerlab.escape`: what counts down apart, amounts in coins."""
    line = re.sub(r"([0-9]+) gwei", lambda found: show_amount(int(found[1])), line)
    found = _COUNTDOWN.fullmatch(line)
    if line.startswith(ALIVE):
        waiting.trouble(line)
    elif found is None:
        waiting.now(line)
    else:
        left = int(found[2])
        waiting.now(found[1], f"{blocks(left)} left", every=str(left // EVERY))


# --- looking ---------------------------------------------------------------------------------------------------------


async def batches(
    session: Session,
    n: Annotated[int | None, typer.Argument(min=0, help="One batch, in full.", metavar="[N]")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=100, help="At most so many.")] = 20,
) -> None:
    """Show the batches on L1: what each claims, what executing it gave, and how long it waits.

    Examples:
    layerlab batches
    layerlab batches 3 --json
    """
    if n is not None:
        shown = await session.bridge.get(f"/batches/{n}")
        session.out.result(shown, lambda: session.out.fields(_flat(shown)))
        return
    found = (await session.bridge.get("/batches", {"limit": limit}))["batches"]
    rows = [
        (
            b["index"],
            f"{b['first_block']}-{b['first_block'] + b['blocks'] - 1}",
            b["steps"],
            b["status"],
            "yes" if b.get("matches", True) else "FALSE",
            b.get("l1_height", b.get("height")),
            ", ".join(map(str, b.get("disputes") or [])),
            b.get("reverted_because") or b.get("waits_for") or "",
        )
        for b in found
    ]
    columns = ["batch", "L2 blocks", "steps", "status", "true", "L1 block", "disputes", ""]
    session.out.result(found, lambda: session.out.table(columns, rows, right=["batch", "steps", "L1 block"]))


async def disputes(
    session: Session,
    n: Annotated[int | None, typer.Argument(min=0, help="One dispute, in full.", metavar="[N]")] = None,
    all_: Annotated[bool, typer.Option("--all", help="Resolved ones too.")] = False,
) -> None:
    """Show the disputes: whose turn it is, both clocks, the steps still in dispute.

    Examples:
    layerlab disputes
    layerlab disputes --all
    layerlab disputes 0 --json
    """
    if n is not None:
        shown = await session.bridge.get(f"/disputes/{n}")
        session.out.result(shown, lambda: _show_dispute(session, shown))
        return
    found = [
        d for d in (await session.bridge.get("/disputes"))["disputes"] if all_ or d["stage"] != "resolved"
    ]
    rows = [
        (
            d["index"],
            d["batch"],
            person(d["challenger"]),
            person(d["defender"]),
            f"{d['low']}-{d['high']}",
            d["stage"]
            if d["stage"] != "resolved"
            else f"won by the {d['winner'] or 'nobody'}: {d['reason']}",
            "" if d["stage"] == "resolved" else f"{d['turn']}, {blocks(d.get('blocks_left', 0))} left",
        )
        for d in found
    ]
    columns = ["dispute", "batch", "challenger", "defender", "steps", "stage", "turn"]
    if not found and not all_:
        session.out.note("no open disputes; --all shows resolved ones")
    session.out.result(
        found, lambda: session.out.table(columns, rows, right=["dispute", "batch"]) if found else None
    )


def _show_dispute(session: Session, d: Mapping[str, Any]) -> None:
    over = d["stage"] == "resolved"
    clocks = d.get("clocks") or {}
    session.out.fields(
        {
            "dispute": f"{d['index']} over batch {d['batch']}, opened in L1 block {d['opened']}",
            "challenger": f"{person(d['challenger'])}  {d['challenger'].get('address', '')}",
            "holds true": d["claimed_root"],
            "defender": f"{person(d['defender'])}  {d['defender'].get('address', '')}",
            "claims": d["high_root"],
            "bond": show_amount(d["bond"]),
            "in dispute": f"steps {d['low']} to {d['high']}",
            "stage": d["stage"],
            "clocks": None if over else ", ".join(f"{side} {blocks(left)}" for side, left in clocks.items()),
            "waits for": d.get("waits_for"),
            "may act": who_may_act(d),
            "verdict": f"won by the {d['winner'] or 'nobody'}: {d['reason']}" if over else None,
        }
    )
    for move in d.get("history") or []:
        data = move.get("data")
        facts = ", ".join(f"{k} {_brief(v)}" for k, v in data.items() if k != "dispute") if data else ""
        session.out.say(f"  block {move.get('height')}  {move.get('name')}  {facts}")


def _flat(shown: Mapping[str, Any]) -> dict[str, Any]:
    pairs = {name.replace("_", " "): value for name, value in shown.items()}
    for name in ("bond", "amount"):
        if isinstance(pairs.get(name), int):
            pairs[name] = show_amount(pairs[name])
    return pairs


def _brief(value: Any) -> str:
    if isinstance(value, str):
        return short(value)
    return f"({len(value)})" if isinstance(value, (list, dict)) else str(value)
