"""The log in the admin: entries, their timelines and proofs, checkpoints, checks of the log."""

from audit.admin.checkpoints import CheckpointAdmin
from audit.admin.entries import EntryAdmin
from audit.admin.exports import ExportAdmin
from audit.admin.inspections import InspectionRunAdmin

__all__ = ["CheckpointAdmin", "EntryAdmin", "ExportAdmin", "InspectionRunAdmin"]
