"""Amounts as people write them: coins with decimals, or gwei; always exact integers inside.

Responsible for reading amounts. Must not know of commands.
"""

import re
from typing import Final

from chainkit.codec import MAX_AMOUNT
from layerlab.amounts import show_amount as show_amount
from layerlab.amounts import show_coins as show_coins
from layerlab.config import COIN

_DECIMALS: Final = 9
_AMOUNT: Final = re.compile(r"([0-9]{1,16})(?:\.([0-9]{1,9}))?(coins?)?|([0-9]{1,16})gwei")


class AmountError(ValueError):
    """The text is no amount; the message says what one looks like."""


def parse_amount(text: str) -> int:
    """``30`` and ``0.5`` are coins, ``500gwei`` is gwei; returns gwei. Raises `AmountError`."""
    found = _AMOUNT.fullmatch(text.strip().replace("_", ""))
    if found is None:
        raise AmountError(
            f"{text[:40]!r} is no amount; write coins (30, 0.5, at most {_DECIMALS} decimals) or 500gwei"
        )
    coins, decimals, _, gwei = found.groups()
    amount = int(gwei) if gwei else int(coins) * COIN + int((decimals or "").ljust(_DECIMALS, "0"))
    if amount > MAX_AMOUNT:
        raise AmountError(f"{text[:40]} is more than there can ever be ({show_amount(MAX_AMOUNT)})")
    return amount


def parse_positive(text: str) -> int:
    """As `parse_amount`, and more than zero."""
    amount = parse_amount(text)
    if amount == 0:
        raise AmountError("the amount is zero; give more")
    return amount
