"""Verbs for the devnet as a whole: up, down, status and warp.

Responsible for options, the banner and showing progress. Must not know how services are started:
`layerlab.devnet` does.
"""

import os
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final

import httpx
import typer

from chainkit.keys import dev_keypair
from layerlab.cli import settings
from layerlab.cli.amounts import show_amount
from layerlab.cli.bridge import EVERY
from layerlab.cli.common import Session, verb
from layerlab.cli.errors import CommandError
from layerlab.cli.output import blocks, duration
from layerlab.config import DevnetConfig
from layerlab.devnet import Devnet
from layerlab.layout import named
from layerlab.models import MODELS
from layerlab.warp import WarpStep

PANEL: Final = "Devnet"
POLL_SECONDS: Final = 0.1


def register(app: typer.Typer) -> None:
    """Add the verbs of this file."""
    verb(app, "up", panel=PANEL)(up)
    verb(app, "down", panel=PANEL)(down)
    verb(app, "status", panel=PANEL)(status)
    verb(app, "warp", panel=PANEL)(warp)


@dataclass(frozen=True)
class Ports:
    """Which ports to take: any free ones, from a base on, or None of both: the usual ones."""

    free: bool
    base: int | None


# --- up and down ---------------------------------------------------------------------------------------------------


def up(
    session: Session,
    detach: Annotated[
        bool,
        typer.Option(
            "--detach", "-d", envvar="LAYERLAB_DETACH", help="Come back when it is up; end it with down."
        ),
    ] = False,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Throw an earlier devnet in this directory away (snapshots stay).")
    ] = False,
    free_ports: Annotated[
        bool,
        typer.Option(
            "--free-ports", envvar="LAYERLAB_FREE_PORTS", help="Take any free ports, not the usual ones."
        ),
    ] = False,
    port_base: Annotated[
        int | None,
        typer.Option(
            "--port-base",
            envvar="LAYERLAB_PORT_BASE",
            min=1,
            max=63_000,
            help="The first validator's port (8545).",
        ),
    ] = None,
    model: settings.ModelName = None,
    validators: settings.Validators = None,
    slot_ms: settings.SlotMs = None,
    block_ms: settings.BlockMs = None,
    window: settings.Window = None,
    proposer_bond: settings.ProposerBond = None,
    challenger_bond: settings.ChallengerBond = None,
    students: settings.Students = None,
) -> None:
    """Bring a devnet up: 4 validators, a sequencer, a verifier and the bridge, each its own process.

    --model sovereign: the validators alone, with the applications on their chain. --model sidechain: a second
    chain with validators of its own, and a bridge that two of three operators move.
    Stays in the foreground until Ctrl-C. What was there before goes on where it stood.

    Examples:
    layerlab up
    layerlab up --detach --fresh
    layerlab up --model sovereign
    layerlab up --free-ports --dir /tmp/second --slot-ms 500
    """
    wanted = {
        "model": model,
        "validators": validators,
        "slot_ms": slot_ms,
        "block_ms": block_ms,
        "window": window,
        "proposer_bond": proposer_bond,
        "challenger_bond": challenger_bond,
        "students": students,
    }
    _end_cleanly_on_hangup()
    variables = settings.for_services(os.environ)
    resumed = Devnet.exists(session.directory) and not fresh
    config = _config(session, wanted, Ports(free_ports, port_base), resumed)
    if fresh:
        Devnet.remove(session.directory)
    devnet = Devnet.open_or_create(session.directory, config, with_parent=not detach)
    devnet.supervisor.variables = variables
    begin = time.monotonic()
    with session.out.waiting() as waiting:
        devnet.up(lambda line: waiting.now(line))
        waiting.now("waiting for the first final block")
        while devnet.final_height() < 1:
            time.sleep(POLL_SECONDS)
    seconds = round(time.monotonic() - begin, 1)
    value = {**banner(devnet), "resumed": resumed, "seconds": seconds, "detached": detach}
    session.out.result(value, lambda: _show_banner(session, value))
    if not detach:
        _stay_up(session, devnet)


def _config(session: Session, wanted: settings.Wanted, ports: Ports, resumed: bool) -> DevnetConfig:
    """What is there goes on; options that are given must be those that it has."""
    config = Devnet.open(session.directory).config if resumed else DevnetConfig()
    config = settings.changed(config, wanted)
    if ports.free:
        config = config.with_free_ports()
    elif ports.base is not None:
        config = config.with_port_base(ports.base)
    return settings.with_variables(config, os.environ, new=not resumed)


def banner(devnet: Devnet) -> dict[str, Any]:
    """All that one needs to know to use the devnet."""
    config = devnet.config
    chains = {"l1": (devnet.genesis(), config.l1_urls)}
    if (l2 := devnet.l2_genesis()) is not None:
        chains["l2"] = (l2, config.app_urls)
    funds = {
        chain: {a.address: a.balance for a in genesis.accounts} for chain, (genesis, _) in chains.items()
    }
    return {
        "model": config.model,
        "chains": {
            chain: {"chain_id": genesis.chain_id, "name": genesis.name, "endpoints": urls}
            for chain, (genesis, urls) in chains.items()
        },
        "endpoints": devnet.urls(),
        "contracts": {chain: [c.name for c in genesis.contracts] for chain, (genesis, _) in chains.items()},
        "accounts": [_account(name, funds) for name in config.account_names],
        "challenge_window": config.settings.challenge_window,
        "slot_ms": config.slot_ms,
        "directory": str(devnet.directory),
    }


