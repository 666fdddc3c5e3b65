"""Playing a dispute by hand: open, bisect, choose, prove, call time, take a bond back.

Responsible for signing the move that `rollup.player` names, from L1 alone, or the one that the user insists on.
Must not know the rules of the game.
"""

from collections.abc import Callable
from typing import Annotated, Any

import typer

from bridge import abi
from bridge.dispute import clock_left, cut, segments
from chainkit.codec import CodecError, encode, parse_hex
from chainkit.keys import KeyPair
from chainkit.merkle import ProofError
from chainkit.transaction import Call
from layerlab.cli import signing
from layerlab.cli.common import L1_ONLY, From, Session, a_rollup, verb
from layerlab.cli.errors import CommandError
from layerlab.cli.output import Waiting, blocks
from layerlab.cli.reading import verified
from layerlab.escape import L1Reader
from rollup import player
from rollup.derived import DerivedBatch
from rollup.player import Move
from rollup.trace import Trace

dispute_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Play a dispute by hand, either side; each move is computed from L1 alone.",
)
Dispute = Annotated[int, typer.Argument(min=0, help="The dispute; see layerlab disputes.", metavar="DISPUTE")]
PlayFrom = Callable[[L1Reader, KeyPair], Move]


def register(app: typer.Typer) -> None:
    """Add the verbs of this file."""
    verb(dispute_app, "open", L1_ONLY, needs=a_rollup)(open_)
    verb(dispute_app, "bisect", L1_ONLY, needs=a_rollup)(bisect)
    verb(dispute_app, "choose", L1_ONLY, needs=a_rollup)(choose)
    verb(dispute_app, "prove", L1_ONLY, needs=a_rollup)(prove)
    verb(dispute_app, "timeout", L1_ONLY, needs=a_rollup)(timeout)
    verb(dispute_app, "settle", L1_ONLY, needs=a_rollup)(settle)
    app.add_typer(dispute_app, name="dispute", rich_help_panel="Disputes and dishonesty")


async def _play(session: Session, sender: str, move_of: PlayFrom) -> None:
    """Read L1, compute a move, sign it, and wait for its block."""
    key = await signing.signer(session, session.l1, sender)
    genesis = await session.genesis()
    with session.out.waiting() as waiting:

        async def read() -> Move:
            async with L1Reader(session.l1_urls, genesis) as reader:
                await reader.catch_up(lambda line: waiting.now(line))
                return move_of(reader, key)

        move = await verified(read())
        info = await _send(session, key, move, waiting)
    event = next((e for e in info.events if e["contract"] == "bridge"), None)
    value: dict[str, Any] = {"hash": "0x" + info.hash.hex(), "height": info.height, "move": move.call.method}
    value |= {"why": move.why, "fee": info.fee, "events": [dict(e) for e in info.events]}
    number = (event or {}).get("data", {}).get("dispute")
    value |= {} if number is None else {"dispute": number}
    said = f"{move.why}: in L1 block {info.height}\n{value['hash']}"
    for e in info.events[1:]:
        said += f"\n{e['name']}"
    if number is not None:
        said += f"\nsee layerlab disputes {number}"
    session.out.result(value, lambda: session.out.say(said))


async def _send(session: Session, key: KeyPair, move: Move, waiting: Waiting) -> Any:
    return await signing.send(
        session, session.l1, key, move.call, what=move.call.method, waiting=waiting, gas_limit=move.gas_limit
    )


def _batch(reader: L1Reader, index: int) -> DerivedBatch:
    batch = reader.derivation.batches.get(index)
    if batch is None:
        last = max(reader.derivation.batches)
        raise CommandError(f"L1 has no final batch {index}; there are 0 to {last}", "unknown_batch")
    return batch


def _dispute(reader: L1Reader, index: int) -> abi.Dispute:
    found = reader.derivation.disputes.get(index)
    if found is None:
        there = f"0 to {len(reader.derivation.disputes) - 1}" if reader.derivation.disputes else "none"
        raise CommandError(f"L1 has no final dispute {index}; there are {there}", "unknown_dispute")
    if found.stage == abi.RESOLVED:
        raise CommandError(
            f"dispute {index} is over: won by the {found.winner or 'nobody'}", "dispute_resolved"
        )
    return found


def _trace(reader: L1Reader, dispute: abi.Dispute) -> tuple[Trace, DerivedBatch]:
    batch = _batch(reader, dispute.batch)
    if batch.status != abi.PENDING:
        raise CommandError(
            f"batch {batch.index} is {batch.status}: nothing is left to dispute; take a bond back with "
            f"layerlab dispute settle {dispute.index}",
            "batch_settled",
        )
    return player.batch_trace(reader.derivation.rules, batch), batch


def _require_stage(dispute: abi.Dispute, stage: str) -> None:
    if dispute.stage != stage:
        raise CommandError(
            f"dispute {dispute.index} awaits: {dispute.stage} by the {dispute.turn}; "
            f"layerlab dispute {dispute.stage} {dispute.index}",
            "wrong_stage",
        )


