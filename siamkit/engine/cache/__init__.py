"""The feature cache: rows of a frozen prefix's output by key, on the disk.

The cache does not depend on models. A *store* is one folder, named by a digest of the facts that
determine its rows. A *shard* is one immutable, checksummed file of rows in a store::

    <root>/<digest>/store.json                  the facts, and the dtype and shape of a row
    <root>/<digest>/shard-<random>.safetensors  rows and their keys
    <root>/<digest>/.tmp-<random>               a shard being written
    <root>/<digest>/.fill.lock                  held by the process that adds rows
    <root>/<digest>/users/<random>.lock         one for each process that has the store open

``store`` opens, fills and reads a store; ``budget`` lists and evicts stores. The modules that
``siamkit cache`` needs (``budget``, ``layout``, ``locks``) work without torch.
"""
