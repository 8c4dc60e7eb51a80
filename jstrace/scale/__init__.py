"""Many inputs on whatever there is: meshes and hosts, buckets and batches, free memory, compiled programs kept.

Knows devices, and nothing of the method. Imports ``jstrace.models`` and ``files``; ``pipeline`` and
what follows import it.
"""
