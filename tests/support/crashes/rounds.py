"""The rounds: whom to kill and when, drawn from a seed; and one run from `up` to the last check.

Responsible for the schedule and for the order of things. Must not know what a check looks at.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from chainkit.keys import dev_keypair
from crashes.checks import Watch, final_checks, honoured, settle
from crashes.load import Load
from crashes.stack import VALIDATORS, CrashDevnet, Stack, config
from crashes.streams import Stream
from crashes.tap import Broken, Tap

KINDS: Final = ("validator", "sequencer", "verifier", "bridge")
TWO_AT_ONCE: Final = 4
"""One round in so many has two victims."""
SETTLE_SECONDS: Final = 60.0
Say = Callable[[str], None]


@dataclass(frozen=True)
class Round:
    """Kill ``victims`` after ``after`` seconds of load, start them again ``down`` seconds later."""

    number: int
    victims: tuple[str, ...]
    after: float
    down: float


def schedule(seed: int, rounds: int) -> list[Round]:
    """Each kind of service is killed in at least ``rounds // 4`` of the rounds."""
    choice = random.Random(f"crashes {seed}")
    kinds = [KINDS[i % len(KINDS)] for i in range(rounds)]
    choice.shuffle(kinds)
    plan = []
    for number, kind in enumerate(kinds, 1):
        victims = [_one(kind, choice)]
        if choice.randrange(TWO_AT_ONCE) == 0:
            other = _one(choice.choice(KINDS), choice)
            victims += [other] if other not in victims else []
        plan.append(Round(number, tuple(victims), choice.uniform(0.05, 0.8), choice.uniform(0.0, 0.5)))
    return plan


def _one(kind: str, choice: random.Random) -> str:
    return f"validator-{choice.randrange(VALIDATORS)}" if kind == "validator" else kind


def replay_command(seed: int, rounds: int) -> str:
    return f"make crash-test ROUNDS={rounds} SEED={seed}"


async def play(directory: Path, seed: int, rounds: int, say: Say) -> dict[str, Any]:
    """One run on a new devnet in ``directory``. Raises `Broken`; returns what was counted."""
    tap = Tap()
    await tap.start()
    devnet = CrashDevnet.create(directory, config(), with_parent=True)
    devnet.tell(tap.url)
    try:
        await asyncio.to_thread(devnet.up)
        stack = Stack(devnet)
        try:
            return await _Run(stack, tap, seed, rounds, say).run()
        finally:
            await stack.close()
    finally:
        await asyncio.to_thread(devnet.supervisor.stop_all)
        await tap.close()


class _Run:
    def __init__(self, stack: Stack, tap: Tap, seed: int, rounds: int, say: Say) -> None:
        self.stack = stack
        self.tap = tap
        self.say = say
        self.plan = schedule(seed, rounds)
        self.load = Load(stack, seed)
        self.watch = Watch(stack)
        self.streams = {name: Stream(name, stack.url(name)) for name in stack.config.services}
        self.killed: Counter[str] = Counter()
        self._checked = 0
        self._seconds: list[float] = []

    async def run(self) -> dict[str, Any]:
        tasks = [asyncio.create_task(s.run(), name=f"stream {s.name}") for s in self.streams.values()]
        tasks.append(asyncio.create_task(self.watch.run(), name="watch"))
        loading = asyncio.create_task(self.load.run(), name="load")
        playing = asyncio.create_task(self._rounds(loading), name="rounds")
        tasks += [loading, playing]
        try:
            # Whatever raises first has found something.
            waiting = set(tasks)
            while not playing.done():
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    _result(task)
            return playing.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _rounds(self, loading: "asyncio.Task[None]") -> dict[str, Any]:
        for turn in self.plan:
            await self._round(turn)
        self.say("no more kills: waiting for finality and the last payouts")
        self.load.stop()
        await settle(self.stack, self.load, SETTLE_SECONDS)
        await loading
        await self.watch.nobody_accused(self.stack.config.validator_names)
        counted = await final_checks(self.stack, self.load, self.tap, self.streams)
        return {
            **counted,
            **self.load.done,
            "killed": dict(self.killed),
            "votes_heard": self.tap.heard,
            "streams_resumed": sum(stream.resumed for stream in self.streams.values()),
            "seconds_a_round": round(sum(self._seconds) / max(1, len(self._seconds)), 2),
            "longest_round": round(max(self._seconds, default=0.0), 2),
        }

    async def _round(self, turn: Round) -> None:
        begin = time.monotonic()
        await asyncio.sleep(turn.after)
        await self.stack.kill(turn.victims)
        self.killed.update("validator" if "validator" in name else name for name in turn.victims)
        for name in turn.victims:
            if name in self.stack.config.validator_names:
                address = dev_keypair(name).address
                self.stack.check_disk(name, self.tap.votes[address], self.tap.proposals[address])
        await asyncio.sleep(turn.down)
        back = time.monotonic()
        await self.stack.start(turn.victims)
        back = time.monotonic() - back
        await self._check()
        seconds = time.monotonic() - begin
        self._seconds.append(seconds)
        done = " ".join(f"{count} {what}," for what, count in sorted(self.load.done.items()))
        final = self.watch.furthest["validator-0"]
        self.say(
            f"round {turn.number}/{len(self.plan)}: killed {' and '.join(turn.victims)}, back in {back:.1f} s; {done} "
            f"{len(self.load.promises)} receipts, L1 final {final}; {seconds:.1f} s"
        )

    async def _check(self) -> None:
        """What can be looked at while the load goes on."""
        self.tap.check()
        for stream in self.streams.values():
            stream.check()
        await self.watch.nobody_accused(["validator-0", "validator-2"])
        promises = list(self.load.promises.values())
        await honoured(self.stack, "sequencer", promises[self._checked :])
        self._checked = len(promises)


def _result(task: "asyncio.Task[Any]") -> None:
    try:
        task.result()
    except BaseExceptionGroup as group:
        broken, _ = group.split(Broken)
        raise (broken or group).exceptions[0] from None
