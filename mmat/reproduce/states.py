"""States of a run. It is blocked if its teacher failed."""

DONE, RUNNING, FAILED, INTERRUPTED, BLOCKED, WAITING = STATES = (
    'done', 'running', 'failed', 'interrupted', 'blocked', 'waiting')
