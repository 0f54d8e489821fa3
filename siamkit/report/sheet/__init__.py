"""Contact sheets: pictures in rows, drawn as a PNG image or as an HTML page."""
