from .accuracy import Accuracy
from .evaluator import BatchEvaluator

__all__ = ['Accuracy', 'BatchEvaluator']
