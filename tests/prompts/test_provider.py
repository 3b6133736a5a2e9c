"""The provider against a server that does what each question tells it, over real sockets."""

import asyncio
import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.provider_simulator import forget_requests, recorded_requests, sim
from prompts.provider import (
    MAX_MODEL_CHARACTERS,
    MAX_REASON_CHARACTERS,
    Finished,
    Provider,
    ProviderFault,
    TextPiece,
    ThinkingPiece,
    _Reading,
)
from tests.certificates import self_signed


async def ask(base_url: str, **control) -> list:
    provider = Provider(base_url, "key")
    messages = [{"role": "user", "content": sim(**control)}]
    try:
        async with contextlib.aclosing(provider.stream(messages, model="m")) as batches:
            return [piece async for pieces in batches for piece in pieces]
    finally:
        await provider.close()


def text_of(pieces: list) -> str:
    return "".join(piece.text for piece in pieces if isinstance(piece, TextPiece))


async def test_a_reply_arrives_in_pieces_with_its_usage(simulator):
    pieces = await ask(simulator, text="Hello, you there.", tokens_per_second=0)
    assert text_of(pieces) == "Hello, you there."
    end = pieces[-1]
    assert isinstance(end, Finished)
    assert (end.reason, end.usage.tokens_out > 0) == ("stop", True)


SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
NAMES = st.sampled_from(
    ["choices", "delta", "content", "finish_reason", "model", "usage", "prompt_tokens",
     "prompt_tokens_details", "cached_tokens", "completion_tokens", "reasoning", "error"]
)  # fmt: skip
SHAPES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=8,
)


@given(st.dictionaries(NAMES, SHAPES, max_size=4) | SHAPES)
def test_json_of_any_shape_is_read_or_garbled(chunk):
    reading = _Reading("m")
    pieces = reading.take(b"data: " + json.dumps(chunk).encode() + b"\n\ndata: [DONE]\n\n")
    assert all(isinstance(piece.text, str) for piece in pieces)
    if reading.fault:
        assert reading.fault.code in {"garbled", "failing"}
        return
    with contextlib.suppress(ProviderFault):
        end = reading.finished()
        assert len(end.reason) <= MAX_REASON_CHARACTERS
        assert len(end.model) <= MAX_MODEL_CHARACTERS
        assert (end.reason + end.model).isprintable()


@pytest.mark.parametrize("tokens", [-1, 10**12])
def test_figures_that_can_not_be_count_as_none(tokens):
    told = {"usage": {"prompt_tokens": 1, "completion_tokens": tokens}}
    told["choices"] = [{"delta": {}, "finish_reason": "stop"}]
    reading = _Reading("m")
    reading.take(b"data: " + json.dumps(told).encode() + b"\n\n")
    assert reading.finished().usage is None


async def test_bytes_cut_anywhere_give_the_same_text(simulator):
    text = "Grüße – 你好 🙂 " * 20
    assert text_of(await ask(simulator, text=text, tokens_per_second=0, split=True)) == text


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
async def test_reasoning_is_told_apart(simulator, field):
    pieces = await ask(simulator, text="So.", reasoning=3, reasoning_field=field)
    assert any(isinstance(piece, ThinkingPiece) for piece in pieces)
    assert text_of(pieces) == "So."


@pytest.mark.parametrize("reason", ["length", "content_filter"])
async def test_the_reason_of_the_end_is_the_providers(simulator, reason):
    assert (await ask(simulator, text="x", finish_reason=reason))[-1].reason == reason


@pytest.mark.parametrize(
    ("control", "code"),
    [
        ({"status": 500}, "failing"),
        ({"status": 503}, "failing"),
        ({"status": 429}, "busy"),
        ({"status": 401}, "unauthorised"),
        ({"status": 403}, "unauthorised"),
        ({"status": 400}, "rejected"),
        ({"status": 404}, "rejected"),
        ({"html": True}, "garbled"),
        ({"empty": True}, "empty"),
        ({"no_choices": True}, "empty"),
        ({"tokens": 50, "garbage_after": 5}, "garbled"),
        ({"tokens": 50, "reset_after": 5}, "cut"),
        ({"tokens": 50, "close_after": 5}, "cut"),
        ({"tokens": 50, "end_after": 5}, "cut"),
        ({"tokens": 50, "error_event_after": 5}, "failing"),
        ({"huge_chunk": 3}, "garbled"),
    ],
)
async def test_each_fault_has_one_code(simulator, control, code):
    with pytest.raises(ProviderFault) as fault:
        await ask(simulator, **control)
    assert fault.value.code == code


