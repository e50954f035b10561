"""HTML and SVG, escaped by construction."""
import html
import re

# Nothing that a browser, or a reader of XML, may choke on: colours and bells of a terminal in a log.
_CONTROL = re.compile('\x1b\\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]')
_VOID = ('br', 'img', 'meta')


class Markup(str):
    """Text that is markup already."""


def plain(text: object) -> str:
    """Text without control characters."""
    return _CONTROL.sub('', str(text))


def escape(text: object) -> Markup:
    """Any text as markup that shows it; markup as it is."""
    return text if isinstance(text, Markup) else Markup(html.escape(plain(text)))


def join(*children: object, between: str = '') -> Markup:
    """Texts and markup in a row; what is None is left out."""
    return Markup(between.join(escape(child) for child in children if child is not None))


def element(tag: str, *children: object, **attributes: object) -> Markup:
    """An element.

    Args:
        tag (str): Its name.
        *children (str | Markup | None): What it holds; plain text is escaped.
        **attributes: ``class_`` is ``class``, other underscores are hyphens; True is an attribute without a value, and
            None none.
    """
    words = [tag]
    for name, value in attributes.items():
        name = name.rstrip('_').replace('_', '-')
        if value is True:
            words.append(name)
        elif value is not None:
            words.append(f'{name}="{escape(value)}"')
    opening = f'<{" ".join(words)}>'
    return Markup(opening) if tag in _VOID else Markup(f'{opening}{join(*children)}</{tag}>')
