"""Loops: training, validation, prediction; and the files that they keep."""