async def test_an_answer_without_a_server_is_unreachable():
    with pytest.raises(ProviderFault) as fault:
        await ask("http://127.0.0.1:9/v1")
    assert fault.value.code == "unreachable"


async def test_a_reset_before_the_first_byte_is_no_timeout(simulator):
    with pytest.raises(ProviderFault) as fault:
        await ask(simulator, reset_after=-1)
    assert fault.value.code in {"unreachable", "cut"}


async def test_a_redirect_is_not_followed(simulator):
    with pytest.raises(ProviderFault) as fault:
        await ask(simulator, redirect=True)
    assert fault.value.code == "garbled"


async def test_silence_in_the_middle_is_a_stall(simulator, settings):
    settings.PROVIDER_BETWEEN_TOKENS_SECONDS = 0.3
    with pytest.raises(ProviderFault) as fault:
        await ask(simulator, tokens=20, stall_after=3)
    assert fault.value.code == "stalled"


async def test_leaving_the_stream_cancels_upstream(simulator):
    forget_requests(simulator)
    provider = Provider(simulator, "key")
    messages = [{"role": "user", "content": sim(tokens=1000, tokens_per_second=100)}]
    async with contextlib.aclosing(provider.stream(messages, model="m")) as pieces:
        async for _ in pieces:
            break
    await provider.close()

    for _ in range(100):
        (request,) = recorded_requests(simulator)
        if request["cancelled_at"]:
            return
        await asyncio.sleep(0.05)
    pytest.fail("the request went on upstream")


async def test_a_wrong_content_type_is_garbled(simulator):
    with pytest.raises(ProviderFault) as fault:
        await ask(simulator, content_type="application/octet-stream")
    assert fault.value.code == "garbled"


async def test_a_refusal_says_when_to_come_again(simulator):
    with pytest.raises(ProviderFault) as fault:
        await ask(simulator, status=429, retry_after=7)
    assert (fault.value.code, fault.value.status, fault.value.retry_after) == ("busy", 429, 7.0)


async def test_a_sign_of_life_is_no_token(simulator, settings):
    settings.PROVIDER_FIRST_TOKEN_SECONDS = 0.3
    with pytest.raises(ProviderFault) as fault:
        await ask(simulator, first_token_seconds=30, comments=True)
    assert fault.value.code == "stalled"


async def test_headers_that_do_not_come_are_a_timeout(simulator, settings):
    settings.PROVIDER_FIRST_TOKEN_SECONDS = 0.3
    with pytest.raises(ProviderFault) as fault:
        await ask(simulator, header_seconds=30)
    assert fault.value.code == "timeout"


async def test_a_reader_who_takes_their_time_is_no_silence_of_the_provider(simulator, settings):
    settings.PROVIDER_BETWEEN_TOKENS_SECONDS = 0.2
    provider = Provider(simulator, "key")
    text = "word " * 20_000
    messages = [{"role": "user", "content": sim(text=text, tokens_per_second=0)}]
    received = []
    async with contextlib.aclosing(provider.stream(messages, model="m")) as batches:
        async for pieces in batches:
            received += pieces
            if len(received) < 100:
                await asyncio.sleep(0.3)
    await provider.close()
    assert text_of(received) == text


async def test_a_certificate_of_nobody_we_know_is_not_trusted(tmp_path):
    server = await asyncio.start_server(
        lambda _reader, writer: writer.close(), "127.0.0.1", 0, ssl=self_signed(tmp_path)
    )
    async with server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(ProviderFault) as fault:
            await ask(f"https://127.0.0.1:{port}/v1")
    assert fault.value.code == "untrusted"
