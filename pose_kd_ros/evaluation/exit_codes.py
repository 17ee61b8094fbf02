"""What the commands end with; docs/evaluation.md and docs/reports.md say the same."""

OK = 0
WORSE = 1  # than a baseline allows
REFUSED = 2
DAMAGED = 3  # data, and what could be read of it was evaluated
STOPPED = 130  # by Ctrl-C
