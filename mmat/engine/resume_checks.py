"""Compare the settings of a run with those of the checkpoint that it resumes."""
import ast
import os
import re
from typing import Any, Dict, List, Optional, Tuple

from mmengine.dist import get_world_size
from mmengine.runner import Runner

# Settings that do not change a training, and those with separate checks: the schedule, the length, and the learning
# rate after auto_scale_lr.
_IGNORED = re.compile(
    r'(_.*|work_dir|resume|load_from|launcher|model_wrapper_cfg|experiment_name|log_level|log_processor|visualizer|'
    r'vis_backends|test_\w+|tta_\w+|param_scheduler|auto_scale_lr|train_cfg\.max_(epochs|iters)|'
    r'env_cfg\.(mp_cfg|dist_cfg)|val_dataloader\.num_workers|'
    r'\w+_dataloader\.(pin_memory|persistent_workers|prefetch_factor))(\..*)?')
# Hooks that only log, save, check or draw.
_IGNORED_HOOKS = re.compile(
    r'(.*\.)?(CheckpointHook|ClassCountHook|DistillationHook|IterTimerHook|LoggerHook|RuntimeInfoHook|\w*Visualization'
    r'Hook)')
# Settings whose effect comes from the checkpoint: the optimizer's state and the random states.
_RESTORED = re.compile(r'optim_wrapper\.(.*\.)?(optimizer|paramwise_cfg|constructor|loss_scale\..*)(\..*)?|'
                       r'randomness\.(?!deterministic).*|train_dataloader\.sampler\.seed|.*data_preprocessor\.seed')
# Without one of these seeds in the config, the checkpoint's is used, or CheckpointHook logs a warning.
_SEEDS = re.compile(r'randomness\.seed|train_dataloader\.sampler\.seed|.*data_preprocessor\.seed')
_UNSET = object()


def compare_settings(runner: Runner, checkpoint: dict) -> Optional[Tuple[List[str], List[str]]]:
    """Compare a run's config with the one in the checkpoint that it resumes.

    Args:
        runner (Runner): Its optimizer is built and does not have the checkpoint's state yet.
        checkpoint (dict): Of :class:`mmat.engine.CheckpointHook`.

    Returns:
        tuple | None: Descriptions of the settings without effect, because the checkpoint's values are restored, and of
        those that change the run. None if one of the two configs is unknown.
    """
    saved, here = (read_config_text(text) for text in (checkpoint['meta'].get('cfg'), runner.cfg.pretty_text))
    if not saved or not here:
        return None
    saved, here = {**flatten(saved), **_used_seeds(checkpoint)}, flatten(here)
    restored, changed = [], []
    for key in sorted({*saved, *here}):
        before, now = saved.get(key, _UNSET), here.get(key, _UNSET)
        absent = _SEEDS.fullmatch(key) and {before, now} & {None, _UNSET}
        if not (absent or _IGNORED.fullmatch(key) or _equal(before, now)):
            (restored if _RESTORED.fullmatch(key) else changed).append(_describe(key, before, now))
    if not any(text.startswith('optim_wrapper.') for text in restored):
        restored += _compare_optimizers(runner, checkpoint)
    processes = len(checkpoint.get('rng_states', ()))
    if processes not in (0, get_world_size()):
        changed.append(_describe('number of processes', processes, get_world_size()))
    return restored, changed


def _used_seeds(checkpoint: dict) -> Dict[str, Optional[int]]:
    """Return the seeds of the resumed run, which may have been drawn."""
    return {'randomness.seed': checkpoint['meta'].get('seed'),
            'train_dataloader.sampler.seed': checkpoint.get('data_order', {}).get('seed')}


def _compare_optimizers(runner: Runner, checkpoint: dict) -> List[str]:
    """Compare the options of the optimizers. They may differ under equal configs, because of auto_scale_lr."""
    saved = checkpoint.get('optimizer', {}).get('param_groups')
    optimizer = getattr(runner.optim_wrapper, 'optimizer', None)
    if saved is None or optimizer is None:
        return []
    here = optimizer.param_groups
    if len(saved) != len(here):
        return [_describe('number of parameter groups', len(saved), len(here))]
    differences = {}
    for before, now in zip(map(_initial_options, saved), map(_initial_options, here)):
        for key in before.keys() & now.keys():
            if before[key] != now[key]:
                differences.setdefault(key, _describe(f'{key} of the optimizer', before[key], now[key]))
    return [differences[key] for key in sorted(differences)]


def _initial_options(group: dict) -> dict:
    """Return the options of a parameter group before schedules changed them."""
    return {key: group.get(f'initial_{key}', value) for key, value in group.items()
            if key != 'params' and not key.startswith('initial_')}


def _describe(key: str, before: Any, now: Any) -> str:
    before, now = ('unset' if value is _UNSET else repr(value) for value in (before, now))
    return f'{key} is {now}, was {before}'


def _equal(first: Any, second: Any) -> bool:
    if isinstance(first, str) and isinstance(second, str) and os.sep in first + second:
        return os.path.realpath(first) == os.path.realpath(second)
    return first == second


def flatten(value: Any, prefix: str = '') -> Dict[str, Any]:
    """Flatten nested dicts, and lists of dicts, to dotted keys. Hooks that do not change a training are left out."""
    if isinstance(value, list) and any(isinstance(each, dict) for each in value):
        value = {str(index): each for index, each in enumerate(value)}
    if not isinstance(value, dict) or not value:
        return {prefix: value}
    if _IGNORED_HOOKS.fullmatch(str(value.get('type'))):
        return {}
    flat = {}
    for key, each in value.items():
        flat.update(flatten(each, f'{prefix}.{key}' if prefix else str(key)))
    return flat


def read_config_text(text: Optional[str]) -> Optional[dict]:
    """Read the text of a config (``Config.pretty_text``) without running it.

    Returns:
        dict | None: Settings with plain values; tuples become lists, other expressions their text. None if ``text`` is
        not the text of a config.
    """
    try:
        statements = ast.parse(text).body
    except (SyntaxError, TypeError, ValueError):
        return None
    return {each.targets[0].id: _read_value(each.value) for each in statements
            if isinstance(each, ast.Assign) and isinstance(each.targets[0], ast.Name)}


def _read_value(node: ast.expr) -> Any:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == 'dict':
        content = {}
        for each in node.args:
            content.update(_read_value(each) if isinstance(each, ast.Dict) else {})
        return {**content, **{each.arg: _read_value(each.value) for each in node.keywords}}
    if isinstance(node, ast.Dict):
        return {_read_value(key): _read_value(value) for key, value in zip(node.keys, node.values)}
    if isinstance(node, (ast.List, ast.Tuple)):
        return [_read_value(each) for each in node.elts]
    try:
        return ast.literal_eval(node)
    except ValueError:
        return ast.unparse(node)
