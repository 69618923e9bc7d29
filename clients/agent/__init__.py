"""Attending a run: the stream to the coordinator, the tasks that come, and what is kept between
them.
"""
