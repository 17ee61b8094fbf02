"""Disk to samples, samples to targets, targets to batches."""
