"""States of a run, in the order of its life."""

WAITING, RUNNING, INTERRUPTED, DONE, FAILED, BLOCKED = STATES = (
    'waiting', 'running', 'interrupted', 'done', 'failed', 'blocked')  # blocked: the teacher failed
