"""Attempts, pauses and fallbacks, over real sockets and as pure decisions."""

import asyncio
from contextlib import aclosing
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.provider_simulator import forget_requests, recorded_requests, sim
from prompts import keys, routing
from prompts.catalogue import Offer
from prompts.provider import Finished, ProviderFault, TextPiece
from prompts.routing import Answering, Course, stream

LONG = "word " * 10_000
WELL = {"text": "All is well.", "tokens_per_second": 0}


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch):
    monkeypatch.setattr(routing, "BACKOFF_SECONDS", 0.0)


async def ask(offer: Offer, max_tokens: int = 50, **control) -> list:
    messages = [{"role": "user", "content": sim(**control)}]
    async with aclosing(stream(offer, messages, max_tokens=max_tokens)) as batches:
        return [piece async for pieces in batches for piece in pieces]


async def fault_of(offer: Offer, **control) -> ProviderFault:
    with pytest.raises(ProviderFault) as fault:
        await ask(offer, **control)
    return fault.value


def text_of(pieces: list) -> str:
    return "".join(piece.text for piece in pieces if isinstance(piece, TextPiece))


async def test_who_answers_is_said_first(offer):
    model = offer()
    first, *_, last = await ask(model, **WELL)
    assert first == Answering(model, attempts=1)
    assert isinstance(last, Finished)


@pytest.mark.parametrize(
    "fault",
    [
        {"status": 500},
        {"status": 429},
        {"status": 429, "retry_after": 0.01},
        {"status": 503, "retry_after": "Wed, 21 Oct 2015 07:28:00 GMT"},
        {"reset_after": -1},
        {"reset_after": 0},
        {"empty": True},
        {"no_choices": True},
        {"error_event_after": 0},
    ],
)
async def test_what_passes_is_asked_again(offer, fault):
    pieces = await ask(offer(), **fault, times=2, then=WELL)
    assert text_of(pieces) == "All is well."
    assert pieces[0].attempts == 3


async def test_attempts_have_an_end(offer, simulator):
    forget_requests(simulator)
    assert (await fault_of(offer(), status=500)).code == "failing"
    assert len(recorded_requests(simulator)) == 3


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        ({"status": 400}, "rejected"),
        ({"status": 401}, "unauthorised"),
        ({"status": 403}, "unauthorised"),
        ({"status": 404}, "rejected"),
        ({"status": 422}, "rejected"),
        ({"redirect": "https://example.org/"}, "garbled"),
        ({"html": True}, "garbled"),
        ({"content_type": "application/json"}, "garbled"),
        ({"huge_chunk": 33}, "garbled"),
        ({"status": 429, "retry_after": 3600}, "busy"),
    ],
)
async def test_what_would_happen_again_is_not_asked_again(offer, simulator, fault, code):
    forget_requests(simulator)
    assert (await fault_of(offer(), **fault)).code == code
    assert len(recorded_requests(simulator)) == 1


@pytest.mark.parametrize("fault", ["reset_after", "garbage_after", "error_event_after"])
async def test_what_began_is_never_asked_again(offer, simulator, fault):
    forget_requests(simulator)
    fallback = offer("second", remote_name="second")
    await fault_of(offer(fallbacks=(fallback,)), text=LONG, tokens_per_second=0, **{fault: 5})
    assert len(recorded_requests(simulator)) == 1


async def test_a_long_retry_after_goes_on_to_the_next_model(offer, simulator):
    forget_requests(simulator)
    second = offer("second", remote_name="second")
    pieces = await ask(offer(fallbacks=(second,)), status=429, retry_after=3600, times=1, then=WELL)
    assert pieces[0] == Answering(second, attempts=2)
    assert [request["model"] for request in recorded_requests(simulator)] == ["simulated", "second"]


async def test_a_model_that_is_away_is_stood_in_for(offer):
    second = offer("second")
    away = offer(base_url="http://127.0.0.1:9/v1", fallbacks=(second,))
    assert (await ask(away, **WELL))[0] == Answering(second, attempts=4)


async def test_a_refused_key_is_not_tried_at_its_other_models(offer, simulator, monkeypatch):
    monkeypatch.setenv("OTHER_API_KEY", "other")
    forget_requests(simulator)
    same = offer("same", remote_name="same")
    other = offer("other", remote_name="other", secret_name="OTHER_API_KEY")
    pieces = await ask(offer(fallbacks=(same, other)), status=401, times=1, then=WELL)
    assert pieces[0].offer == other
    requests = recorded_requests(simulator)
    assert [request["model"] for request in requests] == ["simulated", "other"]
    assert requests[1]["headers"]["authorization"] == "Bearer other"


async def test_an_exchanged_key_is_read_after_it_was_refused(offer, simulator, monkeypatch):
    monkeypatch.setenv("TURNING_API_KEY", "old")
    model = offer(secret_name="TURNING_API_KEY")
    await fault_of(model, status=401)
    monkeypatch.setenv("TURNING_API_KEY", "new")
    forget_requests(simulator)
    await ask(model, **WELL)
    assert recorded_requests(simulator)[0]["headers"]["authorization"] == "Bearer new"


async def test_a_key_that_cannot_be_read_counts_as_not_given(monkeypatch):
    monkeypatch.setenv("LOST_API_KEY_FILE", "/nowhere")
    assert await keys.key_of("LOST_API_KEY") == ""


