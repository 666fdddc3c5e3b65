"""Upgrades of the settings: by the admin, announced, never sooner than everybody can leave.

Responsible for schedule, apply and cancel. Must not know the escrow: no upgrade touches it.
"""

from bridge.abi import (
    SETTINGS_KEY,
    UPGRADE_KEY,
    ScheduledUpgrade,
    UpgradeApplied,
    UpgradeArgs,
    UpgradeCancelled,
    UpgradeScheduled,
)
from bridge.books import Books, require, require_running
from bridge.settings import SettingsError, check_settings
from chainkit.contract import Revert


def schedule_upgrade(books: Books, args: UpgradeArgs) -> None:
    """Announce new settings; they can be applied ``exit_window`` blocks from now. Replaces an earlier one."""
    ctx = books.ctx
    require_running(books)
    require_admin(books)
    try:
        check_settings(args.settings)
    except SettingsError as error:
        raise Revert("bad_settings", str(error)) from None
    height = ctx.height + books.settings.exit_window
    ctx.storage.store(UPGRADE_KEY, ScheduledUpgrade(args.settings, height))
    ctx.emit(UpgradeScheduled(height))


def apply_upgrade(books: Books) -> None:
    """Put announced settings into force. Anyone may call."""
    ctx = books.ctx
    require_running(books)
    upgrade = scheduled(books)
    left = upgrade.height - ctx.height
    require(left <= 0, "too_early", f"the upgrade can be applied in {left} blocks")
    ctx.storage.store(SETTINGS_KEY, upgrade.settings)
    ctx.storage.delete(UPGRADE_KEY)
    books.settings = upgrade.settings
    ctx.emit(UpgradeApplied(ctx.sender))


def cancel_upgrade(books: Books) -> None:
    """Withdraw an announcement."""
    require_running(books)
    require_admin(books)
    scheduled(books)
    books.ctx.storage.delete(UPGRADE_KEY)
    books.ctx.emit(UpgradeCancelled(books.ctx.sender))


def require_admin(books: Books) -> None:
    admin = books.settings.admin
    require(admin is not None, "no_admin", "this bridge has no admin: its settings are for good")
    require(books.ctx.sender == admin, "not_admin", "only the admin may do this")


def scheduled(books: Books) -> ScheduledUpgrade:
    """Raises `Revert` if nothing is announced."""
    upgrade = books.ctx.storage.load(UPGRADE_KEY, ScheduledUpgrade)
    if upgrade is None:
        raise Revert("no_upgrade", "no upgrade is scheduled")
    return upgrade
