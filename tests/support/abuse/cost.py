"""What it costs a validator to refuse a peer's message, beside what one signature costs.

Responsible for that measurement, on a quiet network. Must not judge it.
"""

import asyncio
import time
from typing import Final

import psutil

from abuse.junk import STRANGER, _slot, peer_junk
from abuse.wire import Line, request
from benchmarks.stack import Stack
from chainkit.keys import verify
from l1node.messages import join

CHECKS: Final = 2000
BODIES: Final = 60
SINGLE: Final = 300


def signature_seconds() -> float:
    """CPU seconds of one check."""
    message, signature = bytes(32), STRANGER.sign(bytes(32))
    begin = time.process_time()
    for _ in range(CHECKS):
        verify(STRANGER.address, message, signature)
    return (time.process_time() - begin) / CHECKS


async def refusal_costs(stack: Stack, name: str) -> dict[str, tuple[float, float]]:
    """By kind of message: CPU seconds for one among many in a body, and for a body with one (all of HTTP included)."""
    process = psutil.Process(stack.devnet.supervisor.running[name].pid)
    line = Line(stack.url(name))

    async def spent(data: bytes, bodies: int) -> float:
        before, begin = process.cpu_times(), time.monotonic()
        for _ in range(bodies):
            await line.ask(data)
        took, after = time.monotonic() - begin, process.cpu_times()
        cpu = after.user + after.system - before.user - before.system
        return max(0.0, cpu - idle * took) / bodies

    idle = await _idle_share(process)
    costs = {}
    for kind, messages in peer_junk(await _slot(stack.url(name))).items():
        many = await spent(request("POST", "/p2p/messages", join(messages)), BODIES)
        one = await spent(request("POST", "/p2p/messages", join(messages[:1])), SINGLE)
        costs[kind] = many / (256 if "transactions" in kind else len(messages)), one
    line.close()
    return costs


async def _idle_share(process: psutil.Process) -> float:
    """The share of a core that the validator takes with nobody asking it anything."""
    before = process.cpu_times()
    await asyncio.sleep(3.0)
    after = process.cpu_times()
    return (after.user + after.system - before.user - before.system) / 3.0
