"""The demo provider, asked by the real client over real sockets, and what it says."""

import subprocess
import sys
from pathlib import Path

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatbot.local.completions import asks_for_title, pieces
from chatbot.local.demo_answers import (
    GREETING,
    NO_AI,
    NOTHING_TO_CONTINUE,
    Answers,
    Fault,
    long_text,
    title_for,
)
from chatbot.local.demo_provider import DOCS, MODEL
from chatbot.local.demo_topics import Topics, sections

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def address():
    """The address of a quick demo provider in a process of its own."""
    command = [sys.executable, "-m", "chatbot.local.demo_provider", "--port", "0"]
    pace = ["--tokens-per-second", "5000", "--first-token-seconds", "0"]
    child = subprocess.Popen([*command, *pace], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        yield child.stdout.readline().split()[-1]
    finally:
        child.terminate()
        child.communicate()


@pytest.fixture(scope="module")
def client(address):
    with openai.OpenAI(base_url=f"{address}/v1", api_key="any", max_retries=0, timeout=10) as it:
        yield it


@pytest.fixture(scope="module")
def answers():
    return Answers(Topics.read(DOCS))


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def chunks_of(client, *messages, **options):
    asked = [user(m) if isinstance(m, str) else m for m in messages]
    return list(client.chat.completions.create(model="m", messages=asked, stream=True, **options))


def text_of(chunks):
    return "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)


# The protocol


def test_stream_has_role_text_finish_reason_and_usage(client):
    chunks = chunks_of(client, "hello", stream_options={"include_usage": True})
    assert chunks[0].choices[0].delta.role == "assistant"
    assert text_of(chunks) == GREETING
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == len(pieces(GREETING))
    assert {c.id for c in chunks} == {chunks[0].id}


def test_stream_has_no_usage_unless_asked_for(client):
    assert all(chunk.usage is None and chunk.choices for chunk in chunks_of(client, "hello"))


def test_reply_in_one_piece_says_the_same_as_the_stream(client):
    whole = client.chat.completions.create(model="some-model", messages=[user("hello")])
    assert whole.choices[0].message.content == GREETING
    assert whole.choices[0].finish_reason == "stop"
    assert whole.model == "some-model"
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens


def test_models_and_health_name_the_demo(client, address):
    assert [model.id for model in client.models.list()] == [MODEL]
    health = client.with_options(base_url=address).get("/health", cast_to=object)
    assert health["demo"] is True
    assert health["topics"] >= 20


def test_text_in_parts_is_understood(client):
    parts = [{"type": "text", "text": "hello"}]
    assert text_of(chunks_of(client, {"role": "user", "content": parts})) == GREETING


def test_limit_of_tokens_is_kept(client):
    chunks = chunks_of(client, "show me markdown", max_tokens=7)
    assert len(pieces(text_of(chunks))) == 7
    assert chunks[-1].choices[0].finish_reason == "length"


@pytest.mark.parametrize("messages", [[], ["not an object"], None])
def test_malformed_request_is_refused(client, messages):
    with pytest.raises(openai.BadRequestError, match=r"messages|message"):
        client.chat.completions.create(model="m", messages=messages)


def test_unknown_address_is_not_found(client):
    with pytest.raises(openai.NotFoundError):
        client.embeddings.create(model="m", input="x")


def test_process_loads_neither_django_nor_an_app():
    code = (
        "import sys, chatbot.local.demo_provider; "
        "print({m.split('.')[0] for m in sys.modules} & "
        "{'django', 'celery', 'accounts', 'audit', 'prompts', 'conversations'})"
    )
    told = subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True)
    assert told.strip() == "set()"


# What goes wrong on request


def test_fail_now_is_a_server_error(client):
    with pytest.raises(openai.InternalServerError):
        chunks_of(client, "fail now")


def test_busy_names_the_time_to_wait(client):
    with pytest.raises(openai.RateLimitError) as busy:
        chunks_of(client, "busy")
    assert busy.value.response.headers["retry-after"] == "2"


