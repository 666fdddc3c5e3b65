"""Signing with the user's own key, here, and sending.

Responsible for finding the key that ``--from`` names, for nonce, fees and gas, and for waiting until a
transaction is in a block. Must not know what a transaction is for.
"""

import getpass
import os
import sys
from pathlib import Path
from typing import Final

from chainkit.client import ApiError, ChainClient, ReceiptInfo
from chainkit.fees import call_gas, transfer_gas
from chainkit.keys import KeyPair, well_known_name
from chainkit.keystore import load_key
from chainkit.transaction import Body, Call, SignedTransaction, Transfer
from layerlab.cli.amounts import show_amount
from layerlab.cli.common import Session, looks_like_file
from layerlab.cli.errors import CommandError
from layerlab.cli.output import Waiting, short

INCLUSION_SECONDS: Final = 120.0
L1_CALL_GAS: Final = 2_000_000
PASSPHRASE: Final = "LAYERLAB_PASSPHRASE"


async def signer(session: Session, client: ChainClient, who: str) -> KeyPair:
    """The key that signs for ``who`` on that chain. Raises `CommandError`, `KeyFileError`."""
    if who.startswith("0x"):
        raise CommandError(
            f"{short(who)} is an address and cannot sign; give its key file with --from", "no_key"
        )
    if looks_like_file(who):
        key = load_key(Path(who), passphrase(f"passphrase of {who}: "))
        name = well_known_name(key.address)
        if name is not None and not (await session.status(client))["devnet"]:
            raise CommandError(
                f"{who!r} holds the well-known key of {name!r}, and {client.url} is no devnet: make one with "
                "layerlab keys new",
                "well_known_key",
            )
        return key
    return await session.dev_key(client, who)


def passphrase(prompt: str, *, twice: bool = False) -> str:
    """From the environment, or asked for on a terminal. Raises `CommandError` without either."""
    given = os.environ.get(PASSPHRASE)
    if given:
        return given
    if not sys.stdin.isatty():
        raise CommandError(f"a passphrase is needed; set {PASSPHRASE}, or use a terminal", "no_passphrase")
    entered = getpass.getpass(prompt)
    if twice and getpass.getpass("once more: ") != entered:
        raise CommandError("the two passphrases differ; try again", "no_passphrase")
    return entered


async def sign(
    session: Session,
    client: ChainClient,
    key: KeyPair,
    action: Transfer | Call,
    *,
    gas_limit: int | None = None,
    nonce: int | None = None,
) -> SignedTransaction:
    """A transaction with the account's next nonce, and gas and fees that suffice. Raises `CommandError`."""
    account = await client.account(key.address)
    fees = await client.fees()
    rules = (await client.genesis()).fees
    if isinstance(action, Transfer):
        default, value = transfer_gas(rules.gas_per_byte), action.amount
    else:
        default, value = call_gas(rules.gas_per_byte, len(action.args), L1_CALL_GAS), action.value
    limit = min(gas_limit or default, rules.max_transaction_gas)
    needed = value + limit * fees.max_fee_per_gas
    if account.balance < needed:
        raise CommandError(
            f"{account.name or short('0x' + key.address.hex())} has {show_amount(account.balance)} there, and needs "
            f"{show_amount(needed)} (with the most that fees can be)",
            "insufficient_balance",
            balance=account.balance,
            needed=needed,
        )
    chain_id = (await session.status(client))["chain_id"]
    body = Body(
        chain_id,
        key.address,
        account.pending_nonce if nonce is None else nonce,
        limit,
        fees.max_fee_per_gas,
        fees.tip_per_gas,
        action,
    )
    return SignedTransaction.sign(body, key)


async def send(
    session: Session,
    client: ChainClient,
    key: KeyPair,
    action: Transfer | Call,
    *,
    what: str,
    waiting: Waiting,
    gas_limit: int | None = None,
) -> ReceiptInfo:
    """Sign, submit and wait for a block. Raises `CommandError` if the transaction failed there."""
    tx = await sign(session, client, key, action, gas_limit=gas_limit)
    await client.submit(tx)
    waiting.now(f"{what}: waiting for a block", short("0x" + tx.id.hex()))
    return await included(client, tx.id, what)


async def included(client: ChainClient, tx_id: bytes, what: str) -> ReceiptInfo:
    """Wait until a transaction is in a block; its receipt. Raises `CommandError` if it failed there."""
    info = await client.wait_for_receipt(tx_id, "head", INCLUSION_SECONDS)
    if not info.success:
        raise CommandError(
            f"{what} failed in block {info.height}: {info.message or info.code}",
            info.code or "failed",
            hash="0x" + tx_id.hex(),
            height=info.height,
        )
    return info


def unreachable(error: ApiError) -> bool:
    """Whether it is worth asking again."""
    return error.code in ("unreachable", "overloaded")
