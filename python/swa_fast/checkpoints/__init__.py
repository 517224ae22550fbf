"""Averages of checkpoints on disk: any number of files, constant memory, rounded once.

``merge`` averages files and folders of the formats that trainers write; ``soup`` chooses which of them
to average by a score; ``reconstruct`` makes a power average of any width from snapshots of others;
``coefficients`` has the schedules as pure functions. The same as commands: ``swa-fast merge`` and
``swa-fast soup``. torch, h5py and Keras are needed for their own formats only.
"""

from . import coefficients
from .errors import CheckpointError
from .merge import merge
from .report import InputReport, MergeReport

__all__ = ["CheckpointError", "InputReport", "MergeReport", "coefficients", "merge"]
