"""The demo leaves out no way of a payment's life that it could drive."""

from collections import Counter

import pytest

from payments.demo.shop import choose
from payments.demo.stories import STORIES


def test_stories_have_names_of_their_own() -> None:
    assert len({story.name for story in STORIES}) == len(STORIES)
    assert all(story.weight > 0 for story in STORIES)


@pytest.mark.parametrize("count", [1, len(STORIES) - 1, len(STORIES), 300])
def test_every_story_is_told_before_one_is_told_twice(count: int) -> None:
    told = Counter(story.name for story in choose(count))
    assert told.total() == count
    assert len(told) == min(count, len(STORIES))
