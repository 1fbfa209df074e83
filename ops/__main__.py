"""``python -m ops``: build the compiled kernels if need be and say in one line what is in use."""

from ops import library

print(library.rebuild().line())
