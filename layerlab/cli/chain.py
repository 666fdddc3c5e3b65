"""Verbs of the chain API: accounts, balances, blocks, transactions, events, and sending.

Responsible for asking a chain and showing the answer. Must not know of bridge or devnet processes.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final

import typer

from chainkit.client import ApiError, ChainClient
from chainkit.codec import CodecError, parse_hex
from chainkit.keys import DEV_ACCOUNTS, dev_keypair, is_dev_address
from chainkit.store import StoredEvent
from chainkit.transaction import Transfer
from layerlab.cli import signing
from layerlab.cli.amounts import show_amount, show_coins
from layerlab.cli.common import CHAIN, PLAIN, Amount, From, Session, verb
from layerlab.cli.errors import CommandError
from layerlab.cli.output import short
from layerlab.models import MODELS

PANEL: Final = "Chains (L1, or the rollup with --l2)"
HEADS: Final = ("head", "safe", "finalized")


def register(app: typer.Typer) -> None:
    """Add the verbs of this file."""
    verb(app, "accounts", PLAIN, panel=PANEL)(accounts)
    verb(app, "balance", CHAIN, panel=PANEL)(balance)
    verb(app, "nonce", CHAIN, panel=PANEL)(nonce)
    verb(app, "block", CHAIN, panel=PANEL)(block)
    verb(app, "tx", CHAIN, panel=PANEL)(tx)
    verb(app, "receipt", CHAIN, panel=PANEL)(receipt)
    verb(app, "send", CHAIN, panel=PANEL)(send)
    verb(app, "events", PLAIN, panel=PANEL)(events)


Who = Annotated[
    str, typer.Argument(help="A devnet name (alice), a 0x address, or a key file.", metavar="WHO")
]
At = Annotated[
    str, typer.Option("--at", envvar="LAYERLAB_AT", help="At which head: head, safe or finalized.")
]
Hash = Annotated[str, typer.Argument(help="The transaction's 0x hash.", metavar="HASH")]


# --- accounts --------------------------------------------------------------------------------------------------


async def accounts(session: Session) -> None:
    """Show the devnet's funded accounts: names, addresses, balances on L1 and L2.

    Everyone knows their keys, so they are worthless outside of a devnet.

    Examples:
    layerlab accounts
    layerlab accounts --json
    """
    clients = {"l1": session.client(session.network.service("l1"))}
    if MODELS[session.network.model].bridged:
        clients["l2"] = session.client(session.network.service("l2"))
    found: list[dict[str, Any]] = []
    await session.require_devnet(clients["l1"], "accounts")
    people = {name: dev_keypair(name).address for name in DEV_ACCOUNTS}
    genesis = await clients["l1"].genesis()
    others = {a.name: a.address for a in genesis.accounts if a.name and is_dev_address(a.address) is None}
    for name, address in {**people, **dict(sorted(others.items()))}.items():
        entry: dict[str, Any] = {"name": name, "address": "0x" + address.hex()}
        for chain, client in clients.items():
            entry[chain] = await _balance_or_none(chain, address, client)
        found.append(entry)
    columns = [f"{chain.upper()} coins" for chain in clients]
    rows = [(a["name"], *(_coins(a[chain]) for chain in clients), a["address"]) for a in found]
    session.out.result(found, lambda: session.out.table(["name", *columns, "address"], rows, right=columns))


async def _balance_or_none(chain: str, address: bytes, client: ChainClient) -> int | None:
    try:
        return (await client.account(address)).balance
    except ApiError as error:
        if not signing.unreachable(error) or chain == "l1":
            raise
        return None


def _coins(gwei: int | None) -> str:
    return "?" if gwei is None else show_coins(gwei)


async def balance(session: Session, who: Who, at: At = "head") -> None:
    """Show a balance, on L1 or with --l2 on the rollup.

    Examples:
    layerlab balance alice
    layerlab balance alice --l2 --at finalized
    layerlab balance 0x5f… --json
    """
    info = await session.chain.account(await session.address(session.chain, who), _head(at))
    value = {
        "address": "0x" + info.address.hex(),
        "name": info.name,
        "balance": info.balance,
        "coins": show_coins(info.balance).replace(",", ""),
        "exists": info.exists,
        "at": at,
        "height": info.height,
    }
    session.out.result(value, lambda: session.out.say(show_amount(info.balance)))


def _head(at: str) -> Any:
    if at not in HEADS:
        raise typer.BadParameter(f"--at {at}: give head, safe or finalized")
    return at


async def nonce(session: Session, who: Who) -> None:
    """Show the next nonce of an account, with what waits in the mempool counted.

    Examples:
    layerlab nonce alice
    layerlab nonce bob --l2
    """
    info = await session.chain.account(await session.address(session.chain, who))
    value = {"address": "0x" + info.address.hex(), "nonce": info.nonce, "pending_nonce": info.pending_nonce}
    session.out.result(value, lambda: session.out.say(str(info.pending_nonce)))


# --- blocks and transactions -------------------------------------------------------------------------------------


async def block(
    session: Session,
    ref: Annotated[str, typer.Argument(help="A height, a 0x hash, head, safe or finalized.")] = "head",
    full: Annotated[bool, typer.Option("--full", help="Transactions in full.")] = False,
) -> None:
    """Show a block.

    Examples:
    layerlab block
    layerlab block 12 --json
    layerlab block safe --l2 --full
    """
    shown = await session.chain.block(ref, full=full)
    session.out.result(shown, lambda: _show_block(session, shown))


def _show_block(session: Session, shown: Mapping[str, Any]) -> None:
    header = shown["header"]
    certificate = shown.get("certificate")
    session.out.fields(
        {
            "height": shown["height"],
            "hash": shown["hash"],
            "status": shown["status"],
            "parent": header["parent"],
            "slot": header["slot"],
            "proposer": header["proposer"],
            "state root": header["state_root"],
            "base fee": f"{header['base_fee']} gwei per gas",
            "gas used": f"{header['gas_used']:,}",
            "votes": len(certificate["votes"]) if certificate else None,
            "inbox": len(shown.get("inbox") or []) or None,
            "transactions": len(shown["transactions"]),
        }
    )
    for tx in shown["transactions"]:
        session.out.say(f"  {tx if isinstance(tx, str) else _in_words(tx)}")


def _in_words(tx: Mapping[str, Any]) -> str:
    action = tx["action"]
    sender = short(tx["sender"])
    if action["type"] == "transfer":
        what = f"pays {show_amount(action['amount'])} to {short(action['to'])}"
    else:
        with_value = f" with {show_amount(action['value'])}" if action["value"] else ""
        what = f"calls {action['contract']}.{action['method']}{with_value}"
    return f"{tx['hash']}  {sender} {what}"


async def tx(session: Session, tx_hash: Hash) -> None:
    """Show a transaction: what it does, where it stands, and its receipt.

    Examples:
    layerlab tx 0x41…
    layerlab tx 0x41… --l2 --json
    """
    shown = await _transaction(session, tx_hash)
    session.out.result(shown, lambda: _show_tx(session, shown))


async def _transaction(session: Session, tx_hash: str) -> Mapping[str, Any]:
    tx_id = read_hash(tx_hash)
    info = await session.chain.transaction(tx_id)
    if info is None:
        other = "without --l2" if session.options.get("l2") else "with --l2"
        raise CommandError(
            f"{session.chain_url} knows no transaction {tx_hash}; try {other}", "unknown_transaction"
        )
    return info.answer


def read_hash(text: str) -> bytes:
    """Raises `CommandError`."""
    try:
        return parse_hex(text, "a hash", 32)
    except CodecError as error:
        raise CommandError(f"{text[:80]!r}: {error}", "invalid_hash") from None


def _show_tx(session: Session, shown: Mapping[str, Any]) -> None:
    signed = shown["transaction"]
    promise = shown.get("sequencer_receipt")
    session.out.say(_in_words(signed))
    session.out.fields(
        {
            "status": shown["status"],
            "block": None if shown["height"] is None else f"{shown['height']} (position {shown['position']})",
            "sender": signed["sender"],
            "nonce": signed["nonce"],
            "fees": f"at most {signed['max_fee_per_gas']} gwei per gas, tip {signed['tip_per_gas']}",
            "promised": promise
            and f"block {promise['height']}, position {promise['position']}, by the sequencer",
        }
    )
    _show_receipt(session, shown)


def _show_receipt(session: Session, shown: Mapping[str, Any]) -> None:
    found = shown["receipt"]
    if found is None:
        session.out.say("not in a block yet")
        return
    session.out.fields(
        {
            "result": "success" if found["success"] else f"FAILED: {found['message'] or found['code']}",
            "gas used": f"{found['gas_used']:,}",
            "fee": show_amount(found["fee"]),
        }
    )
    for event in found["events"]:
        session.out.say(f"  {event['contract']}: {event['name']} {_data(event['data'])}")


def _data(data: Mapping[str, Any]) -> str:
    parts = []
    for name, value in data.items():
        if name in ("amount", "paid", "burned", "reward") and isinstance(value, int):
            parts.append(f"{name} {show_amount(value)}")
        elif isinstance(value, Mapping):
            parts.append(f"{name} {value.get('index', '…')}")
        elif isinstance(value, list):
            parts.append(f"{len(value)} {name}")
        else:
            parts.append(f"{name} {short(value) if isinstance(value, str) else value}")
    return ", ".join(parts)


async def receipt(session: Session, tx_hash: Hash) -> None:
    """Show what became of a transaction: success, gas, fee, events. Exit code 1 if it is in no block yet.

    Examples:
    layerlab receipt 0x41…
    layerlab receipt 0x41… --l2 --json
    """
    shown = await _transaction(session, tx_hash)
    if shown["receipt"] is None:
        raise CommandError(f"{tx_hash} is {shown['status']}: in no block yet; ask again", "not_included")
    value = {name: shown[name] for name in ("hash", "status", "height", "block_hash", "position", "receipt")}
    value["sequencer_receipt"] = shown.get("sequencer_receipt")
    session.out.result(value, lambda: _show_receipt(session, shown))


# --- sending -------------------------------------------------------------------------------------------------------


async def send(
    session: Session,
    sender: From,
    to: Annotated[str, typer.Option("--to", envvar="LAYERLAB_TO", metavar="WHO", help="Who gets it.")],
    amount: Amount,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Do not wait for a block.")] = False,
) -> None:
    """Send coins, signed here with the sender's key, and wait until they are in a block.

    Examples:
    layerlab send --from alice --to bob --amount 5
    layerlab send --from alice --to bob --amount 0.25 --l2
    layerlab send --from ./my.pem --to 0x5f… --amount 500gwei
    """
    client = session.chain
    key = await signing.signer(session, client, sender)
    action = Transfer(await session.address(client, to), amount)
    if no_wait:
        signed = await signing.sign(session, client, key, action)
        submitted = await client.submit(signed)
        value: dict[str, Any] = {"hash": "0x" + submitted.hash.hex(), "status": "pending"}
        session.out.result(
            value, lambda: session.out.say(f"sent; follow it with layerlab tx {value['hash']}")
        )
        return
    with session.out.waiting() as waiting:
        info = await signing.send(session, client, key, action, what="the transfer", waiting=waiting)
    value = {"hash": "0x" + info.hash.hex(), "status": info.status, "height": info.height, "fee": info.fee}
    value |= {"from": "0x" + key.address.hex(), "to": "0x" + action.to.hex(), "amount": amount}
    line = f"{sender} paid {show_amount(amount)} to {to} in block {info.height}, fee {show_amount(info.fee)}"
    session.out.result(value, lambda: session.out.say(f"{line}\n{value['hash']}"))


# --- events --------------------------------------------------------------------------------------------------------


async def events(
    session: Session,
    on: Annotated[
        str | None,
        typer.Option(
            "--on",
            envvar="LAYERLAB_ON",
            metavar="SERVICE",
            help="bridge, l1, sequencer, verifier or validator-N (default: the bridge, if there is one, else l1).",
        ),
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with each new event until Ctrl-C.")
    ] = False,
    from_: Annotated[
        int | None, typer.Option("--from", min=1, help="The first number (default: the last 20).")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=1000, help="At most so many.")] = 20,
    name: Annotated[
        str | None, typer.Option("--name", help="Only events of this name (BatchSubmitted).")
    ] = None,
) -> None:
    """Show what happened, as a service tells it. With --follow and --json: one object a line.

    Examples:
    layerlab events
    layerlab events --follow --on verifier
    layerlab events --name BatchReverted --from 1 --json
    """
    client = session.client(session.network.service(on or _teller(session)))
    if from_ is None:
        probe = (await client.get("/events", {"from": 2**53 - 1, "limit": 1}))["last"]
        from_ = max(1, probe - limit + 1)
    if not follow:
        found = [e for e in await client.events(from_, limit) if name in (None, e.name)]
        session.out.result([e.to_json() for e in found], lambda: _show_events(session, found))
        return
    session.on_interrupt = ""
    async for event in client.stream_events(from_):
        if name in (None, event.name):
            if session.out.as_json:
                session.out.json_line(event.to_json())
            else:
                _show_event(session, event)


def _teller(session: Session) -> str:
    """Who tells most."""
    model = MODELS.get(session.network.model)
    return "bridge" if model is None or model.bridged else "l1"


def _show_events(session: Session, found: Sequence[StoredEvent]) -> None:
    for event in found:
        _show_event(session, event)


def _show_event(session: Session, event: StoredEvent) -> None:
    session.out.console.print(
        f"{event.seq:>5}  block {event.height:<6} {event.name:<22} {_data(event.data)}", markup=False
    )
