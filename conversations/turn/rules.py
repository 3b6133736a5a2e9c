"""What administrators do to policy rules: try them on a sample, and save them.

A rule that could not be applied is refused before it is saved, with a sentence that says what to
do. Every save makes a version that stays as it is, so that a hit can always be explained.
"""

from dataclasses import dataclass

from django.db import transaction

from accounts.access import Actor, require
from accounts.models import User
from accounts.roles import Permission
from audit.trail import record
from conversations.models import PolicyRule, PolicyRuleVersion, PolicyTerms
from conversations.turn.patterns import PatternRefused
from conversations.turn.policy import (
    Action,
    Blocked,
    Direction,
    Hit,
    Kind,
    Policy,
    Rule,
    kept_policy,
)

TERMS: tuple[str, ...] = tuple(field.name for field in PolicyTerms._meta.get_fields())


class RuleRefused(ValueError):
    """A rule can't be applied. `field` is the term that is to blame; the message is a sentence."""

    def __init__(self, field: str, sentence: str) -> None:
        super().__init__(sentence)
        self.field = field


@dataclass(frozen=True, slots=True)
class Trial:
    """What a rule makes of a sample, in one direction.

    `text` is what would pass; for a block, what stands before the match.
    """

    direction: str
    outcome: str
    text: str
    count: int

    @property
    def says(self) -> str:
        """The outcome as a sentence."""
        where = "Sent by somebody" if self.direction == Direction.INPUT else "In a reply"
        times = "once" if self.count == 1 else f"{self.count} times"
        return {
            "passes": f"{where}: nothing is found, and the text passes.",
            "asked": f"{where}: the provider's moderation would be asked. It is not asked here.",
            Action.FLAG.value: f"{where}: found {times}; the text passes, and it is noted.",
            Action.MASK.value: f"{where}: found {times}; this is what is left.",
            Action.BLOCK.value: f"{where}: blocked. This much may be seen before.",
        }[self.outcome]


def checked(terms: PolicyTerms) -> Policy:
    """Return a policy of this rule alone. Raises RuleRefused when it can't be applied."""
    if terms.kind == Kind.SIZE and not terms.limit:
        raise RuleRefused("limit", "Say how many characters may pass, 1 at least.")
    if terms.action == Action.MASK and terms.kind not in {Kind.PATTERN, Kind.WORDS}:
        raise RuleRefused("action", "There is no place to mask here: choose to block or to note.")
    if terms.kind == Kind.PATTERN and not terms.pattern:
        raise RuleRefused("pattern", "There is no pattern yet.")
    try:
        return Policy([Rule.of(terms)])
    except PatternRefused as refused:
        field = "pattern" if terms.kind == Kind.PATTERN else "words"
        raise RuleRefused(field, str(refused)) from None


def tried(terms: PolicyTerms, sample: str) -> list[Trial]:
    """Return what the rule makes of a sample, for each direction. Raises RuleRefused."""
    policy = checked(terms)
    directions = (Direction.INPUT, Direction.OUTPUT)
    return [_trial(policy, way, sample) for way in directions if policy.rules[0].applies_to(way)]


def _trial(policy: Policy, direction: str, sample: str) -> Trial:
    if policy.rules[0].kind == Kind.MODERATION:
        return Trial(direction, "asked", sample, 0)
    try:
        text, hits = _passed(policy, direction, sample)
    except Blocked as blocked:
        before = blocked.before if direction == Direction.OUTPUT else ""
        return Trial(direction, Action.BLOCK.value, before, 1)
    count = sum(hit.count for hit in hits)
    return Trial(direction, str(policy.rules[0].action) if count else "passes", text, count)


def _passed(policy: Policy, direction: str, sample: str) -> tuple[str, list[Hit]]:
    if direction == Direction.INPUT:
        screened = policy.screen_input(sample)
        return screened.text, screened.hits
    screen = policy.output_filter()
    return screen.feed(sample) + screen.finish(), screen.hits


@transaction.atomic
def save_rule(rule: PolicyRule, *, by: Actor) -> PolicyRuleVersion:
    """Save the rule as its next version, which processes apply within KEPT_SECONDS.

    Raises Denied, and RuleRefused when it can't be applied.
    """
    require(by, Permission.MANAGE_LIMITS)
    checked(rule)
    standing = PolicyRule.objects.select_for_update().filter(pk=rule.pk).first()
    rule.version = standing.version + 1 if standing else 1
    rule.save()
    version = PolicyRuleVersion.objects.create(
        rule=rule,
        number=rule.version,
        author=by if isinstance(by, User) else None,
        **{name: getattr(rule, name) for name in TERMS},
    )
    described = {name: getattr(rule, name) for name in ("kind", "direction", "action", "is_active")}
    record(by, "policy.rule_saved", rule, version=rule.version, **described)
    transaction.on_commit(kept_policy.forget)
    return version
