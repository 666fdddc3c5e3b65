"""A market for inference: the contract ``apps.inference_market:InferenceMarket``.

Responsible for offers, for the escrow of paid calls until they are settled, and for ratings. Must not know
which chain it runs on, nor what is asked and answered: it sees hashes; prompts and answers travel elsewhere.

Prices are native gwei per call. Deadlines are block heights of the chain that it runs on, counted from the
block of the act before; the last block named still counts, the next one is too late. Whoever makes the blocks
must not be able to keep somebody out that long: on a rollup choose them longer than a forced inclusion takes.

Life of a call (in brackets who may; *late* means after the deadline)::

    request [agent] -> requested -- answer [provider] --> answered -- confirm [agent] -------> paid
                           |                                 |------- claim [provider, late] -> paid
                           |                                 `-- dispute [agent] -> disputed
                           `- refund [agent, late] -> refunded                         |
                                         rule [arbiter] -> paid or refunded -----------|
                                         split [agent or provider, late] -> split -----'

No oracle can tell whether an answer was good, so disputes go to an arbiter whom genesis names. The arbiter can
only give a disputed call's price to its agent or to its provider, and may be neither itself (by that key). If
the arbiter is silent, ``silence_percent`` of the price is the provider's and the rest the agent's. Every state
that holds money has a way out for at least one of its two owners, which needs nobody else. A dispute costs the
agent only fees, so where the arbiter may sleep, a low ``silence_percent`` invites disputes of good answers,
and a high one bad answers.

Who deals with itself through two keys may rate itself; each such rating costs the fees of four transactions.

State (keys of the contract's own storage; every method touches at most three, and three accounts):

- ``totals``: `Totals`; its ``escrowed`` is the contract's native balance, always (nothing but ``request`` pays in)
- ``offer/`` + number: `Offer` · ``call/`` + number: `MarketCall`, both numbered from 0 and kept for good
- ``provider/`` + address: `Provider`, its record over all its offers
"""

from typing import Any

from msgspec.structs import replace

from apps.market_records import (
    EVENTS,
    NOTHING,
    TOTALS_KEY,
    AnswerArgs,
    CallAnswered,
    CallDisputed,
    CallRated,
    CallRef,
    CallRequested,
    CallSettled,
    MarketCall,
    MarketParams,
    Offer,
    OfferArgs,
    OfferMade,
    OfferRef,
    OfferRepriced,
    OfferWithdrawn,
    Provider,
    RateArgs,
    RequestArgs,
    RuleArgs,
    Status,
    Totals,
    UpdateArgs,
    call_key,
    offer_key,
    provider_key,
)
from chainkit.codec import MAX_AMOUNT, Address, to_json
from chainkit.contract import Context, Contract, Revert, Storage, method
from chainkit.genesis import Genesis
from chainkit.keys import is_valid_address

LISTED = 128
"""How many of the newest offers and calls ``public_state`` shows: it must stay bounded."""


# --- the contract -----------------------------------------------------------------------------------------


