"""Where the packages are; everything else is in pyproject.toml."""

from setuptools import find_packages, setup

# The experiments stand beside the library in a checkout and inside it when installed.
setup(
    packages=[*find_packages("lib", include=["openseg*"]), "openseg.configs"],
    package_dir={"": "lib", "openseg.configs": "configs"},
    package_data={
        "openseg": ["py.typed", "catalogs/*.yaml", "report/page/*"],
        "openseg.configs": ["*/*.yaml"],
    },
)
