"""The bridge contract on an L1 in memory: calls one by one, each timed.

Responsible for an L1 state with the bridge, and for a batch of signed L2 transfers with everything that a dispute over
it needs. Must not know which figure it is for. Limits on the size of transactions are lifted: what is measured is the
contract, and a batch of 10,000 transfers is larger than what one L1 transaction carries by default.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from msgspec import structs

from benchmarks import workload
from benchmarks.stack import L2_FUND, with_l2_accounts
from bridge import abi
from chainkit.codec import Record, decode, encode
from chainkit.execution import FeeParameters, Receipt, Rules, apply_transaction, begin_block
from chainkit.genesis import genesis_state
from chainkit.keys import dev_keypair
from chainkit.merkle import Tree
from chainkit.state import State, storage_key
from chainkit.transaction import Body, Call, SignedTransaction, transaction_id
from layerlab.config import DevnetConfig
from layerlab.genesis import make_l1_genesis
from rollup.batch import BatchBlock
from rollup.contents import CommittedSteps, forget_contents, read_contents, step_hashes, write_contents
from rollup.directory import Directory
from rollup.stf import BeginBlock, Step, Transact
from rollup.trace import Lie, Trace

TIME: Final = 1_700_000_000_000
PER_BLOCK: Final = 1_000
GAS: Final = 10**9
WIDE: Final = FeeParameters(block_gas_limit=10**12, max_transaction_gas=GAS, max_transaction_bytes=16 * 2**20)


@dataclass(frozen=True)
class Batch:
    """A batch of transfers, not yet posted: its data, its true steps, and how the contract commits to them."""

    data: bytes
    steps: Sequence[Step]
    committed: CommittedSteps
    start: Tree
    rules: Rules

    def trace(self, lie: Lie | None = None) -> Trace:
        return Trace(self.rules, self.start, self.steps, lie)


class Arena:
    """L1 with the bridge; the rollup has ``accounts`` funded accounts."""

    def __init__(self, accounts: int) -> None:
        config = DevnetConfig()
        self.settings = config.settings
        genesis = with_l2_accounts(make_l1_genesis(config, TIME), workload.addresses(1, accounts), L2_FUND)
        self.rules, tree = genesis_state(structs.replace(genesis, fees=WIDE))
        self.state = State(tree)
        self.height = 0
        params = next(spec.params for spec in genesis.contracts if spec.name == "bridge")
        self.l2 = decode(abi.BridgeParams, params).l2_genesis
        self.accounts = accounts

    def batch(self, transfers: int) -> Batch:
        """The first transfers of the plan in blocks of a thousand."""
        rules, tree = genesis_state(self.l2)
        wires = workload.transfers(workload.Plan(rules.chain_id, self.accounts, transfers))
        groups = [wires[i : i + PER_BLOCK] for i in range(0, transfers, PER_BLOCK)]
        blocks = [BatchBlock(TIME, 0, group) for group in groups]
        directory = Directory()
        data = write_contents(blocks, rules.chain_id, directory)
        contents = read_contents(data, 0)
        hashes = step_hashes(contents, 1, 0, lambda _: bytes(32))
        directory.append(contents.addresses)
        steps: list[Step] = []
        for height, group in enumerate(groups, 1):
            steps += [BeginBlock(height, TIME), *(Transact(wire) for wire in group)]
        return Batch(data, steps, CommittedSteps(contents, hashes, directory), tree, rules)

    def call(self, who: str, method: str, args: Record, value: int = 0) -> tuple[Receipt, float]:
        """Run a call in an L1 block of its own; the receipt and its CPU seconds. Raises `AssertionError`."""
        self.height += 1
        begin_block(
            self.rules,
            self.state,
            height=self.height,
            slot=self.height,
            time=TIME + 1000 * self.height,
            proposer=dev_keypair("validator-0").address,
        )
        tx = self._sign(who, Call("bridge", method, encode(args), value))
        tx.signature_valid()  # that of the L1 transaction is not the contract's work
        begin = time.process_time()
        receipt = apply_transaction(self.rules, self.state, tx)
        spent = time.process_time() - begin
        self.state.end_step()
        if not receipt.success:
            raise AssertionError(f"{method}: {receipt.code} {receipt.message}")
        return receipt, spent

    def _sign(self, who: str, action: Call) -> SignedTransaction:
        """As `SignedTransaction.sign`, for calls of any size."""
        key = dev_keypair(who)
        nonce = self.state.account(key.address).nonce
        body = Body(self.rules.chain_id, key.address, nonce, GAS, 50, 0, action)
        encoded = encode(body)
        signature = key.sign(transaction_id(encoded))
        return SignedTransaction(
            body, signature, b"\x98" + encoded[1:] + encode(signature), transaction_id(encoded)
        )

    def load(self, key: bytes, kind: type[Any]) -> Any:
        """A record in the contract's storage."""
        return decode(kind, self.state.get(storage_key("bridge", key)))

    def submit(self, batch: Batch, root: bytes) -> float:
        """Post a batch that claims ``root``; the CPU seconds that the contract took."""
        args = abi.SubmitBatchArgs(parent=0, inbox_to=0, data=batch.data, state_root=root)
        forget_contents()  # the contract decodes the batch itself
        return self.call("sequencer", "submit_batch", args, self.settings.proposer_bond)[1]
