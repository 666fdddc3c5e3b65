"""The cast and the stage: genesis, the services, and how they are put together.

Responsible for making each service by its own `create`, on a simulated disk and network. Must not know which
faults a run has, nor what is checked.
"""

import asyncio
import hashlib
import shutil
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any
from zlib import crc32

import bridge.service
import l1node.service
import rollup.service
from bridge.abi import BridgeParams, BridgeSettings
from chainkit.block import Validator
from chainkit.chain import Chain
from chainkit.codec import encode
from chainkit.contract import NoArgs
from chainkit.execution import FeeParameters
from chainkit.genesis import Genesis, GenesisAccount, GenesisContract
from chainkit.keys import KeyPair, dev_keypair
from chainkit.service import Service
from l1node.node import L1Node
from l1node.staking import StakingParams
from simulation.loop import SimClock, VirtualLoop
from simulation.network import Handler, Network, NoTransport, SimChainClient, SimLink
from simulation.process import Process
from simulation.straight import routes, through_app

COIN = 10**9
EPOCH_MS = 1_700_000_000_000
SLOT_MS = 1000
FAULT_TOKEN = "simulated"
USERS = ("alice", "bob", "carol", "dave", "erin")
ATTACKERS = ("mallory",)
ROLES = ("sequencer", "verifier")
VALIDATORS = 4
USER_FUNDS = 1_000 * COIN
TMP = Path("/dev/shm") if Path("/dev/shm").is_dir() else Path(tempfile.gettempdir())


_MANY_PACKETS = 256
"""Of so many the trace is hashed at once."""


@dataclass(frozen=True)
class Setup:
    """What a run is made of, besides its faults."""

    settings: BridgeSettings
    era_slots: int = 16
    byzantine: int | None = None
    """The index of the validator whose engine can break the rules."""
    second_verifier: bool = False
    staker: bool = False
    bridge: bool = True
    rollup: bool = True
    full_http: bool = False
    """Every request through the routes and middleware of the apps; else the five busiest go straight in."""
    sqlite: bool = False
    """Stores are SQLite files, as in production; else they are in memory."""
    shared: bool = True
    """Execute each block once for all nodes (execution is a pure function); else once each."""


def key_of(name: str) -> KeyPair:
    """The well-known key of a role; cached, as making one costs a curve multiplication."""
    found = _KEYS.get(name)
    if found is None:
        found = _KEYS[name] = dev_keypair(name)
    return found


_KEYS: dict[str, KeyPair] = {}


def make_settings(**changes: Any) -> BridgeSettings:
    """Windows as short as the contract allows an honest side to be given."""
    values: dict[str, Any] = {
        "sequencer": key_of("sequencer").address,
        "admin": None,
        "proposer_bond": 2 * COIN,
        "challenger_bond": COIN,
        "challenge_window": 12,
        "dispute_clock": 24,
        "max_move_delay": 2,
        "inclusion_delay": 12,
        "sequencer_timeout": 40,
        "escape_timeout": 64,
        "exit_window": 70,
        "bisection": 4,
        "max_steps": 64,
        "max_inbox_per_batch": 16,
        "min_deposit": 1_000,
    }
    return BridgeSettings(**{**values, **changes})


