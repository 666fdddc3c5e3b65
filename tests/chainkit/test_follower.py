"""The verifying follower: hands out all that is final and nothing else, and believes no node."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from l1_devnet import l1_genesis
from l1_script import KEYS, Script
from msgspec.structs import replace

from chainkit import follower as module
from chainkit.block import Block, Certificate, CertificateVote, CertifiedBlock
from chainkit.chain import Chain, ExecutedBlock
from chainkit.client import ChainClient
from chainkit.codec import encode
from chainkit.follower import Follower, FollowerCore, FollowError, Pair


@pytest.fixture(scope="module")
def script() -> Script:
    return Script()


def core_of(script: Script, **options: tuple[int, bytes]) -> FollowerCore:
    return FollowerCore(script.chain, script.genesis, **options)


def heights(final: Iterable[Pair]) -> list[int]:
    return [block.header.height for block, _ in final]


# --- what is final ---


def test_final_blocks_come_once_and_in_order(script: Script) -> None:
    blocks = script.chain_of(range(1, 9))
    core = core_of(script)
    seen: list[int] = []
    for certified in script.certified(*blocks):
        final = core.add([certified])
        assert all(block.tree.root == block.header.state_root for block, _ in final)
        seen += heights(final)
        assert core.add([certified]) == [], "again: nothing new"
    assert seen == [1, 2, 3, 4, 5, 6, 7], "the last block has no successor yet"
    assert core.tip.hash == blocks[6].hash
    assert core.head_height == 8


def test_slots_with_gaps_do_not_finalize(script: Script) -> None:
    blocks = script.chain_of([2, 4, 5, 7, 8, 10])
    core = core_of(script)
    assert core.add(script.certified(*blocks)) == []
    more = script.chain_of([11, 12], blocks[-1])
    assert heights(core.add(script.certified(*more))) == [1, 2, 3, 4, 5, 6, 7]


def test_one_answer_or_many_give_the_same(script: Script) -> None:
    certified = script.certified(*script.chain_of([1, 2, 4, 5, 6, 8, 9, 10, 11]))
    whole = core_of(script)
    at_once = heights(whole.add(certified))
    single = core_of(script)
    one_by_one = [h for item in certified for h in heights(single.add([item]))]
    assert at_once == one_by_one
    assert whole.tip.hash == single.tip.hash


# --- what is refused ---


def refused(script: Script, certified: CertifiedBlock, why: str) -> None:
    core = core_of(script)
    with pytest.raises(FollowError, match=why):
        core.add([certified])
    assert (core.tip, core.head_height, core._known) == (script.genesis, 0, {})


def with_votes(certified: CertifiedBlock, votes: list[CertificateVote]) -> CertifiedBlock:
    return replace(certified, certificate=replace(certified.certificate, votes=votes))


def test_certificates_that_prove_nothing(script: Script) -> None:
    block = script.block(script.genesis, 1)
    other = script.certify(script.block(script.genesis, 2))
    (good,) = script.certified(block)
    votes = good.certificate.votes
    refused(script, with_votes(good, votes[:2]), "less than two thirds")
    refused(script, with_votes(good, []), "less than two thirds")
    refused(script, with_votes(good, [votes[0]] * 3), "sorted")
    refused(script, with_votes(good, votes[::-1]), "sorted")
    forged = replace(votes[0], signature=bytes(64))
    refused(script, with_votes(good, [forged, *votes[1:]]), "bad signature")
    refused(script, replace(good, certificate=other), "another block")
    swapped = replace(other, slot=1, block_hash=block.hash)
    refused(script, replace(good, certificate=swapped), "bad signature")
    strangers = script.certify(block, KEYS[4:7])
    refused(script, replace(good, certificate=strangers), "less than two thirds")
    refused(
        script, replace(good, certificate=script.certify(block, [*KEYS[:3], KEYS[6]])), "not by a validator"
    )


def test_a_block_by_another_than_the_leader(script: Script) -> None:
    impostor = next(key for key in KEYS[:4] if key != script.leader(1))
    block = script.block(script.genesis, 1, proposer=impostor)
    refused(script, script.certified(block)[0], "leader")


@pytest.mark.parametrize("field_name", ["state_root", "tx_root", "receipts_root"])
def test_a_header_that_lies_about_execution(script: Script, field_name: str) -> None:
    """Also when two thirds have signed it: a follower executes for itself."""
    block = script.block(script.genesis, 1)
    header = replace(block.header, **{field_name: b"\x01" * 32})
    lying = ExecutedBlock(Block(header, []), header.hash(), (), (), block.tree, {})
    refused(script, CertifiedBlock(lying.block, script.certify(lying)), "block 1")


def test_blocks_of_another_chain(script: Script) -> None:
    other = Script(Chain(l1_genesis(time=1_700_000_000_001)))
    refused(script, other.certified(other.block(other.genesis, 1))[0], "does not follow")


def test_a_block_whose_parent_is_missing(script: Script) -> None:
    blocks = script.chain_of([1, 2, 3])
    core = core_of(script)
    with pytest.raises(FollowError, match="does not follow"):
        core.add(script.certified(*blocks[1:]))
    core.add(script.certified(blocks[0]))
    assert core.head_height == 1


def test_a_bad_block_hides_none_of_the_final_ones_before_it(script: Script) -> None:
    """A liar appends garbage to good blocks: those that became final must still be handed out."""
    good = script.certified(*script.chain_of(range(1, 6)))
    bad = with_votes(script.certified(script.block(script.chain_of(range(1, 6))[-1], 6))[0], [])
    core = core_of(script)
    assert heights(core.add([*good, bad])) == [1, 2, 3, 4]
    with pytest.raises(FollowError):
        core.add([*good, bad])
    assert core.head_height == 5


# --- forks ---


@given(st.data())
@settings(max_examples=25, deadline=None)
def test_doubleup_roll_2024_no_orphan_is_ever_final(script: Script, data: st.DataObject) -> None:
    """Fork the unfinalized tip at every depth: what is handed out is one chain, and only grows."""
    core = core_of(script)
    known: list[ExecutedBlock] = [script.genesis]
    handed: list[bytes] = []
    slot = 0
    for _ in range(data.draw(st.integers(4, 20))):
        above = [b for b in known if b.header.height >= core.tip.header.height]
        parent = data.draw(st.sampled_from(above[-6:]))
        slot = max(slot, parent.header.slot) + data.draw(st.sampled_from([1, 1, 1, 2]))
        block = script.block(parent, slot)
        try:
            final = core.add(script.certified(block))
        except FollowError:
            continue  # it extends a block that a final one has overtaken
        known.append(block)
        for done, _ in final:
            assert done.header.parent == (handed[-1] if handed else script.genesis.hash)
            handed.append(done.hash)
        # Streamlet's rule, stated over again: some block of three in consecutive slots, or before one.
        assert (core.tip.hash == handed[-1]) if handed else (core.tip is script.genesis)


@pytest.mark.parametrize("depth", range(1, 6))
def test_a_fork_below_the_tip_at_every_depth(script: Script, depth: int) -> None:
    first = script.chain_of([1, 2, 3])
    orphans = script.chain_of([5, 7, 9, 11, 13][:depth], first[-1])
    core = core_of(script)
    handed = heights(core.add(script.certified(*first, *orphans)))
    assert handed == [1, 2]
    winner = script.chain_of([20, 21, 22, 23], first[-1])
    final = core.add(script.certified(*winner))
    assert [block.hash for block, _ in final] == [first[2].hash, *(b.hash for b in winner[:3])]
    if depth >= 3:  # lower ones are below the final height, and not even looked at
        with pytest.raises(FollowError, match="does not follow"):
            core.add(script.certified(script.block(orphans[-1], 30)))
    else:
        assert core.add(script.certified(script.block(orphans[-1], 30))) == []
    assert len(core._known) == 1, "orphans are forgotten"


def test_a_block_at_or_below_the_final_height_says_nothing(script: Script) -> None:
    blocks = script.chain_of([1, 2, 3, 4])
    core = core_of(script)
    core.add(script.certified(*blocks))
    late = script.certified(*script.chain_of([5, 6, 7]))
    assert core.add(late) == []
    assert core.tip.hash == blocks[2].hash


def test_long_range_attack_the_checkpoint_is_in_the_history_or_nothing_above_it(script: Script) -> None:
    """Keys of exited validators sign another history: it is refused when it reaches the checkpoint."""
    real = script.chain_of(range(1, 12))
    forged = script.chain_of(range(2, 40))
    point = (6, real[5].hash)
    core = core_of(script, checkpoint=point)
    assert heights(core.add(script.certified(*real)))[-1] == 10
    fooled = core_of(script, checkpoint=point)
    handed = heights(fooled.add(script.certified(*forged)))
    with pytest.raises(FollowError, match="not the checkpoint"):
        fooled.add(script.certified(*forged))
    assert max(handed) < 6, "below it nothing can be told apart (docs/ARCHITECTURE.md)"


def test_memory_is_bounded_without_finality(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_UNFINAL", 10)
    core = core_of(script)
    with pytest.raises(FollowError, match="no block became final"):
        core.add(script.certified(*script.chain_of(range(2, 60, 2))))
    assert len(core._known) == 10


# --- the loop ---


class EndOfTestError(Exception):
    """A node has given all that its test has."""


Answer = bytes | Exception | int | Sequence[CertifiedBlock]


@dataclass
class FakeNode:
    """An L1 node behind a `MockTransport`: ``answer(start)`` says what it serves from a height on."""

    name: str
    answer: Callable[[int], Answer]
    asked: list[int] = field(default_factory=list)

    def client(self) -> ChainClient:
        def handle(request: httpx.Request) -> httpx.Response:
            assert request.url.path == "/certified-blocks"
            start = int(request.url.params["from"])
            self.asked.append(start)
            answer = self.answer(start)
            if isinstance(answer, Exception):
                raise answer
            if isinstance(answer, int):
                return httpx.Response(answer, json={"code": "broken", "detail": "on purpose"})
            return httpx.Response(200, content=answer if isinstance(answer, bytes) else encode(list(answer)))

        return ChainClient(f"http://{self.name}", retries=0, transport=httpx.MockTransport(handle))


def serving(certified: Sequence[CertifiedBlock], page: int = module.PAGE) -> Callable[[int], Answer]:
    return lambda start: [c for c in certified if c.block.header.height >= start][:page]


def follow(
    script: Script, nodes: Sequence[FakeNode], until: int, limit: int = 400
) -> tuple[list[int], Follower]:
    """Run the loop without waiting until height ``until`` is final; returns all that was handed out."""
    handed: list[int] = []
    core = core_of(script)

    async def on_final(block: ExecutedBlock, certificate: Certificate) -> None:
        assert certificate.block_hash == block.hash
        handed.append(block.header.height)
        if block.header.height >= until:
            raise EndOfTestError

    async def sleep(_: float) -> None:
        if sum(len(node.asked) for node in nodes) > limit:
            raise AssertionError(f"still at {handed[-1:]}")

    async def main() -> Follower:
        following = Follower([node.client() for node in nodes], core, on_final)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(asyncio, "sleep", sleep)
            with pytest.raises(EndOfTestError):
                await asyncio.wait_for(following.run(), timeout=60)
        for client in following._clients:
            await client.aclose()
        return following

    following = asyncio.run(main())
    assert handed == list(range(1, len(handed) + 1)), "each once, in order"
    assert sum(len(node.asked) for node in nodes) <= limit
    return handed, following


@pytest.fixture(scope="module")
def long_chain(script: Script) -> list[CertifiedBlock]:
    return script.certified(*script.chain_of(range(1, 81)))


def garbled(start: int, good: Sequence[CertifiedBlock], count: int) -> Answer:
    part = [c for c in good if c.block.header.height >= start][:count]
    return [with_votes(part[0], [])] if part else []


LIARS: dict[str, Callable[[Sequence[CertifiedBlock]], Callable[[int], Answer]]] = {
    "gone": lambda _: lambda _: httpx.ConnectError("refused"),
    "error-500": lambda _: lambda _: 500,
    "too-many-polls": lambda _: lambda _: 503,
    "garbage": lambda _: lambda _: b"\xff\x00garbage",
    "empty": lambda _: lambda _: [],
    "forged": lambda good: lambda start: garbled(start, good, 1),
    "stuck-below-the-head": lambda good: serving(good[:30]),
    "only-the-first-block": lambda good: lambda _: good[:1],
    "good-then-forged": lambda good: (
        lambda start: [c for c in good[:20] if c.block.header.height >= start] or garbled(start, good, 1)
    ),
    "notarized-then-forged": lambda good: (
        lambda start: [
            *[c for c in good[:20] if c.block.header.height >= start],
            with_votes(good[20], []),
        ]
    ),
    "far-future": lambda good: (
        lambda _: [
            replace(good[0], block=replace(good[0].block, header=replace(good[0].block.header, height=2**52)))
        ]
    ),
}


@pytest.mark.parametrize("kind", LIARS)
@pytest.mark.parametrize("liars", [1, 3])
def test_a_node_that_fails_or_lies_is_left_for_the_next(
    script: Script, long_chain: list[CertifiedBlock], kind: str, liars: int
) -> None:
    nodes = [FakeNode(f"liar-{i}", LIARS[kind](long_chain)) for i in range(liars)]
    nodes.append(FakeNode("honest", serving(long_chain)))
    handed, following = follow(script, nodes, until=79)
    assert handed[-1] == 79
    assert following.heard_final is not None
    assert following.heard_final <= 80 + module.PAGE, "no liar moves what we hold to be L1's height"


def test_a_node_that_lags_on_purpose_is_not_asked_for_long(
    script: Script, long_chain: list[CertifiedBlock]
) -> None:
    """It serves one true old block at a time: always something new, never the newest."""
    slow = FakeNode("slow", serving(long_chain, page=1))
    honest = FakeNode("honest", serving(long_chain))
    follow(script, [slow, honest], until=79)
    assert len(slow.asked) <= module.TURN_AFTER + 2


def test_what_a_node_was_asked_for_ends_with_its_turn(
    script: Script, long_chain: list[CertifiedBlock]
) -> None:
    """Its last good page is a full one, and for the next, asked for meanwhile, it has nothing: that must not count as
    the next node's failure, or of two nodes the one that lags on purpose would be asked for ever."""
    alone = module.TURN_AFTER - 1

    def lag(start: int) -> Answer:
        if start <= alone:
            return long_chain[start - 1 : start]
        return long_chain[alone:][: module.PAGE] if start == alone + 1 else 500

    slow, honest = FakeNode("slow", lag), FakeNode("honest", serving(long_chain))

    async def ignore(_block: ExecutedBlock, _: Certificate) -> None:
        return

    async def main() -> None:
        following = Follower([slow.client(), honest.client()], core_of(script), ignore)
        running = asyncio.create_task(following.run())
        async with asyncio.timeout(60):
            while not honest.asked:
                await asyncio.sleep(0)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    asyncio.run(main())
    assert slow.asked[-1] == len(long_chain), "that page was asked for before the turn was over"
    assert len(slow.asked) == module.TURN_AFTER + 1


