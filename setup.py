import shutil
from pathlib import Path

from setuptools import setup
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


# In pyproject.toml, setuptools before 77 needs the license as a table, which later ones deprecate.
setup(license='Apache-2.0', cmdclass={'build_py': BuildWithZoo})
