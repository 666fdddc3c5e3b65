"""A worker process that checks signatures: the loop behind `chainkit.signature_pool`.

Responsible for answering requests on the socket that is its standard input, in order, until the other end is
gone: then it ends, so that a parent that dies in whatever way leaves nothing behind. What a valid signature is,
`chainkit.keys.verify` says. Must not know of transactions, and loads as little as it can.

A request is its length in bytes (4, big endian) and so many bytes: for each signature whether the key is known (1;
anything else: not), the key (32), the message (32) and the signature (64). The answer is one byte for each: 1 valid,
0 not.
"""

import signal
import socket

from chainkit.keys import verify

ITEM_BYTES = 1 + 32 + 32 + 64
LENGTH_BYTES = 4
VALID = 1
KNOWN, UNKNOWN = b"\x01", b"\x00"
MAX_REQUEST_BYTES = 4096 * ITEM_BYTES


def verdicts(request: bytes) -> bytes:
    """The answer to a request. Raises `ValueError` for bytes that are none."""
    if len(request) % ITEM_BYTES or len(request) > MAX_REQUEST_BYTES:
        raise ValueError(f"a request is a multiple of {ITEM_BYTES} bytes, {MAX_REQUEST_BYTES} at most")
    starts = range(0, len(request), ITEM_BYTES)
    return bytes(
        verify(
            request[at + 1 : at + 33],
            request[at + 33 : at + 65],
            request[at + 65 : at + ITEM_BYTES],
            request[at : at + 1] == KNOWN,
        )
        for at in starts
    )


def serve(connection: socket.socket) -> None:
    """Answer until the other end closes. Raises `ValueError` for a request that is none, `OSError`."""
    with connection.makefile("rb") as reader:
        while len(head := reader.read(LENGTH_BYTES)) == LENGTH_BYTES:
            size = int.from_bytes(head, "big")
            if size > MAX_REQUEST_BYTES:
                raise ValueError(f"a request of {size} bytes")
            request = reader.read(size)
            if len(request) < size:
                return
            connection.sendall(verdicts(request))


def main() -> None:
    """Serve on standard input. Ctrl-C reaches the whole group: the parent decides when this ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with socket.socket(fileno=0) as connection:
        try:
            serve(connection)
        except OSError:
            return  # the parent is gone


if __name__ == "__main__":
    main()
