"""Keeps services running until somebody asks for the end, and then ends them in order."""

import os
import select
import signal
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from types import FrameType

from chatbot.local.children import Child, StartError

LONGEST_PAUSE_SECONDS = 30.0
# Who has run for so long may fail again without a longer pause.
STEADY_SECONDS = 60.0


@dataclass
class Service:
    """A child with the way to start it again (a server does more for that than a plain child)."""

    child: Child
    start: Callable[[], None]
    pause_seconds: float = 0.5
    started: float = field(default_factory=time.monotonic)
    due: float | None = None

    def failed(self) -> bool:
        return self.due is None and self.child.poll() is not None

    def plan_restart(self) -> float:
        """Decide when it starts again, and return the pause until then in seconds."""
        now = time.monotonic()
        if now - self.started > STEADY_SECONDS:
            self.pause_seconds = 0.5
        pause, self.pause_seconds = (
            self.pause_seconds,
            min(2 * self.pause_seconds, LONGEST_PAUSE_SECONDS),
        )
        self.due = now + pause
        return pause

    def restart(self) -> None:
        self.due, self.started = None, time.monotonic()
        self.start()


class Supervisor:
    """Restarts what ends by itself, one line each, with growing pauses.

    SIGINT, SIGTERM and SIGHUP ask for the end: during the start they interrupt it as
    KeyboardInterrupt, later `watch` returns. A second one hurries the end.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._services: list[Service] = []
        self._asked = 0
        self._starting = True
        self._wake, wakes = os.pipe()
        for end in (self._wake, wakes):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(wakes, warn_on_full_buffer=False)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            # `nohup` has SIGHUP ignored, and means it.
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self._ask)
        # Without a handler a child's end would not wake `watch`.
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def _ask(self, _number: int, _frame: FrameType | None) -> None:
        self._asked += 1
        if self._starting:
            self._starting = False
            raise KeyboardInterrupt

    @property
    def hurried(self) -> bool:
        return self._asked > 1

    def keep(self, child: Child, start: Callable[[], None] | None = None) -> None:
        """Watch over a child that runs."""
        self._services.append(Service(child, start or child.start))

    def watch(self) -> None:
        """Return when the end is asked for."""
        self._starting = False
        while not self._asked:
            for service in self._services:
                self._look_after(service)
            self._sleep(until=min((s.due for s in self._services if s.due), default=None))

    def _look_after(self, service: Service) -> None:
        name = service.child.name
        if service.failed():
            pause = service.plan_restart()
            self._say(
                f"{name} ended unexpectedly ({_how(service.child.poll())});"
                f" starting it again in {pause:g} s. Log: {service.child.log}"
            )
        if service.due is not None and service.due <= time.monotonic():
            try:
                service.restart()
            except (StartError, OSError) as error:
                service.plan_restart()
                self._say(f"{name} could not be started again: {error}")

    def _sleep(self, until: float | None) -> None:
        seconds = 5.0 if until is None else max(0.0, until - time.monotonic())
        if select.select([self._wake], [], [], seconds)[0]:
            os.read(self._wake, 4096)

    def end(self, children: Iterable[Child], grace_seconds: float) -> None:
        """Ask them all to end; kill who has not when the time is over, or when hurried."""
        self._starting = False
        children = list(children)
        for child in children:
            child.ask()
        deadline = time.monotonic() + grace_seconds
        while any(child.running for child in children):
            if self.hurried or time.monotonic() > deadline:
                break
            self._sleep(until=min(deadline, time.monotonic() + 0.2))
        for child in children:
            child.kill()


def _how(status: int | None) -> str:
    if status is not None and status < 0:
        return signal.Signals(-status).name
    return f"status {status}"
