"""Align beside other trainers: the same checkpoint, token rows, order, optimizer and threads."""
