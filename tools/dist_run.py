#!/usr/bin/env python
"""Start a tool in several processes with torchrun, and end with the error of the lowest rank that failed.

Takes torchrun's arguments, then the tool and its arguments. Used by dist_train.sh and dist_test.sh.
"""
import os
import sys
import tempfile
from pathlib import Path

from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import main

from mmat.apis.launch import ERROR_DIR

if __name__ == '__main__':
    with tempfile.TemporaryDirectory() as folder:
        os.environ[ERROR_DIR] = folder
        try:
            main()
        except ChildFailedError as error:
            errors = sorted(Path(folder).iterdir(), key=lambda path: int(path.name))
            # A process that was killed wrote none: torchrun's summary has its signal.
            print(f'rank {errors[0].name}: {errors[0].read_text()}' if errors else error, end='', file=sys.stderr)
            sys.exit(1)
