"""What a run keeps and shows: its folder, checkpoint writer, signals, ranks and console.

In: the state of a training.  Out: files, progress lines, and agreement between ranks.
It must not know the network or the data.
"""
