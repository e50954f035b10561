"""Record logged values without waiting for the device."""
from typing import Optional

from mmengine.hooks import RuntimeInfoHook as MMEngineRuntimeInfoHook
from mmengine.logging import HistoryBuffer
from torch import Tensor

from mmat.registry import HOOKS

from ..history import ScalarHistory


@HOOKS.register_module()
class RuntimeInfoHook(MMEngineRuntimeInfoHook):
    """mmengine's RuntimeInfoHook with :class:`mmat.engine.ScalarHistory` for the logged scalars.

    mmengine's hook adds 0.4 ms to an iteration, 1.8 ms after 200,000 iterations, and a device synchronization for each
    logged scalar.
    """

    def before_train_iter(self, runner, batch_idx: int, data_batch=None) -> None:
        super().before_train_iter(runner, batch_idx, data_batch)
        histories = runner.message_hub.log_scalars
        # Other hooks and checkpoints of mmengine's own hook create plain HistoryBuffers.
        for key, history in histories.items():
            if type(history) is HistoryBuffer:
                histories[key] = ScalarHistory(*history.data, history.max_length)

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs: Optional[dict] = None) -> None:
        histories = runner.message_hub.log_scalars
        for key, value in (outputs or {}).items():
            if isinstance(value, Tensor):
                histories.setdefault(f'train/{key}', ScalarHistory()).update(value)
            else:
                runner.message_hub.update_scalar(f'train/{key}', value)
