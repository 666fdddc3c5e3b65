"""What the abusers of `make abuse` send: nothing in the name of those whose fate it measures."""

import msgspec
from abuse.honest import PEOPLE
from abuse.junk import ACCOUNTS, JUNK_ACCOUNTS, Junk, Tally

from benchmarks import workload
from chainkit.keys import dev_keypair
from chainkit.transaction import SignedTransaction


def test_junk_is_sent_by_accounts_of_its_own() -> None:
    """P23, as it is measured: junk signed by the flood's accounts would use up nonces of the flood."""
    flood = {workload.key(1, index).address for index in range(ACCOUNTS)}
    people = {dev_keypair(name).address for name in PEOPLE}
    funded = {workload.key(1, index).address for index in range(ACCOUNTS + JUNK_ACCOUNTS)}
    packets = Junk({}, [], Tally(), 1)._packets()
    bodies = [body for kinds in packets.values() for bodies in kinds.values() for body in bodies]
    wires = [wire for body in bodies for wire in msgspec.msgpack.decode(body.partition(b"\r\n\r\n")[2])]
    senders = {SignedTransaction.decode(wire).body.sender for wire in wires}
    assert senders == funded - flood - people
