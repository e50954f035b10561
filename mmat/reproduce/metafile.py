"""Changing an entry of a metafile in its text, so that comments, order and layout stay."""
import copy
import re
from typing import Dict, List, Optional

import yaml

# What is said of a training; it is replaced as a whole.
_FIELDS = ('Results', 'Weights', 'Training Log')
_METADATA = ('Epochs', 'Seed')


def set_training(text: str, name: str, fields: Optional[Dict[str, object]] = None,
                 metadata: Optional[Dict[str, object]] = None, comment: Optional[str] = None) -> str:
    """The text of a metafile after an entry was told of its training.

    Args:
        text (str): The metafile, in block style as all here are.
        name (str): ``Name`` of the entry.
        fields (dict, optional): Its ``Results``, ``Weights`` and ``Training Log``; those left out are taken away.
            Defaults to None: all of them.
        metadata (dict, optional): ``Epochs`` and ``Seed`` of its ``Metadata``, alike.
        comment (str, optional): A line to stand above ``Results``, in place of those that do. Defaults to None.

    Returns:
        str: The whole text.

    Raises:
        ValueError: There is no such entry, or the text is laid out otherwise; the message has the lines to paste.
    """
    fields, metadata = fields or {}, metadata or {}
    expected = read_yaml(text)
    entries = [entry for entry in expected.get('Models') or () if entry.get('Name') == name]
    if len(entries) != 1:
        raise ValueError(f'the metafile has {len(entries)} entries of the name {name!r}, expected one')
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
        lines = '\n'.join([*added, '    Metadata:', *(f'      {line}' for line in _block(metadata))])
        raise ValueError(f'the entry {name!r} is laid out in a way that cannot be changed here; write into it\n{lines}')
    return changed


def read_yaml(text: str) -> dict:
    """What a text in YAML says; with the library in C where there is one, ten times as fast."""
    return yaml.load(text, Loader=getattr(yaml, 'CSafeLoader', yaml.SafeLoader))


def _block(content: Dict[str, object]) -> List[str]:
    if not content:
        return []
    return yaml.dump(content, Dumper=_Indented, sort_keys=False, width=1000).splitlines()


class _Indented(yaml.SafeDumper):
    """Items of a list stand deeper than its key."""

    def increase_indent(self, flow=False, indentless=False):
        return super().increase_indent(flow, False)


def _edit(text: str, name: str, added: List[str], metadata: List[str]) -> Optional[str]:
    """Lines of an entry begin with four spaces, those of its metadata with six; comments belong to what follows."""
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
