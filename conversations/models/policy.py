"""What may be sent and shown."""

from django.conf import settings
from django.db import models
from uuid_utils.compat import uuid7


class PolicyTerms(models.Model):
    """What a policy rule says; a rule and each of its versions have the same terms."""

    class Kind(models.TextChoices):
        PATTERN = "pattern", "a pattern"
        WORDS = "words", "words and phrases"
        SIZE = "size", "a length"
        MODERATION = "moderation", "the provider's moderation"

    class Direction(models.TextChoices):
        INPUT = "input", "what people send"
        OUTPUT = "output", "replies"
        BOTH = "both", "both"

    class Action(models.TextChoices):
        BLOCK = "block", "block"
        MASK = "mask", "mask"
        FLAG = "flag", "let it pass and note it"

    name = models.CharField(max_length=120, help_text="How administrators and the log call it.")
    kind = models.CharField("looks for", max_length=10, choices=Kind.choices)
    direction = models.CharField("in", max_length=6, choices=Direction.choices)
    action = models.CharField("then", max_length=5, choices=Action.choices)
    pattern = models.CharField(
        max_length=1000,
        blank=True,
        help_text=r"For a pattern, as RE2 has it: \bACME-[0-9]{4}\b, or (?i)secret for any case."
        " In replies a match may have 256 characters at most.",
    )
    words = models.TextField(
        blank=True,
        help_text="For words: one word or phrase on each line, found as whole words in any case."
        " For moderation: the categories to act on, one on each line; none means all.",
    )
    limit = models.PositiveIntegerField(
        null=True, blank=True, help_text="For a length: the most characters that may pass."
    )
    message = models.CharField(
        max_length=300,
        blank=True,
        help_text="What the person reads when something is blocked. Empty: the name of the rule.",
    )
    is_active = models.BooleanField("in force", default=True)

    class Meta:
        abstract = True


class PolicyRule(PolicyTerms):
    """A rule for what may be sent and shown, as it is now. Changed by `turn.rules.save_rule`."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    version = models.PositiveIntegerField(default=0, editable=False)
    changed_at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering = ["name", "id"]

    def __str__(self) -> str:
        return self.name


class PolicyRuleVersion(PolicyTerms):
    """A rule as it once was. The database refuses to change or remove one."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    rule = models.ForeignKey(PolicyRule, on_delete=models.PROTECT, related_name="versions")
    number = models.PositiveIntegerField()
    author = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        on_delete=models.DO_NOTHING,
        null=True,
        blank=True,
        related_name="+",
        db_constraint=False,
    )
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["rule", "number"], name="one_number_per_policy_rule")
        ]
        ordering = ["rule", "-number"]

    def __str__(self) -> str:
        return f"{self.name} v{self.number}"
