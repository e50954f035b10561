"""Checks of every config of the zoo."""
import mmpretrain
import pytest
import torch
from mmengine.registry import DATASETS, EVALUATOR, HOOKS, METRICS, MODELS, DefaultScope, Registry
from mmpretrain import registry as mmpretrain_registry
from zoo_table import (
    CONFIGS,
    DISTILLATION,
    ENTRIES,
    FAMILY,
    cheaply,
    config_of,
    data_of,
    every_config,
    parts,
    student_name,
)

import mmat
from mmat import registry as mmat_registry
from mmat.models import Distiller

# One config of every folder and method. The scope matters only for types without a prefix, which every config is
# checked for below.
SOME = list({(FAMILY[name], parts(name)[1]): name for name in CONFIGS}.values())


@every_config
def test_it_builds(name):
    config = config_of(name)
    with DefaultScope.overwrite_default_scope('mmengine'), cheaply(name):
        build_all(name, config)


@pytest.mark.parametrize('scope', ['mmat', 'mmpretrain'])
@pytest.mark.parametrize('name', SOME)
def test_it_builds_under_any_scope(name, scope):
    config = config_of(name)
    with DefaultScope.overwrite_default_scope(scope), cheaply(name):
        build_all(name, config)


def build_all(name, config):
    model = MODELS.build(config.model)
    (EVALUATOR if 'metrics' in config.val_evaluator else METRICS).build(config.val_evaluator)
    for hook in (*config.default_hooks.values(), *config.get('custom_hooks', [])):
        HOOKS.build(hook)
    if 'digits' in name:
        assert len(DATASETS.build(config.train_dataloader.dataset)) > 0
    assert isinstance(model, Distiller) == (name in DISTILLATION)


@pytest.mark.parametrize('name', SOME)
def test_it_builds_with_mmpretrains_get_model(name):
    _, classes, size = data_of(name)
    with cheaply(name):
        assert mmpretrain.get_model(config_of(name))(torch.zeros(1, 3, size, size)).shape == (1, classes)


@every_config
def test_it_is_found_by_its_name(name):
    assert name in mmat.list_models()
    _, classes, size = data_of(name)
    with cheaply(name):
        assert mmat.get_model(name)(torch.zeros(1, 3, size, size)).shape == (1, classes)


@every_config
def test_types_of_mmat_and_mmpretrain_have_a_prefix(name):
    need_prefix = {
        type_ for module in (mmat_registry, mmpretrain_registry) for node in vars(module).values()
        if isinstance(node, Registry) and node.scope != 'mmengine' for type_ in node.module_dict
    }
    assert {'WideResNet', 'ImageClassifier', 'GlobalAveragePooling', 'CheckpointHook'} <= need_prefix

    def types(value):
        if isinstance(value, dict):
            if isinstance(value.get('type'), str):
                yield value['type']
            value = value.values()
        if not isinstance(value, str) and hasattr(value, '__iter__'):
            for item in value:
                yield from types(item)

    found = list(types(config_of(name).to_dict()))
    assert len(found) > 15
    assert not [type_ for type_ in found if '.' not in type_ and type_ in need_prefix]


@every_config
def test_the_batch_size_is_the_one_in_the_name(name):
    _, _, _, gpus, batch, _ = parts(name)
    config = config_of(name)
    assert config.auto_scale_lr == dict(base_batch_size=gpus * batch)
    assert config.train_dataloader.batch_size == batch


# Distillation

@pytest.mark.parametrize('name', DISTILLATION)
def test_a_distillation_config_extends_its_student_in_at_most_15_lines(name):
    lines = [line for line in CONFIGS[name].read_text().splitlines() if line.strip()]
    assert len(lines) <= 15
    distillation, student = (config_of(each).to_dict() for each in (name, student_name(name)))
    model = distillation.pop('model')
    assert model['student'] == student.pop('model')
    # Heads shared by several configs are also top-level variables.
    shared = {key: distillation.pop(key) for key in list(distillation) if key.endswith('_head')}
    assert all(head in model['at_heads'] for head in shared.values())
    assert distillation == student
    assert ('teacher' in model) == bool(parts(name)[2])
    if 'teacher' in model:
        check_teacher(parts(name)[2], parts(name)[5], **model['teacher'])


def check_teacher(teacher, data, model, checkpoint=None):
    if isinstance(model, dict):
        # timm's network and weights.
        assert teacher == f'timm-{model["model_name"].split(".")[0]}' and model['pretrained'] is True
    elif model in CONFIGS:
        assert parts(model)[0] == teacher and parts(model)[5] == data
        # Trained by the user, unless another project publishes weights. This project's may come from a short training.
        assert checkpoint == (None if '://' in ENTRIES[model].get('Weights', '') else f'work_dirs/{model}')
    else:
        assert model.startswith(f'{teacher}_') and checkpoint is None
        assert model in mmpretrain.list_models()
