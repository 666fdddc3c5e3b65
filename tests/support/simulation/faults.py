"""What can go wrong in a run: a list of faults drawn from the seed, so that a failure can be shrunk to few.

Responsible for drawing the list (a random subset of kinds: swarm testing) and for doing each harm at its time.
Must not know what is checked. Each fault stands alone: any of them can be left out of a replay.
"""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

from simulation.disk import MODES, Mode
from simulation.network import Weather
from simulation.process import Process
from simulation.world import VALIDATORS, Setup, World, make_settings

STORIES = ("storm", "fraud", "crowd", "escape", "byzantine", "calm")
WEIGHTS = (25, 30, 15, 10, 15, 5)
ENGINE_FAULTS = ("double-vote", "double-propose", "vote-lower", "silent", "censor")
LIES = ("steal", "mint", "bad-root")
SULKS = ("skip-deposit", "censor", "halt", "withhold", "silent-in-dispute")


@dataclass(frozen=True)
class Fault:
    """One harm, from ``at`` to ``until`` (seconds). ``who`` are processes, ``value`` is the kind's own."""

    kind: str
    at: float
    until: float
    who: tuple[str, ...] = ()
    value: Any = None

    def __str__(self) -> str:
        span = f"{self.at:.1f}" if self.until <= self.at else f"{self.at:.1f}-{self.until:.1f}"
        return " ".join(x for x in (f"{span} s", self.kind, ",".join(self.who), _short(self.value)) if x)


def _short(value: Any) -> str:
    return "" if value is None else str(value)


@dataclass(frozen=True)
class Plan:
    """What the seed says: the stage, the faults, when they end and when the run does (seconds)."""

    seed: int
    story: str
    setup: Setup
    faults: tuple[Fault, ...]
    heal: float
    end: float


def draw_plan(seed: int, story: str | None = None) -> Plan:
    """The plan of a seed; ``story`` overrules what the seed would tell."""
    rng = Random(f"{seed}/plan")
    drawn = rng.choices(STORIES, WEIGHTS)[0]
    story = story or drawn
    heal = rng.choice((25.0, 40.0, 60.0))
    if story == "escape":
        heal = 20.0
    settings = make_settings(challenge_window=20, dispute_clock=24, escape_timeout=72, exit_window=80)
    if story in ("escape", "calm", "crowd"):
        settings = make_settings(dispute_clock=16, escape_timeout=48, challenge_window=12)
    setup = Setup(
        settings=settings,
        era_slots=rng.choice((8, 16)),
        byzantine=rng.randrange(VALIDATORS) if story == "byzantine" or rng.random() < 0.3 else None,
        second_verifier=story == "crowd" or (story == "fraud" and rng.random() < 0.3),
        staker=rng.random() < 0.3,
        full_http=seed % 10 == 3,
        sqlite=seed % 10 in (5, 7),
        shared=seed % 10 != 7,
    )
    faults = sorted(_draw_faults(rng, story, setup, heal), key=lambda fault: fault.at)
    length = {"escape": 110.0, "fraud": 75.0, "crowd": 60.0}.get(story, 30.0)
    return Plan(seed, story, setup, tuple(faults), heal, heal + length)


