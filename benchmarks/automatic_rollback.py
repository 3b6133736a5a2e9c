"""`python -m benchmarks.automatic_rollback`: how soon a canary that fails is rolled back by itself.

python -m benchmarks.automatic_rollback              eight releases, about five minutes
python -m benchmarks.automatic_rollback --rounds 2   fewer

Half of the people get a version whose model answers every request with status 500, and each asks
once, as a program does at `/chat`. Web process and worker run as `make up` starts them. Measured is
the time from the turn with which the evidence crossed its bound until the release was rolled back.
"""

import argparse
import random
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from typing import Any
from urllib.error import HTTPError

from benchmarks.accounting import median
from benchmarks.installation import Installation, installation
from benchmarks.people import make_people, make_tokens, use_installation
from benchmarks.processes import machine
from benchmarks.provider_simulator import running_simulator
from benchmarks.report import Table, number
from benchmarks.streams import say
from chatbot.local.children import Child
from chatbot.local.environment import ROOT

ROUNDS, PEOPLE, AT_ONCE = 8, 40, 4
HALF = 5_000  # basis points
GOAL_SECONDS = 60
PATIENCE_SECONDS = 120
QUESTION = b'{"user_message": "Which part is it?"}'


@dataclass(frozen=True, slots=True)
class Rollback:
    """What one release showed, in seconds: after the deciding turn, and after the first failure."""

    after_bound: float
    after_failure: float


def measure(running: Installation, rounds: int, failing: str) -> Table:
    """Release a version that fails so many times, and wait for the guards each time."""
    people = make_people(PEOPLE)
    secrets = make_tokens(people)
    broken = _failing_version(failing)
    running.restart_web({})  # it knows the new model at once
    seen = []
    with _worker(running):
        for at in range(rounds):
            say(f"release {at + 1} of {rounds}")
            time.sleep(random.uniform(0, _look_seconds()))  # the guards look at any moment
            seen.append(_one(running.url, broken, secrets))
    return _table(seen)


def _table(seen: Sequence[Rollback]) -> Table:
    look = _look_seconds()
    named = {
        "the guards' pause between two looks, alone": [look / 2, look],
        "after the turn that crossed the bound": _figures([one.after_bound for one in seen]),
        "after the first turn that failed": _figures([one.after_failure for one in seen]),
    }
    rows = [[name, *(number(each) for each in figures)] for name, figures in named.items()]
    note = (
        f"{machine()}. {len(seen)} releases at 50 %, {PEOPLE} people who ask once each,"
        f" {AT_ONCE} at once; all turns of the canary fail. The goal is {GOAL_SECONDS} s."
    )
    return Table("A canary that fails is rolled back after", ["seconds", "p50", "most"], rows, note)


def _figures(seconds: Sequence[float]) -> list[float]:
    return [median(seconds), max(seconds)]


def _look_seconds() -> float:
    from prompts.release.guards import LOOK_EVERY  # noqa: PLC0415 - after Django's setup, like all below

    return LOOK_EVERY.total_seconds()


@contextmanager
def _worker(running: Installation) -> Iterator[None]:
    """The worker as `make up` starts it."""
    command = [
        *(sys.executable, "-m", "celery", "-A", "chatbot.celery", "worker", "-B"),
        *("-P", "threads", "-c", "6", "-Q", "short,long"),
        *("--without-gossip", "--without-mingle", "--without-heartbeat"),
        *("-s", str(running.data / "run" / "beat")),
    ]
    worker = Child("worker", command, env=running.env, data=running.data, cwd=ROOT)
    worker.start()
    try:
        yield
    finally:
        worker.stop(30)