def said_before(failure, client, message):
    """Read a stream up to its failure, and return the chunks before it."""
    stream = client.chat.completions.create(model="m", messages=[user(message)], stream=True)
    said = []
    with pytest.raises(failure):
        said.extend(stream)
    return said


def test_connection_breaks_in_the_middle(client):
    broken = (openai.APIConnectionError, openai.APIError)
    said = said_before(broken, client, "fail in the middle")
    assert text_of(said).startswith("This reply breaks")


def test_reply_in_one_piece_breaks_too(client):
    with pytest.raises(openai.APIConnectionError):
        client.chat.completions.create(model="m", messages=[user("fail in the middle")])


def test_garbage_is_no_json(client):
    with pytest.raises(ValueError, match=r"."):
        chunks_of(client, "garbage")


def test_stall_says_something_and_falls_silent(client):
    said = said_before(openai.APITimeoutError, client.with_options(timeout=0.5), "stall")
    assert text_of(said).startswith("This reply breaks")


def test_filter_ends_with_content_filter(client):
    assert chunks_of(client, "filter")[-1].choices[0].finish_reason == "content_filter"


def test_thinking_comes_before_the_reply(client):
    chunks = chunks_of(client, "think about backups")
    thinks = [bool(getattr(c.choices[0].delta, "reasoning_content", None)) for c in chunks]
    says = [bool(c.choices[0].delta.content) for c in chunks]
    assert any(thinks)
    assert says.index(True) > max(i for i, thinking in enumerate(thinks) if thinking)
    assert "Making a backup" in text_of(chunks)


