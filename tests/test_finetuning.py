"""Fine-tuning with attention transfer (the paper's Table 4): a training step of the configs against plain PyTorch."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DATASETS, MODELS
from PIL import Image
from zoo_table import CONFIGS, config_of

from mmat.datasets import BatchedSamples
from mmat.models import build_network
from mmat.utils.checkpoint import load_state

# Dataset -> number of classes.
DATA = dict(cub=200, indoor67=67)
ALONE = [f'resnet{depth}_1xb64_{data}' for depth in (18, 34) for data in DATA]
TRANSFER = {f'resnet18_{method}-resnet34_1xb64_{data}': method for method in ('at', 'kd') for data in DATA}


def random_resnet(depth, classes=1000):
    """Return torchvision's ResNet with random BN parameters and running statistics."""
    network = getattr(torchvision.models, f'resnet{depth}')(num_classes=classes)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for tensor, low in ((module.weight, 0.5), (module.bias, -0.2), (module.running_mean, -0.2),
                                (module.running_var, 0.5)):
                torch.nn.init.uniform_(tensor, low, low + 0.5)
    return network


def renamed(state):
    """Map torchvision's parameter names to those of mmpretrain's classifier."""
    return {f'head.{key}' if key.startswith('fc.') else f'backbone.{key}': value for key, value in state.items()}


@pytest.fixture(scope='module')
def files(tmp_path_factory):
    """Save an ImageNet checkpoint of ResNet-18, and one of ResNet-34 for each dataset."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp('weights')
    networks = {'18': random_resnet(18), **{data: random_resnet(34, classes) for data, classes in DATA.items()}}
    for name, network in networks.items():
        torch.save(dict(state_dict=renamed(network.state_dict())), folder / f'{name}.pth')
    return {name: str(folder / f'{name}.pth') for name in networks}


def model_config(name, files):
    """Return the config's model with the weights of student and teacher replaced by these files."""
    model = config_of(name).model
    if name not in ALONE[2:]:
        model.get('student', model).backbone.init_cfg.checkpoint = files['18']
    if 'teacher' in model:
        model.teacher.checkpoint = files[name.split('_')[-1]]
    return model


# The configs

def test_every_cell_of_the_papers_table_has_a_config():
    assert {name: path.parent.name for name, path in CONFIGS.items() if name in ALONE or name in TRANSFER} == {
        **dict.fromkeys(ALONE, 'resnet'), **TRANSFER}


@pytest.mark.parametrize('name', ALONE)
def test_networks_start_from_imagenet_with_the_recipe(name):
    config, depth, data = config_of(name), int(name[6:8]), name.split('_')[-1]
    file = {18: 'resnet18_8xb32_in1k_20210831-fbbb1da6.pth', 34: 'resnet34_8xb32_in1k_20210831-f257d4e6.pth'}[depth]
    assert config.model.backbone.depth == depth and config.model.head.num_classes == DATA[data]
    assert config.model.backbone.init_cfg == dict(
        type='Pretrained', prefix='backbone',
        checkpoint=f'https://download.openmmlab.com/mmclassification/v0/resnet/{file}')
    assert config.optim_wrapper == dict(optimizer=dict(type='SGD', lr=0.01, momentum=0.9, weight_decay=1e-4))
    assert config.param_scheduler == dict(type='MultiStepLR', by_epoch=True, milestones=[30, 45], gamma=0.1)
    assert config.train_cfg == dict(by_epoch=True, max_epochs=60, val_interval=1)
    assert config.train_dataloader.batch_size == 64
    # Workers are seeded with the seed of the run: a resumed run draws the same crops only if they restart every epoch.
    assert not config.train_dataloader.get('persistent_workers')
    for which, split in (('train', 'train'), ('val', 'test'), ('test', 'test')):
        dataset = config[f'{which}_dataloader'].dataset
        # complete=False would allow a subset.
        assert dataset.split == split and 'complete' not in dataset


@pytest.mark.parametrize('name', TRANSFER)
def test_transfer_configs_are_the_students_config_and_a_head(name):
    config, data = config_of(name), name.split('_')[-1]
    student = config_of(f'resnet18_1xb64_{data}')
    heads = dict(at=dict(type='mmat.ActivationATHead', pairs=[(2, 2), (3, 3)], weight=1000),
                 kd=dict(type='mmat.SoftTargetHead', T=4, alpha=0.9))
    assert config.model == dict(
        type='mmat.Distiller', student=student.model, at_heads=[heads[TRANSFER[name]]],
        teacher=dict(model=f'resnet34_1xb64_{data}', checkpoint=f'work_dirs/resnet34_1xb64_{data}'))
    assert {key: value for key, value in config.items() if key not in ('model', 'kd_head')} == {
        key: value for key, value in student.items() if key != 'model'}
    assert len(CONFIGS[name].read_text().splitlines()) <= 15


