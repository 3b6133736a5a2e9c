"""The door for OpenAI clients, through the real one."""

import openai
import pytest

from audit.models import Entry
from benchmarks.provider_simulator import sim
from conversations.models import Conversation, Message
from prompts import routing

from .conftest import ScriptedProvider
from .doors import program_of, replies, secret_of

HELLO = [{"role": "user", "content": "Hello?"}]


@pytest.fixture
def client(live, olive):
    with openai.OpenAI(base_url=f"{live.url}/v1", api_key=secret_of(olive, "chat")) as made:
        yield made


@pytest.fixture
def raw(live, olive):
    with program_of(live.url, olive, "chat") as made:
        yield made


def complete(client, messages=HELLO, **more):
    return client.chat.completions.create(model="gpt-4o-mini", messages=messages, **more)


def test_whole_answer(client):
    answer = complete(client)
    (reply,) = replies()
    assert answer.choices[0].message.content == reply.content == "A simulated reply."
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.total_tokens == reply.tokens_in + reply.tokens_out
    assert answer.id == f"chatcmpl-{reply.pk.hex}"
    assert answer.model == reply.model


def test_streamed_answer_with_usage(client):
    chunks = list(complete(client, stream=True, stream_options={"include_usage": True}))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == "A simulated reply."
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == replies()[0].tokens_out


def test_streamed_answer_without_usage(client):
    chunks = list(complete(client, stream=True))
    assert all(chunk.choices and chunk.usage is None for chunk in chunks)


def test_thinking_comes_as_reasoning(client):
    asked = [{"role": "user", "content": "Hello?\n" + sim(reasoning=3, tokens=2)}]
    answer = complete(client, asked)
    assert answer.choices[0].message.reasoning_content == replies()[0].thinking != ""
    chunks = complete(client, asked, stream=True)
    assert any(getattr(chunk.choices[0].delta, "reasoning_content", None) for chunk in chunks)


def test_history_of_the_client_becomes_the_branch_of_a_conversation_of_its_own(client):
    complete(
        client,
        [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "One?"},
            {"role": "assistant", "content": "Two."},
            {"role": "user", "content": [{"type": "text", "text": "Three?"}]},
        ],
    )
    (conversation,) = Conversation.objects.all()
    assert conversation.title == "Three?"
    said = conversation.messages.order_by("created_at")
    assert [(one.role, one.content) for one in said] == [
        ("system", "Be brief."),
        ("user", "One?"),
        ("assistant", "Two."),
        ("user", "Three?"),
        ("assistant", "A simulated reply."),
    ]
    assert [one.parent_id for one in said[1:]] == [one.pk for one in said[:4]]
    assert Entry.objects.get(event="turn.started").token_id
    complete(client)
    assert Conversation.objects.count() == 2


def test_conversation_of_a_program_can_be_opened_as_a_page(client, olive_client):
    complete(client, [{"role": "system", "content": "Be brief."}, *HELLO])
    page = olive_client.get(Conversation.objects.get().get_absolute_url())
    assert "A simulated reply." in page.content.decode()


def test_answer_can_be_sent_back_as_history(client):
    asked = [{"role": "user", "content": "Hello?\n" + sim(reasoning=3, tokens=2)}]
    answer = complete(client, asked).choices[0].message
    again = complete(client, [*asked, answer, {"role": "user", "content": "And?"}])
    assert again.choices[0].finish_reason == "stop"


def test_parameters_of_the_caller_reach_the_provider(client, monkeypatch):
    provider = ScriptedProvider("Hi.")
    monkeypatch.setattr(routing, "stream", provider.stream)
    complete(client, max_completion_tokens=17, temperature=0.5, stop=["END"], stream=False)
    assert provider.parameters == {"max_tokens": 17, "temperature": 0.5, "stop": ["END"]}
    assert [told["role"] for told in provider.asked[0]] == ["system", "user"]


def test_key_makes_a_retry_find_its_answer(client):
    headers = {"Idempotency-Key": "k-1"}
    first, second = (complete(client, extra_headers=headers) for _ in range(2))
    assert first.id == second.id
    assert Message.objects.count() == 2


def test_models_are_listed(client):
    assert [model.id for model in client.models.list()] == ["default"]
    assert client.models.retrieve("default").id == "default"
    assert client.models.retrieve("gpt-4o-mini").owned_by == "parley"
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("gpt-x")
    assert caught.value.code == "model_not_found"