async def test_work_stops_when_the_client_goes_away(answers):
    """Run the application itself: a client that left is told by receive()."""
    from chatbot.local.demo_provider import DemoProvider

    sent, inbox = (
        [],
        [
            {
                "type": "http.request",
                "body": b'{"messages": [{"role": "user", "content": "stall"}], "stream": true}',
            },
        ],
    )

    async def receive():
        return inbox.pop(0) if inbox else {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    provider = DemoProvider(first_token_seconds=0, tokens_per_second=1e6)
    path = "/v1/chat/completions"
    await provider({"type": "http", "method": "POST", "path": path}, receive, send)
    assert not any(m["type"] == "http.response.body" and not m["more_body"] for m in sent)


# What it says


@pytest.mark.parametrize(
    ("question", "heading"),
    [
        ("What is Parley?", "What Parley is"),
        ("How do I stop a reply?", "Stopping a reply"),
        ("Can the administrator see my messages?", "Who can read my conversations"),
        ("how long are messages kept", "What is kept and for how long"),
        ("OPENAI_BASE_URL", "Connecting a provider"),
        ("I forgot my password", "Changing or resetting a password"),
        ("Can I give a conversation a title?", "Titles of conversations"),
    ],
)
def test_answer_quotes_the_section_and_names_it(answers, question, heading):
    said = answers.script([user(question)]).text
    assert said.startswith(f"**{heading}**, from `docs/using-parley.md`:\n\n> ")
    assert NO_AI in said


@pytest.mark.parametrize("question", ["What is the capital of France?", "x" * 100_000, "", "?!"])
def test_what_it_does_not_know_it_says(answers, question):
    said = answers.script([user(question)]).text
    assert said.startswith(f"{NO_AI}, and I do not know")
    assert "- Making a backup\n" in said


def test_without_documents_it_knows_nothing(tmp_path):
    nothing = Answers(Topics.read(tmp_path / "absent"))
    assert "there are no docs" in nothing.script([user("backup")]).text


def test_user_guide_has_some_twenty_topics_that_find_themselves(answers):
    guide = [s for s in Topics.read(DOCS).sections if s.file == "using-parley.md" and s.level > 1]
    assert len(guide) >= 20
    lost = [
        s.heading for s in guide if f"**{s.heading}**" not in answers.script([user(s.heading)]).text
    ]
    assert lost == []


@pytest.mark.parametrize(
    ("wish", "shown"),
    [
        ("Show me Markdown, please!", "### Lists"),
        ("show me code", "```sql"),
        ("code in JavaScript", "```javascript"),
        ("Show me a table.", "| Planet |"),
    ],
)
def test_it_shows_what_is_asked_for(answers, wish, shown):
    assert shown in answers.script([user(wish)]).text


@pytest.mark.parametrize(
    ("wish", "words"), [("long reply", 3000), ("long reply of 12,000 words", 12_000)]
)
def test_long_reply_is_as_long_as_asked_for(answers, wish, words):
    text = answers.script([user(wish)]).text
    assert words <= len(text.split()) < words + 150
    numbers = [part.split(".")[0] for part in text.split("**Paragraph ")[1:]]
    assert numbers == [str(n + 1) for n in range(len(numbers))]


def test_slow_reply_waits_as_asked(answers):
    assert answers.script([user("slow reply")]).first_token_seconds == 8
    assert answers.script([user("slow reply after 2.5 seconds")]).first_token_seconds == 2.5


@pytest.mark.parametrize(
    "order",
    [None, "Continue.", "Please continue exactly where you stopped.", "It was cut. Go on now."],
)
def test_cut_reply_goes_on_where_it_ended(answers, order):
    first = answers.script([user("cut")])
    talk = [user("cut"), assistant(first.text), *([user(order)] if order else [])]
    rest = answers.script(talk)
    assert (first.finish_reason, rest.finish_reason) == ("length", "stop")
    assert first.text + rest.text == first.text + first.unsaid
    assert (
        answers.script([*talk, assistant(rest.text), user("continue")]).text == NOTHING_TO_CONTINUE
    )


@given(share=st.floats(0, 1))
def test_any_reply_goes_on_from_any_character(share):
    answers = Answers(Topics([]))
    whole = answers.script([user("show me markdown")]).text
    said = whole[: int(len(whole) * share)]
    rest = answers.script([user("show me markdown"), assistant(said), user("continue")]).text
    assert said + rest == whole or rest == NOTHING_TO_CONTINUE


def test_broken_reply_goes_on_without_its_fault(answers):
    broken = answers.script([user("fail in the middle")])
    rest = answers.script([user("fail in the middle"), assistant(broken.text), user("continue")])
    assert broken.fault is Fault.RESET
    assert rest.fault is None
    assert rest.text == broken.unsaid


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "system", "content": "Reply with a short title."}, user("How do I make tea?")],
        [user("How do I make tea?"), assistant("Boil."), user("Write a title of at most 5 words.")],
        [user("Give this conversation a short title:\n\nUser: How do I make tea?")],
    ],
)
def test_title_is_made_of_the_first_question(answers, messages):
    assert answers.script(messages).text == "Make tea"


@pytest.mark.parametrize("question", ["How do titles work?", "Who writes the title?", "fail now"])
def test_question_about_titles_is_no_request_for_one(question):
    assert not asks_for_title([{"role": "system", "content": "Be brief."}, user(question)])


def test_title_keeps_a_placeholder_whole():
    assert title_for([user("Write to [EMAIL-KZWZSTWH] today")]) == "Write to [EMAIL-KZWZSTWH] today"


def test_title_of_nothing_is_a_title_all_the_same():
    assert title_for([user("?!")]) == "New conversation"
    assert (
        title_for([user("<script>alert(1)</script> " * 20)]) == "Script alert 1 script script alert"
    )


# Parts


@given(st.text())
def test_pieces_joined_are_the_text(text):
    assert "".join(pieces(text)) == text


@given(st.text(alphabet="#` ~\nabc<!->"))
def test_any_document_is_split(text):
    for section in sections("x.md", text):
        assert section.heading
        assert section.body


def test_heading_in_a_code_fence_is_none():
    text = "# One\n\n```sh\n# a comment\n```\n\n## Two\n\n![a](b.png) [c](d.md) [e](https://f)\n"
    one, two = sections("x.md", text)
    assert (one.heading, one.body) == ("One", "```sh\n# a comment\n```")
    assert (two.heading, two.body, two.level) == ("Two", "c [e](https://f)", 2)


def test_short_long_text_is_still_a_text():
    assert long_text(0).startswith("# A long reply")
