"""Portable: what an exported model needs to run, without torch.

The modules in this room import the standard library, numpy and Pillow, one another, and siamkit's
modules without dependencies; ONNX Runtime and OpenVINO only when a model is opened. Imports are
relative, because the distribution siamkit-runtime packs the same files under its own name.
"""
