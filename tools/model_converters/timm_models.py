#!/usr/bin/env python
"""Convert a state dict of a timm model, torch.save(model.state_dict(), ...), for one of mmpretrain's wrappers.

The config says which: mmpretrain.TimmClassifier, or mmpretrain.TIMMBackbone with a neck and a head. The latter is run
on noise and must give what timm's own model does.
"""
import torch

from mmat.apis import command_line
from mmat.converters import convert_timm
from mmat.models import build_network, network_config
from mmat.tooling.convert import converter_parser, write_converted
from mmat.utils.checkpoint import load_state, read_checkpoint, strip_module_prefix


def check_outputs(config, state, converted, source):
    """Raise a ValueError where the wrapped backbone, with neck and head, gives other scores than timm's own model."""
    import timm
    backbone, classes = config['backbone'], len(converted['head.fc.weight'])
    own = timm.create_model(backbone['model_name'], num_classes=classes, in_chans=backbone.get('in_channels', 3))
    wrapped = build_network(config)
    load_state(own, state, source)
    load_state(wrapped, converted, source)
    images = torch.randn(2, *own.default_cfg['input_size'])
    with torch.no_grad():
        expected, found = own.eval()(images), wrapped.eval()(images)
    if expected.shape != found.shape or not torch.allclose(expected, found, rtol=1e-3, atol=1e-3 * expected.std()):
        raise ValueError(f'{backbone["model_name"]} gives other scores as a TIMMBackbone with this neck and head than '
                         'by itself; use mmpretrain.TimmClassifier')


def main():
    args = converter_parser(__doc__, 'its .pth').parse_args()
    if args.config is None:
        raise ValueError('name a config of mmpretrain.TimmClassifier or mmpretrain.TIMMBackbone with --config')
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
