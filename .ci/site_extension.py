"""For the reference: the comment behind an attribute is its docstring.

    max_workers = 8  # so many requests are handled at a time
"""

import griffe


class AttributeComments(griffe.Extension):
    """Reads the comments from the source."""

    def on_attribute_instance(self, *, attr, **_):
        if attr.docstring is None and attr.filepath.suffix == ".py":
            _, mark, comment = attr.source.partition("  # ")
            if mark:
                attr.docstring = griffe.Docstring(sentence(comment), parent=attr)


def sentence(comment):
    """The comment's words as a sentence."""
    text = comment.strip()
    return f"{text[0].upper()}{text[1:]}."
