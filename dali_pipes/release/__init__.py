"""Where the bytes of a release lie: the archive of each role, found and read in place.

In: a path that the user named.  Out: `Members`, the files of one role by number.
It must not know what is inside a label or an image.
"""
