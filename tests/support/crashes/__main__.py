"""``make crash-test``: rounds of kill -9 on a running devnet, told line by line.

Exit codes: 0 everything held, 1 a promise is broken (the seed and the command that plays it again are printed, the
devnet's directory is kept), 2 the devnet did not come up.
"""

import argparse
import asyncio
import json
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from crashes.rounds import play, replay_command
from crashes.tap import Broken
from layerlab.config import DevnetError


def main() -> int:
    parser = argparse.ArgumentParser(prog="make crash-test", description=__doc__)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--no-disks", action="store_true", help="kill only: leave disks alone")
    args = parser.parse_args()
    if args.rounds < 0:
        parser.error("--rounds must be 0 or more")
    seed = random.SystemRandom().randrange(10**6) if args.seed is None else args.seed
    begin = time.monotonic()

    def say(line: str) -> None:
        print(f"{time.monotonic() - begin:6.1f} s  {line}", flush=True)

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # end everything, unmount everything
    directory = Path(tempfile.mkdtemp(prefix="layerlab-crash-"))
    say(f"seed {seed}, {args.rounds} rounds; the devnet is in {directory}")
    try:
        counted = asyncio.run(
            play(directory / "devnet", seed, args.rounds, say, with_disks=not args.no_disks)
        )
    except Broken as broken:
        say(f"FAILED: {broken}")
        print(f"data and logs: {directory}\nagain: {replay_command(seed, args.rounds)}", flush=True)
        return 1
    except DevnetError as error:
        print(f"crash-test: {error}", file=sys.stderr)
        shutil.rmtree(directory)
        return 2
    except KeyboardInterrupt:
        shutil.rmtree(directory, ignore_errors=True)
        return 130
    shutil.rmtree(directory)
    say(f"all held: {json.dumps(counted)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
