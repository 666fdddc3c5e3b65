"""Which parameters the bridge accepts.

Responsible for refusing values under which an honest side would lack the time, the bond or the room that the
promises need (tests/threats/README.md: "Censored moves", "Large preimages", "Ronin 2024"). Must not know storage.
"""

from bridge.abi import MAX_BISECTION, MAX_WITNESS_BYTES, BridgeSettings
from chainkit import gas
from chainkit.execution import FeeParameters, Rules
from chainkit.genesis import Genesis, GenesisError, genesis_state
from chainkit.keys import is_valid_address, well_known_name
from chainkit.merkle import Tree
from rollup.batch import MAX_ENTRIES
from rollup.stf import MAX_STEP_BYTES

MAX_STEPS_LIMIT = MAX_ENTRIES
"""Bounds the hashing of one submit_batch, whatever the settings."""
MAX_INBOX_LIMIT = 4_096
"""Bounds the inbox reads of one submit_batch, whatever the settings."""
BATCH_GAS = 3_000_000
BATCH_GAS_PER_BYTE = 16
"""Beside what the bytes of any L1 transaction cost: the data is hashed, and so is what is in it."""
BATCH_GAS_PER_INFLATED_BYTE = 1
BATCH_GAS_PER_STEP = 400
BATCH_GAS_PER_MESSAGE = 3_000
"""An inbox message is read from the contract's storage."""
BLOCK_BYTES = 256 * 1024
"""What the batch data of a single L2 block is at most; a sequencer makes none that is larger."""
BLOCK_STEPS = BLOCK_BYTES // 128
"""Transactions of so many bytes."""
PROOF_OVERHEAD_BYTES = 4 * 1024
"""A ``prove`` transaction beside its step and its witness: list proof, envelope, signature."""
WITNESS_KEY_BYTES = 1_100
"""One touched key in a witness: a leaf and 29 levels of the tree that it shares with no other key, 36 levels deep
in all. An honest tree of n keys is about log2(n) deep; each level more costs an attacker twice the hashing."""
UNMETERED_KEYS = 8
"""Keys that a step touches before its contract does: sender, vault, block, supply, the contract's account."""

