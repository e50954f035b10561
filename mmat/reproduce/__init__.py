"""Tables of results as one command: trainings that depend on each other, and a report of them."""
