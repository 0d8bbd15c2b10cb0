"""What the exit codes of the command line mean."""

from typing import Final

DONE: Final = 0
BAD_INPUT: Final = 2
PARTITIONS_LEFT_OUT: Final = 3
FAILED: Final = 4
STOPPED: Final = 75
INTERRUPTED: Final = 130