def l2_genesis() -> Genesis:
    """The rollup's: users with funds, and the messenger."""
    accounts = [GenesisAccount(key_of(name).address, USER_FUNDS // 10, name) for name in (*USERS, *ATTACKERS)]
    return Genesis(
        chain_id=901,
        name="sim-l2",
        time=EPOCH_MS,
        slot_ms=250,
        era_slots=16,
        devnet=True,
        fees=FeeParameters(
            block_gas_limit=30_000_000,
            max_transaction_gas=250_000,
            max_transaction_bytes=8 * 1024,
            gas_per_byte=16,
        ),
        accounts=sorted(accounts, key=lambda account: account.address),
        validators=[],
        contracts=[GenesisContract("messenger", "rollup.messenger:Messenger", encode(NoArgs()))],
        vault=key_of("vault").address,
    )


def l1_genesis(setup: Setup) -> Genesis:
    """Four equal validators, staking, and the bridge."""
    names = [f"validator-{index}" for index in range(VALIDATORS)]
    funds = dict.fromkeys((*USERS, *ATTACKERS), USER_FUNDS)
    funds |= dict.fromkeys(("sequencer", "verifier", "judy", "heidi", "probe"), USER_FUNDS)
    funds |= dict.fromkeys(names, 100 * COIN)
    accounts = [GenesisAccount(key_of(name).address, amount, name) for name, amount in funds.items()]
    l2 = l2_genesis()
    staking = GenesisContract("staking", "l1node.staking:Staking", encode(StakingParams(unbonding_eras=3)))
    params = encode(BridgeParams(l2, setup.settings))
    held = GenesisContract("bridge", "bridge.contract:Bridge", params, l2.total_supply)
    return Genesis(
        chain_id=900,
        name="sim-l1",
        time=EPOCH_MS,
        slot_ms=SLOT_MS,
        era_slots=setup.era_slots,
        devnet=True,
        fees=FeeParameters(),
        accounts=sorted(accounts, key=lambda account: account.address),
        validators=sorted((Validator(key_of(n).address, 100 * COIN) for n in names), key=lambda v: v.address),
        contracts=sorted([staking, held], key=lambda contract: contract.name),
    )


class World:
    """All processes of one run. Use inside its loop; `close` in the end."""

    def __init__(self, seed: int, setup: Setup, chain_type: type[Chain]) -> None:
        self.seed, self.setup = seed, setup
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        self.loop = loop
        self.path = Path(tempfile.mkdtemp(prefix=f"layerlab-sim-{seed}-", dir=TMP))
        self._hash = hashlib.sha256()
        self._packets: list[tuple[float, bytes, int]] = []
        self.trace_length = 0
        self.story: list[str] = []
        self.counts: Counter[str] = Counter()
        self.watcher_height = 0
        """The highest final L1 block, for clients."""
        self.on_up: list[Callable[[Process], None]] = []
        """Called with each process that has started."""
        self.network = Network(loop, self.rng("network"), self.trace_packet)
        self.chain = chain_type(l1_genesis(setup))
        self.processes = self.network.processes
        for index in range(VALIDATORS):
            self._add(f"v{index}", self._make_validator(index))
        if setup.byzantine is not None:
            self._add("twin", self._make_validator(setup.byzantine, twin=True))
        if setup.rollup:
            self._add("sequencer", self._make_rollup("sequencer", "sequencer"))
            self._add("verifier", self._make_rollup("verifier", "verifier"))
        if setup.second_verifier:
            self._add("verifier-2", self._make_rollup("verifier", "judy"))
        if setup.bridge:
            self._add("bridge", self._make_bridge)

    # --- one seed, many streams ---

    def rng(self, purpose: str) -> Random:
        """A stream of its own for each purpose, so that one less fault does not change the others."""
        return Random(f"{self.seed}/{purpose}")

    def trace(self, kind: str, *facts: object) -> None:
        """Something that happened: two runs of a seed must agree on all of it, in order."""
        self.trace_length += 1
        self._hash_packets()
        self._hash.update(f"{self.loop.time():.6f} {kind} {facts}\n".encode())

    def trace_packet(self, label: bytes, body: bytes) -> None:
        """As `trace`, for a request that arrives: there are many."""
        packets = self._packets
        packets.append((self.loop._now, label, crc32(body)))
        if len(packets) >= _MANY_PACKETS:
            self._hash_packets()

    def _hash_packets(self) -> None:
        self.trace_length += len(self._packets)
        self._hash.update(encode(self._packets))
        self._packets.clear()

    def trace_hash(self) -> str:
        """Of all that was traced."""
        self._hash_packets()
        return self._hash.hexdigest()

    def tell(self, kind: str, text: str) -> None:
        """Something worth reading in the story of a failure."""
        text = text.replace(str(self.path), "")
        self.trace(kind, text)
        self.story.append(f"{self.loop.time():8.3f} s  {kind:10} {text}")

    # --- the cast ---

    def _add(self, name: str, create: Callable[[Process], Awaitable[tuple[Service, Any, Handler]]]) -> None:
        clock = SimClock(self.loop, EPOCH_MS / 1000)
        self.processes[name] = Process(
            name,
            self.path / name,
            clock,
            create,
            self.rng(f"disk/{name}"),
            self.tell,
            self._up,
            self.setup.sqlite,
        )

    def _up(self, process: Process) -> None:
        for hook in self.on_up:
            hook(process)

    @property
    def validators(self) -> list[Process]:
        return [self.processes[f"v{index}"] for index in range(VALIDATORS)]

    def node(self, index: int) -> L1Node | None:
        """A validator's node while it is up."""
        core: L1Node | None = self.processes[f"v{index}"].core
        return core

    @property
    def l1_urls(self) -> list[str]:
        return [f"http://v{index}" for index in range(VALIDATORS)]

    def client(self, source: str, host: str, **options: Any) -> SimChainClient:
        """A client of a service, for someone who is no process (a user)."""
        return SimChainClient(f"http://{host}", network=self.network, source=source, **options)

    def _make_validator(
        self, index: int, *, twin: bool = False
    ) -> Callable[[Process], Awaitable[tuple[Service, Any, Handler]]]:
        key = key_of(f"validator-{index}")
        peers = [f"http://v{other}" for other in range(VALIDATORS) if other != index]
        token = FAULT_TOKEN if index == self.setup.byzantine and not twin else None

        async def create(process: Process) -> tuple[Service, Any, Handler]:
            service, node = await l1node.service.create(
                self.chain,
                key,
                process.path,
                process.clock,
                peers,
                fault_token=token,
                link=SimLink(self.network, process.name),
                store=process.disk.store_type(),
            )
            return service, node, self._routes(service.app, node)

        return create

    def _make_rollup(
        self, role: Any, key_name: str
    ) -> Callable[[Process], Awaitable[tuple[Service, Any, Handler]]]:
        async def create(process: Process) -> tuple[Service, Any, Handler]:
            service, found = await rollup.service.create(
                role,
                self.chain,
                self._l1_order(process.name),
                process.path,
                process.clock,
                key_of(key_name),
                block_ms=500,
                fault_token=FAULT_TOKEN,
                client=SimChainClient,
                store=process.disk.store_type(),
                network=self.network,
                source=process.name,
            )
            return service, found, self._routes(service.app, None)

        return create

    async def _make_bridge(self, process: Process) -> tuple[Service, Any, Handler]:
        service, backend = await bridge.service.create(
            self.chain,
            self._l1_order(process.name),
            "http://sequencer" if self.setup.rollup else None,
            process.path,
            client=SimChainClient,
            store=process.disk.store_type(),
            network=self.network,
            source=process.name,
        )
        return service, backend, self._routes(service.app, None)

    def _l1_order(self, name: str) -> list[str]:
        """Followers do not all begin with the same node."""
        start = sum(name.encode()) % VALIDATORS
        return [*self.l1_urls[start:], *self.l1_urls[:start]]

    def _routes(self, app: Any, node: L1Node | None) -> Handler:
        return through_app(app) if self.setup.full_http else routes(app, node)

    # --- beginning and end ---

    def start(self) -> None:
        """Start every process but the twin: a second machine with the byzantine validator's key."""
        for name, process in self.processes.items():
            if name != "twin":
                process.start()

    async def close(self) -> None:
        """Stop everything and remove the files."""
        try:
            for process in self.processes.values():
                process.disk.disarm()
                await process.stop()
        finally:
            shutil.rmtree(self.path, ignore_errors=True)


__all__ = ["NoTransport", "Setup", "World", "key_of", "make_settings"]
