"""Hands events on to other systems, as an ordinary subscriber in a process of its own."""
