"""Signed-in people and their conversations, made directly through the models.

Import it only behind `use_installation`, which configures Django for the installation's database.
"""

import os
import secrets
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import django
from django.conf import settings


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody with a session. `cookies` and `csrf` are what a browser of theirs would send."""

    user_id: uuid.UUID
    cookies: dict[str, str]

    @property
    def csrf(self) -> str:
        return self.cookies["csrftoken"]

    @property
    def cookie_header(self) -> str:
        return "; ".join(f"{name}={value}" for name, value in self.cookies.items())


def use_installation(env: Mapping[str, str]) -> None:
    """Let the models of this process speak to the installation's database."""
    os.environ.update(env)
    django.setup()


def make_people(number: int) -> list[Person]:
    """Make so many members and sign them in."""
    from django.test import Client  # noqa: PLC0415 - needs Django set up, like all below

    from accounts.models import RoleGrant, User  # noqa: PLC0415
    from conversations.models import BudgetPlan  # noqa: PLC0415

    # Reserved and settled, and never spent.
    BudgetPlan.objects.update_or_create(role=None, defaults={"session_usd": 1_000})
    people = []
    for _ in range(number):
        name = secrets.token_hex(6)
        user = User(email=f"{name}@parley.example", name=f"Reader {name}")
        user.set_unusable_password()
        user.save()
        RoleGrant.objects.create(user=user, role_id="member")
        client = Client()
        client.force_login(user)
        session = client.cookies[settings.SESSION_COOKIE_NAME].value
        cookies = {settings.SESSION_COOKIE_NAME: session, "csrftoken": secrets.token_hex(16)}
        people.append(Person(user.pk, cookies))
    return people


def make_tokens(people: Sequence[Person]) -> list[str]:
    """Make an API token for each of them that may chat; return the secrets."""
    from accounts.models import User  # noqa: PLC0415
    from accounts.tokens import make_token  # noqa: PLC0415

    users = User.objects.with_roles().in_bulk([person.user_id for person in people])
    given = (users[person.user_id] for person in people)
    made = (
        make_token(user, name="benchmark", scopes=["chat"], lasts=None, by=user) for user in given
    )
    return [each.secret for each in made]


def put_rules_into_force() -> None:
    """Save three rules as an administrator would: words, a pattern, and one that only notes."""
    from accounts.access import System  # noqa: PLC0415
    from conversations.models import PolicyRule  # noqa: PLC0415
    from conversations.turn.rules import save_rule  # noqa: PLC0415

    rules = [
        {"kind": "words", "words": "project bluebird\nmerger talks", "action": "block"},
        {"kind": "pattern", "pattern": r"\bPRJ-[0-9]{4,6}\b", "action": "mask"},
        {"kind": "pattern", "pattern": r"(?i)internal use only", "action": "flag"},
    ]
    for number, terms in enumerate(rules, start=1):
        rule = PolicyRule(name=f"Rule {number}", direction="both", **terms)
        save_rule(rule, by=System("benchmark"))


def put_rules_out_of_force() -> None:
    """Let no rule hold any more; a process notices within seconds, a new one at once."""
    from conversations.models import PolicyRule  # noqa: PLC0415

    PolicyRule.objects.update(is_active=False)


def make_conversation(owner: uuid.UUID, messages: int = 0) -> uuid.UUID:
    """Make a conversation with a title and so many messages, questions and replies in turn."""
    from conversations.models import Conversation, Message  # noqa: PLC0415
    from prompts.serving import live_version  # noqa: PLC0415

    conversation = Conversation(owner_id=owner)
    conversation.title = "A conversation to measure"
    conversation.save()
    version, made, parent = live_version(), [], None
    for number in range(messages // 2):
        question = Message(conversation=conversation, parent=parent, role="user", state="said")
        question.content = f"What does part {number + 1} say, in a few words?"
        parent = Message(
            conversation=conversation,
            parent=question,
            role="assistant",
            state="completed",
            prompt_version=version,
            model="simulated",
            arm="production",
            tokens_in=100,
            tokens_out=180,
            duration_ms=3600,
            fence=number + 1,
            cursor=1,
        )
        parent.content = _REPLY.replace("{n}", str(number + 1))
        made += [question, parent]
    Message.objects.bulk_create(made)
    conversation.leaf, conversation.fence = parent, messages // 2
    conversation.save()
    return conversation.pk


_REPLY = """## Part {n}

It says that **every reply** is stored with its *evidence*: who asked, which prompt was in force,
which model answered, and what it cost. A reader can check all of it later.

- The question and the reply are sealed.
- The entry in the log names them, and never repeats them.
- What is purged is gone from backups too.

```python
def part_{n}(values: list[int]) -> int:
    return sum(value for value in values if value > {n})
```

So the short answer is: it is kept, it is sealed, and it can be shown to somebody else.
"""
