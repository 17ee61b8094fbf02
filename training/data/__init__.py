# SPDX-License-Identifier: Apache-2.0
"""Disk to samples, samples to targets, targets to batches."""
