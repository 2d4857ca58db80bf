"""The page to measure with: a server on this machine, and a static page in `page/` that it sends to a browser.

Takes a checkpoint, pictures and polylines; gives heights while a line is drawn, decisions on labels, and files.
"""
