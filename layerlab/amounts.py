"""Amounts as people read them: coins, exact.

Responsible for showing amounts. Must not know where.
"""

from layerlab.config import COIN


class Gwei(int):
    """A measured amount: people are shown coins, in JSON it is its number of gwei."""


def show_amount(gwei: int) -> str:
    """``30 coins``, ``1,000.5 coins``, ``1 coin``; exact."""
    return f"{show_coins(gwei)} coin" + ("" if gwei == COIN else "s")


def show_coins(gwei: int) -> str:
    """The number of coins, exact, with thousands separated."""
    sign, gwei = ("-", -gwei) if gwei < 0 else ("", gwei)
    whole, rest = divmod(gwei, COIN)
    decimals = f".{rest:09d}".rstrip("0") if rest else ""
    return f"{sign}{whole:,}{decimals}"