def _root(text: str) -> bytes:
    try:
        return parse_hex(text, "a root", 32)
    except CodecError as error:
        raise CommandError(f"{text[:80]!r}: {error}", "invalid_root") from None


# --- moves -----------------------------------------------------------------------------------------------------------


async def open_(
    session: Session,
    batch: Annotated[int, typer.Argument(min=0, help="The batch; see layerlab batches.", metavar="BATCH")],
    sender: From,
    root: Annotated[
        str | None, typer.Option("--root", help="The root you hold true (default: the one computed from L1).")
    ] = None,
) -> None:
    """Challenge a batch: hold another root true, with a bond. The true root is computed from L1 alone.

    Examples:
    layerlab dispute open 3 --from verifier
    layerlab dispute open 3 --from mallory --root 0x00…  (frivolous: loses the bond)
    """

    def move(reader: L1Reader, _: KeyPair) -> Move:
        found = _batch(reader, batch)
        if root is None and found.computed_root == found.record.state_root:
            raise CommandError(
                f"batch {batch} is true: a challenge would lose the bond; give --root to do it all the same",
                "batch_is_true",
            )
        claimed = found.computed_root if root is None else _root(root)
        return player.challenge(batch, claimed, reader.settings)

    await _play(session, sender, move)


async def bisect(
    session: Session,
    dispute: Dispute,
    sender: From,
    root: Annotated[
        list[str] | None,
        typer.Option("--root", help="Your roots at the cuts, in order (default: the true ones)."),
    ] = None,
) -> None:
    """As the defender, state your roots at the cuts of the disputed steps.

    Examples:
    layerlab dispute bisect 0 --from sequencer
    """

    def move(reader: L1Reader, _: KeyPair) -> Move:
        found = _dispute(reader, dispute)
        _require_stage(found, abi.BISECT)
        if not root:
            return player.bisect_move(found, _trace(reader, found)[0])
        args = abi.BisectArgs(dispute, [_root(text) for text in root])
        return _insist(Call("bridge", "bisect", encode(args), 0), player.BISECT_GAS, dispute)

    await _play(session, sender, move)


def _insist(call: Call, gas: int, dispute: int) -> Move:
    return Move(call, gas, f"dispute {dispute}: {call.method} as given")


async def choose(
    session: Session,
    dispute: Dispute,
    sender: From,
    segment: Annotated[
        int | None,
        typer.Option("--segment", min=0, help="From 0 (default: the first that ends in a false root)."),
    ] = None,
) -> None:
    """As the challenger, name the first segment that ends in a false root.

    Examples:
    layerlab dispute choose 0 --from verifier
    layerlab dispute choose 0 --from mallory --segment 2
    """

    def move(reader: L1Reader, _: KeyPair) -> Move:
        found = _dispute(reader, dispute)
        _require_stage(found, abi.CHOOSE)
        if segment is not None:
            return player.choose_move(found, segment)
        trace = _trace(reader, found)[0]
        claims = [*found.points, found.high_root]
        for i in range(segments(found)):
            if trace.root(cut(found, i + 1)) != claims[i]:
                return player.choose_move(found, i)
        raise CommandError(
            "every root that the defender stated is true; give --segment to go on all the same",
            "nothing_false",
        )

    await _play(session, sender, move)


async def prove(session: Session, dispute: Dispute, sender: From) -> None:
    """Prove the one disputed step: L1 runs it over a witness and decides. Anyone may.

    Examples:
    layerlab dispute prove 0 --from verifier
    """

    def move(reader: L1Reader, _: KeyPair) -> Move:
        found = _dispute(reader, dispute)
        _require_stage(found, abi.PROVE)
        trace, batch = _trace(reader, found)
        try:
            return player.prove_move(found, trace, batch.step_hashes)
        except ProofError as error:
            raise CommandError(f"the step's witness cannot be made: {error}", "no_witness") from None

    await _play(session, sender, move)


async def timeout(session: Session, dispute: Dispute, sender: From) -> None:
    """End a dispute whose side to move has let its clock run out. Anyone may.

    Examples:
    layerlab dispute timeout 0 --from verifier
    """

    def move(reader: L1Reader, _: KeyPair) -> Move:
        found = _dispute(reader, dispute)
        height = reader.tip.header.height
        if not player.clock_ran_out(found, height):
            left = clock_left(found, height)
            raise CommandError(
                f"the {found.turn} of dispute {dispute} still has {blocks(left)}; wait, or "
                f"layerlab warp --blocks {left + 1}",
                "clock_running",
                blocks_left=left,
            )
        return player.timeout_move(found)

    await _play(session, sender, move)


async def settle(session: Session, dispute: Dispute, sender: From) -> None:
    """Take the challenger's bond back when the batch is void for another reason than this dispute.

    Examples:
    layerlab dispute settle 1 --from verifier
    """

    def move(reader: L1Reader, _: KeyPair) -> Move:
        found = _dispute(reader, dispute)
        return _insist(
            Call("bridge", "settle", encode(abi.DisputeArgs(dispute)), 0), player.SETTLE_GAS, found.index
        )

    await _play(session, sender, move)
