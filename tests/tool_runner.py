"""Runs a tool in this process, where the imports are done."""
import contextlib
import io
import runpy
import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).parents[1] / 'tools'


def run_tool(name, *words):
    """Exit code and output of a tool; a code that is a string is what Python prints to stderr before status 1."""
    words = [str(word) for word in words]
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as output:
        patch.setattr(sys, 'argv', [str(TOOLS / name), *words])
        patch.setattr('mmat.apis.launch.keep_freed_memory', lambda: False)
        # Laying out a config nicely takes longer than what is done with it.
        patch.setattr('mmengine.config.config.FormatCode', lambda text, **kwargs: (text, True))
        with pytest.raises(SystemExit) as stop:
            runpy.run_path(str(TOOLS / name), run_name='__main__')
    return stop.value.code, output.getvalue()


def fails(name, *words):
    """The one line that a tool has to say about a mistake."""
    code, _ = run_tool(name, *words)
    start = f'{Path(name).name}: error: '
    assert isinstance(code, str) and code.startswith(start) and '\n' not in code
    return code[len(start):]
