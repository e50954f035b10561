"""Converter for checkpoints of the attention transfer authors' training scripts.

Source: github.com/szagoruyko/attention-transfer.
"""
from typing import Dict, Optional

from torch import Tensor

from mmat.errors import CheckpointError, UserError

from .functional_zoo import convert_functional_zoo
from .renaming import BN, count_blocks, rename
from .resnet import identity_bn, resnet_convs


def convert_attention_transfer(state: Dict[str, Tensor], network: Optional[str] = None) -> Dict[str, Tensor]:
    """Rename the weights in a ``model.pt7`` of ``cifar.py`` or ``imagenet.py``.

    ``cifar.py`` trains the WRN-d-k of :class:`WideResNet`. The student of ``imagenet.py`` is a ResNet-18 without BN
    after its projections; these get BN that are identities in eval mode. Its teacher is a file of functional-zoo, see
    :func:`convert_functional_zoo`. The script ignored the biases of the teacher's projections, which are kept here.

    Args:
        state (dict): The file's ``params``, merged with its ``stats`` if it is from before PyTorch 0.4.
        network (str, optional): 'student' or 'teacher', for a file with both. Defaults to None, for a file with one
            network.

    Returns:
        dict: State dict of the network that the config builds.

    Raises:
        UserError: ``network`` is unknown, or missing for a file with two networks.
        CheckpointError: The weights are not those of the network, or the file has no student and teacher.
    """
    state = _select_network(state, network)
    if not any(key.startswith('group3.') for key in state):
        return _wide_resnet(state)
    return convert_functional_zoo(state) if 'conv0.weight' in state else _imagenet_student(state)


def _select_network(state: Dict[str, Tensor], network: Optional[str]) -> Dict[str, Tensor]:
    """Return the weights of one network, without its prefix."""
    if network not in (None, 'student', 'teacher'):
        raise UserError(f"`network` must be 'student' or 'teacher', got {network!r}.")
    has_both = any(key.startswith(('student.', 'teacher.')) for key in state)
    if has_both and network is None:
        raise UserError("The file holds a student and a teacher. Choose one: network='student' or 'teacher', on the "
                        'command line --network.')
    if network and not has_both:
        raise CheckpointError(f'The file holds one network, trained without a teacher. Omit network={network!r} '
                              '(--network).')
    prefix = f'{network}.' if network else ''
    return {key[len(prefix):]: value for key, value in state.items() if key.startswith(prefix)}


def _bn_keys(source: str, target: str) -> Dict[str, str]:
    # The scripts save no num_batches_tracked.
    return {f'{source}.{name}': f'{target}.{name}' for name in BN[:4]}


def _wide_resnet(state: Dict[str, Tensor]) -> Dict[str, Tensor]:
    keys = {'conv0': 'backbone.conv0.weight'}
    for group in range(3):
        for block in range(count_blocks(state, f'group{group}.block')):
            base = f'group{group}.block{block}'
            convs = ['conv0', 'conv1']
            first = state.get(f'{base}.conv0')
            if first is not None and first.shape[0] != first.shape[1]:
                convs.append('convdim')
            keys.update({f'{base}.{conv}': f'backbone.{base}.{conv}.weight' for conv in convs})
            keys.update({**_bn_keys(f'{base}.bn0', f'backbone.{base}.bn0'),
                         **_bn_keys(f'{base}.bn1', f'backbone.{base}.bn1')})
    keys.update(_bn_keys('bn', 'backbone.bn'))
    keys.update({f'fc.{name}': f'head.fc.{name}' for name in ('weight', 'bias')})
    return rename(state, keys, 'a network of cifar.py (conv0, group0 to group2, bn, fc) or imagenet.py (group0 to '
                  'group3) of attention-transfer')


def _imagenet_student(state: Dict[str, Tensor]) -> Dict[str, Tensor]:
    blocks = [count_blocks(state, f'group{group}.block') for group in range(4)]
    if blocks == [3, 4, 6, 5]:
        raise CheckpointError('Cannot convert depth 34 of imagenet.py: it has 3, 4, 6 and 5 blocks, a ResNet-34 has 3, '
                              '4, 6 and 3.')
    keys = {'conv0': 'backbone.conv1.weight', **_bn_keys('bn0', 'backbone.bn1')}
    projections = {}
    for source, target, bn in resnet_convs(blocks, bottleneck=False):
        if source.endswith('conv_dim'):
            source = source.replace('conv_dim', 'convdim')
            projections[bn] = f'{target}.weight'
        else:
            keys.update(_bn_keys(source.replace('conv', 'bn'), bn))
        keys[source] = f'{target}.weight'
    keys.update({f'fc.{name}': f'head.fc.{name}' for name in ('weight', 'bias')})
    converted = rename(state, keys, 'a student of imagenet.py of attention-transfer (conv0, bn0, group0 to group3, fc)')
    for bn, conv in projections.items():
        converted.update(identity_bn(bn, converted[conv]))
    return converted