def _account(name: str, funds: Mapping[str, Mapping[bytes, int]]) -> dict[str, Any]:
    address = dev_keypair(name).address
    balances = {chain: balances.get(address, 0) for chain, balances in funds.items()}
    return {"name": name, "address": "0x" + address.hex(), **balances}


def _show_banner(session: Session, value: Mapping[str, Any]) -> None:
    out = session.out
    ends, chains = value["endpoints"], value["chains"]
    bridged, rollup = "l2" in chains, MODELS[value["model"]].rollup
    where = _where(session)
    state = "goes on where it stood" if value["resumed"] else "is new"
    out.say(f"\n[bold]layerlab devnet[/] ({value['model']}) {state}; up in {value['seconds']} s\n")
    pace = f"a slot every {value['slot_ms']} ms"
    lines = {
        f"{c.upper()} (chain {about['chain_id']})": "\n".join(about["endpoints"])
        for c, about in chains.items()
    }
    lines |= {"bridge": ends["bridge"]} if bridged else {}
    lines["API docs"] = (
        f"{ends['bridge' if bridged else 'validator-0']}/docs, and /docs at each of the others"
    )
    lines["contracts"] = "\n".join(
        f"{c.upper()}: {', '.join(names)}" for c, names in value["contracts"].items()
    )
    lines["pace"] = pace + (f"; challenge window {blocks(value['challenge_window'])}" if rollup else "")
    lines["data"] = value["directory"]
    out.fields(lines)
    first = value["accounts"][0]
    funds = ", ".join(f"{show_amount(first[chain])} on {chain.upper()}" for chain in chains)
    out.say(f"\n[bold]Accounts[/] (well-known keys, worthless elsewhere; at genesis {funds})")
    out.table(["", ""], [(account["name"], account["address"]) for account in value["accounts"]])
    out.say("\n[bold]Next[/]")
    if bridged:
        out.say(f"  layerlab deposit --from alice --amount 10 --wait{where}", whole=True)
        out.say(f"  layerlab withdraw --from bob --amount 30 --wait{where}", whole=True)
    else:
        out.say(f"  layerlab send --from alice --to bob --amount 10{where}", whole=True)
    ending = (
        f"End it with: layerlab down{where}" if value["detached"] else "Ctrl-C ends it; its state is kept."
    )
    out.say(f"\n[dim]{ending}[/]")


