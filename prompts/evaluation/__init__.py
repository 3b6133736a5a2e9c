"""Judging a wording by cases before anybody is answered by it.

cases.py        what a case is; reads JSON Lines
checks.py       what a reply is held against; pure
schemas.py      what looking by a JSON Schema may cost; pure
judging.py      a model as judge: what it is asked, how its answer is read
sets.py         sets of cases and their versions
runs.py         the verbs of a run, and its ledger: claims, money, results
engine.py       makes the calls of a run
differences.py  two runs, case by case
gate.py         what a template requires before a version can be published
"""