def test_more_unfinal_blocks_than_a_page(script: Script) -> None:
    """Without finality for longer than a page, and a fork longer than a page, the loop still gets there."""
    first = script.chain_of([1, 2, 3])
    fork = script.chain_of(range(5, 5 + 2 * 70, 2), first[-1])
    main = script.chain_of(range(200, 200 + 2 * 75, 2), first[-1])
    end = script.chain_of([400, 401, 402], main[-1])
    certified = {b.hash: script.certified(b)[0] for b in (*first, *fork, *main, *end)}
    old = [certified[b.hash] for b in (*first, *fork)]
    new = [certified[b.hash] for b in (*first, *main, *end)]
    turns = iter(range(1000))
    node = FakeNode("node", lambda start: serving(old if next(turns) < 4 else new)(start))
    handed, _ = follow(script, [node], until=79)
    assert handed[-1] >= 79


def test_it_is_never_caught_up_in_the_middle_of_a_page(
    script: Script, long_chain: list[CertifiedBlock]
) -> None:
    seen: list[tuple[int, int | None]] = []
    core = core_of(script)

    async def main() -> None:
        async def on_final(block: ExecutedBlock, _: Certificate) -> None:
            seen.append((block.header.height, following.heard_final))
            if block.header.height == 79:
                raise EndOfTestError

        following = Follower([FakeNode("node", serving(long_chain)).client()], core, on_final)
        with pytest.raises(EndOfTestError):
            await following.run()

    asyncio.run(main())
    assert all(heard is not None and heard > height + 2 for height, heard in seen if height < 60)
    assert seen[-1] == (79, 79)


