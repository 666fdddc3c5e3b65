"""The secret that whoever turns faults on must know.

Responsible for which secrets will do where. Must not know what it opens (chainkit/fault_api.py).
"""

import ipaddress
from typing import Final

from chainkit.startup import StartupError

DEVNET_TOKEN: Final = "layerlab-devnet-faults"
"""The token when none is given; everyone knows it, so it is for loopback only."""
MIN_TOKEN: Final = 16
"""Characters of a token where strangers can try: what is drawn has 43."""


def check_fault_token(host: str, token: str) -> None:
    """Raises `StartupError` for no token; where strangers can reach us also for the well-known one or a short one."""
    if not token:
        raise StartupError(
            "--fault-token (LAYERLAB_FAULT_TOKEN) is empty; give a secret, or leave out --enable-faults "
            "(LAYERLAB_ENABLE_FAULTS)"
        )
    if not (token.isascii() and token.isprintable()) or token != token.strip():
        raise StartupError("the fault token must be printable ASCII: no header carries another")
    if is_loopback(host):
        return
    if token == DEVNET_TOKEN:
        raise StartupError(
            f"faults could be turned on by anyone who reaches {host!r:.80}: give a secret with --fault-token "
            f"(LAYERLAB_FAULT_TOKEN) or --fault-token-file (LAYERLAB_FAULT_TOKEN_FILE), or listen on "
            f"127.0.0.1 (LAYERLAB_HOST)"
        )
    if len(token) < MIN_TOKEN:
        raise StartupError(
            f"the fault token has {len(token)} characters, and {host!r:.80} can be reached by those who try them all: "
            f"give {MIN_TOKEN} at least, or listen on 127.0.0.1 (LAYERLAB_HOST)"
        )


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a service that listens there; a name but localhost does not count."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
