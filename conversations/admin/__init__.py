"""Conversations in the admin, never a word of them: what rules them, and how they go."""

from conversations.admin.break_glass import BreakGlassAdmin
from conversations.admin.budgets_and_rules import (
    BudgetPlanAdmin,
    BudgetWindowAdmin,
    ConversationAdmin,
    PolicyRuleAdmin,
)
from conversations.admin.erasure import ErasureAdmin
from conversations.admin.holds import HoldAdmin
from conversations.admin.retention import PurgeRunAdmin, RetentionPolicyAdmin

__all__ = [
    "BreakGlassAdmin",
    "BudgetPlanAdmin",
    "BudgetWindowAdmin",
    "ConversationAdmin",
    "ErasureAdmin",
    "HoldAdmin",
    "PolicyRuleAdmin",
    "PurgeRunAdmin",
    "RetentionPolicyAdmin",
]
