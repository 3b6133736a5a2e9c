"""The vocabulary of the log: every event that can be recorded, and what it says.

Names are `subject.fact`, facts in the past. A name outside this list can't be recorded. Names are
never reused for something else: an old entry must mean what it meant.

`python -m audit.events` prints the vocabulary as the table of docs/audit.md.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from itertools import groupby


class Group(StrEnum):
    """What events are about, as the admin's filter and the documentation order them."""

    SIGN_IN = "Sign-in"
    ACCESS = "Access"
    ACCOUNTS = "Accounts and roles"
    READING = "Reading"
    CONVERSATIONS = "Conversations"
    RIGHTS = "Rights of the person"
    MODELS = "Prompts and models"
    LIMITS = "Limits and policy"
    RETENTION = "Retention"
    ADMINISTRATION = "Administration"
    AUDIT_LOG = "Audit log"


@dataclass(frozen=True, slots=True)
class Event:
    """One kind of thing that can happen. `tells` are the fields of its payload."""

    group: Group
    says: str
    tells: tuple[str, ...] = ()


_G = Group
_EVALUATION = ("set", "set_number", "version", "number", "content_hash")
_RELEASE = ("release", "version", "number", "before", "share", "step", "numbers")

EVENTS: dict[str, Event] = {
    "auth.login_succeeded": Event(_G.SIGN_IN, "Somebody signed in."),
    "auth.login_failed": Event(
        _G.SIGN_IN, "A sign-in failed: unknown email, wrong password or inactive account."
    ),
    "auth.rate_limited": Event(
        _G.SIGN_IN,
        "Somebody tried too often to sign in or to set a password, and was made to wait.",
        ("page", "count"),
    ),
    "auth.logged_out": Event(_G.SIGN_IN, "Somebody signed out."),
    "auth.password_changed": Event(_G.SIGN_IN, "Somebody changed or set their password."),
    "auth.password_reset_requested": Event(_G.SIGN_IN, "A link to set a password was mailed."),
    "auth.password_reset": Event(_G.SIGN_IN, "Somebody set a new password by a mailed link."),
    "access.denied": Event(
        _G.ACCESS,
        "Somebody asked for what they may not do.",
        ("permission", "page", "count"),
    ),
    "token.created": Event(_G.ACCESS, "A token for the API was made.", ("scopes", "expires")),
    "token.used_first": Event(_G.ACCESS, "A token for the API was used for the first time."),
    "token.revoked": Event(_G.ACCESS, "A token for the API was revoked."),
    "token.refused": Event(
        _G.ACCESS,
        "A token did not open the API: unknown, expired, revoked, of an inactive account, or"
        " without the scope that was needed.",
        ("scope", "count"),
    ),
    "account.created": Event(_G.ACCOUNTS, "An account was made."),
    "account.deactivated": Event(_G.ACCOUNTS, "An account was switched off."),
    "account.reactivated": Event(_G.ACCOUNTS, "An account was switched on again."),
    "role.granted": Event(_G.ACCOUNTS, "An account was given a role.", ("role",)),
    "role.revoked": Event(_G.ACCOUNTS, "A role was taken from an account.", ("role",)),
    "audit.viewed": Event(
        _G.READING,
        "Somebody read this log: entries, perhaps filtered or searched, a timeline, one entry, its"
        " checkpoints, exports or checks. The target says which.",
        ("page", "filter", "searched"),
    ),
    "account.viewed": Event(
        _G.READING,
        "Somebody saw accounts or API tokens of others in the administration.",
        ("page", "filter", "searched"),
    ),
    "conversation.viewed": Event(
        _G.READING,
        "Somebody saw in the administration whose conversations there are, when they were held and"
        " how they went. What was said is not shown there.",
        ("page", "filter", "searched"),
    ),
    "break_glass.requested": Event(
        _G.READING,
        "A compliance officer asked for leave to read what somebody else said: one conversation, or"
        " one person's, perhaps of some days. Where nobody has to approve it begins at once, and"
        " `until` says when it ends.",
        ("matter", "minutes", "scope", "until"),
    ),
    "break_glass.approved": Event(
        _G.READING,
        "Another compliance officer approved such a request, which began with that.",
        ("matter", "until"),
    ),
    "break_glass.refused": Event(
        _G.READING, "Another compliance officer refused such a request.", ("matter", "until")
    ),
    "break_glass.ended": Event(
        _G.READING,
        "Leave to read what somebody else said was ended before its time, or a request withdrawn.",
        ("matter",),
    ),
    "break_glass.listed": Event(
        _G.READING,
        "A compliance officer was shown which conversations such leave opens, with their titles.",
        ("matter", "count"),
    ),
    "break_glass.viewed": Event(
        _G.READING,
        "A compliance officer read a conversation of somebody else under such leave.",
        ("grant", "matter"),
    ),
    "counsel_export.requested": Event(
        _G.READING,
        "A compliance officer asked for a file of what a hold keeps, for counsel.",
        ("grant", "hold", "matter"),
    ),
    "counsel_export.finished": Event(
        _G.READING,
        "Such a file was written, with its chain of custody.",
        (
            *("grant", "hold", "matter", "conversations", "messages", "unreadable"),
            "custody_sha256",
        ),
    ),
    "counsel_export.failed": Event(
        _G.READING, "Such a file could not be written.", ("grant", "hold", "matter")
    ),
    "counsel_export.downloaded": Event(
        _G.READING, "A compliance officer downloaded such a file.", ("grant", "hold", "matter")
    ),
    "counsel_export.expired": Event(
        _G.READING,
        "Such a file was removed, its time being over. What proves it stays.",
        ("grant", "hold", "matter"),
    ),
    "prompt.viewed": Event(
        _G.READING,
        "Somebody read what the AI is told, in the administration.",
        ("page", "filter", "searched"),
    ),
    "hold.viewed": Event(
        _G.READING,
        "Somebody saw in the administration which legal holds there are, on whom and why.",
        ("page", "filter", "searched"),
    ),
    "conversation.created": Event(_G.CONVERSATIONS, "A conversation was begun."),
    "conversation.renamed": Event(_G.CONVERSATIONS, "A conversation was given another title."),
    "conversation.archived": Event(_G.CONVERSATIONS, "A conversation was put into the archive."),
    "conversation.restored": Event(
        _G.CONVERSATIONS, "A conversation was taken back from the archive or from deletion."
    ),
    "conversation.deleted": Event(_G.CONVERSATIONS, "A conversation was deleted by its owner."),
    "conversation.destroyed": Event(
        _G.CONVERSATIONS,
        "A conversation that its owner had deleted was destroyed, the time for undo being over.",
    ),
    "rights.all_deleted": Event(
        _G.RIGHTS, "Somebody deleted all of their conversations.", ("conversations",)
    ),
    "rights.all_restored": Event(
        _G.RIGHTS,
        "Somebody took back that they had deleted all of their conversations.",
        ("conversations",),
    ),
    "rights.export_requested": Event(
        _G.RIGHTS, "Somebody asked for everything that is held about them."
    ),
    "rights.exported": Event(
        _G.RIGHTS,
        "Everything that is held about somebody was written into a file for them. Unreadable are"
        " titles and messages whose key is gone.",
        ("conversations", "messages", "unreadable"),
    ),
    "rights.export_failed": Event(
        _G.RIGHTS, "The file of what is held about somebody could not be written."
    ),
    "rights.export_downloaded": Event(
        _G.RIGHTS, "Somebody downloaded the file of what is held about them."
    ),
    "rights.export_expired": Event(
        _G.RIGHTS, "The file of what is held about somebody was removed, its time being over."
    ),
    "account.erased": Event(
        _G.RIGHTS,
        "An account was closed for good by its owner or by an administrator: name and email were"
        " replaced, sessions ended, tokens revoked, conversations deleted.",
    ),
    "account.erasure_finished": Event(
        _G.RIGHTS, "The last of what was held about an erased account was destroyed."
    ),
    "turn.started": Event(
        _G.CONVERSATIONS,
        "A question was asked, and a reply was begun.",
        ("reply", "prompt", "question_digest"),
    ),
    "turn.refused": Event(
        _G.CONVERSATIONS,
        "A question was not taken: a limit, a budget, a rule, personal data in it, no model that"
        " may answer, or a message that can't be sent like this. The reason names which.",
        ("count",),
    ),
    "turn.stop_requested": Event(_G.CONVERSATIONS, "Somebody asked a reply to stop.", ("reply",)),
    "turn.continued": Event(
        _G.CONVERSATIONS, "A reply that had ended early was taken up again.", ("reply",)
    ),
    "turn.ended": Event(
        _G.CONVERSATIONS,
        "A reply ended: completed, stopped, failed, refused or interrupted.",
        ("reply", "state", "duration_ms", "reply_digest"),
    ),
    "feedback.given": Event(
        _G.CONVERSATIONS,
        "Somebody rated a reply, or changed what they had said of it. Never their words.",
        ("reply", "rating", "reasons"),
    ),
    "feedback.withdrawn": Event(
        _G.CONVERSATIONS, "Somebody took back their rating of a reply.", ("reply",)
    ),
    "satisfaction.given": Event(
        _G.CONVERSATIONS, "Somebody said, from 1 to 5, how a conversation went.", ("score",)
    ),
    "satisfaction.declined": Event(
        _G.CONVERSATIONS, "Somebody did not want to say how a conversation went."
    ),
    "model.offered": Event(_G.MODELS, "A language model was put on offer.", ("now", "before")),
    "model.redefined": Event(
        _G.MODELS,
        "What holds of a language model was changed: its server, key, limits, roles or fallback.",
        ("now", "before"),
    ),
    "model.withdrawn": Event(_G.MODELS, "A language model was taken off offer.", ("now", "before")),
    "price.set": Event(
        _G.MODELS,
        "A language model was given a price.",
        ("name", "from_at", "input", "cached_input", "output", "source"),
    ),
    "prompt.published": Event(
        _G.MODELS,
        "A version of a prompt was published by somebody who had written no part of it. It can't be"
        " changed any more. It is live, or waits to be released step by step.",
        ("version", "number", "content_hash", "before", "live"),
    ),
    "prompt.restored": Event(
        _G.MODELS,
        "A version of a prompt that had been live before was made live again; in an emergency one"
        " of its authors may do that.",
        ("version", "number", "content_hash", "before", "emergency"),
    ),
    "prompt.paused": Event(_G.MODELS, "A prompt was taken off offer for new conversations."),
    "prompt.resumed": Event(_G.MODELS, "A prompt was put back on offer."),
    "prompt.declined": Event(
        _G.MODELS,
        "A live prompt fell below its own baseline, by people's ratings or by an evaluation;"
        " retraining was asked for.",
        ("version", "number", "content_hash", "source", "numbers"),
    ),
    "release.began": Event(
        _G.MODELS,
        "A version of a prompt began to be released step by step: to a group, or to a share of the"
        " people, in basis points.",
        _RELEASE,
    ),
    "release.advanced": Event(
        _G.MODELS,
        "A release went on to its next share: the step before had its sample and its time.",
        _RELEASE,
    ),
    "release.guarded": Event(
        _G.MODELS,
        "The bounds of a release were set: how much worse than production it may be before it is"
        " rolled back.",
        ("release", "bounds"),
    ),
    "release.step_offered": Event(
        _G.MODELS,
        "A step of a release was found to be done: it has its sample and its time, and keeps its"
        " bounds.",
        ("release", "step", "numbers"),
    ),
    "release.paused": Event(
        _G.MODELS,
        "A release was paused, by a person or by a guard: nobody else gets the version.",
        _RELEASE,
    ),
    "release.resumed": Event(
        _G.MODELS,
        "A release that was paused went on.",
        _RELEASE,
    ),
    "release.rolled_back": Event(
        _G.MODELS,
        "A release was ended, by a person or by a guard, and everybody is answered by the version"
        " before; in an emergency one of the authors may do that.",
        (*_RELEASE, "emergency"),
    ),
    "release.finished": Event(
        _G.MODELS,
        "A release reached everybody: its version is live.",
        _RELEASE,
    ),
    "evaluation_set.published": Event(
        _G.MODELS,
        "Somebody stored a version of an evaluation set; it can't be changed any more.",
        ("set", "number", "cases", "digest"),
    ),
    "evaluation.began": Event(
        _G.MODELS,
        "A version of a prompt, perhaps a draft, began to be put through an evaluation set.",
        ("run", *_EVALUATION, "limit_usd", "judge"),
    ),
    "evaluation.resumed": Event(
        _G.MODELS,
        "An evaluation that was interrupted went on. Cases in `asked_again` may have been paid for"
        " once before: somebody chose so.",
        ("run", *_EVALUATION, "asked_again", "limit_usd"),
    ),
    "evaluation.cancelled": Event(
        _G.MODELS,
        "Somebody ended an evaluation before it was done.",
        ("run", *_EVALUATION, "numbers"),
    ),
    "evaluation.ended": Event(
        _G.MODELS,
        "An evaluation was done, or was interrupted: `why` says by what.",
        ("run", *_EVALUATION, "why", "numbers"),
    ),
    "prompt.gate_changed": Event(
        _G.MODELS,
        "Which evaluation a version of a prompt has to pass before it can be published was"
        " changed.",
        ("now", "before"),
    ),
    "prompt.schedule_changed": Event(
        _G.MODELS,
        "How often the live version of a prompt is evaluated was changed, and what that may cost.",
        ("now", "before"),
    ),
    "prompt.evaluated": Event(
        _G.MODELS,
        "A scheduled evaluation of a live prompt ended, or could not begin: `result` says what"
        " followed.",
        ("result", "run", "version", "number", "content_hash", "numbers"),
    ),
    "prompt.tried": Event(
        _G.MODELS,
        "Somebody had a wording answered in the playground, published or not.",
        ("version", "content_hash", "reply"),
    ),
    "prompt.unavailable": Event(
        _G.MODELS,
        "The version of a prompt that was to serve was missing or could not be rendered; the last"
        " good one served.",
        ("count",),
    ),
    "budget.changed": Event(
        _G.LIMITS,
        "What the holders of a role, or everybody else, may spend was changed.",
        ("role", "changes"),
    ),
    "policy.rule_saved": Event(
        _G.LIMITS,
        "A policy rule was made or changed; each time it gets another version.",
        ("version", "kind", "direction", "action", "is_active"),
    ),
    "policy.hit": Event(
        _G.LIMITS,
        "A policy rule found something in what was sent or in a reply.",
        ("rule", "version", "direction", "action", "count"),
    ),
    "retention.changed": Event(
        _G.RETENTION,
        "How long conversations are kept was changed, for everybody, for temporary chats or for the"
        " holders of a role. A shorter period takes effect later.",
        ("role", "version", "hours", "before_hours", "effective_at"),
    ),
    "retention.stopped": Event(
        _G.RETENTION,
        "A purge stopped before it began, because it would have deleted an unusual share of all"
        " messages; it waits to be confirmed.",
        ("due", "of"),
    ),
    "retention.confirmed": Event(
        _G.RETENTION, "Somebody confirmed a purge that had stopped to ask.", ("due",)
    ),
    "retention.withdrawn": Event(
        _G.RETENTION, "A purge that had stopped to ask is not needed any more.", ("due",)
    ),
    "retention.purged": Event(
        _G.RETENTION,
        "What was due was deleted, and the keys of days that are over were destroyed.",
        ("cutoffs", "counts", "key_days", "held", "skipped", "root"),
    ),
    "hold.placed": Event(
        _G.RETENTION,
        "A legal hold was placed on a person or a conversation: nothing of theirs is destroyed.",
        ("hold", "conversations", "review_on"),
    ),
    "hold.lifted": Event(
        _G.RETENTION,
        "A legal hold was lifted; it goes on until its delay is over.",
        ("hold", "ends"),
    ),
    "hold.ended": Event(_G.RETENTION, "A legal hold ended, and its key was destroyed.", ("hold",)),
    "record.changed": Event(
        _G.ADMINISTRATION,
        "A record was added, changed or removed: name or email of an account, a prompt or a draft"
        " of one. Of a personal or long value it tells that it changed, not what it was.",
        ("action", "changes"),
    ),
    "keyring.rotated": Event(
        _G.ADMINISTRATION,
        "The keys of what people say were wrapped by another master key.",
        ("rewrapped",),
    ),
    "audit.proof_downloaded": Event(
        _G.AUDIT_LOG, "Somebody downloaded the proof of an entry.", ("checkpoint",)
    ),
    "export.requested": Event(
        _G.AUDIT_LOG,
        "Somebody asked for an export of this log, perhaps filtered or searched.",
        ("filter", "searched"),
    ),
    "export.finished": Event(
        _G.AUDIT_LOG,
        "An export of this log was written.",
        ("number", "manifest", "leaves", "entries", "damaged", "missing"),
    ),
    "export.failed": Event(_G.AUDIT_LOG, "An export of this log could not be written."),
    "export.cancelled": Event(_G.AUDIT_LOG, "Somebody ended an export before it was written."),
    "export.downloaded": Event(
        _G.AUDIT_LOG, "Somebody downloaded an export of this log.", ("number", "manifest")
    ),
    "export.expired": Event(
        _G.AUDIT_LOG, "The file of an export was removed, its time being over.", ("number",)
    ),
    "log.inspection_requested": Event(_G.AUDIT_LOG, "Somebody had the log verified.", ("whole",)),
    "log.inspected": Event(
        _G.AUDIT_LOG,
        "The log was verified; it failed where something does not hold.",
        ("since_checkpoint", "last_checkpoint", "leaves", "findings"),
    ),
    "log.prefix_removed": Event(
        _G.AUDIT_LOG,
        "The oldest entries of this log were removed, their time being over. Their leaves stay.",
        ("first", "below", "older_than", "missing"),
    ),
    "log.key_rotated": Event(
        _G.AUDIT_LOG, "The log began to sign with another key.", ("former", "first_size")
    ),
    "log.fork_declared": Event(
        _G.AUDIT_LOG,
        "An operator declared that the log goes on from another state than it had signed.",
    ),
}


