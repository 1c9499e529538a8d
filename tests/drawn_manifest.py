"""A manifest with one drawn value in a drawn place: what JSON holds, and numbers that it does not."""

from hypothesis import strategies as st

_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


def change_one_value(data: st.DataObject, content: dict) -> None:
    """Put a drawn value in a drawn place, in place."""
    node = content
    while isinstance(node, (dict, list)) and node:
        key = data.draw(st.sampled_from(sorted(node) if isinstance(node, dict) else range(len(node))))
        if not isinstance(node[key], (dict, list)) or data.draw(st.booleans()):
            node[key] = data.draw(_VALUES)
            return
        node = node[key]
