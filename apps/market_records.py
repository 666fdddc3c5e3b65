"""What the inference market stores, takes as arguments and emits.

Responsible for the shapes and ranges of its records and for the keys of its storage. Must not know its rules.
Amounts are native gwei, heights and deadlines block heights.
"""

from typing import Annotated, Literal

from msgspec import Meta

from chainkit.codec import U53, Address, Amount, Bytes32, Record

TOTALS_KEY = b"totals"
NOTHING = bytes(32)
"""No hash: of an answer that is not there yet; nobody may give it as one."""

Model = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9._/:-]{0,63}\Z")]
Stars = Annotated[int, Meta(ge=0, le=5)]
Blocks = Annotated[int, Meta(ge=1, le=10_000_000)]
Percent = Annotated[int, Meta(ge=0, le=100)]
Status = Literal["requested", "answered", "disputed", "paid", "refunded", "split"]


class MarketParams(Record, frozen=True):
    """Parameters, fixed at genesis.

    After a request the provider has ``answer_blocks`` to answer; after the answer the agent has
    ``dispute_blocks`` to dispute it; after that the arbiter has ``ruling_blocks`` to rule, or the provider
    gets ``silence_percent`` of the price (rounded down) and the agent the rest.
    """

    arbiter: Address
    answer_blocks: Blocks = 50
    dispute_blocks: Blocks = 50
    ruling_blocks: Blocks = 100
    silence_percent: Percent = 50


# --- state ------------------------------------------------------------------------------------------------


class Totals(Record, frozen=True):
    """Numbers of offers and calls ever made, calls still holding money, and that money in gwei."""

    offers: U53 = 0
    calls: U53 = 0
    open_calls: U53 = 0
    escrowed: Amount = 0


class Offer(Record, frozen=True):
    """A model at a price in gwei per call. The model never changes; what is withdrawn stays so."""

    provider: Address
    model: Model
    price: Amount
    withdrawn: bool = False


class MarketCall(Record, frozen=True):
    """A paid call. ``price`` in gwei is what it holds, or held; ``deadline`` the last height of its state.

    ``stars`` is 0 until the agent rates; ``answer`` is `NOTHING` until there is one.
    """

    offer: U53
    agent: Address
    provider: Address
    price: Amount
    status: Status
    deadline: U53
    request: Bytes32
    answer: Bytes32 = NOTHING
    stars: Stars = 0


class Provider(Record, frozen=True):
    """What came of a provider's calls. ``earned`` in gwei stops at 2**53 - 1, where money went in circles."""

    paid: U53 = 0
    refunded: U53 = 0
    split: U53 = 0
    earned: Amount = 0
    ratings: U53 = 0
    stars: U53 = 0


def offer_key(number: int) -> bytes:
    """Where an offer lies."""
    return b"offer/%d" % number


def call_key(number: int) -> bytes:
    """Where a call lies."""
    return b"call/%d" % number


def provider_key(address: Address) -> bytes:
    """Where a provider's record lies."""
    return b"provider/" + address


# --- arguments --------------------------------------------------------------------------------------------


class OfferArgs(Record, frozen=True):
    """``price`` in gwei per call, above zero. ``model``: lower-case letters, digits and ``._/:-``, up to 64."""

    model: Model
    price: Amount


class UpdateArgs(Record, frozen=True):
    """The new ``price`` of one's own offer, in gwei; calls requested before keep theirs."""

    offer: U53
    price: Amount


class OfferRef(Record, frozen=True):
    """An offer by its number."""

    offer: U53


class RequestArgs(Record, frozen=True):
    """The most that the agent is ready to pay, in gwei, and the hash of what it asks."""

    offer: U53
    max_price: Amount
    request: Bytes32


class AnswerArgs(Record, frozen=True):
    """The hash of the answer to a call."""

    call: U53
    answer: Bytes32


class CallRef(Record, frozen=True):
    """A call by its number."""

    call: U53


class RuleArgs(Record, frozen=True):
    """Whether the provider gets the price of the disputed call, or the agent."""

    call: U53
    for_provider: bool


class RateArgs(Record, frozen=True):
    """1 to 5 stars for a paid call."""

    call: U53
    stars: U53


# --- events -----------------------------------------------------------------------------------------------


class OfferMade(Record, frozen=True):
    """A new offer; ``price`` in gwei per call."""

    offer: U53
    provider: Address
    model: Model
    price: Amount


class OfferRepriced(Record, frozen=True):
    """The price of later calls, in gwei."""

    offer: U53
    price: Amount


class OfferWithdrawn(Record, frozen=True):
    """The offer takes no more calls."""

    offer: U53


class CallRequested(Record, frozen=True):
    """``deadline``: the last height at which the provider may answer."""

    call: U53
    offer: U53
    agent: Address
    provider: Address
    price: Amount
    request: Bytes32
    deadline: U53


class CallAnswered(Record, frozen=True):
    """``deadline``: the last height at which the agent may dispute."""

    call: U53
    answer: Bytes32
    deadline: U53


class CallDisputed(Record, frozen=True):
    """``deadline``: the last height at which the arbiter may rule."""

    call: U53
    deadline: U53


class CallSettled(Record, frozen=True):
    """The escrow was paid out, in gwei: the two shares are the price. ``status``: paid, refunded or split."""

    call: U53
    status: Status
    to_provider: Amount
    to_agent: Amount


class CallRated(Record, frozen=True):
    """The agent rated the call."""

    call: U53
    provider: Address
    stars: Stars


EVENTS = (
    OfferMade,
    OfferRepriced,
    OfferWithdrawn,
    CallRequested,
    CallAnswered,
    CallDisputed,
    CallSettled,
    CallRated,
)
