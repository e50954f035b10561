"""Sphinx configuration: sphinx-build -W -n -b html docs docs/_build/html"""
import importlib
import os
import sys
import warnings
from pathlib import Path

DOCS = Path(__file__).parent
ROOT = DOCS.parent
sys.path[:0] = [str(ROOT), str(DOCS)]  # import mmat from this checkout
warnings.filterwarnings('ignore')
os.environ.setdefault('CUDA_VISIBLE_DEVICES', '')

import repository  # noqa: E402

from mmat import __version__  # noqa: E402

project = 'mmat'
copyright = 'the mmat authors'
version = release = __version__

extensions = ['myst_parser', 'sphinx.ext.autodoc', 'sphinx.ext.napoleon']
exclude_patterns = ['_build']
html_theme = 'furo'
html_title = f'mmat {version}'
html_show_copyright = False

# Anchors of headings as on GitHub: README.md#results.
myst_heading_anchors = 4

# READMEs may skip heading levels.
suppress_warnings = ['myst.header']

# Docstrings have the types, with shapes.
autodoc_typehints = 'none'
autodoc_inherit_docstrings = False
autodoc_member_order = 'bysource'
autodoc_default_options = {'members': True, 'show-inheritance': True}
napoleon_use_rtype = False
default_role = 'code'
smartquotes = False  # keep --help

# With -n every reference to mmat must resolve. References to other projects are ignored, so that the build needs no
# network.
nitpick_ignore_regex = [('py:.*', r'(?!mmat\.).*')]


def drop_private_bases(app, name, obj, options, bases):
    bases[:] = [base for each in bases for base in (each.__bases__ if each.__name__.startswith('_') else [each])]


def resolve_alias(app, env, node, contnode):
    """Resolve a reference such as mmat.models.at_heads.BaseATHead, which is documented as mmat.models.BaseATHead."""
    module, _, name = node.get('reftarget', '').rpartition('.')
    if not module.startswith('mmat'):
        return None
    try:
        target = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError):
        return None
    found = [alias for alias, entry in env.domains['py'].objects.items()
             if entry.objtype != 'module' and alias.endswith(f'.{name}') and _import(alias) is target]
    return env.domains['py'].resolve_xref(
        env, node['refdoc'], app.builder, node['reftype'], found[0], node, contnode) if found else None


def _import(name):
    module, _, name = name.rpartition('.')
    try:
        return getattr(importlib.import_module(module), name, None)
    except ImportError:  # a method
        return None


def setup(app):
    repository.write_family_pages()
    app.connect('source-read', repository.read_page)
    app.connect('autodoc-process-bases', drop_private_bases)
    app.connect('missing-reference', resolve_alias)
