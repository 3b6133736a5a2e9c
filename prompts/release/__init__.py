"""Versions on their way to everybody: who gets them, what is noticed, what is decided."""
