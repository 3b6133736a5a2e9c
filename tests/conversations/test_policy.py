"""The rules in force: what passes, what is masked, blocked or noted, and what is written down."""

import time
import uuid

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit.models import Entry
from conversations.models import PolicyRule
from conversations.turn.output import MASK
from conversations.turn.patterns import LONGEST_MATCH, PatternRefused, bounded_tree, re2_compiled
from conversations.turn.policy import (
    Blocked,
    Hit,
    Policy,
    Rule,
    current_policy,
    kept_policy,
    record_hits,
)
from prompts.provider import Provider, ProviderFault


def rule(**given) -> Rule:
    terms = {"name": "No foo", "kind": "words", "direction": "both", "action": "mask"}
    if given.get("kind", "words") == "words":
        terms["words"] = ("foo",)
    return Rule(**({"id": str(uuid.uuid4()), "version": 3} | terms | given))


def shown(policy: Policy, *chunks: str) -> str:
    screen = policy.output_filter()
    return "".join(screen.feed(chunk) for chunk in chunks) + screen.finish()


class Moderator:
    """Flags what holds one of these words, under the word's own name."""

    def __init__(self, *words: str, fault: str = "") -> None:
        self.words, self.fault, self.asked = words, fault, []

    async def flagged_categories(self, text: str) -> frozenset[str]:
        self.asked.append(text)
        if self.fault:
            raise ProviderFault(self.fault)
        return frozenset(word for word in self.words if word in text)


# --- without rules, and each action --------------------------------------------------------------


@given(st.lists(st.text(max_size=10), max_size=5))
@settings(deadline=None)
def test_without_rules_each_chunk_passes_as_it_is(chunks):
    screen = Policy([]).output_filter()
    assert [screen.feed(chunk) for chunk in chunks] == chunks
    assert screen.finish() == ""
    assert screen.hits == []


def test_masked_text_is_replaced_both_ways_and_counted():
    policy = Policy([rule()])
    screened = policy.screen_input("foo, **f**oo and food")
    assert screened.text == f"{MASK}, **{MASK} and food"
    assert [(hit.rule.name, hit.direction, hit.count) for hit in screened.hits] == [
        ("No foo", "input", 2)
    ]
    assert shown(policy, "a f", "oo.") == f"a {MASK}."


def test_blocked_text_names_the_rule_and_not_the_text():
    policy = Policy([rule(action="block", message="Not here."), rule(name="Note", action="flag")])
    with pytest.raises(Blocked) as caught:
        policy.screen_input("my foo")
    assert caught.value.rule.sentence == "Not here."
    assert "foo" not in str(caught.value) + repr(caught.value.args)
    with pytest.raises(Blocked) as caught:
        shown(policy, "my f", "oo")
    assert [hit.rule.action for hit in caught.value.hits][:1] == ["block"]


def test_rule_without_a_message_has_a_sentence_of_its_own():
    assert "No foo" in rule().sentence


def test_rule_of_one_direction_leaves_the_other_alone():
    assert shown(Policy([rule(direction="input")]), "foo") == "foo"
    assert Policy([rule(direction="output")]).screen_input("foo").text == "foo"


def test_input_pattern_may_have_no_longest_match():
    policy = Policy([rule(kind="pattern", direction="input", pattern=r"(?m)^key=\S+$")])
    screened = policy.screen_input("a\nkey=" + "x" * 5000 + "\nb key=c")
    assert screened.text == f"a\n{MASK}\nb key=c"
    assert screened.hits[0].count == 1
    blocking = Policy([rule(kind="pattern", direction="input", pattern="a+", action="block")])
    with pytest.raises(Blocked):
        blocking.screen_input("caat")


def test_length_is_blocked_at_the_limit_whatever_the_chunks():
    policy = Policy([rule(kind="size", action="block", limit=5)])
    assert policy.screen_input("12345").text == "12345"
    with pytest.raises(Blocked):
        policy.screen_input("123456")
    for chunks in (["1234567"], list("1234567"), ["1234", "567"]):
        screen, out = policy.output_filter(), ""
        try:
            for chunk in chunks:
                out += screen.feed(chunk)
        except Blocked as blocked:
            out += blocked.before
        assert out == "12345"


def test_length_that_is_only_noted_passes():
    policy = Policy([rule(kind="size", action="flag", limit=5)])
    assert [hit.count for hit in policy.screen_input("123456").hits] == [1]
    assert policy.screen_input("12345").hits == []


# --- patterns that are refused -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "says"),
    [
        ("a+b", "upper bound"),
        ("a{1,300}", "up to 300 characters"),
        ("(ab){1,200}", "up to 400 characters"),
        (".*", "empty text"),
        ("a|b?", "empty text"),
        ("^a", "edge of the text"),
        (r"a\b$", "edge of the text"),
        (r"a\Bb", "inside"),
        ("(a", "no valid pattern"),
        (r"(a)\1", "no valid pattern"),
        ("(?=a)b", "no valid pattern"),
        ("[[:alpha:]]", "can't be used"),
        (r"\pL", "can't be used"),
        ("a{,3}b", "can't be used"),
        ("((a{1,15}){1,4}){1,4}b|(c{0,99}d?){0,2}e", ""),
        ("(((a?b?){50}c?){2}d?){1}e", "up to 204"),
    ],
)
def test_pattern_that_can_not_guard_a_reply_is_refused_with_a_reason(pattern, says):
    if not says:
        Policy([rule(kind="pattern", pattern=pattern)])
    elif says.startswith("up to 204"):
        assert bounded_tree(pattern).getwidth()[1] <= LONGEST_MATCH
    else:
        with pytest.raises(PatternRefused, match=says):
            Policy([rule(kind="pattern", pattern=pattern)])