# A training step

def forward(network, images):
    """Return the outputs of the four groups, and the logits, of a ResNet with fixed BN."""
    network.eval()
    x = network.maxpool(F.relu(network.bn1(network.conv1(images))))
    groups = []
    for group in (network.layer1, network.layer2, network.layer3, network.layer4):
        x = group(x)
        groups.append(x)
    return groups, network.fc(x.mean((2, 3)))


def reference_loss(method, student, teacher, images, labels):
    groups, logits = forward(student, images)
    loss = F.cross_entropy(logits, labels)
    if method is None:
        return loss
    with torch.no_grad():
        teacher_groups, teacher_logits = forward(teacher, images)
    if method == 'kd':
        kl = F.kl_div(F.log_softmax(logits / 4, 1), F.softmax(teacher_logits / 4, 1), reduction='batchmean')
        return 0.1 * loss + 0.9 * 16 * kl
    for ours, theirs in zip(groups[2:], teacher_groups[2:]):
        maps = [F.normalize(each.pow(2).mean(1).flatten(1), dim=1) for each in (ours, theirs)]
        loss = loss + 1000 * (maps[0] - maps[1]).pow(2).mean()
    return loss


@pytest.mark.parametrize('name', [
    'resnet18_1xb64_cub', 'resnet18_at-resnet34_1xb64_cub', 'resnet18_kd-resnet34_1xb64_indoor67'])
def test_steps_equal_plain_pytorch(name, files):
    method, data = TRANSFER.get(name), name.split('_')[-1]
    config = config_of(name)
    torch.manual_seed(1)
    model = MODELS.build(model_config(name, files))
    model.init_weights()
    if method:
        model.prepare_teacher()
    model.double().train()
    optimizer = build_optim_wrapper(model, config.optim_wrapper)

    def load(depth, state):
        network = random_resnet(depth, DATA[data]).double()
        network.load_state_dict({key.removeprefix('backbone.').replace('head.fc', 'fc'): value
                                 for key, value in state.items()})
        return network

    begin = {key: value.clone() for key, value in model.state_dict().items()}
    imagenet = torch.load(files['18'])['state_dict']
    assert all(torch.equal(value.float(), imagenet[key].float()) for key, value in begin.items() if 'head' not in key)
    student, teacher = load(18, begin), load(34, torch.load(files[data])['state_dict'])
    frozen = [name for name, _ in student.named_parameters()
              if name.startswith(('conv1', 'layer1')) or 'bn' in name or 'downsample.1' in name]
    trained = {name: parameter for name, parameter in student.named_parameters() if name not in frozen}
    momentum = dict.fromkeys(trained, 0)
    for _ in range(2):
        images = torch.randn(3, 3, 64, 64, dtype=torch.float64)
        labels = torch.randint(DATA[data], (3, ))
        total, _ = model.parse_losses(model(images, BatchedSamples(labels, range(3)), mode='loss'))
        optimizer.update_params(total)

        loss = reference_loss(method, student, teacher, images, labels)
        assert torch.allclose(total, loss, rtol=1e-9)
        gradients = torch.autograd.grad(loss, list(trained.values()))
        with torch.no_grad():
            for (key, parameter), gradient in zip(trained.items(), gradients):
                momentum[key] = 0.9 * momentum[key] + gradient + 1e-4 * parameter
                parameter -= 0.01 * momentum[key]
        # As the training loop does around validation.
        model.eval()
        model.train()
    end = model.state_dict()
    for key, value in renamed(student.state_dict()).items():
        assert torch.allclose(end[key].double(), value.double(), rtol=1e-7, atol=1e-9), key
    assert all(torch.equal(end[f'backbone.{key}'], begin[f'backbone.{key}']) for key in frozen)
    # The checkpoint is a plain ResNet-18.
    load_state(build_network(config_of(f'resnet18_1xb64_{data}').model), end, 'the student')


@pytest.mark.parametrize('name', [
    'resnet34_1xb64_cub', 'resnet18_at-resnet34_1xb64_cub', 'resnet18_kd-resnet34_1xb64_indoor67'])
