"""The file that tells of faults tells of exactly those that are tested."""

from tests.faults import table
from tests.faults import test_doors as _doors  # noqa: F401 - they name their faults
from tests.faults import test_guards as _guards  # noqa: F401
from tests.faults import test_postgres as _postgres  # noqa: F401
from tests.faults import test_processes as _processes  # noqa: F401
from tests.faults import test_provider as _provider  # noqa: F401
from tests.faults import test_redis as _redis  # noqa: F401
from tests.faults import test_sockets as _sockets  # noqa: F401


def test_file_tells_of_every_fault_and_no_other():
    assert sorted(table.named_in_file()) == sorted(table.FAULTS)
