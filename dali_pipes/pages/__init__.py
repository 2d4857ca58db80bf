"""What all HTML pages share: the layout and the stylesheet, templates that escape all values, and pictures of tiles.

    template.py      base.html.j2 and the templates that extend it → the text of a page
    style.css        colours, type, tables, figures, controls; light and dark
    picture.py       a tile and its polyline → the values of tile.html.j2

A page is one file that loads nothing else, so it works offline and can be sent by mail.
"""
