"""Decoupled knowledge distillation, an example of a repository that extends mmat."""
from .head import DecoupledKDHead

__all__ = ['DecoupledKDHead']
