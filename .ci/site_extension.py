"""For the reference: the comment behind an attribute, or above it, is its docstring.

    max_workers = 8  # so many requests are handled at a time

Private bases and special methods are not shown.
"""

import griffe


class AttributeComments(griffe.Extension):
    """Reads the comments from the source."""

    def on_attribute_instance(self, *, attr, **_):
        if attr.docstring is None and attr.filepath.suffix == ".py":
            comment = attr.source.partition("  # ")[2] or above(attr)
            if comment:
                attr.docstring = griffe.Docstring(sentence(comment), parent=attr)

    def on_class_instance(self, *, cls, **_):
        cls.bases = [base for base in cls.bases if not str(base).startswith("_")]

    def on_function_instance(self, *, func, **_):
        func.public = not func.name.startswith("_")


def above(attr):
    """The comment in the lines that end above the attribute."""
    lines = []
    for line in reversed(attr.lines_collection[attr.filepath][:attr.lineno - 1]):
        if not line.lstrip().startswith("# "):
            break
        lines.insert(0, line.strip().removeprefix("# "))
    return " ".join(lines)


def sentence(comment):
    """The comment's words as a sentence."""
    text = comment.strip().removesuffix(".")
    return f"{text[0].upper()}{text[1:]}."
