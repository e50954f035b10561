"""HTML and SVG elements whose text is always escaped."""
import html
import re

# Terminal colours and control characters, which are not valid in HTML and XML.
_CONTROL = re.compile('\x1b\\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]')
_VOID = ('br', 'img', 'meta')


class Markup(str):
    """A string that is already markup."""


def plain(text: object) -> str:
    """Remove control characters from a text."""
    return _CONTROL.sub('', str(text))


def escape(text: object) -> Markup:
    """Escape a text; return markup unchanged."""
    return text if isinstance(text, Markup) else Markup(html.escape(plain(text)))


def join(*children: object, between: str = '') -> Markup:
    """Join texts and markup, skipping None."""
    return Markup(between.join(escape(child) for child in children if child is not None))


def element(tag: str, *children: object, **attributes: object) -> Markup:
    """Return an element.

    Args:
        tag (str): Name of the element.
        *children (str | Markup | None): Its content; plain text is escaped, None is skipped.
        **attributes: ``class_`` means ``class``, other underscores become hyphens. True gives an attribute without a
            value, None omits the attribute.
    """
    parts = [tag]
    for name, value in attributes.items():
        name = name.rstrip('_').replace('_', '-')
        if value is True:
            parts.append(name)
        elif value is not None:
            parts.append(f'{name}="{escape(value)}"')
    opening = f'<{" ".join(parts)}>'
    return Markup(opening) if tag in _VOID else Markup(f'{opening}{join(*children)}</{tag}>')
