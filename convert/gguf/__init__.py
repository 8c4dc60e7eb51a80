"""GGUF files: their metadata, quantised weights and tokenizers, read as models of Hugging Face's types.

Imports ``jstrace.models``, ``convert.hf`` and the modules beside this folder; ``convert.source`` imports it.
"""
