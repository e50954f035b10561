import random

import numpy as np
import pytest
import torch

from mmat.utils.rng import get_rng_state, preserve_rng_state, set_rng_state


def seed(value):
    random.seed(value)
    np.random.seed(value)
    torch.manual_seed(value)


def draw():
    """From all three, and from their cached halves of a normal pair."""
    return [random.random(), random.gauss(0, 1), np.random.rand(), np.random.randn(), torch.rand(()).item(),
            torch.randn(()).item()]


def test_a_state_put_back_repeats_the_draws():
    seed(0)
    # An odd number of normals leaves the second of a pair waiting in Python and in NumPy.
    draw()
    state = get_rng_state()
    expected = [draw() for _ in range(3)]
    assert len({value for values in expected for value in values}) == 18
    seed(99)
    set_rng_state(state)
    assert [draw() for _ in range(3)] == expected


def test_the_waiting_normals_are_part_of_the_state():
    seed(0)
    random.gauss(0, 1), np.random.randn()
    state = get_rng_state()
    expected = random.gauss(0, 1), np.random.randn()
    seed(0)
    set_rng_state(state)
    assert (random.gauss(0, 1), np.random.randn()) == expected


def test_taking_a_state_draws_nothing():
    seed(0)
    expected = draw()
    seed(0)
    get_rng_state()
    assert draw() == expected


def test_a_state_is_a_copy():
    seed(0)
    state = get_rng_state()
    expected = [draw() for _ in range(700)]
    set_rng_state(state)
    assert [draw() for _ in range(700)] == expected


def test_a_state_goes_through_a_clean_checkpoint(tmp_path):
    seed(5)
    draw()
    torch.save(dict(rng=get_rng_state()), tmp_path / 'a.pth')
    expected = [draw() for _ in range(2)]
    seed(0)
    set_rng_state(torch.load(tmp_path / 'a.pth', weights_only=True)['rng'])
    assert [draw() for _ in range(2)] == expected


def test_a_state_that_became_lists_on_its_way_is_taken_too():
    seed(5)
    state = get_rng_state()
    expected = draw()
    state['python'] = [state['python'][0], list(state['python'][1]), state['python'][2]]
    state['numpy'] = list(state['numpy'])
    seed(0)
    set_rng_state(state)
    assert draw() == expected


def test_preserve_leaves_no_trace():
    seed(0)
    draw()
    state = get_rng_state()
    expected = draw()
    set_rng_state(state)
    with preserve_rng_state():
        seed(99)
        draw()
    assert draw() == expected


def test_preserve_leaves_no_trace_of_what_raises():
    seed(0)
    expected = draw()
    seed(0)
    with pytest.raises(KeyError):
        with preserve_rng_state():
            draw()
            raise KeyError
    assert draw() == expected


def test_inside_preserve_the_stream_is_the_one_outside():
    seed(0)
    expected = draw()
    seed(0)
    with preserve_rng_state():
        assert draw() == expected
