"""Samples from folders, their random changes, and loaders."""
