"""The contracts of an L2: the messenger, written anew, and the applications that genesis names.

Responsible for giving `layerlab.audit.machine` something to host. An application *is* the rule of its own money, so it
is taken from ``apps`` as genesis says, and only it: with it comes the interface that it is written against (its record
codec and its way to refuse). Must not import what runs, orders or proves transactions.
"""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from chainkit.codec import CodecError, decode, encode
from chainkit.contract import Revert
from layerlab.audit.machine import Context, Contract, Method, Refused
from layerlab.audit.plain import MALFORMED, Plain, is_key, packed, plain

MESSENGER = "rollup.messenger:Messenger"
TRUSTED = "apps."


class UnknownContractError(Exception):
    """Genesis names a contract that the audit cannot run."""


def _recipient(args: bytes) -> bytes:
    try:
        found = plain(args)
    except MALFORMED:
        raise Refused("bad_arguments") from None
    if type(found) is not list or len(found) != 1 or type(found[0]) is not bytes or len(found[0]) != 32:
        raise Refused("bad_arguments")
    if packed(found) != args:
        raise Refused("bad_arguments")
    return found[0]


class Messenger:
    """Withdrawals: burned here, numbered for good."""

    name = "messenger"
    refusals: tuple[type[Exception], ...] = ()

    def __init__(self) -> None:
        self.methods: Mapping[str, Method] = {"withdraw": Method(True, _recipient, self._withdraw)}

    def begin(self, ctx: Context) -> None:
        """It starts with nothing."""

    def write(self, record: Any) -> bytes:
        return packed(record)

    def load(self, kind: Any, data: bytes) -> Any:
        return plain(data)

    def _withdraw(self, ctx: Context, recipient: bytes) -> None:
        if not ctx.value:
            raise Refused("zero_amount")
        if not is_key(recipient):
            raise Refused("invalid_address")
        index = ctx.storage.load_int(b"count")
        ctx.storage.store_int(b"count", index + 1)
        ctx.burn(ctx.value)
        record = [index, ctx.sender, recipient, ctx.value]
        ctx.storage.store(b"withdrawal/" + index.to_bytes(8, "big"), record)
        ctx.emit(record)


class Application:
    """A contract of ``apps``, hosted."""

    refusals: tuple[type[Exception], ...] = (Revert,)

    def __init__(self, name: str, code: str, params: bytes) -> None:
        module, _, kind = code.partition(":")
        try:
            made = getattr(import_module(module), kind)
            self._contract = made(name, decode(made.params_type, params))
        except (ImportError, AttributeError, CodecError, TypeError) as error:
            raise UnknownContractError(f"the contract {name!r} ({code}) cannot be hosted: {error}") from None
        self.name = name
        self.methods: Mapping[str, Method] = {
            m.name: self._method(m) for m in self._contract.methods.values()
        }

    def _method(self, declared: Any) -> Method:
        def read(args: bytes) -> Any:
            try:
                return decode(declared.args, args)
            except CodecError:
                raise Refused("bad_arguments") from None

        return Method(declared.payable, read, lambda ctx, args: declared.run(self._contract, ctx, args))

    def begin(self, ctx: Context) -> None:
        self._contract.genesis(ctx, None)

    def write(self, record: Any) -> bytes:
        return encode(record)

    def load(self, kind: Any, data: bytes) -> Any:
        return decode(kind, data)


def host_contracts(specs: Plain) -> Mapping[str, Contract]:
    """The contracts of a genesis, ``[[name, code, params, balance], ...]``. Raises `UnknownContractError`."""
    found: dict[str, Contract] = {}
    for name, code, params, _ in specs:
        if code == MESSENGER and name == "messenger":
            found[name] = Messenger()
        elif code.startswith(TRUSTED):
            found[name] = Application(name, code, params)
        else:
            raise UnknownContractError(f"the contract {name!r} ({code}) is none that the audit knows")
    return found
