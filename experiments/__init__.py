"""One file for each figure, table or benchmark; every file opens with its command."""
