"""How the log and its copies stand, for /health and for Prometheus."""

from audit import sealing
from audit.destinations import Lag, lags
from audit.models import Destination
from audit.publishing import configured_publishers
from audit.streams import configured_streams
from chatbot import telemetry


def copies() -> list[Lag]:
    """Return how far behind each destination of copies is; two queries."""
    return lags(
        {
            Destination.Purpose.STREAM: configured_streams(),
            Destination.Purpose.PUBLICATION: configured_publishers(),
        }
    )


def refresh() -> None:
    """Set the figures that the database knows, so that they are true at this very moment.

    The worker sets those of sealing as well; when it is dead they would stand still.
    """
    waiting = sealing.state()
    telemetry.audit_unsealed.set(waiting.unsealed)
    telemetry.audit_oldest_unsealed.set(waiting.oldest_seconds)
    for lag in copies():
        telemetry.audit_copy_behind_entries.labels(lag.purpose, lag.name).set(lag.entries)
        telemetry.audit_copy_behind_seconds.labels(lag.purpose, lag.name).set(lag.seconds)
