"""The bridge service where L1's bridge is a `bridge.committee:CommitteeBridge`: putting the parts together.

Must not know what any part decides.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bridge.committee_backend import ROLE, CommitteeBackend
from bridge.committee_routes import committee_router
from bridge.pair import Pair
from chainkit.chain import Chain
from chainkit.client import ChainClient
from chainkit.service import Service, make_app


def create(
    l1: Chain,
    side: Chain,
    urls: tuple[Sequence[str], Sequence[str]],
    data: Path,
    *,
    client: type[ChainClient] = ChainClient,
    **client_options: Any,
) -> tuple[Service, CommitteeBackend]:
    """The service and what is behind it; ``urls`` are L1's nodes and the side chain's. Raises what cannot start."""
    pair = Pair(l1, side, data, ROLE, urls, client=client, **client_options)
    backend = CommitteeBackend(pair)
    app = make_app(
        "layerlab bridge",
        description="The public face of a bridge that a committee moves: it follows both chains, executes every "
        "block again, and shows what the operators did. It holds no key and no money.",
    )
    app.include_router(committee_router(backend))
    return Service(app, pair.tasks(), [pair.events.close], pair.close), backend
