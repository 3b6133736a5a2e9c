"""The provider simulator does what each request tells it, by the client and by bare sockets."""

import json
import socket
import time
import urllib.request
from urllib.parse import urlsplit

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.provider_simulator import (
    TITLE,
    Control,
    forget_requests,
    recorded_requests,
    running_simulator,
    sample,
    sim,
)
from chatbot.local.completions import pieces


@pytest.fixture(scope="module")
def base_url():
    with running_simulator(tokens_per_second=0, tokens=5) as url:
        yield url


@pytest.fixture
def client(base_url):
    forget_requests(base_url)
    with openai.OpenAI(base_url=base_url, api_key="secret", max_retries=0, timeout=10) as it:
        yield it


def ask(client, *, stream=True, **control):
    return client.chat.completions.create(
        model="m",
        messages=[{"role": "user", "content": f"Hello\n{sim(**control)}"}],
        stream=stream,
        **({"stream_options": {"include_usage": True}} if stream else {}),
    )


def text_of(chunks):
    return "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)


def said_before(failure, stream):
    said = []
    with pytest.raises(failure):
        said.extend(stream)
    return said


def raw_exchange(base_url, *, stream=True, **control):
    """Send a request over a bare socket and return all bytes up to the end of the connection."""
    body = {"messages": [{"role": "user", "content": sim(**control)}], "stream": stream}
    with bare_socket(base_url, json.dumps(body).encode()) as sock:
        received = b""
        while data := sock.recv(65536):
            received += data
            if received.endswith(b"0\r\n\r\n"):
                break
        return received


def bare_socket(base_url, body):
    where = urlsplit(base_url)
    sock = socket.create_connection((where.hostname, where.port), timeout=10)
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
    sock.sendall(head.encode() + body)
    return sock


def eventually(condition):
    """Ask again until something is true; the test's own time limit ends it."""
    while not (result := condition()):
        time.sleep(0.01)
    return result


# What is sent


def test_text_comes_as_it_was_given(client):
    text = "Exactly *this*,\n\n日本語 and 👩‍💻.\n"
    chunks = list(ask(client, text=text))
    assert text_of(chunks) == text
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].usage.completion_tokens == len(pieces(text))


@pytest.mark.parametrize("kind", ["prose", "markdown", "code", "unicode"])
def test_kinds_of_text_are_the_same_every_time(client, kind):
    said = text_of(ask(client, kind=kind, tokens=150))
    assert said == "".join(sample(kind, 150))
    assert len(sample(kind, 150)) == 150


def test_code_is_one_fence_that_closes():
    text = "".join(sample("code", 300))
    assert text.startswith("```python\n")
    assert text.endswith("\n```\n")
    assert text.count("```") == 2


def test_reasoning_comes_first_and_counts(client):
    chunks = list(ask(client, reasoning=3, tokens=2, finish_reason="length"))
    thought = [getattr(c.choices[0].delta, "reasoning_content", None) for c in chunks[:-1]]
    assert [bool(t) for t in thought] == [False, True, True, True, False, False, False]
    assert chunks[-2].choices[0].finish_reason == "length"
    assert chunks[-1].usage.completion_tokens_details.reasoning_tokens == 3


def test_chunks_hold_several_tokens_or_characters(client):
    chunks = list(ask(client, text="abcdefg", chunk_characters=2, chunk=3))
    assert [c.choices[0].delta.content for c in chunks if c.choices] == ["", "abcdef", "g", None]


def test_usage_can_be_left_out(client):
    assert all(chunk.usage is None for chunk in ask(client, usage=False))


def test_reply_in_one_piece(client):
    whole = ask(client, stream=False, text="All of it.", reasoning=2)
    assert whole.choices[0].message.content == "All of it."
    assert whole.choices[0].message.reasoning_content
    assert whole.usage.completion_tokens == len(pieces("All of it.")) + 2


@pytest.mark.parametrize("control", [{"split": 1}, {"split": 7}, {"crlf": True, "comments": True}])
def test_other_encodings_say_the_same(client, control):
    text = "Grüße, 日本語, 👩‍💻!"
    assert text_of(ask(client, text=text, **control)) == text


def test_split_cuts_inside_of_characters(base_url):
    received = raw_exchange(base_url, text="日本語" * 20, split=3)
    parts = received.partition(b"\r\n\r\n")[2].split(b"\r\n")[1::2]
    assert any(undecodable(part) for part in parts)
    assert max(map(len, parts)) <= 3


def undecodable(part):
    try:
        part.decode()
    except UnicodeDecodeError:
        return True
    return False


def test_huge_chunk_is_huge(client):
    sizes = [len(c.choices[0].delta.content or "") for c in ask(client, huge_chunk=2) if c.choices]
    assert max(sizes) > 2_000_000


def test_title_is_short_and_fixed_unless_told(client):
    order = {"role": "system", "content": "Reply with a short title for the conversation."}
    for control, title in [({"status": 500}, TITLE), ({"title": {"text": "<b>"}}, "<b>")]:
        question = {"role": "user", "content": sim(**control)}
        whole = client.chat.completions.create(model="m", messages=[order, question])
        assert whole.choices[0].message.content == title


# What goes wrong


def test_status_comes_before_streaming(client):
    with pytest.raises(openai.RateLimitError) as refused:
        ask(client, status=429, retry_after=1.5)
    assert refused.value.response.headers["retry-after"] == "1.5"


