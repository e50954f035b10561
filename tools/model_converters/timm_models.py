#!/usr/bin/env python
"""Convert a state dict of a timm model, torch.save(model.state_dict(), ...), for mmpretrain's wrappers.

The config selects the wrapper: mmpretrain.TimmClassifier, or mmpretrain.TIMMBackbone with a neck and a head. The latter
is compared with timm's model on random inputs.
"""
import torch

from mmat.apis import command_line
from mmat.converters import convert_timm
from mmat.errors import CheckpointError, MissingPackageError, UserError
from mmat.models import build_network, network_config
from mmat.tooling.convert import converter_parser, write_converted
from mmat.utils.checkpoint import load_state, read_checkpoint, strip_module_prefix


def check_outputs(config, state, converted, source):
    """Raise CheckpointError if the TIMMBackbone with neck and head returns other scores than timm's model."""
    try:
        import timm
    except ImportError as error:
        raise MissingPackageError('TIMMBackbone needs timm. Install it with pip install timm.') from error
    backbone, classes = config['backbone'], len(converted['head.fc.weight'])
    original = timm.create_model(backbone['model_name'], num_classes=classes, in_chans=backbone.get('in_channels', 3))
    wrapped = build_network(config)
    load_state(original, state, source)
    load_state(wrapped, converted, source)
    images = torch.randn(2, *original.default_cfg['input_size'])
    with torch.no_grad():
        expected, found = original.eval()(images), wrapped.eval()(images)
    if expected.shape != found.shape or not torch.allclose(expected, found, rtol=1e-3, atol=1e-3 * expected.std()):
        raise CheckpointError(f'{backbone["model_name"]} as TIMMBackbone with this neck and head returns other scores '
                              "than timm's model. Use mmpretrain.TimmClassifier.")


def main():
    args = converter_parser(__doc__, '.pth file of a timm model').parse_args()
    if args.config is None:
        raise UserError('Set a config of mmpretrain.TimmClassifier or mmpretrain.TIMMBackbone with --config.')
    content = read_checkpoint(args.source)
    state = strip_module_prefix(content.get('state_dict', content))
    config = network_config(args.config)
    wrapper = config.get('backbone', config)['type'].split('.')[-1]
    converted = convert_timm(state, wrapper)
    if wrapper == 'TIMMBackbone':
        check_outputs(config, state, converted, repr(args.source))
    write_converted(args, converted, 'timm')


if __name__ == '__main__':
    command_line(main)
