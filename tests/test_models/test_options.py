import pytest

from mmat.models.options import check_dropout, check_number, check_widths


@pytest.mark.parametrize('widths', [(3, ), [4, 5], (1, 2, 3)])
def test_widths_become_a_tuple(widths):
    assert check_widths(widths, 'in_channels', 'Neck') == tuple(widths)


@pytest.mark.parametrize('widths', [4, None, (), [], (4, 0), (4., ), '45', {4: 5}])
def test_refuses_other_widths(widths):
    with pytest.raises(ValueError) as error:
        check_widths(widths, 'in_channels', 'Neck')
    assert str(error.value) == ('in_channels of Neck must be a list of channel numbers, such as (256, 512, 512), got '
                                f'{widths!r}')


@pytest.mark.parametrize('value, minimum', [(1, 1), (7, 1), (32, 32), (0, 0)])
def test_numbers(value, minimum):
    assert check_number(value, 'depth', 'Net', minimum) == value


@pytest.mark.parametrize('value, minimum', [
    (0, 1), (31, 32), (1.5, 1), (2., 1), ('2', 1), (None, 1), (True, 1), ((2, ), 1)])
def test_refuses_other_numbers(value, minimum):
    with pytest.raises(ValueError) as error:
        check_number(value, 'depth', 'Net', minimum)
    assert str(error.value) == f'depth of Net must be a whole number of at least {minimum}, got {value!r}'


@pytest.mark.parametrize('value', [0, 0., 0.5, 1])
def test_dropout(value):
    assert check_dropout(value, 'Head') == value


@pytest.mark.parametrize('value', [-0.1, 1.1, 2, 'x', None])
def test_refuses_other_dropout(value):
    with pytest.raises(ValueError, match='dropout of Head must be a number from 0 to 1, got '):
        check_dropout(value, 'Head')