def _failing_version(failing: str) -> Any:
    """Publish a version whose model stands at this address; return it."""
    from accounts.access import System  # noqa: PLC0415
    from audit.trail import acting_as  # noqa: PLC0415
    from prompts import offering, publishing  # noqa: PLC0415
    from prompts.models import LanguageModel, ModelPrice, PromptTemplate  # noqa: PLC0415

    model = LanguageModel(
        slug="failing",
        label="Failing",
        base_url=failing,
        remote_name="failing",
        context_window=32_768,
        max_output_tokens=1024,
    )
    me = System("benchmark")
    offering.define_model(model, roles=[], by=me)
    free = {name: Decimal(0) for name in ("input", "cached_input", "output")}
    offering.set_price(ModelPrice(model=model, source="benchmark", **free), by=me)
    template = PromptTemplate.objects.get(slug="general-assistant")
    if template.required_set:
        score = template.required_score
        publishing.require_evaluation(template, None, score, note="To be measured", by=me)
    terms = publishing.Terms("You help.", model=model.slug)
    editor = _somebody("prompt_editor")
    with acting_as(editor):
        draft = publishing.begin_draft(template, terms, by=editor)
    return publishing.publish(
        draft,
        content_hash=draft.content_hash,
        note="To be measured",
        by=_somebody("prompt_publisher"),
        for_release=True,
    )


def _somebody(role: str) -> Any:
    """Make somebody with this role."""
    from accounts.models import RoleGrant, User  # noqa: PLC0415

    user = User.objects.create_user(f"{role}-{random.randrange(10**9)}@parley.example")
    RoleGrant.objects.create(user=user, role_id=role)
    return User.objects.with_roles().get(pk=user.pk)


def _one(url: str, version: Any, secrets: Sequence[str]) -> Rollback:
    """Release the version, let everybody ask, and wait until it is rolled back."""
    from prompts.release.rollout import Plan, Step, begin  # noqa: PLC0415

    publisher = _somebody("prompt_publisher")
    release = begin(version, Plan([Step(HALF)]), note="To be measured", by=publisher)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(lambda secret: _ask(url, secret), random.sample(secrets, len(secrets))))
    deadline = time.monotonic() + PATIENCE_SECONDS
    while release.state != release.State.ROLLED_BACK:
        if time.monotonic() > deadline:
            raise RuntimeError(f"Not rolled back within {PATIENCE_SECONDS} s: {release.where}")
        time.sleep(0.2)
        release.refresh_from_db()
    return _rollback(release)


def _ask(url: str, secret: str) -> None:
    headers = {"Authorization": f"Bearer {secret}", "Content-Type": "application/json"}
    try:
        urllib.request.urlopen(urllib.request.Request(f"{url}/chat", QUESTION, headers)).close()
    except HTTPError as refusal:
        # What the canary answers.
        if refusal.code < 500:
            raise


def _rollback(release: Any) -> Rollback:
    """Go through the turns in the order in which they ended, as the guards do."""
    from prompts.release.guards import ALPHA, MEASURES, Bounds, Metric  # noqa: PLC0415
    from prompts.release.sequential import CANARY, PRODUCTION, Comparison, alpha_of  # noqa: PLC0415

    evidence = Comparison(Bounds().error_rate, odds=1.0, guess=MEASURES[Metric.ERRORS].guess)
    alpha = alpha_of(ALPHA, guards=len(MEASURES), steps=len(release.steps), window=0)
    first_failure = None
    for reply in release.replies.exclude(ended_at=None).order_by("ended_at"):
        has_failed = reply.state == "failed"
        if has_failed and first_failure is None:
            first_failure = reply.ended_at
        evidence.see(CANARY if reply.arm == "canary" else PRODUCTION, float(has_failed))
        if first_failure and evidence.is_worse(alpha):
            return Rollback(
                (release.ended_at - reply.ended_at).total_seconds(),
                (release.ended_at - first_failure).total_seconds(),
            )
    raise RuntimeError("The guards rolled back for another reason than failed turns.")


def main() -> int:
    """Measure on an installation of its own, and print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.automatic_rollback", description=__doc__
    )
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    chosen = parser.parse_args()
    with installation("A simulated reply.") as running, running_simulator(status=500) as failing:
        use_installation(running.env)
        print(measure(running, chosen.rounds, failing).as_text())
    return 0


if __name__ == "__main__":
    sys.exit(main())
