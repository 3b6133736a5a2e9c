"""The provider against a server that does what each question tells it, over real sockets."""

import asyncio
import contextlib

import pytest

from benchmarks.provider_simulator import forget_requests, recorded_requests, sim
from prompts import provider as provider_module
from prompts.provider import Finished, Provider, ProviderFault, TextPiece, ThinkingPiece


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


async def test_silence_in_the_middle_is_a_stall(simulator, monkeypatch):
    monkeypatch.setattr(provider_module, "BETWEEN_TOKENS_SECONDS", 0.3)
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
