"""The command line's tree of verbs.

Responsible for putting the groups together. Must not know what any verb does.
"""

import typer

from layerlab.cli import (
    audit,
    bridge,
    chain,
    compare,
    disputes,
    faults,
    genesis,
    keys,
    lab,
    snapshots,
    stack,
    withdraw,
)
from layerlab.cli.common import LayerlabGroup
from layerlab.demo.command import demo_command

app = typer.Typer(
    name="layerlab",
    cls=LayerlabGroup,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="A blockchain testbed: a proof-of-stake L1, an optimistic rollup on it, and the bridge between them.",
    epilog="Start with: layerlab up    Every flag that matters has an environment variable; see a verb's --help.",
)

stack.register(app)
genesis.register(app)
snapshots.register(app)
chain.register(app)
bridge.register(app)
withdraw.register(app)
audit.register(app)
disputes.register(app)
faults.register(app)
keys.register(app)
lab.register(app)
compare.register(app)

app.command("demo", rich_help_panel="Devnet")(demo_command)


def main() -> None:
    """The entry point of ``layerlab``; exits the process."""
    app(prog_name="layerlab")
