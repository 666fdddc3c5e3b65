"""A validator's faults, as ``/faults`` shows and turns them.

Responsible for which faults there are, whom ``censor`` leaves out, and for remembering what was turned on. Must
not know how a fault is played: the engine plays it, with the validator's own key (`l1node.byzantine`).
"""

from typing import Any

from chainkit.codec import Address, parse_hex, to_json
from chainkit.genesis import Genesis
from chainkit.submission import dev_key
from l1node.byzantine import FAULTS, ByzantineEngine


class FaultSwitch:
    """What was turned on and not off again. A fault that is played once is still dishonest afterwards.

    Implements `chainkit.fault_api.FaultSwitch`.
    """

    def __init__(self, engine: ByzantineEngine, genesis: Genesis) -> None:
        self._engine = engine
        self._genesis = genesis
        self._on: set[str] = set()

    @property
    def on(self) -> list[str]:
        """The faults that were turned on, played or not."""
        return sorted(self._on)

    def shown(self) -> dict[str, Any]:
        """``active`` will be or is being played, ``played`` has been, ``known`` says what each does."""
        active = self._engine.faults & self._on
        return {
            "active": sorted(active),
            "played": sorted(self._on - active),
            "censored": [to_json(address) for address in sorted(self._engine.censored)],
            "known": FAULTS,
        }

    def set(self, body: Any) -> None:
        """Play a fault from now on. Raises `LookupError` for one that does not exist, `ValueError`, `Problem`."""
        name = body["name"]
        if name not in FAULTS:
            raise LookupError(name)
        allowed = {"name", "censored"} if name == "censor" else {"name"}
        censored = body.get("censored", [])
        if set(body) - allowed or not isinstance(censored, list):
            raise ValueError(f"{name} takes {', '.join(sorted(allowed))}")
        addresses = frozenset(self._address(text) for text in censored)
        self._engine.start_fault(name)
        if name == "censor":
            self._engine.censored = addresses
        self._on.add(name)

    def clear(self, name: str | None = None) -> None:
        """Play one no more, or none. Raises `LookupError` for one that does not exist."""
        if name is not None and name not in FAULTS:
            raise LookupError(name)
        for gone in FAULTS if name is None else (name,):
            self._engine.stop_fault(gone)
            self._on.discard(gone)

    def _address(self, text: Any) -> Address:
        """An account by name or address. Raises `CodecError` (a `ValueError`) or `Problem`."""
        if isinstance(text, str) and text.startswith("0x"):
            return parse_hex(text, "censored", 32)
        return dev_key(self._genesis, text).address