def test_empty_input_pattern_is_refused_too():
    with pytest.raises(PatternRefused):
        re2_compiled("x*")


@pytest.mark.parametrize("words", [(), ("x" * 257,), tuple(map(str, range(6000)))])
def test_words_that_can_not_be_applied_are_refused(words):
    with pytest.raises(PatternRefused):
        Policy([rule(words=words)])


@pytest.mark.parametrize("pattern", ["(a|aa)+$", "(a*)*b", "(.*a){12}"])
def test_hostile_input_pattern_is_linear(pattern):
    """A backtracking engine would not come back from these in a lifetime."""
    policy = Policy([rule(kind="pattern", direction="input", pattern=pattern, action="flag")])
    policy.screen_input("a" * 50_000 + "!")


# --- moderation ----------------------------------------------------------------------------------


def moderation(**given) -> Rule:
    return rule(**({"kind": "moderation", "action": "block", "words": ()} | given))


def test_moderation_of_replies_needs_whole_sentences():
    assert Policy([moderation()]).needs_whole_sentences
    assert not Policy([moderation(direction="input")]).needs_whole_sentences
    assert Policy([moderation(direction="input")]).judges_input
    assert not Policy([rule()]).needs_whole_sentences


async def test_judge_acts_on_the_categories_of_the_rule():
    policy = Policy([moderation(words=("violence",)), moderation(action="flag")])
    assert await policy.judge("nice", Moderator("harassment")) == []
    hits = await policy.judge("harassment", Moderator("harassment"))
    assert [hit.rule.action for hit in hits] == ["flag"]
    with pytest.raises(Blocked):
        await policy.judge("violence", Moderator("violence"))


async def test_judge_asks_nobody_without_a_rule():
    moderator = Moderator()
    await Policy([rule()]).judge("text", moderator)
    assert moderator.asked == []


async def test_reply_that_can_not_be_judged_is_not_shown():
    with pytest.raises(ProviderFault):
        await Policy([moderation()]).judge("text", Moderator(fault="failing"))
    only_notes = Policy([moderation(action="flag")])
    assert await only_notes.judge("text", Moderator(fault="failing")) == []


async def test_reply_is_released_by_sentences_that_were_judged():
    moderator = Moderator("bad")
    release = Policy([moderation(), rule(action="mask")]).released(moderator)
    assert await release.feed("A first sen") == ""
    assert await release.feed("tence with f") == ""
    assert await release.feed("oo. And a") == f"A first sentence with {MASK}. "
    assert await release.feed(" bad one") == ""
    with pytest.raises(Blocked) as caught:
        await release.feed(". More.\n")
    assert caught.value.before == ""
    assert len(moderator.asked) == 2
    assert {hit.rule.kind for hit in caught.value.hits} == {"words", "moderation"}


async def test_what_stands_before_a_blocked_word_is_judged_as_well():
    blocking = Policy([moderation(), rule(action="block")])
    with pytest.raises(Blocked) as caught:
        await blocking.released(Moderator("bad")).feed("a bad foo.")
    assert caught.value.rule.kind == "moderation"
    with pytest.raises(Blocked) as caught:
        await blocking.released(Moderator("bad")).feed("a good foo.")
    assert (caught.value.rule.kind, caught.value.before) == ("words", "a good ")


async def test_end_of_a_reply_and_endless_sentences_are_released():
    release = Policy([moderation()]).released(Moderator())
    assert await release.feed("no end ") == ""
    assert await release.finish() == "no end "
    release = Policy([moderation()]).released(Moderator())
    assert len(await release.feed("x" * 2000)) == 2000


async def test_moderation_is_asked_of_the_provider(simulator):
    provider = Provider(simulator, "key")
    try:
        assert await provider.flagged_categories("fine") == frozenset()
        assert await provider.flagged_categories("this is @flagged") == {"harassment"}
        with pytest.raises(ProviderFault) as caught:
            await provider.flagged_categories("@failing")
        assert (caught.value.code, caught.value.status) == ("failing", 500)
    finally:
        await provider.close()


# --- rules in force, and the trail ---------------------------------------------------------------


@pytest.fixture
def _forgotten():
    kept_policy.forget()
    yield
    kept_policy.forget()


@pytest.fixture
def stored(db, _forgotten) -> PolicyRule:
    return PolicyRule.objects.create(
        name="No foo",
        kind="words",
        direction="both",
        action="mask",
        words="foo\n\n bar ",
        version=1,
    )


def test_rules_in_force_are_asked_for_once(stored, django_assert_num_queries):
    with django_assert_num_queries(1):
        policy = current_policy()
        assert current_policy() is policy
    assert policy.rules[0].words == ("foo", "bar")
    assert (policy.rules[0].id, policy.rules[0].version) == (str(stored.pk), 1)


def test_changed_rules_are_applied_when_the_kept_ones_are_old(stored, monkeypatch):
    before = current_policy()
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 6)
    assert current_policy() is before, "what did not change is not compiled again"
    PolicyRule.objects.update(is_active=False)
    monkeypatch.setattr(time, "monotonic", lambda: now + 12)
    assert current_policy().rules == ()


def test_hits_are_recorded_without_content(olive, finished):
    found = rule(action="block")
    conversation = finished().conversation
    record_hits([Hit(found, "output", 2)], conversation, by=olive)
    entry = Entry.objects.get(event="policy.hit")
    assert entry.payload == {
        "rule": found.id,
        "version": 3,
        "direction": "output",
        "action": "block",
        "count": 2,
    }
    assert (entry.outcome, entry.target_id) == ("denied", str(conversation.pk))
