from setuptools import find_packages, setup
setup(name='mmat', version='0.1.0', packages=find_packages(include=['mmat','mmat.*']))