def test_fault_is_over_after_so_many_times(client):
    control = {"status": 503, "times": 2, "then": {"text": "Now."}}
    for _ in range(2):
        with pytest.raises(openai.InternalServerError):
            ask(client, **control)
    assert text_of(ask(client, **control)) == "Now."


@pytest.mark.parametrize("after", [-1, 0, 3])
def test_reset_is_a_reset_of_the_connection(base_url, after):
    with pytest.raises(ConnectionResetError):
        raw_exchange(base_url, tokens=9, reset_after=after)


def test_reset_comes_after_the_tokens_before_it(client):
    said = said_before(openai.APIConnectionError, ask(client, text="a b c d e", reset_after=3))
    assert text_of(said) == "a b c"


def test_close_ends_the_body_without_its_last_chunk(base_url, client):
    assert not raw_exchange(base_url, close_after=2).endswith(b"0\r\n\r\n")
    said = said_before(openai.APIConnectionError, ask(client, text="a b c", close_after=2))
    assert text_of(said) == "a b"


def test_end_looks_complete_but_has_no_finish_reason(base_url, client):
    received = raw_exchange(base_url, end_after=2)
    assert received.endswith(b"0\r\n\r\n")
    assert b"[DONE]" not in received
    assert {c.choices[0].finish_reason for c in ask(client, end_after=2)} == {None}


def test_garbage_is_neither_json_nor_utf8(base_url, client):
    assert undecodable(raw_exchange(base_url, garbage_after=1))
    assert text_of(said_before(ValueError, ask(client, text="a b c", garbage_after=1))) == "a"


def test_error_event_comes_in_mid_stream(client):
    failing = ask(client, text="a b c", error_event_after=2)
    assert text_of(said_before(openai.APIError, failing)) == "a b"


def test_empty_and_without_choices(client):
    assert list(ask(client, empty=True)) == []
    assert [chunk.choices for chunk in ask(client, no_choices=True)] == [[], [], []]


def test_html_and_redirect_are_no_api(base_url):
    assert b"content-type: text/html" in raw_head(base_url, html=True)
    head = raw_head(base_url, redirect="https://example.org/login")
    assert head.startswith(b"HTTP/1.1 302 ")
    assert b"location: https://example.org/login\r\n" in head


def raw_head(base_url, **control):
    body = {"messages": [{"role": "user", "content": sim(**control)}], "stream": True}
    with bare_socket(base_url, json.dumps(body).encode()) as sock:
        return sock.recv(65536)


def test_unknown_field_is_named(client):
    with pytest.raises(TypeError):
        sim(tokns=3)
    for line in ('@sim {"tokns": 3}', '@sim {"tokens": "x"}', '@sim {"kind": "opera"}', "@sim {x}"):
        with pytest.raises(openai.BadRequestError, match=r"@sim"):
            client.chat.completions.create(model="m", messages=[{"role": "user", "content": line}])


# What is recorded


def test_record_tells_what_was_asked_and_how_it_went(client, base_url):
    chunks = list(ask(client, tokens=4))
    [record] = recorded_requests(base_url, token_times=True)
    assert text_of(chunks)
    assert record["messages"][0]["content"].startswith("Hello\n@sim")
    assert record["headers"]["authorization"] == "Bearer secret"
    assert (record["outcome"], record["tokens_sent"], record["stream"]) == ("completed", 4, True)
    times = [record["started_at"], record["first_byte_at"], record["first_token_at"]]
    times += [*record["token_times"], record["ended_at"], time.monotonic()]
    assert times == sorted(times)
    assert "token_times" not in recorded_requests(base_url)[0]


@pytest.mark.parametrize(
    "control", [{"tokens_per_second": 100, "tokens": 10_000}, {"stall_after": 2}]
)
def test_client_that_leaves_is_noticed(client, base_url, control):
    with ask(client, **control) as stream:
        next(iter(stream))
    eventually(lambda: recorded_requests(base_url)[0]["cancelled_at"])
    [record] = recorded_requests(base_url)
    assert record["outcome"] == "cancelled"
    assert record["tokens_sent"] < 10_000


def test_client_that_does_not_read_stops_the_stream(base_url):
    forget_requests(base_url)
    body = {"messages": [{"role": "user", "content": sim(tokens=400_000)}], "stream": True}
    with bare_socket(base_url, json.dumps(body).encode()):
        eventually(lambda: recorded_requests(base_url)[0]["tokens_sent"] > 0)
        settled = eventually(lambda: two_alike(base_url))
    assert settled < 400_000


def two_alike(base_url):
    first, second = (recorded_requests(base_url)[0]["tokens_sent"] for _ in range(2))
    return first if first == second else 0


def test_record_can_be_emptied(client, base_url):
    list(ask(client, tokens=1))
    forget_requests(base_url)
    assert recorded_requests(base_url) == []


def test_one_connection_serves_one_request_after_another(client, base_url):
    for number in range(3):
        assert text_of(ask(client, text=f"Reply {number}")) == f"Reply {number}"
    assert [record["outcome"] for record in recorded_requests(base_url)] == ["completed"] * 3


def test_models_are_listed(base_url):
    with urllib.request.urlopen(f"{base_url}/models") as response:
        assert json.load(response)["data"][0]["id"] == "simulated"


@given(st.sampled_from(["prose", "markdown", "code", "unicode"]), st.integers(0, 400))
def test_sample_has_as_many_tokens_as_asked_for(kind, tokens):
    assert len(sample(kind, tokens)) == tokens


def test_faults_are_named_with_their_place():
    assert Control(stall_after=3).fault() == ("stall", 3)
    assert Control().fault() is None
