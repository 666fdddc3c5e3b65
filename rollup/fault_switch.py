"""The switchboard of a node's faults, as ``/faults`` shows and turns it.

Responsible for well-known names in place of addresses, and for remembering which lies were told.
Must not know how a fault is played.
"""

from dataclasses import dataclass, field
from typing import Any

from chainkit.keys import InvalidDevNameError, dev_keypair
from rollup.faults import KINDS, Fault, FaultSet, check_fault, fault_from_json, fault_names


@dataclass
class FaultSwitch:
    """Implements `chainkit.fault_api.FaultSwitch` over the node's set."""

    faults: FaultSet
    told: list[dict[str, Any]] = field(default_factory=list)

    def shown(self) -> dict[str, Any]:
        known = {name: KINDS[name].about for name in fault_names(self.faults.role)}
        return {"active": self.faults.to_json(), "told": self.told, "known": known}

    def set(self, body: Any) -> None:
        """Raises `LookupError` for a fault that does not exist here, `FaultError` for wrong parameters."""
        if isinstance(body, dict):
            self._require_known(body.get("name"))
            body = {**body, **_address(body.get("address"))}
        fault = fault_from_json(body, self.faults.role)
        self.faults.set(check_fault(fault, self.faults.role))

    def clear(self, name: str | None = None) -> None:
        """Raises `LookupError` for a fault that does not exist here."""
        if name is not None:
            self._require_known(name)
        self.faults.clear(name)

    def _require_known(self, name: object) -> None:
        if name not in fault_names(self.faults.role):
            raise LookupError(name)

    def lie_told(self, name: str, **facts: Any) -> None:
        """A lie is on its way to L1: it is told once."""
        self.faults.clear(name)
        self.told.append({"name": name, **facts})

    def lie_lost(self, fault: Fault, *, first_block: int) -> None:
        """A lie that was on its way will never be on L1: it is still to be told."""
        self.faults.set(fault)
        self.told = [t for t in self.told if (t["name"], t["first_block"]) != (fault.name, first_block)]


def _address(value: Any) -> dict[str, str]:
    """A well-known name as an address; anything else is left as it is."""
    if isinstance(value, str) and not value.startswith("0x"):
        try:
            return {"address": "0x" + dev_keypair(value).address.hex()}
        except InvalidDevNameError:
            return {}
    return {}