# --- what goes wrong -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"n": 2}, "n"),
        ({"logprobs": True}, "logprobs"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"temperature": 3}, "temperature"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"extra_body": {"no_such_thing": 1}}, "no_such_thing"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "messages"),
        ({"messages": [{"role": "user", "content": "x", "name": "Bo"}]}, "messages.0"),
        (
            {
                "messages": [
                    {
                        "role": "user",
                        "content": [{"type": "image_url", "image_url": {"url": "data:"}}],
                    }
                ]
            },
            "messages.0",
        ),
    ],
)
def test_unsupported_is_refused_by_name(client, more, param):
    with pytest.raises(openai.BadRequestError) as caught:
        complete(client, **more)
    assert caught.value.param == param
    assert caught.value.type == "invalid_request_error"
    assert not Message.objects.exists()


def test_what_asks_for_nothing_is_accepted(client):
    answer = complete(
        client, n=1, logprobs=False, user="u-1", response_format={"type": "text"}, tools=[]
    )
    assert answer.choices


def test_reply_that_a_rule_ended_says_why_as_a_refusal(client, rule):
    rule(direction="output", action="block", words="tulip", message="Ask the board.")
    asked = [{"role": "user", "content": "Hello?\n" + sim(text="Plant a tulip.")}]
    (choice,) = complete(client, asked).choices
    assert (choice.finish_reason, choice.message.content) == ("content_filter", "Plant a ")
    assert "Ask the board." in choice.message.refusal
    *_, last = complete(client, asked, stream=True)
    assert last.choices[0].delta.refusal == choice.message.refusal


def test_blocked_question_is_refused_and_a_blocked_one_in_the_history_is_masked(
    client, rule, monkeypatch
):
    provider = ScriptedProvider("Hi.")
    monkeypatch.setattr(routing, "stream", provider.stream)
    rule(direction="input", action="block", words="tulip")
    blocked = {"role": "user", "content": "Plant a tulip."}
    with pytest.raises(openai.UnprocessableEntityError):
        complete(client, [*HELLO, blocked])
    assert not provider.asked
    complete(client, [blocked, {"role": "assistant", "content": "Done."}, *HELLO])
    (told,) = provider.asked
    assert [one["content"] for one in told[1:3]] == ["▮▮▮", "Done."]


def test_wrong_token_is_an_authentication_error(live, db):
    with (
        openai.OpenAI(base_url=f"{live.url}/v1", api_key="sk-wrong") as client,
        pytest.raises(openai.AuthenticationError) as caught,
    ):
        complete(client)
    assert caught.value.code == "invalid_api_key"


def test_scope_is_needed(live, olive):
    key = secret_of(olive, "read")
    with (
        openai.OpenAI(base_url=f"{live.url}/v1", api_key=key) as client,
        pytest.raises(openai.PermissionDeniedError),
    ):
        complete(client)


def test_unknown_model_is_not_found(client):
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="gpt-x", messages=HELLO)
    assert caught.value.code == "model_not_found"


@pytest.mark.parametrize("stream", [False, True])
def test_provider_fault_before_the_first_word_has_its_status_and_is_asked_once(client, stream):
    asked = [{"role": "user", "content": "Hello?\n" + sim(status=500)}]
    with pytest.raises(openai.InternalServerError) as caught:
        complete(client, asked, stream=stream)
    assert caught.value.status_code == 502
    assert caught.value.code == "provider_failing"
    assert len(replies()) == 1


def test_provider_fault_in_mid_stream_is_an_error_behind_the_text(client):
    control = sim(tokens=10, tokens_per_second=50, reset_after=5)
    asked = [{"role": "user", "content": "Hello?\n" + control}]
    told: list[str] = []
    stream = complete(client, asked, stream=True)
    with pytest.raises(openai.APIError) as caught:
        told.extend(chunk.choices[0].delta.content or "" for chunk in stream)
    assert caught.value.code == "provider_cut"
    assert "".join(told) == replies()[0].content != ""


@pytest.mark.parametrize(
    ("body", "status"), [(b"{", 400), (b"\xff", 400), (b"[]", 400), (b"x" * 3_000_000, 413)]
)
def test_bad_body_has_openais_shape(raw, body, status):
    answer = raw.post("/v1/chat/completions", content=body)
    assert answer.status_code == status
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/v1/chat/completions", 405), ("POST", "/v1/models", 405), ("POST", "/v1/audio", 404)],
)
def test_unknown_address_has_openais_shape(raw, method, path, status):
    answer = raw.request(method, path)
    assert answer.status_code == status
    assert "error" in answer.json()
