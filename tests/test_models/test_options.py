import pytest

from mmat.errors import ConfigError
from mmat.models.options import check_depth, check_dropout, check_number, check_out_indices, check_widths


@pytest.mark.parametrize('widths', [(3, ), [4, 5], (1, 2, 3)])
def test_widths_become_a_tuple(widths):
    assert check_widths(widths, 'in_channels', 'Neck') == tuple(widths)


@pytest.mark.parametrize('widths', [4, None, (), [], (4, 0), (4., ), '45', {4: 5}])
def test_refuses_other_widths(widths):
    with pytest.raises(ConfigError) as error:
        check_widths(widths, 'in_channels', 'Neck')
    for part in ('in_channels of Neck', '(256, 512, 512)', repr(widths)):
        assert part in str(error.value)


@pytest.mark.parametrize('value, minimum', [(1, 1), (7, 1), (32, 32), (0, 0)])
def test_numbers(value, minimum):
    assert check_number(value, 'depth', 'Net', minimum) == value


@pytest.mark.parametrize('value, minimum', [
    (0, 1), (31, 32), (1.5, 1), (2., 1), ('2', 1), (None, 1), (True, 1), ((2, ), 1)])
def test_refuses_other_numbers(value, minimum):
    with pytest.raises(ConfigError) as error:
        check_number(value, 'depth', 'Net', minimum)
    for part in ('depth of Net', f'at least {minimum}', f'got {value!r}'):
        assert part in str(error.value)


@pytest.mark.parametrize('value', [0, 0., 0.5, 1])
def test_dropout(value):
    assert check_dropout(value, 'Head') == value


@pytest.mark.parametrize('value', [-0.1, 1.1, 2, 'x', None])
def test_refuses_other_dropout(value):
    with pytest.raises(ConfigError) as error:
        check_dropout(value, 'Head')
    for part in ('dropout of Head', '0 to 1', f'got {value!r}'):
        assert part in str(error.value)


@pytest.mark.parametrize('depth, blocks', [(10, 1), (16, 2), (40, 6)])
def test_depth(depth, blocks):
    assert check_depth(depth, 6, 4, 'Net') == blocks


@pytest.mark.parametrize('depth, nearest', [(4, 10), (-100, 10), (15, 16), (41, 40), (16., 16), ('16', 10), (None, 10)])
def test_refuses_other_depths(depth, nearest):
    with pytest.raises(ConfigError) as error:
        check_depth(depth, 6, 4, 'Net')
    for part in ('depth of Net', '6n + 4', '10, 16, 22, 28', f'got {depth!r}', f'nearest is {nearest}'):
        assert part in str(error.value)


@pytest.mark.parametrize('indices, expected', [((2, ), (2, )), ([1, 0], (0, 1)), ((0, 1, 2), (0, 1, 2))])
def test_out_indices(indices, expected):
    assert check_out_indices(indices, 3, 'Net') == expected


@pytest.mark.parametrize('indices', [(), [], 2, None, (3, ), (-1, 0), ('a', ), 'ab'])
def test_refuses_other_out_indices(indices):
    with pytest.raises(ConfigError) as error:
        check_out_indices(indices, 3, 'Net')
    for part in ('out_indices of Net', '0, 1, 2', f'got {indices!r}'):
        assert part in str(error.value)