def test_what_comes_next_is_known_before_its_turn(script: Script, long_chain: list[CertifiedBlock]) -> None:
    coming: list[int] = []
    known: dict[int, int] = {}

    async def on_final(block: ExecutedBlock, _: Certificate) -> None:
        known[block.header.height] = coming[-1]
        if block.header.height == 79:
            raise EndOfTestError

    async def main() -> None:
        client = FakeNode("node", serving(long_chain)).client()
        following = Follower(
            [client], core_of(script), on_final, lambda new: coming.extend(b.header.height for b in new)
        )
        with pytest.raises(EndOfTestError):
            await following.run()

    asyncio.run(main())
    assert coming == list(range(1, 80))
    for height in range(1, module.PAGE - 2 - module.HELD + 1):  # the first page: blocks up to 62 are final
        assert height + module.HELD <= known[height] < height + module.HELD + module.PIECE + 1


@pytest.mark.parametrize("size", [module.PAGE, 30])
def test_the_next_page_is_on_its_way_while_one_is_taken(
    script: Script, long_chain: list[CertifiedBlock], size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if the node cut it off for its bytes."""
    monkeypatch.setattr(module, "FULL_BYTES", len(encode(long_chain[:30])) // 2)
    asked: list[int] = []
    heard: list[int | None] = []
    asked_by: dict[int, list[int]] = {}

    async def on_final(block: ExecutedBlock, _: Certificate) -> None:
        asked_by[block.header.height] = asked.copy()
        heard.append(following.heard_final)
        if block.header.height == size:
            raise EndOfTestError

    async def handle(request: httpx.Request) -> httpx.Response:
        first = int(request.url.params["from"])
        asked.append(first)
        return httpx.Response(200, content=encode(long_chain[first - 1 :][:size]))

    client = ChainClient("http://node", transport=httpx.MockTransport(handle))
    following = Follower([client], core_of(script), on_final)

    async def main() -> None:
        with pytest.raises(EndOfTestError):
            await asyncio.wait_for(following.run(), timeout=60)
        assert [task for task in asyncio.all_tasks() if task.get_name() == "fetch-blocks"] == []

    asyncio.run(main())
    assert asked[:2] == [1, size + 1]
    assert asked_by[2] == [1, size + 1]
    assert all(told is not None and told > height + 2 for height, told in enumerate(heard, 1)), (
        "there is more"
    )


def test_a_node_that_hangs_holds_back_none_of_what_was_final(
    script: Script, long_chain: list[CertifiedBlock]
) -> None:
    """A full page promises more; whoever follows must not wait for it with what he has."""
    handed: list[int] = []

    async def on_final(block: ExecutedBlock, _: Certificate) -> None:
        handed.append(block.header.height)
        if block.header.height == module.PAGE - 2:
            raise EndOfTestError

    async def handle(request: httpx.Request) -> httpx.Response:
        if int(request.url.params["from"]) > module.PAGE:
            await asyncio.Event().wait()
        return httpx.Response(200, content=encode(long_chain[: module.PAGE]))

    async def main() -> None:
        client = ChainClient("http://node", transport=httpx.MockTransport(handle))
        with pytest.raises(EndOfTestError):
            await asyncio.wait_for(Follower([client], core_of(script), on_final).run(), timeout=60)

    asyncio.run(main())
    assert handed == list(range(1, module.PAGE - 1))


def test_no_blocks_are_so_large_that_it_never_feels_caught_up(
    script: Script, long_chain: list[CertifiedBlock], monkeypatch: pytest.MonkeyPatch
) -> None:
    """P12: who fills each L1 block makes of each a page that may have been cut off; if that alone meant that there is
    more, a challenger would stay silent for as long as he pays."""
    monkeypatch.setattr(module, "FULL_BYTES", 1)
    heard: list[tuple[int, int | None]] = []
    final = asyncio.Condition()

    async def handle(request: httpx.Request) -> httpx.Response:
        start = int(request.url.params["from"])
        async with final:  # L1 makes a block when everybody has had the one before
            await final.wait_for(lambda: len(heard) >= start - 2)
        return httpx.Response(200, content=encode(long_chain[start - 1 : start]))

    async def main() -> None:
        client = ChainClient("http://node", transport=httpx.MockTransport(handle))

        async def on_final(block: ExecutedBlock, _: Certificate) -> None:
            heard.append((block.header.height, following.heard_final))
            if block.header.height == 10:
                raise EndOfTestError
            async with final:
                final.notify_all()

        following = Follower([client], core_of(script), on_final)
        with pytest.raises(EndOfTestError):
            await asyncio.wait_for(following.run(), timeout=60)

    asyncio.run(main())
    assert heard == [(height, height) for height in range(1, 11)]


def test_it_is_not_caught_up_between_two_pages_however_long_the_next_one_takes(
    script: Script, long_chain: list[CertifiedBlock]
) -> None:
    heard: list[int | None] = []
    final = module.PAGE - 1
    all_handed_out = asyncio.Event()

    async def handle(request: httpx.Request) -> httpx.Response:
        start = int(request.url.params["from"])
        if start > 1:
            await all_handed_out.wait()
        return httpx.Response(200, content=encode(long_chain[start - 1 :][: module.PAGE]))

    async def main() -> None:
        client = ChainClient("http://node", transport=httpx.MockTransport(handle))

        async def on_final(block: ExecutedBlock, _: Certificate) -> None:
            heard.append(following.heard_final)
            if block.header.height == final:
                all_handed_out.set()
            elif block.header.height > final:
                raise EndOfTestError

        following = Follower([client], core_of(script), on_final)
        with pytest.raises(EndOfTestError):
            await asyncio.wait_for(following.run(), timeout=60)

    asyncio.run(main())
    assert heard[final - 1] == final + module.PAGE


@pytest.mark.parametrize("page", ["final", "the head", "the head and all"])
def test_a_page_of_what_is_known_already_raises_no_hope(
    script: Script, long_chain: list[CertifiedBlock], page: str
) -> None:
    """P12: a node says nothing on L1 while it is behind what was heard of, so a liar that serves old blocks, or one
    over and over, would silence a challenger."""
    told = {"final": long_chain, "the head": long_chain[-1:], "the head and all": long_chain[::-1]}[page]
    core = core_of(script)
    core.add(long_chain)

    async def never(block: ExecutedBlock, _: Certificate) -> None:
        raise AssertionError(f"block {block.header.height} is not new")

    turn = asyncio.sleep

    async def sleep(seconds: float) -> None:
        if seconds:
            raise EndOfTestError
        await turn(0)

    async def main() -> int | None:
        liar = FakeNode("liar", lambda _: (told * module.PAGE)[: module.PAGE])
        following = Follower([liar.client()], core, never)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(asyncio, "sleep", sleep)
            with pytest.raises(EndOfTestError):
                await following.run()
        await following.client.aclose()
        return following.heard_final

    assert asyncio.run(main()) == core.tip.header.height == 79


def test_what_stood_behind_a_forged_block_raises_no_hope(
    script: Script, long_chain: list[CertifiedBlock]
) -> None:
    """A page counts for what is left of it while it is looked through, and no longer if it is refused."""
    forged = replace(long_chain[0].block, header=replace(long_chain[0].block.header, height=2**52))
    page = [*long_chain[: module.PIECE], *[replace(long_chain[0], block=forged)] * module.PAGE]
    core = core_of(script)
    core.add(long_chain)

    async def never(block: ExecutedBlock, _: Certificate) -> None:
        raise AssertionError(f"block {block.header.height} is not new")

    async def main() -> None:
        following = Follower([FakeNode("liar", lambda _: []).client()], core, never)
        following.heard_final = core.tip.header.height
        with pytest.raises(FollowError):
            await following._take(81, module.Page(page, is_full=True))
        await following.client.aclose()
        assert following.heard_final == core.tip.header.height

    asyncio.run(main())


def test_what_on_final_raises_ends_the_loop(script: Script, long_chain: list[CertifiedBlock]) -> None:
    handed, _ = follow(script, [FakeNode("node", serving(long_chain))], until=1)
    assert handed == [1]
