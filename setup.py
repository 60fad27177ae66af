"""What pyproject.toml cannot say: a wheel has copies of conf/ and results/paper/ within sasg (see sasg/places.py)."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["sasg*", "experiments*"]), "sasg.conf", "sasg.paper"],
    package_dir={"sasg.conf": "conf", "sasg.paper": "results/paper"},
    package_data={"sasg": ["report/page/*", "py.typed"], "sasg.conf": ["**/*.yaml"], "sasg.paper": ["*.csv"]},
)