def test_every_trainable_parameter_gets_a_gradient(name, files):
    """Otherwise distributed training would wait for it."""
    model = MODELS.build(model_config(name, files)).train()
    inputs, labels = torch.randn(2, 3, 64, 64), torch.tensor([0, 66])
    model.parse_losses(model(inputs, BatchedSamples(labels, range(2)), mode='loss'))[0].backward()
    network = getattr(model, 'student', model)
    for key, parameter in network.named_parameters():
        fixed = key.startswith(('backbone.conv1', 'backbone.layer1')) or 'bn' in key or 'downsample.1' in key
        assert (parameter.grad is None) == (not parameter.requires_grad) == fixed, key


# Images

@pytest.fixture
def folders(tmp_path):
    """Write both layouts with one image of 250 x 120: red is the column, green the row, with a box of 200 x 100."""
    columns, rows = np.meshgrid(np.arange(250), np.arange(120))
    picture = np.stack([columns, rows, np.full_like(rows, 77)], axis=-1).astype(np.uint8)
    x, y, width, height = 30, 10, 200, 100
    for path, image in ((tmp_path / 'cub/images/017.Cardinal/a.jpg', picture),
                        (tmp_path / 'indoor67/Images/mall/a.jpg', picture[y:y + height, x:x + width])):
        path.parent.mkdir(parents=True)
        Image.fromarray(image).save(path, format='PNG')
    for file, line in (('images', '017.Cardinal/a.jpg'), ('image_class_labels', '17'),
                       ('bounding_boxes', f'{x}.0 {y}.0 {width}.0 {height}.0')):
        (tmp_path / f'cub/{file}.txt').write_text(f'1 {line}\n')
    for split in ('Train', 'Test'):
        (tmp_path / f'indoor67/{split}Images.txt').write_text('mall/a.jpg')
    return tmp_path


def network_inputs(name, folders, which, count=1):
    """Return the network's inputs for that image, denormalized, (count, 3, 224, 224) in RGB, and the labels."""
    config, data = config_of(name), name.split('_')[-1]
    dataset = config[f'{which}_dataloader'].dataset
    if data == 'cub':
        (folders / 'cub/train_test_split.txt').write_text(f'1 {int(dataset.split == "train")}\n')
    dataset = DATASETS.build({**dataset, 'data_root': str(folders / data), 'complete': False})
    samples = [dataset[0] for _ in range(count)]
    preprocessor = MODELS.build(config.model.data_preprocessor)
    batch = preprocessor({key: [sample[key] for sample in samples] for key in samples[0]}, training=which == 'train')
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)))
    return batch['inputs'] * std + mean, [sample.gt_label.item() for sample in batch['data_samples']]


@pytest.mark.parametrize('which', ['val', 'test'])
@pytest.mark.parametrize('name, label', [('resnet18_1xb64_cub', 16), ('resnet18_1xb64_indoor67', 44)])
def test_testing_uses_the_center_crop(folders, name, label, which):
    (image, ), labels = network_inputs(name, folders, which)
    assert labels == [label] and image.shape == (3, 224, 224)
    # 200 x 100 is resized to 512 x 256, and 144 columns and 16 rows are cropped on each side.
    pixels = (torch.arange(224) + 0.5) * 100 / 256 - 0.5
    assert torch.allclose(image[0], (30 + 144 * 100 / 256 + pixels).expand(224, 224), atol=1.01)
    assert torch.allclose(image[1], (10 + 16 * 100 / 256 + pixels)[:, None].expand(224, 224), atol=1.01)
    assert torch.allclose(image[2], torch.tensor(77.), atol=0.01)


@pytest.mark.parametrize('name', ['resnet18_1xb64_cub', 'resnet18_1xb64_indoor67'])
def test_training_uses_random_crops_and_flips(folders, name):
    np.random.seed(0)
    images, _ = network_inputs(name, folders, 'train', count=40)
    assert images.shape == (40, 3, 224, 224)
    steps = (images[:, 0, 0, -1] - images[:, 0, 0, 0]) / 223
    # The same scale as above, and never outside the box.
    assert torch.allclose(steps.abs(), torch.tensor(100 / 256), atol=0.01)
    assert 8 < (steps < 0).sum() < 32
    left, top = images[:, 0].amin((1, 2)), images[:, 1].amin((1, 2))
    assert 28.9 <= left.min() < 60 and 110 < left.max() <= 30 + 288 * 100 / 256 + 1
    assert 8.9 <= top.min() < 12 and 20 < top.max() <= 10 + 32 * 100 / 256 + 1
