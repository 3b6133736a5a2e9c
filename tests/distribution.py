"""A pytest plugin: in which order the tests run, and which of them share a process.

What takes longest starts first, so that no process ends alone: the tests with servers of their own,
most of which are waiting. They leave room for one process more than there are processors. A file's
tests stay together, for what its fixtures start; all that need the installation of `tests/faults`
are one unit. Tests in Chromium come last and one by one. They also have to come last: from its
first use on, Playwright's synchronous API keeps a loop running in its thread, and no other can
start there.
"""

import os

import pytest
from xdist.scheduler import LoadScopeScheduling

INSTALLATION = "tests/faults/"


class Distribution(LoadScopeScheduling):
    """Units of work in the order of the tests, which is the same in all processes."""

    def __init__(self, config: pytest.Config, log: object) -> None:
        config.option.loadscopereorder = False  # more tests don't take longer
        super().__init__(config, log)

    def _split_scope(self, nodeid: str) -> str:
        if nodeid.startswith(INSTALLATION):
            return INSTALLATION
        return nodeid if nodeid.startswith("tests/browser/") else nodeid.split("::", maxsplit=1)[0]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> Distribution:
    return Distribution(config, log)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    return (os.cpu_count() or 1) + 1


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=_place)


def _place(item: pytest.Item) -> tuple[int, bool]:
    if item.get_closest_marker("browser"):
        return 2, False
    if item.get_closest_marker("faults"):
        return 0, not item.nodeid.startswith(INSTALLATION)
    return 1, False
