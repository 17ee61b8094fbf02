# SPDX-License-Identifier: Apache-2.0
"""Data sets on disk: BOP folders and shards, meshes, results files. Every error is a ``DatasetError``."""