class InferenceMarket(Contract):
    """Offers, escrowed calls and ratings.

    Refusals (the code of the receipt): ``unknown_offer`` · ``unknown_call`` · ``not_provider`` ·
    ``not_agent`` · ``not_party`` · ``not_arbiter`` · ``arbiter_conflict`` · ``self_dealing`` ·
    ``zero_price`` · ``offer_withdrawn`` · ``price_above_max`` · ``underpaid`` · ``overpaid`` ·
    ``empty_hash`` · ``wrong_status`` · ``too_early`` · ``too_late`` · ``invalid_rating`` · ``already_rated``.
    """

    params_type = MarketParams
    events = EVENTS
    params: MarketParams

    def genesis(self, ctx: Context, genesis: Genesis) -> None:
        """An empty market. Raises `ValueError` for an arbiter that can never rule, or money of no call."""
        if not is_valid_address(self.params.arbiter):
            raise ValueError("arbiter is not a valid Ed25519 public key")
        if ctx.balance():
            raise ValueError("the market starts without a balance: it holds nothing but escrow")
        ctx.storage.store(TOTALS_KEY, Totals())

    # --- offers ---

    @method(OfferArgs)
    def offer(self, ctx: Context, args: OfferArgs) -> None:
        """Offer a model at a price. Emits `OfferMade`. Refused: ``zero_price``, ``arbiter_conflict``."""
        self._require_no_arbiter(ctx)
        _require_price(args.price)
        totals = load_totals(ctx.storage)
        ctx.storage.store(TOTALS_KEY, replace(totals, offers=totals.offers + 1))
        ctx.storage.store(offer_key(totals.offers), Offer(ctx.sender, args.model, args.price))
        ctx.emit(OfferMade(totals.offers, ctx.sender, args.model, args.price))

    @method(UpdateArgs)
    def update_offer(self, ctx: Context, args: UpdateArgs) -> None:
        """Change the price of one's offer.

        Emits `OfferRepriced`. Refused: ``unknown_offer``, ``not_provider``, ``offer_withdrawn``, ``zero_price``.
        """
        offer = _own_offer(ctx, args.offer)
        _require_price(args.price)
        ctx.storage.store(offer_key(args.offer), replace(offer, price=args.price))
        ctx.emit(OfferRepriced(args.offer, args.price))

    @method(OfferRef)
    def withdraw_offer(self, ctx: Context, args: OfferRef) -> None:
        """Take no more calls, for good; those under way go on.

        Emits `OfferWithdrawn`. Refused: ``unknown_offer``, ``not_provider``, ``offer_withdrawn``.
        """
        offer = _own_offer(ctx, args.offer)
        ctx.storage.store(offer_key(args.offer), replace(offer, withdrawn=True))
        ctx.emit(OfferWithdrawn(args.offer))

    # --- a call ---

    @method(RequestArgs, payable=True)
    def request(self, ctx: Context, args: RequestArgs) -> None:
        """Pay for a call. The value is at least the offer's price, at most ``max_price``; the rest comes back.

        Emits `CallRequested`. Refused: ``unknown_offer``, ``offer_withdrawn``, ``self_dealing``,
        ``arbiter_conflict``, ``empty_hash``, ``price_above_max``, ``underpaid``, ``overpaid``.
        """
        self._require_no_arbiter(ctx)
        _require_hash(args.request)
        offer = _open_offer(ctx.storage, args.offer)
        price = offer.price
        if ctx.sender == offer.provider:
            raise Revert("self_dealing", "a provider cannot call its own offer")
        if price > args.max_price:
            raise Revert("price_above_max", f"the price is {price} gwei, above {args.max_price}")
        if ctx.value < price:
            raise Revert("underpaid", f"the price is {price} gwei, {ctx.value} came")
        if ctx.value > args.max_price:
            raise Revert("overpaid", f"{ctx.value} gwei came, above the stated {args.max_price}")
        totals = load_totals(ctx.storage)
        number, deadline = totals.calls, _deadline(ctx, self.params.answer_blocks)
        call = MarketCall(args.offer, ctx.sender, offer.provider, price, "requested", deadline, args.request)
        ctx.storage.store(call_key(number), call)
        ctx.storage.store(
            TOTALS_KEY,
            Totals(totals.offers, number + 1, totals.open_calls + 1, totals.escrowed + price),
        )
        if ctx.value > price:
            ctx.transfer(ctx.sender, ctx.value - price)
        ctx.emit(CallRequested(number, args.offer, ctx.sender, offer.provider, price, args.request, deadline))

    @method(AnswerArgs)
    def answer(self, ctx: Context, args: AnswerArgs) -> None:
        """Commit to the answer, in time.

        Emits `CallAnswered`. Refused: ``unknown_call``, ``not_provider``, ``wrong_status``, ``too_late``,
        ``empty_hash``.
        """
        call = _call(ctx.storage, args.call)
        _require_provider(ctx, call.provider)
        _require_status(call, "requested")
        _require_in_time(ctx, call)
        _require_hash(args.answer)
        deadline = _deadline(ctx, self.params.dispute_blocks)
        answered = replace(call, status="answered", answer=args.answer, deadline=deadline)
        ctx.storage.store(call_key(args.call), answered)
        ctx.emit(CallAnswered(args.call, args.answer, deadline))

    @method(CallRef)
    def refund(self, ctx: Context, args: CallRef) -> None:
        """Take back the price of a call that was not answered in time.

        Emits `CallSettled`. Refused: ``unknown_call``, ``not_agent``, ``wrong_status``, ``too_early``.
        """
        call = _call(ctx.storage, args.call)
        _require_agent(ctx, call)
        _require_status(call, "requested")
        _require_late(ctx, call)
        _settle(ctx, args.call, call, "refunded", 0)

    @method(CallRef)
    def confirm(self, ctx: Context, args: CallRef) -> None:
        """Accept the answer (at any time) and pay the provider.

        Emits `CallSettled`. Refused: ``unknown_call``, ``not_agent``, ``wrong_status``.
        """
        call = _call(ctx.storage, args.call)
        _require_agent(ctx, call)
        _require_status(call, "answered")
        _settle(ctx, args.call, call, "paid", call.price)

    @method(CallRef)
    def claim(self, ctx: Context, args: CallRef) -> None:
        """Be paid for an answer that was neither confirmed nor disputed in time.

        Emits `CallSettled`. Refused: ``unknown_call``, ``not_provider``, ``wrong_status``, ``too_early``.
        """
        call = _call(ctx.storage, args.call)
        _require_provider(ctx, call.provider)
        _require_status(call, "answered")
        _require_late(ctx, call)
        _settle(ctx, args.call, call, "paid", call.price)

    # --- a dispute ---

    @method(CallRef)
    def dispute(self, ctx: Context, args: CallRef) -> None:
        """Put the answer before the arbiter, in time.

        Emits `CallDisputed`. Refused: ``unknown_call``, ``not_agent``, ``wrong_status``, ``too_late``.
        """
        call = _call(ctx.storage, args.call)
        _require_agent(ctx, call)
        _require_status(call, "answered")
        _require_in_time(ctx, call)
        deadline = _deadline(ctx, self.params.ruling_blocks)
        ctx.storage.store(call_key(args.call), replace(call, status="disputed", deadline=deadline))
        ctx.emit(CallDisputed(args.call, deadline))

    @method(RuleArgs)
    def rule(self, ctx: Context, args: RuleArgs) -> None:
        """Give the price of a disputed call to one of its two sides, in time; the arbiter only.

        Emits `CallSettled`. Refused: ``not_arbiter``, ``unknown_call``, ``wrong_status``, ``too_late``.
        """
        if ctx.sender != self.params.arbiter:
            raise Revert("not_arbiter", "only the arbiter that genesis names rules")
        call = _call(ctx.storage, args.call)
        _require_status(call, "disputed")
        _require_in_time(ctx, call)
        if args.for_provider:
            _settle(ctx, args.call, call, "paid", call.price)
        else:
            _settle(ctx, args.call, call, "refunded", 0)

    @method(CallRef)
    def split(self, ctx: Context, args: CallRef) -> None:
        """Share the price of a disputed call on which the arbiter was silent, as genesis says.

        Emits `CallSettled`. Refused: ``unknown_call``, ``not_party``, ``wrong_status``, ``too_early``.
        """
        call = _call(ctx.storage, args.call)
        if ctx.sender not in (call.agent, call.provider):
            raise Revert("not_party", "only the call's agent or provider may")
        _require_status(call, "disputed")
        _require_late(ctx, call)
        _settle(ctx, args.call, call, "split", call.price * self.params.silence_percent // 100)

    # --- ratings ---

    @method(RateArgs)
    def rate(self, ctx: Context, args: RateArgs) -> None:
        """Rate the provider of a call that was paid, once.

        Emits `CallRated`. Refused: ``unknown_call``, ``not_agent``, ``wrong_status``, ``already_rated``,
        ``invalid_rating``.
        """
        call = _call(ctx.storage, args.call)
        _require_agent(ctx, call)
        _require_status(call, "paid")
        if call.stars:
            raise Revert("already_rated", f"this call has {call.stars} stars already")
        if not 1 <= args.stars <= 5:
            raise Revert("invalid_rating", "a rating is 1 to 5 stars")
        ctx.storage.store(call_key(args.call), replace(call, stars=args.stars))
        record = load_provider(ctx.storage, call.provider)
        rated = replace(record, ratings=record.ratings + 1, stars=record.stars + args.stars)
        ctx.storage.store(provider_key(call.provider), rated)
        ctx.emit(CallRated(args.call, call.provider, args.stars))

    def _require_no_arbiter(self, ctx: Context) -> None:
        if ctx.sender == self.params.arbiter:
            raise Revert("arbiter_conflict", "the arbiter cannot be a side of a call")

    def public_state(self, storage: Storage) -> dict[str, Any]:
        """Totals in gwei, and the newest `LISTED` offers (with their providers' records) and calls."""
        totals = load_totals(storage)
        offers, calls = _newest(totals.offers), _newest(totals.calls)
        return {
            "totals": to_json(totals),
            "offers": [_offer_view(storage, number) for number in offers],
            "calls": [{"call": n, **to_json(_call(storage, n))} for n in calls],
        }


# --- bookkeeping ------------------------------------------------------------------------------------------


def load_totals(storage: Storage) -> Totals:
    """The market's totals."""
    return storage.load(TOTALS_KEY, Totals) or Totals()


def load_provider(storage: Storage, address: Address) -> Provider:
    """A provider's record; all zero if no call of its was ever settled."""
    return storage.load(provider_key(address), Provider) or Provider()


def _settle(ctx: Context, number: int, call: MarketCall, status: Status, to_provider: int) -> None:
    """Close the call and pay out all that it held: the one way for money to leave escrow."""
    to_agent = call.price - to_provider
    ctx.storage.store(call_key(number), replace(call, status=status))
    totals = load_totals(ctx.storage)
    left = replace(totals, open_calls=totals.open_calls - 1, escrowed=totals.escrowed - call.price)
    ctx.storage.store(TOTALS_KEY, left)
    record = load_provider(ctx.storage, call.provider)
    ctx.storage.store(provider_key(call.provider), _counted(record, status, to_provider))
    for owner, share in ((call.provider, to_provider), (call.agent, to_agent)):
        if share:
            ctx.transfer(owner, share)
    ctx.emit(CallSettled(number, status, to_provider, to_agent))


def _counted(record: Provider, status: Status, earned: int) -> Provider:
    return replace(
        record,
        paid=record.paid + (status == "paid"),
        refunded=record.refunded + (status == "refunded"),
        split=record.split + (status == "split"),
        # The same gwei can be earned again and again: a sum that grew on could not be stored any more.
        earned=min(record.earned + earned, MAX_AMOUNT),
    )


def _deadline(ctx: Context, blocks: int) -> int:
    return min(ctx.height + blocks, MAX_AMOUNT)


def _call(storage: Storage, number: int) -> MarketCall:
    call = storage.load(call_key(number), MarketCall)
    if call is None:
        raise Revert("unknown_call", f"there is no call {number}")
    return call


def _open_offer(storage: Storage, number: int) -> Offer:
    offer = storage.load(offer_key(number), Offer)
    if offer is None:
        raise Revert("unknown_offer", f"there is no offer {number}")
    if offer.withdrawn:
        raise Revert("offer_withdrawn", f"offer {number} takes no more calls")
    return offer


def _own_offer(ctx: Context, number: int) -> Offer:
    offer = _open_offer(ctx.storage, number)
    _require_provider(ctx, offer.provider)
    return offer


def _require_price(price: int) -> None:
    if not price:
        raise Revert("zero_price", "a price must be above zero")


def _require_hash(value: bytes) -> None:
    if value == NOTHING:
        raise Revert("empty_hash", "the hash must not be all zero")


def _require_provider(ctx: Context, provider: Address) -> None:
    if ctx.sender != provider:
        raise Revert("not_provider", "only the provider may")


def _require_agent(ctx: Context, call: MarketCall) -> None:
    if ctx.sender != call.agent:
        raise Revert("not_agent", "only the agent who paid may")


def _require_status(call: MarketCall, status: Status) -> None:
    if call.status != status:
        raise Revert("wrong_status", f"the call is {call.status}, not {status}")


def _require_in_time(ctx: Context, call: MarketCall) -> None:
    if ctx.height > call.deadline:
        raise Revert("too_late", f"the last block for it was {call.deadline}, this is {ctx.height}")


def _require_late(ctx: Context, call: MarketCall) -> None:
    if ctx.height <= call.deadline:
        raise Revert("too_early", f"possible after block {call.deadline}, this is {ctx.height}")


# --- views ------------------------------------------------------------------------------------------------


def _newest(count: int) -> range:
    return range(max(0, count - LISTED), count)


def _offer_view(storage: Storage, number: int) -> dict[str, Any]:
    offer = storage.load(offer_key(number), Offer)
    assert offer is not None, "offers are numbered without a gap and kept"
    return {"offer": number, **to_json(offer), "record": to_json(load_provider(storage, offer.provider))}