def _draw_faults(rng: Random, story: str, setup: Setup, heal: float) -> list[Fault]:
    faults: list[Fault] = []
    rough = {"storm": 1.0, "byzantine": 0.6, "fraud": 0.25, "crowd": 0.2, "escape": 0.2, "calm": 0.0}[story]
    validators = tuple(f"v{index}" for index in range(VALIDATORS))
    others = ("sequencer", "verifier", "bridge")

    def span(longest: float) -> tuple[float, float]:
        start = rng.uniform(3.0, heal - 1.0)
        return start, min(heal, start + rng.uniform(0.5, longest))

    def maybe(times: int, share: float = 0.5) -> int:
        """How many of a kind: none in half of the runs that are rough."""
        return rng.randint(1, times) if rng.random() < share * (0.4 + rough) and rough else 0

    faults += [
        Fault(kind, *span(20.0), value=round(rng.uniform(low, high), 3))
        for kind, low, high, count in (
            ("drop", 0.01, 0.3, maybe(2)),
            ("duplicate", 0.05, 0.5, maybe(2)),
            ("slow", 0.05, 0.6, maybe(2)),
        )
        for _ in range(count)
    ]
    for _ in range(maybe(3)):
        group = tuple(sorted(rng.sample(validators + others, rng.randint(1, 3))))
        faults.append(Fault("partition", *span(8.0), group))
    for _ in range(maybe(3)):
        one, other = rng.sample(validators + others, 2)
        faults.append(Fault("cut", *span(10.0), (one, other)))
    for _ in range(maybe(10)):
        start, _end = span(1.0)
        mode: Mode = rng.choice(MODES)
        how = (rng.randrange(12), mode, round(rng.choice((0.05, 0.2, 0.5, 1.0, 3.0, 8.0)), 2))
        faults.append(Fault("crash", start, start, (rng.choice(validators + others),), how))
    for _ in range(maybe(2, 0.4)):
        faults.append(Fault("flap", *span(12.0), (rng.choice(validators + others),), rng.randint(2, 8)))
    for _ in range(maybe(2, 0.4)):
        victim = rng.choice(validators)
        far = rng.choice((0.45, 0.45, 3.0))
        faults.append(Fault("skew", *span(30.0), (victim,), round(rng.uniform(-far, far), 3)))
    if setup.byzantine is not None:
        name = (f"v{setup.byzantine}",)
        for _ in range(rng.randint(1, 3)):
            faults.append(Fault("byzantine", *span(10.0), name, rng.choice(ENGINE_FAULTS)))
        for _ in range(rng.choice((0, 0, 1, 2))):  # it talks to some and not to others
            faults.append(
                Fault("cut", *span(20.0), (*name, rng.choice([v for v in validators if v not in name])))
            )
        if rng.random() < 0.35:
            faults.append(Fault("twin", *span(25.0), ("twin",)))
    if rng.random() < 0.25:
        start, end = span(8.0)
        end += rng.choice((0.0, 20.0))  # some go on when all else has settled
        faults.append(
            Fault("flood", start, end, (rng.choice((*validators, "sequencer")),), rng.randint(5, 40))
        )
    faults += _rollup_faults(rng, story, heal)
    return faults


def _rollup_faults(rng: Random, story: str, heal: float) -> list[Fault]:
    faults: list[Fault] = []
    if story == "fraud":
        for _ in range(rng.choice((1, 1, 2))):
            where = {"at_step": 0} if rng.random() < 0.35 else {"seed": rng.randrange(10**6)}
            lie: dict[str, Any] = {"name": rng.choice(LIES), **where}
            start = rng.uniform(5.0, heal)
            faults.append(Fault("lie", start, start, ("sequencer",), lie))
        if rng.random() < 0.3:
            faults.append(Fault("sulk", 4.0, heal + 60, ("sequencer",), {"name": "silent-in-dispute"}))
    if story in ("fraud", "crowd"):
        for _ in range(rng.choice((0, 0, 1, 2))):
            start = rng.uniform(4.0, heal)
            faults.append(Fault("collude", start, heal + 20, ("mallory",), rng.choice(("silent", "random"))))
    if story == "crowd":
        faults.append(Fault("frivolous", rng.uniform(4.0, 15.0), heal, ("verifier-2",), None))
    if story in ("storm", "crowd", "byzantine") and rng.random() < 0.3:
        start = rng.uniform(4.0, heal)
        name = rng.choice(("skip-deposit", "censor", "halt", "withhold"))
        value = {"name": name} | ({"address": "alice"} if name == "censor" else {})
        faults.append(Fault("sulk", start, heal, ("sequencer",), value))
    if story == "escape":
        name = rng.choice(("halt", "withhold", "gone"))
        what = None if name == "gone" else {"name": name}
        faults.append(
            Fault("gone" if name == "gone" else "sulk", rng.uniform(10.0, 20.0), 1e6, ("sequencer",), what)
        )
    if rng.random() < 0.2 and story in ("storm", "fraud"):
        start = rng.uniform(4.0, heal)
        faults.append(Fault("late", start, start + 20, ("verifier",), rng.randint(1, 4)))
    return faults


