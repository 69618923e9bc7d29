"""What ``fedlearn new`` writes: a Flower app that is an experiment of fedlearn too.

The files lie in ``files``, each under its name and ``.in``: they are no modules of ours.
"""
