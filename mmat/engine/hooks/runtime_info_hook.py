"""What a run logs, kept without waiting for the device."""
from typing import Optional

from mmengine.hooks import RuntimeInfoHook as MMEngineRuntimeInfoHook
from mmengine.logging import HistoryBuffer
from torch import Tensor

from mmat.registry import HOOKS

from ..history import ScalarHistory


@HOOKS.register_module()
class RuntimeInfoHook(MMEngineRuntimeInfoHook):
    """mmengine's RuntimeInfoHook, whose histories cost the same at every iteration and never wait for the device.

    With mmengine's own an iteration costs 0.4 ms more than its step, and 1.8 ms more after 200,000 of them; and on a
    GPU every logged scalar is a synchronisation. See :class:`mmat.engine.ScalarHistory`.
    """

    def before_train_iter(self, runner, batch_idx: int, data_batch=None) -> None:
        super().before_train_iter(runner, batch_idx, data_batch)
        histories = runner.message_hub.log_scalars
        # Whoever began them: other hooks log too, and a checkpoint of mmengine's brings its own.
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