class Harm:
    """Does the faults of a plan to a world, each at its time."""

    def __init__(self, world: World, faults: tuple[Fault, ...], heal: float) -> None:
        self._world = world
        self._active: list[Fault] = []
        self._rng = world.rng("harm")
        for fault in faults:
            self._at(fault.at, self._begin, fault)
            if fault.until > fault.at:
                self._at(fault.until, self._end, fault)
        world.on_up.append(self._again)
        world.loop.call_at(heal, self._heal_disks)

    def _heal_disks(self) -> None:
        for process in self._world.processes.values():
            process.disk.disarm()

    def _at(self, time: float, act: Callable[[Fault], None], fault: Fault) -> None:
        self._world.loop.call_at(time, act, fault)

    def _begin(self, fault: Fault) -> None:
        world = self._world
        world.tell("fault", str(fault))
        world.counts[f"fault: {fault.kind}"] += 1
        self._active.append(fault)
        self._weather()
        process = world.processes.get(fault.who[0]) if fault.who else None
        if fault.kind == "crash" and process is not None:
            commits, mode, down = fault.value
            process.restart_after = down
            process.disk.arm(commits, mode)
        elif fault.kind == "skew" and process is not None:
            process.clock.skew = fault.value
        elif fault.kind == "twin" and process is not None:
            world.network.twins[f"v{world.setup.byzantine}"] = "twin"
            process.start()
        elif fault.kind == "gone" and process is not None:
            process.wanted = False
            process.kill()
        elif process is not None and process.core is not None:
            self._turn_on(process, fault)

    def _end(self, fault: Fault) -> None:
        world = self._world
        world.trace("fault ends", str(fault))
        self._active.remove(fault)
        self._weather()
        process = world.processes.get(fault.who[0]) if fault.who else None
        if process is None:
            return
        if fault.kind == "skew":
            process.clock.skew = 0.0
        elif fault.kind == "twin":
            world.network.twins.clear()
            process.wanted = False
            process.kill()
        elif process.core is not None:
            self._turn_off(process, fault)

    def _again(self, process: Process) -> None:
        """A process is up again: it has forgotten that it is dishonest."""
        for fault in self._active:
            if fault.who[:1] == (process.name,) and fault.until > fault.at:
                self._turn_on(process, fault)

    def _turn_on(self, process: Process, fault: Fault) -> None:
        core = process.core
        if fault.kind == "flap":  # power fails again and again, a few commits after each start
            process.restart_after = self._rng.choice((0.02, 0.1, 0.3))
            process.disk.arm(self._rng.randrange(fault.value), self._rng.choice(MODES))
            return
        if fault.kind == "byzantine" and core.faults is not None:
            core.faults.set({"name": fault.value})
        elif fault.kind == "lie" or fault.kind == "sulk":
            core.node.switch.set(dict(fault.value))
        elif fault.kind == "frivolous":
            core.node.switch.set({"name": "frivolous"})
        elif fault.kind == "late":
            core.node.switch.set({"name": "late", "blocks": fault.value})

    def _turn_off(self, process: Process, fault: Fault) -> None:
        core = process.core
        if fault.kind == "byzantine" and core.faults is not None:
            core.faults.clear(fault.value)
        elif fault.kind == "sulk":
            core.node.switch.clear(fault.value["name"])
        elif fault.kind in ("frivolous", "late"):
            core.node.switch.clear(fault.kind)

    def active(self, kind: str) -> list[Fault]:
        """The faults of a kind that are going on now."""
        return [fault for fault in self._active if fault.kind == kind]

    # --- the network ---

    def _weather(self) -> None:
        cuts = {(fault.who[0], fault.who[1]) for fault in self.active("cut")}
        names = [*self._world.processes]
        for fault in self.active("partition"):
            inside = set(fault.who)
            cuts.update((a, b) for a in names for b in names if (a in inside) != (b in inside))
        drop, duplicate, slow = (
            max((fault.value for fault in self.active(kind)), default=0.0)
            for kind in ("drop", "duplicate", "slow")
        )
        self._world.network.weather = Weather(drop, duplicate, slow, 2.5, frozenset(cuts))
