"""What the doors for programs have in common: who calls, how a turn is asked for, what is said when
something goes wrong. The doors themselves are `conversations.api` and `conversations.openai_api`.
"""