class UnknownEventError(ValueError):
    """An event that is not in the vocabulary."""

    def __init__(self, event: str) -> None:
        super().__init__(f"{event!r} is no event of audit.events; add it there, with a sentence.")


def known(event: str) -> str:
    """Return the event's name; raise UnknownEventError when it is not in the vocabulary."""
    if event not in EVENTS:
        raise UnknownEventError(event)
    return event


def events_of(group: str) -> list[str]:
    """Return the names of the events in a group; none for a group that does not exist."""
    return [name for name, event in EVENTS.items() if event.group == group]


def vocabulary_in_markdown() -> str:
    """Return the vocabulary as the documentation has it: a table for each group."""
    return "\n\n".join(_tables())


def _tables() -> Iterator[str]:
    ordered = sorted(EVENTS, key=lambda name: list(Group).index(EVENTS[name].group))
    for group, names in groupby(ordered, key=lambda name: EVENTS[name].group):
        rows = (f"| `{name}` | {EVENTS[name].says} | {_fields(EVENTS[name])} |" for name in names)
        yield "\n".join([f"### {group}", "", "| event | says | tells |", "|---|---|---|", *rows])


def _fields(event: Event) -> str:
    return ", ".join(f"`{field}`" for field in event.tells)


if __name__ == "__main__":
    sys.stdout.write(f"{vocabulary_in_markdown()}\n")