async def test_silence_before_the_first_token_leaves_time_for_the_next_model(offer, settings):
    settings.PROVIDER_FIRST_TOKEN_SECONDS = 0.2
    second = offer("second")
    pieces = await ask(offer(fallbacks=(second,)), stall_after=0, times=1, then=WELL)
    assert pieces[0] == Answering(second, attempts=2)


async def test_patience_ends_before_the_limits_of_the_attempts_do(offer, settings):
    settings.PROVIDER_PATIENCE_SECONDS = 0.2
    second = offer("second")
    assert (await fault_of(offer(fallbacks=(second,)), header_seconds=30)).code == "timeout"


async def test_a_reply_without_end_is_ended(offer, settings):
    settings.PROVIDER_REPLY_SECONDS = 0.2
    assert (await fault_of(offer(), text=LONG, tokens_per_second=100)).code == "timeout"


async def test_the_limit_is_told_to_the_provider(offer, simulator):
    forget_requests(simulator)
    await ask(offer(), max_tokens=17, **WELL)
    assert recorded_requests(simulator)[0]["max_tokens"] == 17


async def test_a_fallback_writes_no_more_than_it_may(offer, simulator):
    forget_requests(simulator)
    small = offer("small", max_output_tokens=20)
    await ask(offer(fallbacks=(small,)), max_tokens=50, html=True, times=1, then=WELL)
    assert [request["max_tokens"] for request in recorded_requests(simulator)] == [50, 20]


@pytest.mark.parametrize(
    ("base_url", "name"),
    [
        ("https://api.openai.com/v1", "max_completion_tokens"),
        ("https://ours.openai.azure.com/openai/v1", "max_completion_tokens"),
        ("http://localhost:11434/v1", "max_tokens"),
        ("https://api.openai.com.example.org/v1", "max_tokens"),
    ],
)
def test_the_limit_has_the_name_that_the_server_knows(base_url, name):
    model = replace(_offer("m", "A_API_KEY"), base_url=base_url)
    assert routing._limit_name(model) == name


async def test_leaving_closes_the_request_upstream(offer, simulator):
    forget_requests(simulator)
    messages = [{"role": "user", "content": sim(text=LONG, tokens_per_second=100)}]
    async with aclosing(stream(offer(), messages, max_tokens=50)) as batches:
        async for _ in batches:
            break
    await _cancelled_upstream(simulator)


async def test_cancelling_while_nothing_came_closes_the_request_upstream(offer, simulator):
    forget_requests(simulator)
    asking = asyncio.create_task(ask(offer(), header_seconds=30))
    await _until(lambda: recorded_requests(simulator))
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    await _cancelled_upstream(simulator)


async def _cancelled_upstream(simulator: str) -> None:
    await _until(lambda: recorded_requests(simulator)[0]["cancelled_at"])


async def _until(happened) -> None:
    """Ask again until it has; the test's own time limit ends it."""
    while not happened():  # noqa: ASYNC110 - another process tells it
        await asyncio.sleep(0.02)


# --- decisions -------------------------------------------------------------------------------


def _offer(slug: str, secret_name: str) -> Offer:
    return Offer(slug, slug, "http://x/v1", secret_name, slug, 32_768, 8_192, None)


SECRETS = ("A_API_KEY", "B_API_KEY")
faults = st.builds(
    ProviderFault,
    st.sampled_from(
        ["unreachable", "untrusted", "timeout", "busy", "failing", "garbled", "cut", "empty"]
    ),
    st.none(),
    st.none() | st.floats(0, 10_000),
) | st.sampled_from([400, 401, 402, 403, 404, 413, 422]).map(
    lambda status: ProviderFault(
        "unauthorised" if status in {401, 402, 403} else "rejected", status
    )
)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@given(
    st.lists(st.sampled_from(SECRETS), min_size=1, max_size=4),
    st.lists(st.tuples(faults, st.floats(0, 30)), min_size=30, max_size=30),
    st.floats(0, 1),
)
def test_the_course_is_bounded_whatever_fails(secrets, story, luck):
    models = [_offer(f"m{number}", name) for number, name in enumerate(secrets)]
    clock = Clock()
    course = Course(
        replace(models[0], fallbacks=tuple(models[1:])), clock, draw=lambda most: luck * most
    )
    asked, waited = [course.offer.slug], 0.0
    for fault, seconds in story:
        clock.now += seconds
        before, left = course.offer, course.patience_left()
        wait = course.after(fault)
        if wait is None:
            break
        assert 0 <= wait <= left
        assert wait <= 10.0 + 8.0, "the cap of Retry-After, and that of our own pause"
        if fault.code == "rejected":
            assert fault.status == 404
        if fault.status is not None:
            assert course.offer.slug != before.slug, "4xx of our making are not asked again"
        if fault.status in {401, 402}:
            assert course.offer.secret_name != before.secret_name
        clock.now += wait
        waited += wait
        asked.append(course.offer.slug)
    else:
        pytest.fail("it never ended")
    assert waited <= 120.0
    assert all(asked.count(slug) <= 3 for slug in asked)
    assert asked == sorted(asked), "the models are asked in their order, and none comes back"


@given(st.integers(1, 2), st.sampled_from([0.0, 0.25, 1.0]))
def test_pauses_are_drawn_from_nothing_up_to_twice_the_last(tries, luck):
    course = Course(_offer("m", "A_API_KEY"), Clock(), draw=lambda most: luck * most)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(routing, "BACKOFF_SECONDS", 0.5)
        waits = [course.after(ProviderFault("failing")) for _ in range(tries)]
    assert waits == [luck * 0.5 * 2**number for number in range(tries)]
