"""Data sets on disk: BOP folders and shards, meshes, results files. Every error is a ``DatasetError``."""
