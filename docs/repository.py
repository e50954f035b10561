"""Build documentation pages from READMEs, sections of READMEs and the model zoo.

In a page,

- ``<!-- include: ../README.md -->`` includes a file, ``<!-- include: ../README.md # Result -->`` the section under that
  heading;
- ``<!-- model zoo -->`` is replaced by the tables of the metafiles;
- a link to a file of the repository leads to the page that shows the file, or else downloads the file.
"""
import os
import re
from pathlib import Path

import yaml

DOCS = Path(__file__).parent
ROOT = DOCS.parent
FAMILIES = DOCS / 'families'

_INCLUDE = re.compile(r'^<!-- include: (\S+?)(?: # (.+?))? -->$', re.MULTILINE)
_LINK = re.compile(r'(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^()\s]+)\)')


def family_readmes() -> dict:
    """Map the README of each family of configs to its page."""
    return {readme: FAMILIES / f'{readme.parent.name}.md' for readme in sorted(ROOT.glob('configs/*/README.md'))}


def write_family_pages() -> None:
    """Write a page for each family of configs, which includes its README."""
    FAMILIES.mkdir(exist_ok=True)
    found = family_readmes()
    for page in set(FAMILIES.glob('*.md')) - set(found.values()):
        page.unlink()
    for readme, page in found.items():
        text = f'<!-- include: {os.path.relpath(readme, FAMILIES)} -->\n'
        if not page.is_file() or page.read_text() != text:
            page.write_text(text)


def pages() -> dict:
    """Map a file or folder of the repository to the page that shows all of it."""
    found = {**family_readmes(), ROOT / 'configs': DOCS / 'model_zoo.md'}
    for page in sorted(DOCS.glob('*.md')):
        for target, heading in _INCLUDE.findall(page.read_text(encoding='utf-8')):
            if not heading:
                found[(DOCS / target).resolve()] = page
    return found


def read_page(app, docname: str, source: list) -> None:
    """Handle Sphinx' event ``source-read``."""
    source[0] = expand(source[0], DOCS / f'{docname}.md')


def expand(text: str, page: Path) -> str:
    """Return a page's text with its includes expanded and their links rewritten for the page.

    Raises:
        FileNotFoundError: An included file does not exist.
        ValueError: An included section does not exist.
    """
    shown = pages()
    parts, end = [], 0
    for match in _INCLUDE.finditer(text):
        origin = (page.parent / match[1]).resolve()
        content = origin.read_text(encoding='utf-8')
        parts += [_relink(text[end:match.start()], page, page, shown),
                  _relink(section(content, match[2], origin) if match[2] else content, origin, page, shown)]
        end = match.end()
    parts.append(_relink(text[end:], page, page, shown))
    text = ''.join(parts)
    if '<!-- model zoo -->' in text:
        text = text.replace('<!-- model zoo -->', _relink(zoo(), ROOT / 'README.md', page, shown))
    return text


def section(text: str, heading: str, origin) -> str:
    """Return the section of a Markdown text under a heading, heading included."""
    lines, taken, level, fenced = text.splitlines(keepends=True), [], None, False
    for line in lines:
        fenced ^= line.startswith('```')
        depth = 0 if fenced else len(line) - len(line.lstrip('#'))
        if depth and level is not None and depth <= level:
            break
        if depth and level is None and line.strip('#').strip() == heading:
            level = depth
        if level is not None:
            taken.append(line)
    if level is None:
        raise ValueError(f'Unknown section {heading!r} in {origin}.')
    return ''.join(taken)


def _relink(text: str, origin: Path, page: Path, shown: dict) -> str:
    """Rewrite the links of a text from ``origin`` for ``page``; leave code unchanged."""

    def link(match):
        image, label, target = match.groups()
        path, _, anchor = target.partition('#')
        if '://' in target or not path:
            return match[0]
        path = (origin.parent / path).resolve()
        target = shown.get(path) or shown.get(path / 'README.md') or path
        if target.is_dir():
            return label  # a folder has no page
        anchor = f'#{anchor}' if anchor else ''
        return f'{image}[{label}]({os.path.relpath(target, page.parent)}{anchor})'

    parts = re.split(r'(^```.*?^```$)', text, flags=re.MULTILINE | re.DOTALL)
    return ''.join(part if part.startswith('```') else _LINK.sub(link, part) for part in parts)


# The model zoo

def zoo() -> str:
    """Return the metafiles as Markdown: a section and a table each, with links relative to the repository's root."""
    index = yaml.safe_load((ROOT / 'model-index.yml').read_text(encoding='utf-8'))
    return '\n\n'.join(_family(ROOT / metafile) for metafile in index['Import'])


def _family(metafile: Path) -> str:
    content = yaml.safe_load(metafile.read_text(encoding='utf-8'))
    readme = metafile.with_name('README.md')
    title = readme.read_text(encoding='utf-8').splitlines()[0].lstrip('# ')
    papers = [f'[{paper["Title"]}]({paper["URL"]})' for paper in
              (collection.get('Paper') for collection in content['Collections']) if paper]
    lines = [f'## {title}', '', f'{"; ".join(papers)}. Description and results: '
             f'[configs/{metafile.parent.name}]({readme.relative_to(ROOT)}).', '',
             '| config | data | parameters | multiply-accumulates | accuracy, % | weights |',
             '|---|---|---|---|---|---|']
    return '\n'.join(lines + [_row(entry) for entry in content['Models']])


def _row(entry: dict) -> str:
    metadata = entry['Metadata']
    weights = entry.get('Weights')
    cells = [f'[{entry["Name"]}]({entry["Config"]})', metadata['Training Data'], f'{metadata["Parameters"]:,}',
             _short(metadata['FLOPs']), _results(entry), f'[file]({weights})' if weights else '']
    return f'| {" | ".join(cells)} |'


def _short(number: float) -> str:
    return f'{number / 1e9:.2f} G' if number >= 1e9 else f'{number / 1e6:.1f} M'


def _results(entry: dict) -> str:
    texts = [f'{metric.replace("Top 1 Accuracy", "top-1").replace("Top 5 Accuracy", "top-5")} {value:.2f}'
             for result in entry.get('Results') or () for metric, value in (result.get('Metrics') or {}).items()]
    if not texts:
        return '–'
    # Weights at a URL are another project's.
    published = ', published' if '://' in entry.get('Weights', '') else ''
    epochs = str(entry['Metadata'].get('Epochs', ''))
    return ', '.join(texts) + published + (f', {epochs} epochs' if ' of ' in epochs else '')
