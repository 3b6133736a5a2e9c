"""What is said, and all that is kept about it: limits, rules, holds, exports, evidence.

Contents and titles exist only sealed (`encryption`). A question and its reply are two messages; a
reply's row is written before the provider is called, so that after any crash the history is honest.
"""

from conversations.models.break_glass import (
    LONGEST_GRANT,
    BreakGlassGrant,
    BreakGlassView,
    CounselExport,
)
from conversations.models.budgets import BudgetPlan, BudgetWindow, Reservation
from conversations.models.conversation import (
    LAST_SEEN_PRECISION,
    Conversation,
    ConversationQuerySet,
    Message,
    MessageQuerySet,
    RetentionClass,
    Runner,
)
from conversations.models.feedback import Feedback, Rating, Reason, Satisfaction, SatisfactionPause
from conversations.models.holds import HeldKey, Hold
from conversations.models.policy import PolicyRule, PolicyRuleVersion, PolicyTerms
from conversations.models.retention import PurgeRun, RetentionPolicy, RetentionVersion
from conversations.models.rights import Erasure, ExportState, PersonExport

__all__ = [
    "LAST_SEEN_PRECISION",
    "LONGEST_GRANT",
    "BreakGlassGrant",
    "BreakGlassView",
    "BudgetPlan",
    "BudgetWindow",
    "Conversation",
    "ConversationQuerySet",
    "CounselExport",
    "Erasure",
    "ExportState",
    "Feedback",
    "HeldKey",
    "Hold",
    "Message",
    "MessageQuerySet",
    "PersonExport",
    "PolicyRule",
    "PolicyRuleVersion",
    "PolicyTerms",
    "PurgeRun",
    "Rating",
    "Reason",
    "Reservation",
    "RetentionClass",
    "RetentionPolicy",
    "RetentionVersion",
    "Runner",
    "Satisfaction",
    "SatisfactionPause",
]
