from .distiller import Distiller
from .readers import teachers_of
from .teacher import Teacher

__all__ = ['Distiller', 'Teacher', 'teachers_of']
