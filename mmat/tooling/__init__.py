"""What the command lines in ``tools/`` do: count, read, draw, convert, publish."""
