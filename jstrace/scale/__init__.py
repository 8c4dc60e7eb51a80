"""Many inputs on whatever there is: meshes and hosts, buckets and batches, free memory, compiled programs kept.

Knows devices, and nothing of the method. Imports ``jstrace.models`` alone; ``pipeline`` and what follows import it.
"""
