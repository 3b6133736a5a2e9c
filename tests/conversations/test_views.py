import uuid

import pytest
from django.urls import reverse

from conversations.models import Conversation, Message
from conversations.thread import CONVERSATIONS_AT_ONCE, MESSAGES_AT_ONCE


def test_the_first_screen_offers_a_conversation_that_is_not_stored_yet(olive_client):
    response = olive_client.get("/")
    assert response.status_code == 200
    assert b"What are you working on?" in response.content
    assert not Conversation.objects.exists()


def test_strangers_are_sent_to_the_sign_in(client, db):
    response = client.get("/")
    assert response.status_code == 302
    assert response.url.startswith("/account/sign-in/")


def test_a_stranger_can_not_open_it(finished, sam_client, ada_client, ravi_client):
    url = finished().conversation.get_absolute_url()
    for client in (sam_client, ada_client, ravi_client):
        assert client.get(url).status_code == 404


def test_the_owner_sees_question_reply_and_how_it_went(finished, olive_client):
    turn = finished("What is **bold**?", reply="It is **bold**.")
    page = olive_client.get(turn.conversation.get_absolute_url()).content.decode()
    assert "What is **bold**?" in page
    assert "It is <strong>bold</strong>." in page
    assert "General assistant v1" in page


HOSTILE = '<script>alert(1)</script><img src=x onerror="alert(2)"><hx-partial hx-target="#act">x'


def test_hostile_words_stay_words(finished, olive_client):
    turn = finished(HOSTILE, reply=HOSTILE)
    turn.conversation.title = HOSTILE
    turn.conversation.save()
    page = olive_client.get(turn.conversation.get_absolute_url()).content.decode()
    assert "<script>alert" not in page
    assert "<img src=x" not in page
    assert '<hx-partial hx-target="#act">x' not in page


def test_a_reply_in_the_making_has_a_place_to_grow(begin, olive_client):
    turn = begin()
    turn.reply.content = "# Title\n\nSo far"
    turn.reply.cursor = 7
    turn.reply.save()
    page = olive_client.get(turn.conversation.get_absolute_url()).content.decode()
    assert 'aria-busy="true"' in page
    assert 'id="open-1"' in page
    assert "?last=1:7" in page


@pytest.mark.parametrize(
    ("state", "fault", "content", "sentence", "act"),
    [
        ("failed", "unreachable", "", "The provider does not answer.", "Try again"),
        ("failed", "cut", "Once", "The connection to the provider broke.", "Continue"),
        ("interrupted", "process_died", "Once", "Interrupted", "Continue"),
        ("stopped", "", "Once", "Stopped.", "Continue"),
        ("refused", "content_filter", "Once", "content filter", ""),
    ],
)
def test_how_it_ended_stands_in_place(begin, olive_client, state, fault, content, sentence, act):
    turn = begin()
    turn.reply.state, turn.reply.fault, turn.reply.content = state, fault, content
    turn.reply.save()
    page = olive_client.get(turn.conversation.get_absolute_url()).content.decode()
    assert sentence in page
    if act:
        assert f" {act}</button>" in page
    else:
        assert "/continue" not in page


def test_a_long_conversation_comes_in_parts(finished, olive_client):
    turn = finished("Question 0")
    for number in range(1, MESSAGES_AT_ONCE // 2 + 3):
        turn.conversation.refresh_from_db()
        turn = finished(f"Question {number}", conversation=turn.conversation)
    url = turn.conversation.get_absolute_url()
    newest = olive_client.get(url)
    page = newest.context["page"]
    assert len(page.messages) == MESSAGES_AT_ONCE
    assert "Question 0<" not in newest.content.decode()
    earlier = olive_client.get(f"{url}?before={page.earlier}").content.decode()
    assert "Question 0<" in earlier


@pytest.mark.parametrize("turns", [1, 15])
def test_the_page_costs_the_same_queries_however_long(
    finished, olive_client, django_assert_max_num_queries, turns
):
    turn = finished()
    for _ in range(turns):
        turn.conversation.refresh_from_db()
        turn = finished(conversation=turn.conversation)
    with django_assert_max_num_queries(9):
        olive_client.get(turn.conversation.get_absolute_url())


def test_the_list_costs_the_same_queries_however_long(
    finished, olive_client, django_assert_max_num_queries
):
    for _ in range(20):
        finished()
    with django_assert_max_num_queries(6):
        page = olive_client.get("/").content.decode()
    assert page.count('id="item-') == 21


def test_older_conversations_are_one_link_away(olive, olive_client):
    Conversation.objects.bulk_create(
        Conversation(owner=olive) for _ in range(CONVERSATIONS_AT_ONCE + 5)
    )
    response = olive_client.get("/")
    older = olive_client.get("/", {"list": response.context["page"].older})
    assert older.content.decode().count("New conversation") >= 5


@pytest.mark.parametrize(
    "query", ["before=nonsense", "list=nonsense", f"before={uuid.UUID(int=7)}"]
)
def test_a_senseless_address_shows_the_newest(finished, olive_client, query):
    url = finished().conversation.get_absolute_url()
    assert olive_client.get(f"{url}?{query}").status_code == 200


def test_commands_are_posts_with_a_token(olive, finished):
    from django.test import Client

    conversation = finished().conversation
    careful = Client(enforce_csrf_checks=True)
    careful.force_login(olive)
    for name in ("ask", "stop"):
        url = reverse(name, args=[conversation.pk])
        assert careful.get(url).status_code == 405
        assert careful.post(url, {"text": "x"}).status_code == 403


@pytest.mark.django_db(transaction=True)  # an asynchronous view asks on connections of its own
def test_bytes_that_are_not_text_are_refused(olive_client):
    url = reverse("ask", args=[uuid.uuid4()])
    response = olive_client.post(
        url, b"text=%ff%fe", content_type="application/x-www-form-urlencoded"
    )
    assert response.status_code == 400
    assert not Message.objects.exists()


def test_the_page_says_what_becomes_of_personal_data_and_that_not_all_is_found(
    olive_client, settings
):
    page = olive_client.get("/").content.decode()
    assert "Personal data is replaced for the AI, as far as it is recognised" in page
    settings.PII_MODE = "off"
    assert "recognised" not in olive_client.get("/").content.decode()
