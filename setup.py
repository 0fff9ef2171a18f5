"""Where the packages are; everything else is in pyproject.toml."""

from setuptools import find_packages, setup

# The configs stand beside the library in a checkout and inside it when installed.
setup(
    packages=[*find_packages("lib", include=["openseg", "openseg.*"]), "openseg.configs"],
    package_dir={"": "lib", "openseg.configs": "configs"},
    package_data={
        "openseg": ["py.typed", "datasets/definitions/*.yaml", "tools/report/page/*", "serving/page/*"],
        "openseg.configs": ["*/*.yaml", "*/*.safetensors"],
    },
)
