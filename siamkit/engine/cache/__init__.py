"""The feature cache: rows of a frozen prefix's output by key, on the disk.

It knows nothing of models. A *store* is one folder, named by what made its rows; a *shard* is one
immutable, checksummed file of rows in it::

    <root>/<digest>/store.json                  what made the rows, their dtype and shape
    <root>/<digest>/shard-<random>.safetensors  rows and their keys
    <root>/<digest>/.tmp-<random>               a shard being written
    <root>/<digest>/.fill.lock                  held by the process that adds rows
    <root>/<digest>/users/<random>.lock         one for each process that has the store open

``store`` opens, fills and reads a store, ``budget`` lists and evicts stores. Everything that
``siamkit cache`` needs (``budget``, ``layout``, ``locks``) works without torch.
"""
