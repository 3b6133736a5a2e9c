"""How long what is said is kept, and how it goes: policies, the purge, legal holds."""
