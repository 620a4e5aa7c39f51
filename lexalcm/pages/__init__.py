"""Pictures that explain, as PNG files and self-contained HTML pages."""