_POSITIVE = (
    "proposer_bond",
    "challenger_bond",
    "challenge_window",
    "dispute_clock",
    "max_move_delay",
    "inclusion_delay",
    "sequencer_timeout",
    "escape_timeout",
    "exit_window",
    "max_steps",
    "max_inbox_per_batch",
    "min_deposit",
)
MAX_L2_TRANSACTION_GAS = gas.READ * (MAX_WITNESS_BYTES // WITNESS_KEY_BYTES - UNMETERED_KEYS)
"""What bounds the keys that one L2 transaction touches, so that its witness has at most `MAX_WITNESS_BYTES`."""


class SettingsError(ValueError):
    """A parameter is not acceptable; the message names it."""


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise SettingsError(message)


def bisection_rounds(max_steps: int, bisection: int) -> int:
    """ceil(log_k n) in integers: how often a range of n steps is cut until one step is left."""
    rounds, reach = 0, 1
    while reach < max_steps:
        reach *= bisection
        rounds += 1
    return rounds


def moves_of_a_side(settings: BridgeSettings) -> int:
    """The most moves that one side makes in a dispute (promise P14)."""
    return bisection_rounds(settings.max_steps, settings.bisection) + 2


def longest_dispute(settings: BridgeSettings) -> int:
    """L1 blocks after its posting in which a batch is final or void, whoever plays how (promise P13)."""
    return settings.challenge_window + 2 * settings.dispute_clock


SEEN_BLOCKS = 3
"""L1 blocks until a node acts on one: two until it is final in a network that has settled, and one to spare."""
CALLS_AFTER_A_CLOCK = 2
"""The verdict of the last dispute, then `finalize`."""


def finality_bound(settings: BridgeSettings) -> int:
    """L1 blocks after its posting in which a batch *is* final or void, the calls that say so included (promise P13):
    the window, both clocks of a dispute opened in its last block, ``max_move_delay`` blocks that a bystander waits for
    the sides to say whose clock ran out, and two calls, each sent when what it waits for is seen and left out of
    ``max_move_delay`` blocks by censors. The number of disputes is not in it: they run side by
    side, and one L1 block takes the verdicts of more than there are ever worth their bonds (docs/DELAY.md)."""
    calls = CALLS_AFTER_A_CLOCK * (SEEN_BLOCKS + 1 + settings.max_move_delay)
    return longest_dispute(settings) + settings.max_move_delay + calls


def check_settings(settings: BridgeSettings) -> None:
    """Raises `SettingsError` naming the first bad value."""
    for name in _POSITIVE:
        _require(getattr(settings, name) > 0, f"settings.{name} must be positive")
    _require(
        2 <= settings.bisection <= MAX_BISECTION, f"settings.bisection must be from 2 to {MAX_BISECTION}"
    )
    _require(settings.max_steps <= MAX_STEPS_LIMIT, f"settings.max_steps must be at most {MAX_STEPS_LIMIT}")
    _require(
        settings.max_inbox_per_batch <= MAX_INBOX_LIMIT,
        f"settings.max_inbox_per_batch must be at most {MAX_INBOX_LIMIT}",
    )
    _require(
        settings.max_inbox_per_batch < settings.max_steps,
        "settings.max_inbox_per_batch must be below settings.max_steps: a full inbox must fit a batch",
    )
    _check_times(settings)
    _check_people(settings)


def _check_times(settings: BridgeSettings) -> None:
    needed = moves_of_a_side(settings) * settings.max_move_delay
    for name in ("challenge_window", "dispute_clock"):
        _require(
            getattr(settings, name) > needed,
            f"settings.{name} must exceed {needed}: moves of a side times max_move_delay",
        )
    longest = longest_dispute(settings)
    # The opening is not on the clock; a move that ``max_move_delay`` blocks leave out is in the next one.
    answers = (moves_of_a_side(settings) - 1) * (settings.max_move_delay + 1)
    _require(
        settings.dispute_clock >= answers,
        f"settings.dispute_clock must be at least {answers}: "
        "moves of a side after the opening, each max_move_delay blocks late",
    )
    _require(
        settings.escape_timeout >= longest + settings.max_move_delay,
        f"settings.escape_timeout must be at least {longest + settings.max_move_delay}: "
        "challenge_window + 2 * dispute_clock + max_move_delay",
    )
    _require(
        settings.admin is None or settings.exit_window > longest,
        f"settings.exit_window must exceed {longest}: challenge_window + 2 * dispute_clock",
    )


def _check_people(settings: BridgeSettings) -> None:
    _require(is_valid_address(settings.sequencer), "settings.sequencer is not a valid public key")
    _require(
        settings.admin is None or is_valid_address(settings.admin), "settings.admin is not a valid public key"
    )


def check_l1(l1: Genesis) -> None:
    """The largest legal one-step proof and the largest L2 block must fit one L1 transaction. Raises `SettingsError`."""
    size = MAX_STEP_BYTES + MAX_WITNESS_BYTES + PROOF_OVERHEAD_BYTES
    _require(
        l1.fees.max_transaction_bytes >= size, f"fees.max_transaction_bytes of L1 must be at least {size}"
    )
    cost = size * l1.fees.gas_per_byte + proof_gas(size)
    _require(
        l1.fees.max_transaction_gas >= cost + 4_000_000,
        f"fees.max_transaction_gas of L1 must be at least {cost + 4_000_000}",
    )
    batch = _largest_block_gas(l1.fees)
    _require(
        l1.fees.max_transaction_gas >= batch,
        f"fees.max_transaction_gas of L1 must be at least {batch}: a batch of one block and all overdue messages",
    )


def batch_gas(fees: FeeParameters, data: int, inflated: int, steps: int, messages: int) -> int:
    """A gas limit for a batch of so many bytes of data, so many when inflated. What it uses is less."""
    of_bytes = (fees.gas_per_byte + BATCH_GAS_PER_BYTE) * data + BATCH_GAS_PER_INFLATED_BYTE * inflated
    return BATCH_GAS + of_bytes + BATCH_GAS_PER_STEP * steps + BATCH_GAS_PER_MESSAGE * messages


def _largest_block_gas(fees: FeeParameters) -> int:
    """A batch of one block with as many messages as any settings let it take in: if L1 had no gas for that, who fills
    the inbox would end all posting, since a batch that leaves out what is overdue is refused."""
    size = min(fees.max_transaction_bytes, BLOCK_BYTES)
    return batch_gas(fees, size, size, BLOCK_STEPS + MAX_INBOX_LIMIT, MAX_INBOX_LIMIT)


def proof_gas(size: int) -> int:
    """Gas for checking ``size`` bytes of proof: every byte is hashed, then one signature may be verified."""
    return gas.SIGNATURE + gas.HASH * (size // 32 + 1)


def check_strangers(l1: Genesis, settings: BridgeSettings) -> None:
    """On what is no devnet nobody may rule by a key that everybody knows. Raises `SettingsError`."""
    for role in ("sequencer", "admin"):
        address = getattr(settings, role)
        name = None if l1.devnet or address is None else well_known_name(address)
        _require(name is None, f"settings.{role} is the well-known key of {name!r}; only a devnet may use it")


def check_l2_genesis(l1: Genesis, l2: Genesis) -> tuple[Rules, Tree]:
    """The L2 rules and the state that batch 0 stands for. Raises `SettingsError`."""
    try:
        rules, tree = genesis_state(l2)
    except GenesisError as error:
        raise SettingsError(f"l2_genesis: {error}") from None
    _require(l2.chain_id != l1.chain_id, "l2_genesis.chain_id must differ from L1's")
    _require(
        l1.devnet or not l2.devnet, "l2_genesis.devnet must be false: L1 is no devnet, its coins are real"
    )
    _require(not l2.validators, "l2_genesis.validators must be empty: L1 orders the rollup")
    _require(l2.vault is not None, "l2_genesis.vault must be set: fees stay inside the escrow")
    _require(l2.time <= l1.time, "l2_genesis.time must not be later than L1's genesis")
    _require("messenger" in rules.contracts, "l2_genesis.contracts must have the messenger")
    _require(
        l2.fees.max_transaction_gas <= MAX_L2_TRANSACTION_GAS,
        f"l2_genesis.fees.max_transaction_gas must be at most {MAX_L2_TRANSACTION_GAS}: "
        "the witness of a step must fit a proof",
    )
    return rules, tree
