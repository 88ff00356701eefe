import inspect
import re

from openrouter_audit import errors


def test_docstring_shows_the_tree_as_it_is():
    """
    Each class stands in the drawing, and below the class it derives from.
    """
    drawn, above = {}, {}
    for line in errors.__doc__.splitlines():
        found = re.match(r"([ │├└─]*)([A-Z]\w+)(?: +\((\w+)\))?(?:  |$)", line)
        if found and len(found[1]) >= 4:
            depth = len(found[1])
            above[depth] = found[2]
            parent = max((d for d in above if d < depth), default=None)
            drawn[found[2]] = {above[parent]} if parent else {"Exception"}
            drawn[found[2]] |= {found[3]} - {None}
            above = {d: name for d, name in above.items() if d <= depth}
    actual = {
        name: {base.__name__ for base in cls.__bases__}
        for name, cls in vars(errors).items()
        if inspect.isclass(cls) and cls.__module__ == errors.__name__
    }
    assert actual == drawn


def test_every_error_says_what_is_then_true():
    for name, cls in vars(errors).items():
        if inspect.isclass(cls):
            assert cls.__doc__, name
