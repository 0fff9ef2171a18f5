"""Datasets: files on disk, augmentation and data loaders."""
