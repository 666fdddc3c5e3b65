"""A small service to run as a real process: ``python service_program.py MODE DATA [common options]``."""

import asyncio
import sys
from pathlib import Path

from fake_chain import MemoryBackend

from chainkit.api import chain_router
from chainkit.options import run_options, service_parser
from chainkit.service import Service, make_app, run
from chainkit.startup import StartupError


async def _create(mode: str, data: Path) -> Service:
    if mode == "refuse":
        raise StartupError("there is no\nreason; find one")
    if mode == "crash":
        raise RuntimeError("a bug")
    if mode == "hang":
        print("creating", file=sys.stderr, flush=True)
        await asyncio.sleep(3600)
    backend = MemoryBackend(data)

    async def fail() -> None:
        await asyncio.sleep(0.01)
        raise RuntimeError("the task broke")

    async def idle() -> None:
        await asyncio.Event().wait()

    async def seal() -> None:
        while True:
            await asyncio.sleep(0.02)
            if backend.pool:
                backend.seal(final=True)

    async def close() -> None:
        backend.store.close()
        print("closed", file=sys.stderr, flush=True)

    app = make_app("test service")
    app.include_router(chain_router(backend))
    task = {"fail": fail, "seal": seal}.get(mode, idle)
    return Service(app, [("task", task)], [backend.log.close], close)


def main() -> int:
    mode, data, *rest = sys.argv[1:]
    args = service_parser("test-service", "for tests", port=0).parse_args(rest)
    return run(lambda: _create(mode, Path(data)), run_options("test-service", args))


if __name__ == "__main__":
    sys.exit(main())
