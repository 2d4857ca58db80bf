"""Where the bytes of a release are: the images and labels of each split, found and read in place.

In: the paths that the user gave. Out: `Members`, the files of one role by number.
It does not parse labels or images.
"""
