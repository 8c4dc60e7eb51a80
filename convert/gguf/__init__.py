"""GGUF files: their metadata, quantised weights and tokenizers.

Imports ``jstrace.models`` and the modules beside this folder; ``convert.source`` imports it.
"""
