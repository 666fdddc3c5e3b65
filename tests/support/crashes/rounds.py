"""The rounds: whom to kill and when, drawn from a seed; and one run from `up` to the last check.

Responsible for the schedule and for the order of things. Must not know what a check looks at.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from chainkit.keys import dev_keypair
from chainkit.startup import EXIT_STARTUP
from crashes import disks
from crashes.checks import Watch, final_checks, honoured, settle
from crashes.disks import small_disks
from crashes.load import Load
from crashes.stack import VALIDATORS, CrashDevnet, Stack, config
from crashes.streams import Stream
from crashes.tap import Broken, Tap

KINDS: Final = ("validator", "sequencer", "verifier", "bridge")
TWO_AT_ONCE: Final = 4
"""One round in so many has two victims."""
SETTLE_SECONDS: Final = 60.0
KILL, FULL, FAILING, READ_ONLY = "kill", "disk full", "failing disk", "read-only disk"
MISHAPS: Final = (FULL, FAILING, READ_ONLY)
ON_SMALL_DISKS: Final = ("validator-3", "sequencer", "verifier", "bridge")
"""Whose data lie on a disk of their own: one of each kind."""
TROUBLE_SECONDS: Final = 15.0
ADVICE: Final = "free some space on its disk or make it writable"
Say = Callable[[str], None]


@dataclass(frozen=True)
class Round:
    """After ``after`` seconds of load: SIGKILL for ``victims``, or trouble with the disk of the only one; ``down``
    seconds later they are started again, or the disk is mended."""

    number: int
    victims: tuple[str, ...]
    after: float
    down: float
    mishap: str = KILL


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


def disk_rounds(seed: int, first: int) -> list[Round]:
    """Each mishap for each kind of service, in an order that the seed draws."""
    choice = random.Random(f"disks {seed}")
    pairs = [(name, mishap) for name in ON_SMALL_DISKS for mishap in MISHAPS]
    choice.shuffle(pairs)
    return [
        Round(number, (name,), choice.uniform(0.05, 0.5), choice.uniform(0.0, 0.5), mishap)
        for number, (name, mishap) in enumerate(pairs, first)
    ]


def _one(kind: str, choice: random.Random) -> str:
    return f"validator-{choice.randrange(VALIDATORS)}" if kind == "validator" else kind


def replay_command(seed: int, rounds: int) -> str:
    return f"make crash-test ROUNDS={rounds} SEED={seed}"


async def play(
    directory: Path, seed: int, rounds: int, say: Say, *, with_disks: bool = True
) -> dict[str, Any]:
    """One run on a new devnet in ``directory``. Raises `Broken`; returns what was counted."""
    tap = Tap()
    await tap.start()
    devnet = CrashDevnet.create(directory, config(), with_parent=True)
    devnet.tell(tap.url)
    with ExitStack() as mounts:
        plan = schedule(seed, rounds)
        if with_disks:
            plan += disk_rounds(seed, rounds + 1)
            reason = mounts.enter_context(small_disks([devnet.layout.data(name) for name in ON_SMALL_DISKS]))
            if reason:
                say(f"SKIPPED: disk full and read-only disk, since nothing can be mounted here: {reason}")
                plan = [turn for turn in plan if turn.mishap in (KILL, FAILING)]
        try:
            await asyncio.to_thread(devnet.up)
            stack = Stack(devnet)
            try:
                return await _Run(stack, tap, seed, plan, say).run()
            finally:
                await stack.close()
        finally:
            await asyncio.to_thread(devnet.supervisor.stop_all)
            await tap.close()


class _Run:
    def __init__(self, stack: Stack, tap: Tap, seed: int, plan: list[Round], say: Say) -> None:
        self.stack = stack
        self.tap = tap
        self.say = say
        self.plan = plan
        self.load = Load(stack, seed)
        self.watch = Watch(stack)
        self.streams = {name: Stream(name, stack.url(name)) for name in stack.config.services}
        self.killed: Counter[str] = Counter()
        self.mishaps = 0
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
            "disk_mishaps": self.mishaps,
            "votes_heard": self.tap.heard,
            "streams_resumed": sum(stream.resumed for stream in self.streams.values()),
            "seconds_a_round": round(sum(self._seconds) / max(1, len(self._seconds)), 2),
            "longest_round": round(max(self._seconds, default=0.0), 2),
        }

    async def _round(self, turn: Round) -> None:
        begin = time.monotonic()
        await asyncio.sleep(turn.after)
        back = await {KILL: self._kill, FULL: self._fill, FAILING: self._fail, READ_ONLY: self._read_only}[
            turn.mishap
        ](turn)
        await self._check()
        seconds = time.monotonic() - begin
        self._seconds.append(seconds)
        done = " ".join(f"{count} {what}," for what, count in sorted(self.load.done.items()))
        final = self.watch.furthest["validator-0"]
        self.say(
            f"round {turn.number}/{len(self.plan)}: {turn.mishap}: {' and '.join(turn.victims)}, back in {back:.1f} s; "
            f"{done} "
            f"{len(self.load.promises)} receipts, L1 final {final}; {seconds:.1f} s"
        )

    async def _kill(self, turn: Round) -> float:
        await self.stack.kill(turn.victims)
        self.killed.update("validator" if "validator" in name else name for name in turn.victims)
        for name in turn.victims:
            if name in self.stack.config.validator_names:
                address = dev_keypair(name).address
                self.stack.check_disk(name, self.tap.votes[address], self.tap.proposals[address])
        await asyncio.sleep(turn.down)
        begin = time.monotonic()
        await self.stack.start(turn.victims)
        return time.monotonic() - begin

    async def _fill(self, turn: Round) -> float:
        """A full disk: one line, not ready; it goes on by itself when there is room again."""
        (name,) = turn.victims
        data, log = self.stack.devnet.layout.data(name), self.stack.devnet.layout.log(name)
        start = log.stat().st_size
        try:
            disks.fill(data)
            await self.stack.wait_for_trouble(name, TROUBLE_SECONDS)
            await asyncio.sleep(turn.down)
        finally:
            disks.free(data)
        said = log.read_text(errors="replace")[start:]
        lines = [line for line in said.splitlines() if str(data) in line]
        if len(lines) != 1 or ADVICE not in lines[0] or "Traceback" in said:
            raise Broken(f"{name} did not tell of its full disk in one line: {said[-2000:]}")
        return await self._back(name)

    async def _fail(self, turn: Round) -> float:
        """Every write fails while it runs: not ready; it goes on by itself when writes work again."""
        (name,) = turn.victims
        pid = self.stack.devnet.supervisor.running[name].pid
        try:
            disks.break_writes(pid, True)
            await self.stack.wait_for_trouble(name, TROUBLE_SECONDS)
            await asyncio.sleep(turn.down)
        finally:
            disks.break_writes(pid, False)
        return await self._back(name)

    async def _back(self, name: str) -> float:
        begin = time.monotonic()
        pid = self.stack.devnet.supervisor.running[name].pid
        await self.stack.wait_ready([name])
        if self.stack.devnet.supervisor.running[name].pid != pid:
            raise Broken(f"{name} came back as another process")
        self.mishaps += 1
        return time.monotonic() - begin

    async def _read_only(self, turn: Round) -> float:
        """A disk that is read-only at the start: refused in one line; a start after it was mended is good."""
        (name,) = turn.victims
        data, supervisor = self.stack.devnet.layout.data(name), self.stack.devnet.supervisor
        await self.stack.kill([name])
        try:
            disks.read_only(data, True)
            await asyncio.to_thread(supervisor.start, name)
            code = await self.stack.exit_code(name)
            lines = supervisor.log_tail(name)
            if code != EXIT_STARTUP or len(lines) != 1 or str(data) not in lines[0] or ADVICE not in lines[0]:
                raise Broken(f"{name} on a read-only disk ended with {code}: {lines}")
        finally:
            disks.read_only(data, False)
        self.mishaps += 1
        begin = time.monotonic()
        await self.stack.start([name])
        return time.monotonic() - begin

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
