import os
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
# Copied into the wheel as mmat/.mim, the place of OpenMMLab packages, where `mim` looks.
ZOO = ('configs', 'tools', 'recipes', 'checkpoints', 'model-index.yml')


class BuildWithZoo(build_py):
    """Copy configs, tools, recipes, checkpoints and the model index into the wheel."""

    def run(self):
        super().run()
        if self.editable_mode:
            return  # the package reads them from the checkout
        mim = Path(self.build_lib) / 'mmat' / '.mim'
        shutil.rmtree(mim, ignore_errors=True)  # left by an earlier build
        mim.mkdir()
        for name in ZOO:
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, mim / name, ignore=shutil.ignore_patterns('__pycache__', '*.py[co]'))
            elif (ROOT / name).is_file():
                shutil.copy(ROOT / name, mim)


def version():
    scope = {}
    exec((ROOT / 'mmat' / 'version.py').read_text(), scope)
    return scope['__version__']


EXTRAS = {
    'digits': ['scikit-learn'],
    'converters': ['h5py'],
    'seeds': ['greenlet'],
    'slurm': ['submitit>=1.5'],
    'timm': ['timm'],
    'docs': ['sphinx>=7.4', 'myst-parser>=3', 'furo'],
}
EXTRAS['all'] = sorted({requirement for extra in EXTRAS.values() for requirement in extra})
EXTRAS['test'] = [*EXTRAS['all'], 'build', 'pytest', 'ruff', 'wheel']

os.chdir(ROOT)
setup(
    name='mmat',
    version=version(),
    description='Attention transfer and learned attention for vision networks, on the OpenMMLab stack',
    long_description=(ROOT / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    license_files=['LICENSE'],
    keywords='attention transfer, knowledge distillation, visual attention, computer vision, OpenMMLab',
    classifiers=[
        'Development Status :: 4 - Beta',
        'Intended Audience :: Developers',
        'Intended Audience :: Science/Research',
        'Operating System :: POSIX :: Linux',
        'Programming Language :: Python :: 3 :: Only',
        'Programming Language :: Python :: 3.10',
        'Programming Language :: Python :: 3.11',
        'Programming Language :: Python :: 3.12',
        'Programming Language :: Python :: 3.13',
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
        'Topic :: Scientific/Engineering :: Image Recognition',
    ],
    cmdclass={'build_py': BuildWithZoo},
    packages=find_packages(include=['mmat', 'mmat.*']),
    package_data={'mmat.reproduce.report': ['*.css']},
    python_requires='>=3.10',
    # mmcv is not required: mmcv and mmcv-lite overwrite each other, and pip does not notice. The README's commands
    # install mmcv-lite if neither is installed.
    install_requires=[
        'torch>=2.4',
        'torchvision>=0.19',
        'mmengine>=0.10.5',
        'mmpretrain>=1.2.0',
        'numpy>=1.24',
        'setuptools',  # mmengine imports distutils, which Python 3.12 removed
        'tensorboard',
    ],
    extras_require=EXTRAS,
)
