"""Edit an entry of a metafile as text, which keeps comments, order and layout."""
import copy
import json
import re
from typing import Dict, List, Optional

import yaml

from mmat.errors import UserError

# The fields that describe a training; always replaced together.
_FIELDS = ('Results', 'Weights', 'Training Log')
_METADATA = ('Epochs', 'Seed')


def set_training(text: str, name: str, fields: Optional[Dict[str, object]] = None,
                 metadata: Optional[Dict[str, object]] = None, comment: Optional[str] = None) -> str:
    """Replace the training of an entry of a metafile.

    Args:
        text (str): The metafile, in YAML block style.
        name (str): ``Name`` of the entry.
        fields (dict, optional): Its ``Results``, ``Weights`` and ``Training Log``; missing ones are removed. Defaults
            to None, which removes all.
        metadata (dict, optional): ``Epochs`` and ``Seed`` of its ``Metadata``; missing ones are removed. Defaults to
            None, which removes both.
        comment (str, optional): A comment line above ``Results`` that replaces the existing ones. Defaults to None.

    Returns:
        str: The changed metafile.

    Raises:
        UserError: There is not exactly one such entry, or its layout is not supported; the message has the fields to
            set by hand.
    """
    fields, metadata = fields or {}, metadata or {}
    expected = read_yaml(text)
    entries = [entry for entry in expected.get('Models') or () if entry.get('Name') == name]
    if len(entries) != 1:
        raise UserError(f'The metafile has {len(entries)} entries named {name!r}, expected one.')
    entry = entries[0]
    for key in _FIELDS:
        entry.pop(key, None)
    for key in _METADATA:
        entry['Metadata'].pop(key, None)
    entry.update(copy.deepcopy(fields))
    entry['Metadata'].update(metadata)

    added = ([f'    # {comment}'] if comment else []) + [f'    {line}' for line in _block(fields)]
    changed = _edit(text, name, added, [f'      {line}' for line in _block(metadata)])
    try:
        right = changed is not None and read_yaml(changed) == expected
    except yaml.YAMLError:
        right = False
    if not right:
        raise UserError(f'The layout of the entry {name!r} is not supported. Set these fields by hand: '
                        f'{json.dumps({**fields, "Metadata": metadata})}')
    return changed


def read_yaml(text: str) -> dict:
    """Parse YAML, with the C parser if available, which is ten times as fast."""
    return yaml.load(text, Loader=getattr(yaml, 'CSafeLoader', yaml.SafeLoader))


def _block(content: Dict[str, object]) -> List[str]:
    if not content:
        return []
    return yaml.dump(content, Dumper=_Indented, sort_keys=False, width=1000).splitlines()


class _Indented(yaml.SafeDumper):
    """Indent the items of a list."""

    def increase_indent(self, flow=False, indentless=False):
        return super().increase_indent(flow, False)


def _edit(text: str, name: str, added: List[str], metadata: List[str]) -> Optional[str]:
    """Edit an entry whose lines begin with four spaces, its metadata with six; comments belong to the next line."""
    lines = text.splitlines()
    first = [number for number, line in enumerate(lines) if re.fullmatch(rf'  - Name: +{re.escape(name)} *', line)]
    if len(first) != 1:
        return None
    end = start = first[0] + 1
    while end < len(lines) and (lines[end].startswith('    ') or not lines[end].strip()):
        end += 1
    while not lines[end - 1].strip():
        end -= 1
    kept, waiting, key = [], [], None
    for line in lines[start:end]:
        found = re.match(r'    ([A-Z][\w ]*):', line)
        if line.startswith('    #'):
            waiting.append(line)
            continue
        if found:
            if key == 'Metadata':
                kept += metadata
            key = found[1]
        if key not in _FIELDS:
            of_training = key == 'Metadata' and re.match(rf'      ({"|".join(_METADATA)}):', line)
            kept += [*waiting, *([] if of_training else [line])]
        waiting = []
    if key == 'Metadata':
        kept += metadata
    return '\n'.join([*lines[:start], *kept, *waiting, *added, *lines[end:]]) + '\n'
