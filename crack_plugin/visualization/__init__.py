"""Pictures and pages for people: colours, overlays, example panels, plots and documents."""