def _end_cleanly_on_hangup() -> None:
    """A closed terminal or a SIGTERM ends the devnet as Ctrl-C does."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    for name in ("SIGTERM", "SIGHUP"):
        signal.signal(getattr(signal, name), interrupt)


def _stay_up(session: Session, devnet: Devnet) -> None:
    """Until Ctrl-C, or until somebody else takes the devnet down; says when a service ends by itself."""

    def ended(name: str, log: list[str]) -> None:
        session.out.note(f"{name} has ended; its log is {devnet.layout.log(name)}")
        for line in log:
            session.out.note(f"  {line}")

    try:
        devnet.watch(ended)
        session.out.note("the devnet was taken down")
    except KeyboardInterrupt:
        session.out.note("stopping; a moment")
        devnet.down()
        session.on_interrupt = (
            f"the devnet is down, its state is kept; layerlab up{_where(session)} goes on with it"
        )
        raise


def _where(session: Session) -> str:
    """The option that finds this devnet again, if it needs one."""
    return named(session.directory)


def down(session: Session) -> None:
    """Take the devnet down; its state is kept, and `layerlab up` goes on with it.

    Examples:
    layerlab down
    layerlab down --dir /tmp/second --json
    """
    devnet = Devnet.open(session.directory)
    with session.out.waiting() as waiting:
        names = devnet.down(lambda line: waiting.now(line))
    value = {"stopped": names, "directory": str(devnet.directory)}
    line = f"stopped {len(names)} services; layerlab up{_where(session)} goes on with them"
    session.out.result(value, lambda: session.out.say(line if names else "it was down already"))


# --- status ----------------------------------------------------------------------------------------------------------


def status(session: Session) -> None:
    """Show every service: heads, who is dishonest, and whether the bridge's books balance.

    Exit code 1 if nothing answers.

    Examples:
    layerlab status
    layerlab status --json
    """
    answers = {
        name: _ask(url + ("/bridge" if name == "bridge" else "/status"))
        for name, url in session.network.urls.items()
    }
    if not any(answer["up"] for answer in answers.values()):
        raise CommandError("nothing answers; start it with layerlab up", "unreachable", services=answers)
    session.out.result({"services": answers}, lambda: _show_status(session, answers))


def _ask(path: str) -> dict[str, Any]:
    url = path.rpartition("/")[0]
    try:
        answer = httpx.get(path, timeout=2.0, trust_env=False).raise_for_status().json()
        return {"up": True, "url": url, **answer}
    except (httpx.HTTPError, ValueError, TypeError) as error:
        return {"up": False, "url": url, "error": str(error) or type(error).__name__}


def _show_status(session: Session, answers: Mapping[str, Mapping[str, Any]]) -> None:
    rows = []
    for name, answer in answers.items():
        heads = answer.get("heads") or {}
        cells = [
            str(head["height"]) if (head := heads.get(ref)) else "" for ref in ("head", "safe", "finalized")
        ]
        rows.append((name, answer["url"], "up" if answer["up"] else "DOWN", *cells, _remark(answer)))
    columns = ["service", "address", "", "head", "safe", "final", ""]
    session.out.table(columns, rows, right=["head", "safe", "final"])


def _remark(answer: Mapping[str, Any]) -> str:
    if not answer["up"]:
        return ""
    remarks = []
    if answer.get("dishonest_on_purpose"):
        faults = answer["dishonest_on_purpose"]
        names = [f["name"] if isinstance(f, Mapping) else str(f) for f in faults]
        remarks.append(f"DISHONEST ON PURPOSE: {', '.join(names)}")
    if answer.get("frozen"):
        remarks.append("FROZEN: exits only")
    if answer.get("diverged") is not None:
        remarks.append(f"DIVERGED at batch {answer['diverged']}")
    invariant = answer.get("invariant")
    if isinstance(invariant, Mapping):
        remarks.append("books balance" if invariant.get("holds") else "BOOKS DO NOT BALANCE")
        remarks.append(f"escrow {show_amount(invariant['escrow'])}")
        open_disputes = answer.get("open_disputes") or []
        if open_disputes:
            remarks.append(f"{len(open_disputes)} open disputes")
    return ", ".join(remarks)


# --- time ------------------------------------------------------------------------------------------------------------


def warp(
    session: Session,
    count: Annotated[
        int | None, typer.Option("--blocks", min=1, max=100_000, help="So many L1 blocks on.")
    ] = None,
    to: Annotated[int | None, typer.Option("--to", min=1, help="To this final L1 height.")] = None,
    until_withdrawal: Annotated[
        str | None,
        typer.Option(
            "--until-withdrawal",
            metavar="ID",
            help="Until this withdrawal is ready to claim (L2 hash or index).",
        ),
    ] = None,
) -> None:
    """Run the devnet's time fast, for every service alike, until so many L1 blocks are final.

    Examples:
    layerlab warp --blocks 100
    layerlab warp --to 500
    layerlab warp --until-withdrawal 0x41…
    """
    if sum(option is not None for option in (count, to, until_withdrawal)) != 1:
        raise typer.BadParameter("give one of --blocks, --to and --until-withdrawal")
    devnet = Devnet.open(session.directory)
    start, begin = devnet.final_height(), time.monotonic()
    target = None if until_withdrawal is not None else to if to is not None else start + (count or 0)
    ready = _Withdrawal(devnet, until_withdrawal) if until_withdrawal is not None else None
    with session.out.waiting() as waiting:

        def progress(step: WarpStep) -> None:
            height, every = step.height, None
            left = f"block {height}" if target is None else f"block {height} of {target}"
            said = f"to block {target}"
            if ready is not None:
                said = f"until the withdrawal is ready: {ready.words}"
                left = f"{blocks(ready.left)} left" if ready.left else left
                every = str(ready.left // EVERY)
            waiting.now(f"time runs {step.rate:.0f} times as fast, {said}", left, every=every)

        def done(height: int) -> bool:
            return ready.is_over() if ready is not None else height >= (target or 0)

        reached = devnet.warp(done, progress, goal=target)
    seconds = round(time.monotonic() - begin, 1)
    value: dict[str, Any] = {"from": start, "to": reached, "blocks": reached - start, "seconds": seconds}
    value |= {} if ready is None else {"withdrawal": ready.status}
    line = f"{blocks(reached - start)} in {duration(seconds)}: L1 is final up to block {reached}"
    session.out.result(value, lambda: session.out.say(line))


class _Withdrawal:
    """Where a withdrawal stands, asked again and again while time runs."""

    def __init__(self, devnet: Devnet, name: str) -> None:
        self._url = f"{devnet.config.url('bridge')}/withdrawals/{name}"
        self._http = httpx.Client(timeout=2.0, trust_env=False)
        self.status: str | None = None
        self.words, self.left = "", 0

    def ask(self) -> httpx.Response:
        return self._http.get(self._url)

    def is_over(self) -> bool:
        """Raises `CommandError` if there is no such withdrawal."""
        try:
            answer = self.ask()
        except httpx.HTTPError:
            return False
        shown = answer.json()
        if answer.status_code in (404, 422):
            raise CommandError(
                str(shown.get("detail", "no such withdrawal")), str(shown.get("code", "unknown"))
            )
        self.status, self.left = shown.get("status"), int(shown.get("blocks_left") or 0)
        # What counts down stands beside it.
        self.words = str(shown.get("waits_for") or "L1").partition(":")[0]
        return self.status in ("ready-to-claim", "claimed", "reverted")
