#!/usr/bin/env -S python3 -I -S
"""Whether the service in this container answers a GET of the given path with 200: its health check.

Run every few seconds in every container, so it imports as little as it can. The port is ``LAYERLAB_PORT``.
"""

import http.client
import os
import sys


def main() -> int:
    path = sys.argv[1] if len(sys.argv) > 1 else "/health/live"
    try:
        connection = http.client.HTTPConnection("127.0.0.1", int(os.environ["LAYERLAB_PORT"]), timeout=4)
        connection.request("GET", path)
        answer = connection.getresponse()
        print(answer.read(4096).decode("utf-8", "replace"))
    except (KeyError, ValueError, OSError, http.client.HTTPException) as error:
        print(f"no answer: {error!r}")
        return 1
    return 0 if answer.status == 200 else 1


if __name__ == "__main__":
    sys.exit(main())
