"""Hugging Face: hub ids and folders, their configs, weights and tokenizers.

Imports ``jstrace.models`` and the modules beside this folder; ``convert.source`` imports it.
"""
