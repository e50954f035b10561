import os
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent


class BuildWithZoo(build_py):
    """Puts the configs and the model index into the wheel, where OpenMMLab keeps them: ``mmat/.mim``."""

    def run(self):
        super().run()
        if self.editable_mode:
            return  # the package looks in the checkout
        mim = Path(self.build_lib) / 'mmat' / '.mim'
        shutil.copytree(ROOT / 'configs', mim / 'configs', dirs_exist_ok=True)
        shutil.copy(ROOT / 'model-index.yml', mim)


def version():
    scope = {}
    exec((ROOT / 'mmat' / 'version.py').read_text(), scope)
    return scope['__version__']


os.chdir(ROOT)
setup(
    name='mmat',
    version=version(),
    description='Attention transfer and learned attention for vision networks, on the OpenMMLab stack',
    long_description=(ROOT / 'README.md').read_text(),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    cmdclass={'build_py': BuildWithZoo},
    packages=find_packages(include=['mmat', 'mmat.*']),
    python_requires='>=3.10',
    # mmcv is not here: mmcv and mmcv-lite share a folder and pip would install the one over the other. The README's
    # command adds mmcv-lite where there is neither.
    install_requires=[
        'torch>=2.4',
        'torchvision>=0.19',
        'mmengine>=0.10.5',
        'mmpretrain>=1.2.0',
        'numpy>=1.24',
        'setuptools',  # mmengine imports distutils, which Python 3.12 left to it
        'tensorboard',
    ],
    extras_require={
        'digits': ['scikit-learn'],
        'test': ['scikit-learn', 'pytest', 'ruff'],
    },
)
